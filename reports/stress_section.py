"""Report section on the stress test: how changes of appearance move predictions and errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.metrics import FEW_CASES
from boneage_xai.analysis.multiplicity import LEVEL, difference_shown
from boneage_xai.analysis.stress import EXAMPLES_FILE, read_examples, summarise_stress
from boneage_xai.analysis.stress_transforms import PUBLISHED_FAMILIES, STRESS_TRANSFORMS
from boneage_xai.figures.stress import stress_effects, stress_pairs
from boneage_xai.store import AnalysisFolder
from reports.attribution_sections import figure_text
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import months, percent

_NAMED = 5
_WORTH_NAMING_MONTHS = 0.5


def stress(folder: AnalysisFolder) -> Section | None:
    """Give the change of the error by each change of appearance, and the cases moved most."""
    table = folder.stress()
    if table is None or table.empty:
        return None
    summary = summarise_stress(table)
    blocks: list[Block] = [
        Text(stress_sentences(summary)),
        Drawing(
            partial(stress_effects, summary),
            "Points with intervals: change of the error by each transform; bars: cases that move",
            "Each row is one change of appearance. Left: mean absolute error after minus before on "
            "the same cases. Right: share of cases whose prediction moves by more than 6, 12 and "
            "24 months.",
            summary,
        ),
    ]
    file = folder.path / EXAMPLES_FILE
    examples = read_examples(file) if file.is_file() else []
    if examples:
        blocks.append(
            Drawing(
                partial(
                    stress_pairs,
                    [one.original for one in examples],
                    [one.changed for one in examples],
                    [
                        (
                            f"{figure_text(one.case_id)}\n{months(one.original_months)} months",
                            f"{one.family}, {STRESS_TRANSFORMS[one.transform].parameter}\n"
                            f"{months(one.predicted_months)} "
                            f"({months(one.delta_months, signed=True)})",
                        )
                        for one in examples
                        if one.transform in STRESS_TRANSFORMS
                    ],
                ),
                "Pairs of radiographs, as they are and changed, with both predictions",
                "The case that each family moves most: the network's input before and after, with "
                "the predicted bone age in months.",
                vector=False,
            )
        )
    blocks.append(
        Table(
            "Months; change of the MAE with its 95% interval, p by Wilcoxon's signed-rank test on "
            f"absolute errors, corrected after Holm over {len(summary)} transforms; mean of the "
            "change of the prediction, signed and in magnitude; share of cases moved.",
            ("Change", "MAE change", "p", "Mean", "Magnitude", "> 6", "> 12", "> 24"),
            tuple(_row(row) for row in summary.to_dict("records")),
            table,
        )
    )
    return Section("stress", "Changes of appearance", tuple(blocks))


def stress_sentences(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return what was done in a stress test and what it found, in sentences with its numbers."""
    return (_what_was_done(summary), *_verdicts(summary))


def _what_was_done(summary: pd.DataFrame) -> str:
    published = int(summary["family"].isin(PUBLISHED_FAMILIES).sum())
    return (
        f"{int(summary['n'].max()):,} radiographs were changed in {len(summary)} ways before "
        "preprocessing, and predicted again. The bone age of a hand does not change with its "
        f"picture, so every movement is the network's. {published} of the changes are of the seven "
        "families of Santomartino et al. (2024); their parameters, and all other families, are "
        "this toolkit's choice."
    )


def made_larger(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the changes that are shown to make the error larger, as from ``summarise_stress``."""
    shown = difference_shown(summary["p_holm"], summary["low"], summary["high"])
    return summary[shown & (summary["mae_change_months"] > 0)]


def _verdicts(summary: pd.DataFrame) -> list[str]:
    if not summary["n_labelled"].any():
        return ["No case has a reference bone age, so that only movements are given."]
    found = made_larger(summary)
    worst = found.sort_values("mae_change_months", ascending=False)
    worst = worst.drop_duplicates("family").head(_NAMED)
    sentences = []
    if worst.empty:
        sentences.append("No change of appearance could be shown to make the error larger.")
    else:
        named = "; ".join(
            f"{row['family']} ({row['parameter']}) by {months(row['mae_change_months'])} months "
            f"({months(row['low'])} to {months(row['high'])})"
            for row in worst.to_dict("records")
        )
        sentences.append(
            f"{len(found)} of {len(summary)} changes make the error larger (p < {LEVEL:g} after "
            f"Holm's correction); of each family the worst, beginning with the largest: {named}."
        )
    harmless = [
        str(family)
        for family, group in summary.groupby("family", sort=False)
        if (group["high"] < _WORTH_NAMING_MONTHS).all() and (group["n_labelled"] >= FEW_CASES).all()
    ]
    if harmless:
        sentences.append(
            f"Families none of whose changes adds more than {_WORTH_NAMING_MONTHS:g} month, by the "
            f"upper ends of the intervals: {', '.join(harmless)}."
        )
    return sentences


def _row(row: dict[Any, Any]) -> tuple[str, ...]:
    change = months(_known(row["mae_change_months"]), signed=True, digits=2)
    if not pd.isna(row["low"]):
        change += "\n" + " to ".join(
            months(row[end], signed=True, digits=2) for end in ("low", "high")
        )
    p_value = row["p_holm"]
    return (
        f"{row['family']}\n{row['parameter']}",
        change,
        "–" if pd.isna(p_value) else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
        months(row["mean_delta_months"], signed=True),
        months(row["mean_absolute_delta_months"]),
        *(percent(row[f"moved_over_{limit}_months"]) for limit in (6, 12, 24)),
    )


def _known(value: float) -> float | None:
    return None if pd.isna(value) else value

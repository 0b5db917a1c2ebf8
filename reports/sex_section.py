"""Report section on the sex: what it does to predictions, and what errors owe to it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.sex_effect import (
    errors_without_sex,
    milestones,
    summarise_sex_effect,
)
from boneage_xai.figures.sex_effect import sex_effect_by_age
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import SEX_PLURALS, age_span, months

_NOTHING_MONTHS = 0.005


def sex_effect(folder: AnalysisFolder) -> Section | None:
    """Give the effect of the sex by age, beside milestones, and errors without it."""
    table = folder.sex_effect()
    if table is None or table.empty:
        return None
    title = "What the sex does"
    if not uses_sex(table):
        return Section("sex_effect", title, (Text(sex_sentences(table)),))
    summary = summarise_sex_effect(table)
    errors = errors_without_sex(table)
    blocks: list[Block] = [
        Text(sex_sentences(table, errors)),
        Drawing(
            partial(sex_effect_by_age, table, summary, milestones()),
            "Points: change of each prediction by the sex; means by age; milestones as crosses",
            "A cross is a milestone of a centre of the hand (first seen, or complete): how many "
            "months later boys pass it, at the girls' age. Those are approximate medians of other "
            "children, so that only the order of size and the course over age can be compared.",
            table,
        ),
        Table(
            "Boy's minus girl's answer to the same radiograph, months with 95% interval, by the "
            "answer for a girl; at milestones of that age, the median of boys' minus girls' age "
            "and its range.",
            ("Age as a girl", "Cases", "Effect", "Milestones", "Difference at milestones"),
            tuple(_row(row) for row in summary.to_dict("records")),
            summary,
        ),
    ]
    if not errors.empty:
        blocks.append(
            Table(
                "Mean absolute error when the sex is wrong or withheld (mean of both answers), and "
                "its change against the right sex, months with 95% interval; p by Wilcoxon, "
                "corrected after Holm.",
                ("Told", "Group", "Cases", "MAE", "Change", "p"),
                tuple(_error_row(row) for row in errors.to_dict("records")),
                errors,
                words=(0, 1),
            )
        )
    return Section("sex_effect", title, tuple(blocks))


def uses_sex(table: pd.DataFrame) -> bool:
    """Return whether any answer depends on the sex."""
    return float(np.abs(table["effect_months"]).max()) >= _NOTHING_MONTHS


def sex_sentences(table: pd.DataFrame, errors: pd.DataFrame | None = None) -> tuple[str, ...]:
    """Return what the sex does to predictions, in sentences with the numbers filled in.

    Args:
        table: as from ``predict_both``.
        errors: as from ``errors_without_sex``, None leaves them out.
    """
    if not uses_sex(table):
        return (
            f"Read as a girl's or as a boy's, none of {len(table):,} radiographs gets another "
            "answer: this network does not use the sex.",
        )
    return (_what_was_done(table), *([] if errors is None else _verdicts(errors)))


def _what_was_done(table: pd.DataFrame) -> str:
    effect = table["effect_months"]
    return (
        f"Each of {len(table):,} radiographs was read twice, as a girl's and as a boy's. As a "
        f"boy's the answer is {months(float(effect.mean()), signed=True)} months on average, from "
        f"{months(float(effect.min()), signed=True)} to {months(float(effect.max()), signed=True)}."
        " A hand of the same maturity belongs to an older boy than girl, so that an effect above 0 "
        "is what growth lets expect."
    )


def _verdicts(errors: pd.DataFrame) -> list[str]:
    if errors.empty:
        return []
    sentences = []
    for row in errors[errors["sex"].isna()].to_dict("records"):
        interval = (
            ""
            if pd.isna(row["low"])
            else f" ({months(row['low'], signed=True)} to "
            + (f"{months(row['high'], signed=True)})")
        )
        sentences.append(
            f"With the {row['given']} the mean absolute error changes by "
            f"{months(row['mae_change_months'], signed=True)} months{interval}."
        )
    sentences.append(
        "That is how much this network relies on the sex, not what another would lose that was "
        "trained without it: for that, compare two runs (boneage-xai compare)."
    )
    return sentences


def _row(row: dict[Any, Any]) -> tuple[str, ...]:
    passed = "–"
    if row["n_milestones"]:
        passed = f"{months(row['milestone_months'], signed=True)}\n" + " to ".join(
            months(row[end], signed=True) for end in ("milestone_low", "milestone_high")
        )
    return (
        age_span((row["age_from_months"], row["age_to_months"])),
        f"{row['n']:,}",
        _with_interval(row["effect_months"], row),
        str(row["n_milestones"]),
        passed,
    )


def _error_row(row: dict[Any, Any]) -> tuple[str, ...]:
    p_value = row["p_holm"]
    return (
        str(row["given"]),
        SEX_PLURALS.get(row["sex"], "all"),
        f"{row['n']:,}",
        months(row["mae_months"], digits=2),
        _with_interval(row["mae_change_months"], row),
        "–" if pd.isna(p_value) else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
    )


def _with_interval(value: float, row: dict[Any, Any]) -> str:
    text = months(value, signed=True, digits=2)
    if pd.isna(row["low"]):
        return text
    low, high = (months(row[end], signed=True, digits=2) for end in ("low", "high"))
    return f"{text}\n{low} to {high}"

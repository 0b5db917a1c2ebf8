"""Report section on interventions: what each region of a phantom does to the prediction."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.interventions import summarise_interventions
from boneage_xai.attribution.interventions import ALL_REGIONS, SUM_OF_REGIONS, TOTAL_NAMES
from boneage_xai.figures.interventions import intervention_bars
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import SEX_WORDS, months


def interventions(folder: AnalysisFolder) -> Section | None:
    """Give the effect of each region's age on the prediction, overall and by sex and age."""
    table = folder.interventions()
    if table is None or table.empty:
        return None
    step = folder.manifest["steps"].get("intervene", {})
    summary = summarise_interventions(table)
    groups = summarise_interventions(table, by=("sex", "age"))
    totals = groups[groups["region"] == ALL_REGIONS]
    blocks: list[Block] = [
        Text((_what_was_done(step), _additivity(summary))),
        Drawing(
            partial(intervention_bars, summary),
            "Bars of the effect of each region's age on the prediction, with intervals",
            "1 would be a network that follows a region month by month. Where only some pictures "
            "change with a region, their number stands beside its name.",
            summary,
        ),
        Table(
            "Months of prediction per month of region age, with 95% interval; in how many "
            "phantoms the picture changes; mean change of the region's maturity (0 to 1).",
            ("Region", "Effect", "95% interval", "Changed", "Maturity change"),
            tuple(_row(row) for row in summary.to_dict("records")),
            table,
        ),
        Table(
            "All regions at once, by sex and age.",
            ("Group", "Cases", "Effect", "95% interval"),
            tuple(
                (
                    f"{SEX_WORDS[str(row['sex'])].capitalize()}s, {row['age_from_months']:.0f} to "
                    f"{row['age_to_months']:.0f} months",
                    str(row["n"]),
                    _effect(row["slope_months_per_month"]),
                    _interval(row),
                )
                for row in totals.to_dict("records")
            ),
            groups,
        ),
    ]
    return Section("interventions", "What each region causes", tuple(blocks))


def _what_was_done(step: dict[str, Any]) -> str:
    delta = float(step.get("delta_months", 0.0))
    faults = [str(name).replace("_", " ") for name in step.get("phantoms", {}).get("faults", [])]
    planted = f" The phantoms carry planted faults: {', '.join(faults)}." if faults else ""
    return (
        f"Each phantom was drawn again with one region {delta:g} months younger and older and "
        "nothing else changed. The difference between the predictions is caused by that region; "
        "on radiographs of children it may be another." + planted
    )


def _additivity(summary: pd.DataFrame) -> str:
    effect = summary.set_index("region")["slope_months_per_month"]
    return (
        f"All regions moved at once have an effect of {_effect(effect[ALL_REGIONS])}, the single "
        f"effects add up to {_effect(effect[SUM_OF_REGIONS])}; the nearer the two, the less the "
        "regions depend on each other."
    )


def _row(row: dict[Any, Any]) -> tuple[str, ...]:
    region = str(row["region"])
    return (
        TOTAL_NAMES.get(region, region.replace("_", " ")),
        _effect(row["slope_months_per_month"]),
        _interval(row),
        f"{row['n_changed']} of {row['n']}",
        months(row["maturity_change"], signed=True, digits=2),
    )


def _effect(value: float) -> str:
    return months(value, signed=True, digits=2)


def _interval(row: dict[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return ""
    return f"{_effect(row['low'])} to {_effect(row['high'])}"

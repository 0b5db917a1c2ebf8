"""Report section on prediction intervals: how wide they are and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.figures.intervals import intervals_by_prediction
from boneage_xai.figures.subgroups import error_by_subgroup
from boneage_xai.files import read_table
from boneage_xai.store import PREDICTION_COLUMNS, AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import counted, group_name, months, percent

METHOD_NAMES = {
    "absolute": "One width for all",
    "scaled": "Scaled by the expected error",
    "mondrian": "Per sex and predicted age",
    "mondrian-scaled": "Scaled, and per sex and predicted age",
}


def intervals(folder: AnalysisFolder) -> Section | None:
    """Give the width of prediction intervals and how often the reference lies inside."""
    found = folder.intervals()
    files = [folder.path / name for name in ("intervals.parquet", "predictions.parquet")]
    if found is None or not all(file.is_file() for file in files):
        return None
    table = folder.predictions()[PREDICTION_COLUMNS].merge(read_table(files[0]), on="case_id")
    settings, overall = found["settings"], found["overall"]
    promised = float(settings["coverage"])
    rows = [("All", *_cells(overall)), *((_name(g), *_cells(g)) for g in found["groups"])]
    few = any(group["few_cases"] for group in found["groups"])
    note = " † Fewer than 20 cases: the share says little." if few else ""
    repeated = found["repeated"]
    blocks: list[Block] = [
        Text((_what_was_done(settings, overall), _scatter(repeated, settings["method"]))),
        Drawing(
            partial(intervals_by_prediction, table, promised),
            "Intervals by predicted age for girls and boys, with the errors of the checked cases",
            "Each point is a case of the checked half; the band is what was promised before its "
            "reference was known.",
            table,
        ),
    ]
    if any(group["by"] == "age" for group in found["groups"]):
        blocks.append(
            Drawing(
                partial(
                    error_by_subgroup,
                    found["groups"],
                    "coverage",
                    title="Share of references inside, with 95% intervals (Wilson)",
                    ages="predicted bone age",
                    expected=promised,
                ),
                "Share of references inside the interval by sex and predicted age",
                "Whether the promise holds for girls and boys of every age.",
                _flat(found),
            )
        )
    blocks += [
        Table(
            f"Share of references inside {percent(promised)} intervals, and their mean width from "
            f"end to end in months; ages are predicted ones.{note}",
            ("Group", "Cases", "Inside", "95% interval", "Width"),
            tuple(rows),
            _flat(found),
        ),
        Table(
            f"The same over {repeated['n_splits']} divisions of the cases at random: mean share "
            "inside, the range of 95% of the divisions, and mean width.",
            ("Widths", "Inside", "Range", "Width"),
            tuple(
                (
                    METHOD_NAMES[name],
                    _share(repeated[name]["coverage"]["value"]),
                    _span(repeated[name]["coverage"]),
                    months(repeated[name]["width_months"]),
                )
                for name in METHOD_NAMES
            ),
        ),
    ]
    return Section("intervals", "How sure a single prediction is", tuple(blocks))


def _what_was_done(settings: Mapping[str, Any], overall: Mapping[str, Any]) -> str:
    promised = percent(float(settings["coverage"]))
    return (
        f"A prediction alone does not say how far off it may be. Intervals that are to contain "
        f"{promised} of the references were calibrated on {settings['n_calibrated']:,} of the "
        f"cases, chosen at random, and checked on the other {overall['n']:,}: "
        f"{_share(overall['coverage']['value'])} lie inside (95% interval "
        f"{_span(overall['coverage'])}). The intervals are {months(overall['width_months'])} "
        f"months wide on average, from end to end. {_without(overall)}The promise holds for "
        "children like those calibrated on, not for other populations, devices or diseases."
    )


def _without(overall: Mapping[str, Any]) -> str:
    n = overall.get("n_without_interval", 0)
    if not n:
        return ""
    return (
        f"For {counted(n, 'further case')} no interval can be given: too few like them were "
        "calibrated on. "
    )


def _scatter(repeated: Mapping[str, Any], method: str) -> str:
    own = repeated[method]["coverage"]
    return (
        f"Another division of the cases gives another share: over {repeated['n_splits']} of them "
        f"{_share(own['value'])} on average, {_span(own)} in 95% of them."
    )


def _name(group: Mapping[str, Any]) -> str:
    return group_name(group).capitalize() + (" †" if group["few_cases"] else "")


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    share = entry["coverage"]
    return (
        f"{entry['n']:,}",
        _share(share["value"]),
        _span(share),
        months(entry["width_months"]),
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _span(estimate: Mapping[str, float]) -> str:
    return f"{_share(estimate['low'])} to {_share(estimate['high'])}"


def _flat(found: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for group in [{"by": "all", **found["overall"]}, *found["groups"]]:
        low, high = group.get("age_months") or (None, None)
        share = group["coverage"]
        rows.append(
            {
                "by": group["by"],
                "sex": group.get("sex"),
                "predicted_from_months": low,
                "predicted_to_months": high,
                "n": group["n"],
                "coverage": share["value"],
                "coverage_low": share["low"],
                "coverage_high": share["high"],
                "width_months": group["width_months"],
            }
        )
    return pd.DataFrame(rows)

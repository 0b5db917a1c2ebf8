"""Report section on what errors mean for a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.clinical import CHRONOLOGICAL
from boneage_xai.figures.clinical import diagnosis_table
from boneage_xai.figures.subgroups import error_by_subgroup
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import group_name, months


def clinical(folder: AnalysisFolder) -> Section | None:
    """Give the share of errors that matter to a diagnosis, and which diagnoses change."""
    if not (folder.path / "metrics.json").is_file():
        return None
    found = folder.metrics().get("clinical")
    if not found or not found["n"]:
        return None
    real = found["basis"] == CHRONOLOGICAL
    blocks: list[Block] = [Text(tuple(_sentences(found, real)))]
    if not real:
        blocks.append(
            Text(
                (
                    "Proxy: these cases have no chronological age. The standard deviation is taken "
                    "at the reference bone age instead, and whether a child is delayed or advanced "
                    "cannot be said.",
                ),
                notice=True,
            )
        )
    rows = found["significant_by"]
    shares, errors = (
        ("Share of errors", "Clinically significant errors")
        if real
        else ("Proxy: share of errors", "Proxy: clinically significant errors")
    )
    if any(row["by"] == "age" for row in rows):
        blocks.append(
            Drawing(
                partial(
                    error_by_subgroup,
                    rows,
                    "significant_errors",
                    title=f"{errors}, with 95% intervals (Wilson)",
                ),
                "Share of clinically significant errors by sex and reference bone age",
                f"{shares} above 2 standard deviations of skeletal age. The standard "
                "deviation is a few months in young children and about ten later, so that the same "
                "error weighs more on the young.",
                _flat(found),
            )
        )
    if real:
        blocks += [
            Drawing(
                partial(diagnosis_table, found),
                "Numbers of cases by class of the reference and of the prediction",
                "Delayed and advanced: more than 2 standard deviations below or above the "
                "chronological age. Off the diagonal the prediction changes the class.",
                pd.DataFrame(found["confusion"], columns=found["classes"]).assign(
                    reference=found["classes"]
                ),
                vector=True,
                narrow=True,
            ),
        ]
    few = any(row["few_cases"] for row in rows)
    blocks.append(
        Table(
            f"{errors} by sex and reference bone age."
            + (" † Fewer than 20 cases: the share says little." if few else ""),
            ("Group", "Cases", "Share", "95% interval"),
            tuple(
                (
                    group_name(row).capitalize() + (" †" if row["few_cases"] else ""),
                    f"{row['n']:,}",
                    _share(row["significant_errors"]["value"]),
                    _span(row["significant_errors"]),
                )
                for row in rows
            ),
            _flat(found),
        )
    )
    title = "Errors that matter to a diagnosis"
    return Section("clinical", title if real else f"{title} (proxy)", tuple(blocks))


def _sentences(found: Mapping[str, Any], real: bool) -> list[str]:
    share = found["significant_errors"]
    at = "chronological age" if real else "reference bone age (proxy)"
    first = (
        f"{_share(share['value'])} of {found['n']:,} predictions (95% interval {_span(share)}) lie "
        f"more than {found['limit_sd']:g} standard deviations of skeletal age from the reference, "
        f"by the Brush Foundation table at the {at}."
    )
    left = []
    if found["n_without_age"]:
        left.append(f"{found['n_without_age']:,} without a chronological age")
    if found["n_outside_table"]:
        left.append(
            f"{found['n_outside_table']:,} outside of the table (3 to 204 months for boys, 3 to "
            "192 for girls)"
        )
    if left:
        first += f" Left out: {' and '.join(left)}."
    if not real:
        return [first]
    changed, missed, error = (
        found[key] for key in ("class_changed", "missed_abnormal", "score_error_sd")
    )
    second = (
        f"The prediction changes the class (delayed, normal, advanced) of "
        f"{_share(changed['value'])} of the children ({_span(changed)})"
    )
    if missed["value"] is not None:
        second += (
            f" and calls {_share(missed['value'])} of the delayed or advanced ones normal "
            f"({_span(missed)})"
        )
    second += "."
    if error["sd"] is not None:
        second += (
            f" In standard deviations the error is {months(error['mean'], signed=True, digits=2)} "
            f"on average with a spread of {months(error['sd'], digits=2)}."
        )
    return [first, second]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _span(estimate: Mapping[str, float | None]) -> str:
    return f"{_share(estimate['low'])} to {_share(estimate['high'])}"


def _flat(found: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for row in found["significant_by"]:
        low, high = row.get("age_months") or (None, None)
        share = row["significant_errors"]
        rows.append(
            {
                "basis": found["basis"],
                "by": row["by"],
                "sex": row.get("sex"),
                "age_from_months": low,
                "age_to_months": high,
                "n": row["n"],
                "significant_errors": share["value"],
                "low": share["low"],
                "high": share["high"],
            }
        )
    return pd.DataFrame(rows)

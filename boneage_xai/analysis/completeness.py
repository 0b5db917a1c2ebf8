"""How far attribution maps add up to the months that they should, by method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.metrics import share_estimate
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import DataError

COMPLETENESS_COLUMNS = (
    "case_id",
    "method",
    "prediction_months",
    "baseline_prediction_months",
    "completeness_gap_months",
    "map_error_fraction",
    "nodes",
    "converged",
    "seconds",
)
"""Columns of the attribution table that this needs; folders of earlier versions lack some."""


def with_tolerance(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Add to every map how large its gap is and how large it may be.

    Args:
        table: a row per case and method with prediction_months, baseline_prediction_months and
            completeness_gap_months (missing where a method promises no completeness).
        settings: of the attribution, as recorded; those left out count at their defaults.

    Returns:
        A copy with absolute_gap_months, tolerance_months and within_tolerance (missing where there
        is no gap).
    """
    asked = AttributionSettings(
        **{
            name: settings[name]
            for name in ("gap_tolerance_months", "gap_tolerance_fraction")
            if name in settings
        }
    )
    gap = table["completeness_gap_months"].astype("float64").abs()
    change = (table["prediction_months"] - table["baseline_prediction_months"]).astype("float64")
    tolerance = pd.Series(
        [asked.tolerance_months(0.0 if np.isnan(one) else one) for one in change],
        index=table.index,
        dtype="float64",
    )
    within = (gap <= tolerance).astype("boolean").where(gap.notna())
    return table.assign(
        absolute_gap_months=gap, tolerance_months=tolerance, within_tolerance=within
    )


def summarise_completeness(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise gaps, errors of integration and effort by method.

    Args:
        table: as from ``with_tolerance``; of map_error_fraction, nodes, converged and seconds what
            there is.

    Returns:
        Per method, in the table's order: n cases; n_with_gap of them with a completeness gap, the
        share of these within tolerance with its Wilson 95% interval (within, within_low,
        within_high), and of the size of the gap the median, the 95th percentile and the largest
        (median_gap_months, p95_gap_months, largest_gap_months); median and largest
        map_error_fraction and nodes; n_not_converged; median_seconds. NaN stands for what a method
        does not have.

    Raises:
        DataError: an empty table.
    """
    if table.empty:
        raise DataError("completeness: expected at least one attributed case, found none")
    rows: list[dict[str, Any]] = []
    for method, group in table.groupby("method", sort=False):
        gap = group["absolute_gap_months"].dropna()
        share = share_estimate(int(group["within_tolerance"].sum()), len(gap))
        settled = _known(group, "converged")
        rows.append(
            {
                "method": method,
                "n": len(group),
                "n_with_gap": len(gap),
                "within": share["value"],
                "within_low": share["low"],
                "within_high": share["high"],
                "median_gap_months": gap.median(),
                "p95_gap_months": gap.quantile(0.95),
                "largest_gap_months": gap.max(),
                "median_map_error_fraction": _known(group, "map_error_fraction").median(),
                "largest_map_error_fraction": _known(group, "map_error_fraction").max(),
                "median_nodes": _known(group, "nodes").median(),
                "largest_nodes": _known(group, "nodes").max(),
                "n_not_converged": float((settled == 0).sum()) if len(settled) else np.nan,
                "median_seconds": _known(group, "seconds").median(),
            }
        )
    numbers = [name for name in rows[0] if name != "method"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, "float64"))


def _known(group: pd.DataFrame, name: str) -> pd.Series[float]:
    if name not in group:
        return pd.Series(dtype="float64")
    return group[name].dropna().astype("float64")

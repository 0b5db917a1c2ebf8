"""Figure of interventions on phantoms: what a month of a region's age does to the prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.attribution.interventions import TOTAL_NAMES
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    GREY,
    OLDER_COLOUR,
    YOUNGER_COLOUR,
    new_figure,
    signed_text,
    styled,
)


@styled
def intervention_bars(summary: pd.DataFrame) -> Figure:
    """Draw the effect of each region with its interval, and below them all regions and the sum.

    Args:
        summary: one row per region: region, n, n_changed, slope_months_per_month, low, high, as
            from ``analysis.interventions.summarise_interventions`` without groups.

    Returns:
        One axes, single regions ordered by magnitude, the largest on top.

    Raises:
        ReportError: no rows, or a region more than once.
    """
    if summary.empty or summary["region"].duplicated().any():
        raise ReportError("figure: expected one row per region, found none or several")
    single = ~summary["region"].isin(list(TOTAL_NAMES))
    order = np.argsort(-summary.loc[single, "slope_months_per_month"].abs(), kind="stable")
    shown = pd.concat([summary[single].iloc[order], summary[~single]], ignore_index=True)
    values = shown["slope_months_per_month"].to_numpy(dtype=np.float64)
    low, high = (shown[end].to_numpy(dtype=np.float64) for end in ("low", "high"))
    total = shown["region"].isin(list(TOTAL_NAMES)).to_numpy()
    # A gap sets the totals apart from the regions that they are made of.
    rows = np.arange(len(shown)) + 0.5 * total
    figure = new_figure(1.4 + 0.36 * len(shown))
    axes = figure.add_subplot()
    signed = np.where(values >= 0, OLDER_COLOUR, YOUNGER_COLOUR)
    axes.barh(rows, values, color=np.where(total, GREY, signed), height=0.72, alpha=0.85)
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        axes.errorbar(
            values[known],
            rows[known],
            xerr=np.clip([values - low, high - values], 0.0, None)[:, known],
            fmt="none",
            ecolor=BLACK,
            elinewidth=1.3,
            capsize=3,
        )
    ends = [np.where(known, bound, values) for bound in (low, high)]
    left, right = np.minimum(ends[0], values), np.maximum(ends[1], values)
    for row, value, start, stop in zip(rows, values, left, right, strict=True):
        positive = value >= 0
        axes.annotate(
            signed_text(float(value), ".2f"),
            (float(stop if positive else start), float(row)),
            xytext=(5 if positive else -5, 0),
            textcoords="offset points",
            ha="left" if positive else "right",
            va="center",
            fontsize=9,
        )
    cases = int(shown["n"].max())
    names = [
        TOTAL_NAMES.get(str(region), str(region).replace("_", " "))
        + ("" if changed == n else f" ({changed} of {n})")
        for region, changed, n in zip(shown["region"], shown["n_changed"], shown["n"], strict=True)
    ]
    axes.set_yticks(rows, names)
    axes.set_ylim(float(rows.max()) + 0.6, -0.6)
    lowest, highest = min(float(left.min()), 0.0), max(float(right.max()), 0.0)
    span = highest - lowest or 1.0
    axes.set_xlim(lowest - 0.12 * span, highest + 0.12 * span)
    axes.axvline(0.0, color=BLACK, linewidth=1.0)
    axes.grid(visible=False, axis="y")
    note = ", mean with 95% bootstrap interval" if known.any() else ""
    axes.set_xlabel(f"months of prediction per month of region age{note}")
    what = "phantom" if cases == 1 else "phantoms"
    axes.set_title(f"Effect of each region's age on the prediction, n = {cases:,} {what}")
    return figure

"""Figure of prediction intervals: how wide they are, and where references lie in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    SEX_COLOURS,
    SEX_NAMES,
    VERMILLION,
    age_axis,
    age_limits,
    new_figure,
    styled,
)


@styled
def intervals_by_prediction(table: pd.DataFrame, coverage: float) -> Figure:
    """Draw the interval at every prediction and the errors inside and outside of it.

    Args:
        table: sex ('F' or 'M'), reference_months, predicted_months, low_months, high_months and
            covered per case; infinite limits where there is no interval.
        coverage: share of references that intervals are to contain.

    Returns:
        An axes per sex: prediction minus reference against the prediction.

    Raises:
        ReportError: no cases.
    """
    if table.empty:
        raise ReportError("figure: expected cases with an interval, found none")
    figure = new_figure(4.0)
    both = figure.subplots(1, 2, sharey=True)
    low, high = age_limits(table["predicted_months"])
    for axes, (sex, name) in zip(both, SEX_NAMES.items(), strict=True):
        of_sex = table[table["sex"] == sex].sort_values("predicted_months")
        part = of_sex[np.isfinite(of_sex["high_months"])]
        without = of_sex.drop(index=part.index)
        predicted = part["predicted_months"].to_numpy()
        ends = [predicted - part[end].to_numpy() for end in ("high_months", "low_months")]
        axes.fill_between(predicted, *ends, color=SEX_COLOURS[sex], alpha=0.18, linewidth=0)
        for end in ends:
            axes.plot(predicted, end, color=SEX_COLOURS[sex], linewidth=1.2)
        error = predicted - part["reference_months"].to_numpy()
        inside = part["covered"].to_numpy(dtype=bool)
        size = float(np.clip(9_000 / max(len(part), 1), 4.0, 20.0))
        for mask, colour, label in (
            (inside, SEX_COLOURS[sex], f"inside: {inside.sum():,}"),
            (~inside, VERMILLION, f"outside: {(~inside).sum():,}"),
        ):
            axes.scatter(
                predicted[mask],
                error[mask],
                s=size,
                color=colour,
                alpha=0.7,
                linewidths=0,
                rasterized=True,
                label=label,
            )
        if len(without):
            axes.scatter(
                without["predicted_months"],
                without["predicted_months"] - without["reference_months"],
                s=20.0,
                facecolors="none",
                edgecolors=BLACK,
                label=f"no interval: {len(without):,}",
            )
        axes.axhline(0.0, color=BLACK, linewidth=1.0)
        age_axis(axes, "x", low, high)
        axes.set_xlabel("predicted bone age (months)")
        share = f", {inside.mean():.0%} inside" if len(part) else ""
        axes.set_title(f"{coverage:.0%} intervals, {name} (n = {len(part):,}{share})")
        axes.legend(loc="upper right", ncols=3 if len(without) else 2)
    both[0].set_ylabel("predicted minus reference (months)")
    bottom, top = both[0].get_ylim()
    both[0].set_ylim(bottom, top + 0.15 * (top - bottom))
    return figure

"""Figure of a comparison: by how much one model is closer than another, by sex and age."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.analysis.multiplicity import LEVEL, difference_shown
from boneage_xai.analysis.subgroups import SEX_BY_AGE
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    GREY,
    SEX_COLOURS,
    SEX_MARKERS,
    SEX_NAMES,
    new_figure,
    styled,
)


@styled
def paired_errors(groups: pd.DataFrame) -> Figure:
    """Draw the difference of the mean absolute errors of two models, by sex and age.

    Args:
        groups: of one pair of models, as from ``analysis.comparison.compare_errors``.

    Returns:
        One axes: all cases on top, then girls and boys, then both by age; left of 0 the first
        model is closer; filled where interval and corrected test
        show a difference.

    Raises:
        ReportError: no rows, or more than one pair.
    """
    if groups.empty or len(groups[["model_a", "model_b"]].drop_duplicates()) > 1:
        raise ReportError(
            "figure: expected the groups of one pair of models, found none or several"
        )
    shown = groups[groups["by"].isin(["all", "sex", SEX_BY_AGE])].copy()
    shown["_order"] = shown["by"].map({"all": 0, "sex": 1, SEX_BY_AGE: 2})
    shown = shown.sort_values(["_order", "age_from_months", "sex"], kind="stable")
    order = shown["_order"].to_numpy()
    spans = shown["age_from_months"].fillna(-1).to_numpy()
    breaks = np.concatenate([[0], (np.diff(order) != 0) | (np.diff(spans) != 0)])
    rows = np.arange(len(shown)) + 0.35 * np.cumsum(breaks)
    figure = new_figure(1.5 + 0.25 * (float(rows[-1]) + 1))
    axes = figure.add_subplot()
    for row, group in zip(rows, shown.to_dict("records"), strict=True):
        value, low, high = group["mae_difference_months"], group["low"], group["high"]
        sex = group["sex"]
        colour = SEX_COLOURS.get(sex, BLACK)
        shown_here = difference_shown(group["p_holm"], low, high)
        bounds = [[max(value - low, 0.0)], [max(high - value, 0.0)]] if low == low else None
        axes.errorbar(
            [value],
            [row],
            xerr=bounds,
            fmt=SEX_MARKERS.get(sex, "D"),
            color=colour,
            markerfacecolor=colour if shown_here else "white",
            elinewidth=1.3,
            capsize=3,
            markersize=6,
        )
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    axes.set_yticks(rows, [_label(group) for group in shown.to_dict("records")], fontsize=9)
    axes.set_ylim(float(rows[-1]) + 0.8, -0.8)
    axes.grid(visible=False, axis="y")
    first, second = (_short(str(groups[name].iloc[0])) for name in ("model_a", "model_b"))
    axes.set_title(f"Mean absolute error of {first} minus that of {second}")
    axes.set_xlabel(
        f"← {first} closer      months      {second} closer →\n"
        f"95% intervals; filled: beyond 0, and p < {LEVEL:g} after Holm",
        fontsize=9,
    )
    return figure


def _label(group: dict[Any, Any]) -> str:
    sex = SEX_NAMES.get(str(group["sex"]), "")
    if group["by"] == "all":
        words = "all"
    elif group["by"] == "sex":
        words = sex
    else:
        low, high = (float(group[key]) for key in ("age_from_months", "age_to_months"))
        words = f"{low / 12:g} to {high / 12:g} years, {sex}"
    return f"{words} ({group['n']:,})"


def _short(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"…{name[-longest + 1 :]}"

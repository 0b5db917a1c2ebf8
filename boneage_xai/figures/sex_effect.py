"""Figure of the sex's effect: how much older the same hand is read as a boy's, by age."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    GREEN,
    SEX_COLOURS,
    SEX_MARKERS,
    SEX_NAMES,
    age_axis,
    age_limits,
    new_figure,
    styled,
)


@styled
def sex_effect_by_age(table: pd.DataFrame, summary: pd.DataFrame, marks: pd.DataFrame) -> Figure:
    """Draw the effect of the sex on each case, its mean by age, and the milestones.

    Args:
        table: as from ``analysis.sex_effect.predict_both``.
        summary: of it, as from ``summarise_sex_effect``.
        marks: as from ``milestones``.

    Returns:
        One axes: points per case by the answer for a girl, black means with intervals, crosses for
        milestones that girls and boys pass at different ages.

    Raises:
        ReportError: no cases.
    """
    if table.empty or summary.empty:
        raise ReportError("figure: expected at least one case, found none")
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    for sex, group in table.groupby("sex"):
        axes.scatter(
            group["as_girl_months"],
            group["effect_months"],
            s=12,
            marker=SEX_MARKERS[str(sex)],
            color=SEX_COLOURS[str(sex)],
            alpha=0.35,
            linewidths=0,
            label=f"{SEX_NAMES[str(sex)]} (n = {len(group):,})",
            rasterized=len(table) > 2000,
        )
    axes.scatter(
        marks["girls_months"],
        marks["difference_months"],
        marker="x",
        s=28,
        color=GREEN,
        linewidths=1.4,
        label="milestones, boys − girls (approximate)",
        zorder=3,
    )
    answers = table["as_girl_months"].to_numpy(dtype=np.float64)
    edges = [*summary["age_from_months"], summary["age_to_months"].iloc[-1]]
    # Beyond the bins, answers count in the nearest: that is where their mean stands, too.
    inside = np.digitize(np.clip(answers, edges[0], edges[-1] - 1e-6), edges) - 1
    middle = [float(answers[inside == place].mean()) for place in range(len(summary))]
    value, low, high = (
        summary[name].to_numpy(dtype=np.float64) for name in ("effect_months", "low", "high")
    )
    spread = np.nan_to_num(np.vstack([value - low, high - value])).clip(min=0.0)
    axes.errorbar(
        middle,
        value,
        yerr=spread,
        fmt="D",
        color=BLACK,
        markersize=5.5,
        capsize=3,
        elinewidth=1.4,
        label="mean with 95% interval",
        zorder=4,
    )
    axes.axhline(0.0, color=BLACK, linewidth=0.8)
    age_axis(axes, "x", *age_limits([*table["as_girl_months"], *marks["girls_months"]]))
    axes.set_xlabel("months read as a girl's; for milestones the girls' age")
    axes.set_ylabel("boy's minus girl's, months")
    axes.set_title("The same radiograph read as a boy's and as a girl's")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)
    return figure

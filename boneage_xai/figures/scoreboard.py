"""Figure of the scoreboard: how each attribution method fares against the truth of phantoms."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import BLACK, BLUE, GREY, counted_range, new_figure, styled

PANELS = {
    "region_correlation": "Regions: agreement\nwith true effects",
    "mass_accuracy": "Pixels: share of\nmap where age shows",
    "deletion_months": "Deletion: months\nbeyond random order",
    "randomised_similarity": "Random weights:\nsimilarity left",
}
"""Scores drawn, with what they are called."""


@styled
def scoreboard(summary: pd.DataFrame) -> Figure:
    """Draw a panel per score with a point and interval per method, the best method on top.

    Args:
        summary: method, score, n, value, low, high, chance, as from
            ``analysis.scoreboard.summarise_scores``.

    Returns:
        One row of axes that share the methods; the level of chance is a grey tick.

    Raises:
        ReportError: no rows, or a method and score more than once.
    """
    if summary.empty or summary.duplicated(["method", "score"]).any():
        raise ReportError("figure: expected one row per method and score, found none or several")
    methods = list(dict.fromkeys(summary["method"]))
    figure = new_figure(1.5 + 0.34 * len(methods))
    axes_row = np.atleast_1d(figure.subplots(1, len(PANELS), sharey=True))
    for axes, (score, title) in zip(axes_row, PANELS.items(), strict=True):
        table = summary[summary["score"] == score].set_index("method").reindex(methods)
        rows = np.arange(len(methods))
        value, low, high, chance = (
            table[name].to_numpy(dtype=np.float64) for name in ("value", "low", "high", "chance")
        )
        known = np.isfinite(value)
        spread = np.nan_to_num(np.vstack([value - low, high - value])).clip(min=0.0)
        axes.errorbar(
            value[known],
            rows[known],
            xerr=spread[:, known],
            fmt="o",
            color=BLUE,
            ecolor=BLACK,
            elinewidth=1.2,
            capsize=3,
            markersize=6,
        )
        if np.isfinite(chance).any():
            axes.plot(chance, rows, "|", color=GREY, markersize=14, markeredgewidth=2)
        for row in rows[~known]:
            axes.annotate("–", (0.5, float(row)), xycoords=("axes fraction", "data"), ha="center")
        axes.axvline(0.0, color=BLACK, linewidth=0.8)
        axes.set_title(title, fontsize=9.5)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
    first = axes_row[0]
    first.set_yticks(np.arange(len(methods)), [name.replace("_", " ") for name in methods])
    first.set_ylim(len(methods) - 0.4, -0.6)
    over = counted_range(summary.loc[summary["n"] > 0, "n"], "phantom", "phantoms")
    figure.supxlabel(
        f"mean over {over} with 95% bootstrap interval; grey ticks: chance on the hand",
        fontsize=9.5,
    )
    return figure

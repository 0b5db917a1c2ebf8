"""Figures of a stress test: what each change of appearance does, and the cases it moves most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boneage_xai.analysis.multiplicity import LEVEL, difference_shown
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    WIDTH_INCHES,
    draw_radiograph,
    new_figure,
    styled,
)

_MOVED_SHADES = {6: "#CFE3F1", 12: "#6FAED6", 24: BLUE}
_GAP_ROWS = 0.7
_ROW_INCHES = 0.21
_PAIRS = 3


@styled
def stress_effects(summary: pd.DataFrame) -> Figure:
    """Draw the change of the error by each transform, and how many cases move how far.

    Args:
        summary: as from ``analysis.stress.summarise_stress``; transforms of a family follow each
            other.

    Returns:
        Two axes that share rows: change of the MAE with its interval, filled where the corrected
        test finds a change; and the share of cases that move by more than 6, 12 and 24 months.

    Raises:
        ReportError: no rows, or a transform more than once.
    """
    if summary.empty or summary["transform"].duplicated().any():
        raise ReportError("figure: expected one row per transform, found none or several")
    families = summary["family"].to_numpy(dtype=object)
    starts = np.concatenate([[True], families[1:] != families[:-1]])
    rows = np.arange(len(summary)) + _GAP_ROWS * (np.cumsum(starts) - 1)
    figure = new_figure(1.3 + _ROW_INCHES * (float(rows[-1]) + 1))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.5, 1.0])
    _error_changes(left, summary, rows)
    _moved(right, summary, rows)
    figure.legend(loc="outside lower right", ncols=len(_MOVED_SHADES), fontsize=8.5)
    left.set_yticks(rows, list(summary["parameter"]), fontsize=8.5)
    left.set_ylim(float(rows[-1]) + 0.8, -0.8)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        for row in rows[starts][1:]:
            axes.axhline(float(row) - (1 + _GAP_ROWS) / 2, color="#DDDDDD", linewidth=0.8)
    for family, row in zip(families[starts], rows[starts], strict=True):
        left.annotate(
            str(family),
            (-0.47, float(row)),
            xycoords=("axes fraction", "data"),
            fontsize=9,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
    return figure


def _error_changes(axes: Axes, summary: pd.DataFrame, rows: npt.NDArray[np.float64]) -> None:
    value, low, high, p_value = (
        summary[name].to_numpy(dtype=np.float64)
        for name in ("mae_change_months", "low", "high", "p_holm")
    )
    spread = np.nan_to_num(np.vstack([value - low, high - value])).clip(min=0.0)
    found = difference_shown(p_value, low, high)
    for chosen, filled, colour in (
        (found & (value > 0), True, VERMILLION),
        (found & (value <= 0), True, BLUE),
        (~found & np.isfinite(value), False, GREY),
    ):
        if chosen.any():
            axes.errorbar(
                value[chosen],
                rows[chosen],
                xerr=spread[:, chosen],
                fmt="o",
                color=colour,
                markerfacecolor=colour if filled else "white",
                elinewidth=1.2,
                capsize=2.5,
                markersize=5,
            )
    axes.axvline(0.0, color=BLACK, linewidth=1.0)
    scale = ""
    sizes = np.abs(value[np.isfinite(value)])
    if sizes.size and sizes.max() > 20 * np.median(sizes) > 0:
        # A few disastrous changes would press all others onto the line.
        axes.set_xscale("symlog", linthresh=1.0)
        axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}".replace("-", "−"))
        scale = "; logarithmic beyond ±1"
    axes.set_title("Change of the mean absolute error")
    axes.set_xlabel(
        f"months, 95% intervals\nfilled: beyond 0, and p < {LEVEL:g} after Holm{scale}", fontsize=9
    )


def _moved(axes: Axes, summary: pd.DataFrame, rows: npt.NDArray[np.float64]) -> None:
    for limit, shade in _MOVED_SHADES.items():
        share = 100 * summary[f"moved_over_{limit}_months"].to_numpy(dtype=np.float64)
        axes.barh(rows, share, height=0.75, color=shade, label=f"> {limit} months")
    axes.set_xlim(0, 100)
    axes.set_title("Predictions that move")
    axes.set_xlabel("% of cases", fontsize=9)


@styled
def stress_pairs(
    originals: Sequence[npt.NDArray[Any]],
    changed: Sequence[npt.NDArray[Any]],
    titles: Sequence[tuple[str, str]],
) -> Figure:
    """Draw each radiograph as it is and, beside it, changed.

    Args:
        originals: n network inputs (S, S).
        changed: the same after a change.
        titles: over the original and over the changed one.

    Returns:
        Three pairs a row.

    Raises:
        ReportError: no pairs, or a different number of each.
    """
    if not originals or not len(originals) == len(changed) == len(titles):
        raise ReportError(
            f"figure: expected as many originals, changed images and titles, found "
            f"{len(originals)}, {len(changed)} and {len(titles)}"
        )
    rows = math.ceil(len(originals) / _PAIRS)
    figure = new_figure(rows * (WIDTH_INCHES / (2 * _PAIRS) + 0.5) + 0.1)
    grid = figure.subplots(rows, 2 * _PAIRS, squeeze=False)
    for place in range(rows * _PAIRS):
        row, column = divmod(place, _PAIRS)
        pair = grid[row, 2 * column], grid[row, 2 * column + 1]
        if place >= len(originals):
            for axes in pair:
                axes.remove()
            continue
        for axes, image, title in zip(
            pair, (originals[place], changed[place]), titles[place], strict=True
        ):
            draw_radiograph(axes, image)
            axes.set_title(title, fontsize=7.5, fontweight="normal", loc="center")
    return figure

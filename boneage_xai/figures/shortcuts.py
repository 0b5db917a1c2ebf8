"""Figures of the shortcut audit: what tells the age, what moves predictions, and an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boneage_xai.analysis.shortcut_edits import BACKGROUND_TEST
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLUE,
    GREY,
    VERMILLION,
    draw_radiograph,
    new_figure,
    styled,
)

GROUP_NAMES = {
    "id": "order of the ids",
    "size": "size of the radiograph",
    "intensity": "brightness of the whole",
    "border": "border",
    "background": "background",
    "marker": "marker",
}
TEST_NAMES = {
    "marker_erased": "marker erased",
    "marker_moved": "marker moved",
    "marker_brighter": "marker brighter",
    "marker_darker": "marker darker",
    "border_replaced": "border replaced",
    "background_levelled": "background levelled",
    "whole_brighter": "whole brighter",
    "whole_darker": "whole darker",
}
_ALARM, _QUIET = VERMILLION, BLUE


@styled
def data_panels(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what tells the age and the sex, each with its interval and its alarm threshold.

    Args:
        rows: ``data`` of ``shortcuts.json``.

    Returns:
        A panel for age and one for sex; those without a row are left out.

    Raises:
        ReportError: no rows.
    """
    if not rows:
        raise ReportError("figure: expected at least one test of the data, found none")
    targets = [one for one in ("age", "sex") if any(row["target"] == one for row in rows)]
    names = [one for one in GROUP_NAMES if any(row["group"] == one for row in rows)]
    figure = new_figure(1.2 + 0.32 * len(names))
    for place, target in enumerate(targets):
        axes = figure.add_subplot(1, len(targets), place + 1)
        ours = {row["group"]: row for row in rows if row["target"] == target}
        chance = 0.0 if target == "age" else 0.5
        for y, name in enumerate(names):
            if name in ours and ours[name]["value"] is not None:
                row = ours[name]
                _point(axes, y, row["value"], row["low"], row["high"], alarm=row["alarm"])
                if row["threshold"] is not None:
                    _threshold(axes, y, row["threshold"])
        axes.axvline(chance, color=GREY, linewidth=1.0)
        ends = [row[key] for row in ours.values() for key in ("low", "high", "threshold")]
        limits = [end for end in ends if end is not None]
        low, high = min([*limits, chance]), max([*limits, chance + 0.2])
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        _rows(axes, [GROUP_NAMES[name] for name in names], labelled=place == 0)
        axes.set_xlabel("share of variance (R²)" if target == "age" else "area under the curve")
        axes.set_title("Does it tell the age?" if target == "age" else "Does it tell the sex?")
    return figure


@styled
def change_panels(
    rows: Sequence[Mapping[str, Any]], least_months: float, least_slope: float
) -> Figure:
    """Draw how far predictions move in each test, beside its control, and how with age.

    Args:
        rows: ``network`` of ``shortcuts.json``.
        least_months: movement beyond the control that raises an alarm.
        least_slope: dependence on age that raises an alarm.

    Returns:
        A panel of |change| in months and one of months per month of age.

    Raises:
        ReportError: no rows.
    """
    if not rows:
        raise ReportError("figure: expected at least one test of the network, found none")
    figure = new_figure(1.35 + 0.34 * len(rows))
    grid = figure.add_gridspec(1, 2, width_ratios=(3, 2))
    moved, slope = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    furthest = least_months
    for y, row in enumerate(rows):
        alarm = bool(row["alarm"])
        ends = [row[f"moved_months{end}"] for end in ("", "_low", "_high")]
        _point(moved, y, *ends, alarm=alarm)
        control = row["control_months"]
        if control is not None:
            moved.plot(control, y, marker="D", color=GREY, markersize=4.5, linestyle="none")
        if row["test"] != BACKGROUND_TEST:
            _threshold(moved, y, least_months + (control or 0.0))
        furthest = max(furthest, float(ends[2]), least_months + (control or 0.0))
        tilt = [row[f"slope_months_per_month{end}"] for end in ("", "_low", "_high")]
        if tilt[0] is not None:
            _point(slope, y, *tilt, alarm=alarm)
    moved.set_xlim(0.0, 1.06 * furthest)
    _rows(moved, [TEST_NAMES.get(row["test"], row["test"]) for row in rows], labelled=True)
    moved.set_xlabel("mean |change| of the prediction, months")
    moved.set_title("How far predictions move")
    slope.axvline(0.0, color=GREY, linewidth=1.0)
    for edge in (-least_slope, least_slope):
        slope.axvline(edge, color=_ALARM, linewidth=1.2, linestyle=(0, (4, 3)))
    widest = max(
        [1.5 * least_slope]
        + [
            abs(row[f"slope_months_per_month{end}"])
            for row in rows
            for end in ("_low", "_high")
            if row[f"slope_months_per_month{end}"] is not None
        ]
    )
    slope.set_xlim(-1.08 * widest, 1.08 * widest)
    _rows(slope, [""] * len(rows), labelled=False)
    slope.set_xlabel("months per month of age")
    slope.set_title("… and with the age")
    return figure


@styled
def example_pictures(
    pictures: Mapping[str, npt.NDArray[np.uint8]], titles: Mapping[str, str]
) -> Figure:
    """Draw one radiograph as it is and as the tests change it.

    Args:
        pictures: name to (S, S) prepared radiograph, in the order shown.
        titles: name to what stands above it; a second line is allowed.

    Raises:
        ReportError: no pictures.
    """
    if not pictures:
        raise ReportError("figure: expected at least one picture, found none")
    figure = new_figure(9.0 / len(pictures) + 0.55)
    for place, (name, picture) in enumerate(pictures.items()):
        axes = figure.add_subplot(1, len(pictures), place + 1)
        draw_radiograph(axes, picture)
        axes.set_title(titles[name], fontsize=9.5, fontweight="normal")
    return figure


def _point(
    axes: Axes, y: float, value: float, low: float | None, high: float | None, *, alarm: bool
) -> None:
    colour = _ALARM if alarm else _QUIET
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
    axes.plot(value, y, marker="o", color=colour, markersize=6, linestyle="none")


def _threshold(axes: Axes, y: float, at: float) -> None:
    axes.plot([at, at], [y - 0.36, y + 0.36], color=_ALARM, linewidth=1.4, linestyle=(0, (2, 1.5)))


def _rows(axes: Axes, names: Sequence[str], *, labelled: bool) -> None:
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")

"""Figures of a hyper-parameter search: its course, its knobs, its learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    WIDTH_INCHES,
    fitted_font_size,
    new_figure,
    styled,
)

_VALUE = "validation MAE (months)"
_COLUMNS = 3
_PANEL_INCHES = 2.7


@dataclass(frozen=True)
class KnobAxis:
    """How the values of a knob are laid out.

    Args:
        key: of the recipe, and the table's column.
        limits: lowest and highest value of a range.
        log: whether the range is searched by the logarithm.
        labels: of listed values as the table has them, in order; empty for a range.
    """

    key: str
    limits: tuple[float, float] = (0.0, 1.0)
    log: bool = False
    labels: tuple[str, ...] = ()


def _complete(trials: pd.DataFrame) -> pd.DataFrame:
    complete = trials[trials["state"] == "complete"]
    if complete.empty:
        raise ReportError("figure: expected at least one complete trial, found none")
    return complete


def _best(complete: pd.DataFrame) -> tuple[int, float]:
    """Return number and value of the best complete trial."""
    row = int(np.argmin(complete["value"].to_numpy(dtype=np.float64)))
    return int(complete["trial"].to_numpy()[row]), float(complete["value"].to_numpy()[row])


def _mark_best(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot(
        [x], [y], "o",
        markersize=11, markerfacecolor="none", markeredgecolor=VERMILLION, markeredgewidth=2.0,
        label=label, zorder=4,
    )  # fmt: skip


def _mark_pruned(axes: Axes, x: Sequence[float], label: str | None = None) -> None:
    """Mark pruned trials along the upper edge: their last errors compare with nothing."""
    if len(x):
        axes.plot(
            x, np.full(len(x), 0.97), "x",
            transform=axes.get_xaxis_transform(), color=ORANGE, markersize=6, markeredgewidth=1.6,
            label=label,
        )  # fmt: skip


@styled
def search_history(trials: pd.DataFrame) -> Figure:
    """Draw the validation MAE of each trial and the best so far.

    Args:
        trials: trial, state, value in months.

    Returns:
        One axes; pruned trials are crosses along its upper edge.

    Raises:
        ReportError: no complete trial.
    """
    complete = _complete(trials)
    figure = new_figure(4.0)
    axes = figure.add_subplot()
    axes.plot(complete["trial"], complete["value"], "o", color=BLUE, label="complete")
    axes.step(
        [*complete["trial"], trials["trial"].max()],
        [*complete["value"].cummin(), complete["value"].min()],
        where="post", color=GREY, linewidth=1.2, label="best so far",
    )  # fmt: skip
    best, value = _best(complete)
    _mark_best(axes, best, value, f"best: {value:.1f} months, trial {best}")
    _cut(axes, complete["value"])
    _mark_beyond(axes, complete, complete["trial"])
    _headroom(axes)
    _mark_pruned(axes, list(trials.loc[trials["state"] == "pruned", "trial"]), "pruned")
    axes.set_title("Search history")
    axes.set_xlabel("trial")
    axes.set_ylabel(_VALUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _most(values: pd.Series[float]) -> float:
    """Return the largest value that is shown: a diverged trial would press all others flat."""
    return min(float(values.max()), 3 * float(values.median()))


def _cut(axes: Axes, values: pd.Series[float]) -> None:
    low, most = float(values.min()), _most(values)
    if most < values.max():
        axes.set_ylim(low - 0.05 * (most - low), most)


def _mark_beyond(axes: Axes, complete: pd.DataFrame, places: pd.Series[float]) -> None:
    beyond = complete["value"] > _most(complete["value"])
    if beyond.any():
        axes.plot(
            places[beyond], np.full(int(beyond.sum()), 0.97), "^",
            transform=axes.get_xaxis_transform(), color=BLUE, markersize=7,
            label="beyond the scale",
        )  # fmt: skip


def _headroom(axes: Axes) -> None:
    """Leave room above the values for the crosses of pruned trials."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (high - low))


@styled
def search_knobs(trials: pd.DataFrame, knobs: Sequence[KnobAxis]) -> Figure:
    """Draw the validation MAE against the values of each knob.

    Args:
        trials: trial, state, value in months, and a column for each knob.
        knobs: one or more.

    Returns:
        An axes for each knob, three a row; pruned trials are crosses along the upper edge.

    Raises:
        ReportError: no complete trial, or no knob.
    """
    complete = _complete(trials)
    if not knobs:
        raise ReportError("figure: expected at least one knob, found none")
    columns = min(_COLUMNS, len(knobs))
    rows = math.ceil(len(knobs) / columns)
    figure = new_figure(rows * _PANEL_INCHES + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    pruned = trials[trials["state"] == "pruned"]
    best, value = _best(complete)
    size = fitted_font_size([knob.key for knob in knobs], WIDTH_INCHES / columns - 0.6, 10.0)
    for axes, knob in zip(grid.flat, knobs, strict=False):
        places = _places(complete, knob)
        axes.plot(places, complete["value"], "o", color=BLUE, alpha=0.8, label="complete")
        _mark_best(axes, float(places[complete["trial"] == best].iloc[0]), value, "best")
        _lay_out(axes, knob)
        axes.set_xlabel(knob.key, fontsize=size)
        _mark_beyond(axes, complete, places)
    _cut(grid[0, 0], complete["value"])
    for axes in list(grid.flat)[len(knobs) :]:
        axes.remove()
    _headroom(grid[0, 0])
    for axes, knob in zip(grid.flat, knobs, strict=False):
        _mark_pruned(axes, list(_places(pruned, knob)), "pruned")
    for row in grid[:, 0]:
        row.set_ylabel(_VALUE)
    grid[0, 0].set_title("Validation error by knob")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def _places(trials: pd.DataFrame, knob: KnobAxis) -> pd.Series[float]:
    if not knob.labels:
        return trials[knob.key].astype(float)
    order = {label: float(place) for place, label in enumerate(knob.labels)}
    return trials[knob.key].astype(str).map(order).astype(float)


def _lay_out(axes: Axes, knob: KnobAxis) -> None:
    if knob.labels:
        size = fitted_font_size([max(knob.labels, key=len)], 2.4 / len(knob.labels), 10.0)
        axes.set_xticks(range(len(knob.labels)), list(knob.labels), fontsize=size)
        axes.set_xlim(-0.5, len(knob.labels) - 0.5)
        return
    low, high = knob.limits
    if knob.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter())
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        return
    axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if isinstance(low, int):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


@styled
def search_curves(
    curves: Mapping[int, Mapping[int, float]], trials: pd.DataFrame, sizes_px: Sequence[int]
) -> Figure:
    """Draw the validation MAE of all trials by epoch, pruned ones to where they were given up.

    Args:
        curves: by trial, epochs done and the finite validation MAE in months after them.
        trials: trial, state, value in months.
        sizes_px: input size of each epoch; changes are marked. Empty where trials differ in it.

    Returns:
        One axes, logarithmic where errors differ more than sixfold.

    Raises:
        ReportError: no curve.
    """
    if not curves:
        raise ReportError("figure: expected at least one trial with an epoch, found none")
    states = dict(zip(trials["trial"], trials["state"], strict=True))
    complete = trials[trials["state"] == "complete"]
    best = None if complete.empty else _best(complete)[0]
    figure = new_figure(4.4)
    axes = figure.add_subplot()
    values = [value for curve in curves.values() for value in curve.values()]
    for number, curve in curves.items():
        colour, width, layer, alpha = BLUE, 1.1, 2.0, 0.55
        if number == best:
            colour, width, layer, alpha = VERMILLION, 2.4, 3.0, 1.0
        elif states[number] == "pruned":
            colour = ORANGE
        epochs, errors = list(curve), list(curve.values())
        axes.plot(epochs, errors, color=colour, linewidth=width, alpha=alpha, zorder=layer)
        if states[number] == "pruned":
            axes.plot(epochs[-1:], errors[-1:], "x", color=ORANGE, markersize=7, markeredgewidth=2)
    # Diverged trials would press all others onto the axis.
    top = min(max(values), 10 * float(np.median(values)))
    if top > 6 * min(values):
        axes.set_yscale("log")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if min(values) / 2 < tick]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_minor_locator(MaxNLocator(1))
        axes.tick_params(axis="y", which="minor", length=0, labelleft=False)
        axes.set_ylim(0.85 * min(values), 1.15 * top)
    else:
        margin = 0.08 * (top - min(values)) or 1.0
        axes.set_ylim(min(values) - margin, top + margin)
    _mark_sizes(axes, sizes_px)
    axes.set_title("Validation error by epoch", pad=16 if len(set(sizes_px)) > 1 else None)
    axes.set_xlabel("epochs")
    axes.set_ylabel(_VALUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    pruned = Line2D([], [], color=ORANGE, marker="x", markeredgewidth=2, label="pruned")
    handles = [
        Line2D([], [], color=VERMILLION, linewidth=2.4, label=f"best: trial {best}"),
        Line2D([], [], color=BLUE, linewidth=1.2, label="complete"),
        pruned,
    ]
    there = (best is not None, len(complete) > 1, "pruned" in states.values())
    axes.legend(
        handles=[handle for handle, shown in zip(handles, there, strict=True) if shown],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    return figure


def _mark_sizes(axes: Axes, sizes_px: Sequence[int]) -> None:
    if len(set(sizes_px)) < 2:
        return
    for epoch, size_px in enumerate(sizes_px):
        if epoch and size_px == sizes_px[epoch - 1]:
            continue
        if epoch:
            axes.axvline(epoch + 0.5, color=GREY, linewidth=1.0, linestyle=":")
        axes.annotate(
            f"{size_px} px",
            (epoch + 0.5 if epoch else 1.0, 1.01),
            xycoords=axes.get_xaxis_transform(),
            color=GREY,
            fontsize=8.5,
        )


@styled
def knob_importance(shares: Mapping[str, float], *, n_trials: int) -> Figure:
    """Draw how much of the variance of the validation MAE each knob explains.

    Args:
        shares: by knob, summing to 1.
        n_trials: complete trials that they were computed from.

    Returns:
        One axes, the largest share on top.

    Raises:
        ReportError: no knob.
    """
    if not shares:
        raise ReportError("figure: expected at least one knob, found none")
    names = sorted(shares, key=lambda name: shares[name])
    percent = [100 * shares[name] for name in names]
    figure = new_figure(1.2 + 0.4 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh(names, percent, color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.0f}%" for share in percent], padding=4, fontsize=9)
    axes.set_xlim(0.0, 1.12 * max(percent))
    axes.grid(visible=False, axis="y")
    axes.set_title(f"Importance of the knobs (fANOVA, {n_trials} complete trials)")
    axes.set_xlabel("% of the variance of the validation MAE")
    return figure

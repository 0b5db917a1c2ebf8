"""Figures of a reproduction: learning curves by arm, what the sex gives, examples, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from boneage_xai.analysis.multiplicity import LEVEL, difference_shown
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLUE,
    GREY,
    VERMILLION,
    WIDTH_INCHES,
    draw_radiograph,
    fitted_font_size,
    interval_bars,
    new_figure,
    styled,
)
from boneage_xai.types import FloatImage

HIGHEST_MONTHS = 250
"""Where learning curves are cut: the first epochs of a training may be off by any amount."""

_FEWEST_TICKS = 3
_TICKS_MONTHS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 120, 200)


@styled
def curves_by_arm(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw training and validation MAE per epoch, one axes per arm, on one logarithmic scale.

    Args:
        histories: arm to epoch (from 0), train_mae_months, val_mae_months.

    Returns:
        Two columns of axes with the same epochs; the scale ends at ``HIGHEST_MONTHS``.

    Raises:
        ReportError: no arms.
    """
    if not histories:
        raise ReportError("learning curves: expected at least one arm, found none")
    rows = math.ceil(len(histories) / 2)
    figure = new_figure(0.5 + 2.3 * rows)
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    both = ["train_mae_months", "val_mae_months"]
    values = np.concatenate([one[both].to_numpy().ravel() for one in histories.values()])
    values = values[np.isfinite(values)]
    low, high = float(values.min()) / 1.1, min(float(values.max()) * 1.1, HIGHEST_MONTHS)
    ticks = [float(tick) for tick in _TICKS_MONTHS if low <= tick <= high]
    if len(ticks) < _FEWEST_TICKS:
        evenly = MaxNLocator(5).tick_values(low, high)
        ticks = [float(tick) for tick in evenly if low <= tick <= high]
    for axes in grid.flat[len(histories) :]:
        axes.remove()
    for axes, (name, history) in zip(grid.flat, histories.items(), strict=False):
        epochs = history["epoch"] + 1
        marker = "o" if len(history) <= 40 else None
        for column, label, colour, style in (
            (both[0], "training", GREY, "--"),
            (both[1], "validation", BLUE, "-"),
        ):
            axes.plot(
                epochs,
                history[column],
                color=colour,
                linestyle=style,
                marker=marker,
                markersize=3,
                label=label,
            )
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.tick_params(labelbottom=True)
        axes.set_title(fill(name, 40))
    for axes in grid[:, 0]:
        axes.set_ylabel("MAE, months")
    for axes in grid.flat[max(len(histories) - 2, 0) : len(histories)]:
        axes.set_xlabel("epoch")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def sex_differences_figure(pairs: Sequence[Mapping[str, Any]], measured_on: str) -> Figure:
    """Draw by how much the error differs between twins with and without the sex.

    Args:
        pairs: as from ``analysis.reproduction.sex_differences``.
        measured_on: what the cases are, in words.

    Returns:
        One axes; left of 0 the sex helps; filled where interval and corrected test
        show a difference.

    Raises:
        ReportError: no pairs.
    """
    if not pairs:
        raise ReportError("figure: expected at least one pair of arms, found none")
    figure = new_figure(1.3 + 0.42 * len(pairs))
    axes = figure.add_subplot()
    for row, pair in enumerate(pairs):
        value, bars = interval_bars(pair["difference_months"])
        ends = pair["difference_months"]["low"], pair["difference_months"]["high"]
        shown = difference_shown(
            *(np.nan if one is None else one for one in (pair["p_holm"], *ends))
        )
        axes.errorbar(
            [value],
            [row],
            xerr=bars,
            fmt="D",
            color=VERMILLION,
            markerfacecolor=VERMILLION if shown else "white",
            elinewidth=1.4,
            capsize=3,
            markersize=6.5,
        )
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    axes.set_yticks(range(len(pairs)), [_twin_label(pair) for pair in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"Mean absolute error with the sex minus without it, {measured_on}")
    axes.set_xlabel(
        "← the sex helps      months      it harms →\n"
        f"95% intervals; filled: beyond 0, and p < {LEVEL:g} after Holm",
        fontsize=9,
    )
    return figure


def _twin_label(pair: Mapping[str, Any]) -> str:
    return f"{pair['twin']}\n(unfinished)" if pair["unfinished"] else str(pair["twin"])


@styled
def example_cases(inputs: npt.NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Draw radiographs as the network saw them, each with its prediction.

    Args:
        inputs: (n, H, W) uint8.
        titles: (n,) what stands over each.

    Returns:
        One row of axes.

    Raises:
        ReportError: no cases, or another number of titles.
    """
    if not len(inputs) or len(inputs) != len(titles):
        raise ReportError(
            f"figure: expected a title per case, found {len(inputs)} cases and {len(titles)} titles"
        )
    side = WIDTH_INCHES / max(len(inputs), 3)
    figure = new_figure(side * inputs.shape[1] / inputs.shape[2] + 0.4)
    size = fitted_font_size(titles, side, 10.0)
    for axes, image, title in zip(
        figure.subplots(1, len(inputs), squeeze=False).flat, inputs, titles, strict=True
    ):
        draw_radiograph(axes, image)
        axes.set_title(title, fontsize=size, fontweight="normal", loc="center")
    return figure


@styled
def activations_beside_random(
    inputs: npt.NDArray[np.uint8],
    trained: Mapping[str, FloatImage],
    random: Mapping[str, FloatImage],
    titles: Sequence[str],
) -> Figure:
    """Draw each case's activation maps by layer, and below those of random weights.

    Args:
        inputs: (n, H, W) uint8.
        trained: layer to (n, h, w), early to late.
        random: the same layers of a copy with random weights.
        titles: (n,) what stands beside each case.

    Returns:
        2 n rows of 1 + number of layers axes. Every map has its own scale: layers and networks
        differ in unit, and where a map is high is what is compared.

    Raises:
        ReportError: no cases, or layers or numbers of cases that do not match.
    """
    counts = {
        len(inputs),
        len(titles),
        *(len(one) for one in [*trained.values(), *random.values()]),
    }
    if not len(inputs) or len(counts) != 1 or not trained or list(trained) != list(random):
        raise ReportError(
            "figure: expected the same layers of both networks with a map and a title per case, "
            f"found {list(trained)} and {list(random)} for {sorted(counts)} cases"
        )
    columns = 1 + len(trained)
    side = (WIDTH_INCHES - 0.4) / columns
    figure = new_figure(2 * len(inputs) * (side * inputs.shape[1] / inputs.shape[2] + 0.06) + 0.75)
    grid = figure.subplots(2 * len(inputs), columns, squeeze=False)
    extent = (-0.5, inputs.shape[2] - 0.5, inputs.shape[1] - 0.5, -0.5)
    size = fitted_font_size(trained, side, 9.0)
    for case, image in enumerate(inputs):
        for below, (label, maps) in enumerate((("trained", trained), ("random", random))):
            row = grid[2 * case + below]
            if below:
                row[0].set_axis_off()
            else:
                draw_radiograph(row[0], image)
                row[0].set_title(titles[case], fontsize=9.0, fontweight="normal", loc="center")
            for axes, (layer, values) in zip(row[1:], maps.items(), strict=True):
                axes.imshow(
                    values[case], cmap=colormaps["magma"], extent=extent, interpolation="nearest"
                )
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
                if case == 0 and not below:
                    axes.set_title(
                        f"{layer.removeprefix('backbone.')}\n{values.shape[1]}×{values.shape[2]}",
                        fontsize=size,
                        fontweight="normal",
                        loc="center",
                    )
            row[1].set_ylabel(label, fontsize=9.0)
    figure.supxlabel(
        "mean activation: dark low, bright high; every map on its own scale, which compares where, "
        "not how much",
        fontsize=9.0,
    )
    return figure

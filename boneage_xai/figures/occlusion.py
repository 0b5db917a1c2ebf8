"""Figures of region occlusion: what removing a region does, and what the removals look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boneage_xai.analysis.occlusion_summary import bone_regions, preferred_fill
from boneage_xai.analysis.region_occlusion import OcclusionExample
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    counted_range,
    draw_radiograph,
    new_figure,
    signed_text,
    styled,
)
from boneage_xai.regions.removable import control_of

FILL_WORDS = {"blur": "blurred", "inpaint": "inpainted", "mean": "mean of the rim"}
"""Fillings as people read them."""

_LONGEST_NAME = 26
_COLOURS = {"inpaint": BLUE, "blur": GREEN, "mean": PURPLE}
_MARKERS = {"inpaint": "o", "blur": "s", "mean": "^"}


@styled
def occlusion_bars(
    summary: pd.DataFrame, attribution: pd.DataFrame | None = None, method: str = ""
) -> Figure:
    """Draw what removing each region of bone does, beside the months that a method gives it.

    Args:
        summary: as from ``analysis.occlusion_summary.summarise_occlusion`` without groups.
        attribution: region, absolute_months, absolute_low_months, absolute_high_months of one
            method, as from ``regions.aggregation.summarise``; None draws no panel of it.
        method: what the method is called.

    Returns:
        Two or three axes that share the regions, the one that matters most on top: the mean
        change by filling, its magnitude with that of the controls, the attribution.

    Raises:
        ReportError: no regions of bone, or one more than once under a filling.
    """
    bones = bone_regions(summary)
    if bones.empty or bones.duplicated(["fill", "region"]).any():
        raise ReportError("figure: expected one row per filling and region of bone, found others")
    fills = [fill for fill in FILL_WORDS if fill in set(bones["fill"])]
    leading = bones[bones["fill"] == preferred_fill(bones["fill"])]
    regions = leading.sort_values("absolute_delta_months", ascending=False)["region"].tolist()
    figure = new_figure(1.9 + 0.5 * len(regions))
    panels = np.atleast_1d(figure.subplots(1, 2 if attribution is None else 3, sharey=True))
    for axes, (name, title) in zip(
        panels,
        (
            ("absolute_delta", "Removed: how far\nthe prediction moves"),
            ("delta", "Removed: which way\nthe prediction moves"),
        ),
        strict=False,
    ):
        for place, fill in enumerate(fills):
            table = bones[bones["fill"] == fill].set_index("region").reindex(regions)
            rows = np.arange(len(regions)) + 0.2 * (place - (len(fills) - 1) / 2)
            _points(axes, table, name, rows, fill)
            if name == "absolute_delta":
                controls = summary[summary["fill"] == fill].set_index("region")
                values = controls["absolute_delta_months"].reindex(
                    [control_of(region) for region in regions]
                )
                label = "same shape moved elsewhere" if place == 0 else None
                axes.plot(values, rows, "|", color=GREY, markersize=9, mew=2.2, label=label)
        axes.axvline(0.0, color=BLACK, linewidth=0.8)
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("months" if name == "absolute_delta" else "younger  ←  months  →  older")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
    if attribution is not None:
        _attribution_bars(panels[2], attribution.set_index("region").reindex(regions), method)
    first = panels[0]
    # Names are the user's: between two dollar signs matplotlib would read mathematics.
    names = [_short(name) for name in regions]
    first.set_yticks(np.arange(len(regions)), names)
    first.set_ylim(len(regions) - 0.5, -0.6)
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    over = counted_range(bones["n"], "case", "cases")
    figure.supxlabel(f"mean over {over} with 95% bootstrap interval", fontsize=9.5)
    return figure


def _short(name: str) -> str:
    words = name.replace("_", " ")
    return words if len(words) <= _LONGEST_NAME else f"{words[: _LONGEST_NAME - 1]}…"


def _points(
    axes: Axes, table: pd.DataFrame, name: str, rows: npt.NDArray[np.floating[Any]], fill: str
) -> None:
    value, low, high = (
        table[f"{name}_{end}"].to_numpy(dtype=np.float64) for end in ("months", "low", "high")
    )
    axes.errorbar(
        value,
        rows,
        xerr=np.nan_to_num(np.vstack([value - low, high - value])).clip(min=0.0),
        fmt=_MARKERS[fill],
        color=_COLOURS[fill],
        ecolor=_COLOURS[fill],
        elinewidth=1.3,
        capsize=2,
        markersize=5,
        label=FILL_WORDS[fill],
    )


def _attribution_bars(axes: Axes, table: pd.DataFrame, method: str) -> None:
    value, low, high = (
        table[f"absolute_{end}"].to_numpy(dtype=np.float64)
        for end in ("months", "low_months", "high_months")
    )
    axes.barh(np.arange(len(value)), value, color=ORANGE, height=0.6, alpha=0.85)
    axes.errorbar(
        value,
        np.arange(len(value)),
        xerr=np.nan_to_num(np.vstack([value - low, high - value])).clip(min=0.0),
        fmt="none",
        ecolor=BLACK,
        elinewidth=1.2,
        capsize=3,
    )
    axes.set_title(f"{method}:\nsum of |map|", fontsize=9.5)
    axes.set_xlabel("months")
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)


@styled
def removal_examples(example: OcclusionExample, case: str = "") -> Figure:
    """Draw a radiograph with a region outlined, and beside it without the region.

    Args:
        example: as from ``analysis.region_occlusion.read_example``.
        case: how the case is called.

    Returns:
        A row per removed area: the radiograph as it is, then one axes per filling with what the
        removal does to the prediction.
    """
    columns = 1 + len(example.fills)
    ratio = example.pixels.shape[0] / example.pixels.shape[1]
    figure = new_figure((9.0 / columns * ratio + 0.25) * len(example.names) + 0.3)
    grid: Any = figure.subplots(len(example.names), columns, squeeze=False)
    for row, name in enumerate(example.names):
        before = grid[row, 0]
        draw_radiograph(before, example.pixels)
        # A frame of zeros closes the outline of an area that touches the border.
        framed = np.pad(example.masks[row].astype(np.float64), 1)
        along_y, along_x = (np.arange(-1, size + 1) for size in example.pixels.shape)
        before.contour(along_x, along_y, framed, levels=[0.5], colors=[ORANGE], linewidths=1.3)
        before.set_xlim(-0.5, example.pixels.shape[1] - 0.5)
        before.set_ylim(example.pixels.shape[0] - 0.5, -0.5)
        before.set_title(_short(name), fontsize=9.5)
        for column, fill in enumerate(example.fills):
            axes = grid[row, 1 + column]
            draw_radiograph(axes, example.pictures[row, column])
            change = signed_text(float(example.delta_months[row, column]))
            axes.set_title(
                f"{FILL_WORDS.get(fill, fill)}: {change} months", fontsize=9.5, fontweight="normal"
            )
    if case:
        figure.suptitle(case, fontsize=10, x=0.01, ha="left")
    return figure

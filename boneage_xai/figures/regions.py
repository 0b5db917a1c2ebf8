"""Figures of hand regions: what each adds in months, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as label_pieces

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    OLDER_COLOUR,
    YOUNGER_COLOUR,
    draw_radiograph,
    new_figure,
    signed_text,
    styled,
)
from boneage_xai.regions.aggregation import summarise


@styled
def region_bars(regions: pd.DataFrame, *, title: str = "Attribution per region") -> Figure:
    """Draw the signed months that each region adds, with intervals for several cases.

    Args:
        regions: rows of one method: case_id, region, signed_months, absolute_months,
            area_fraction.
        title: what stands over the bars, before the number of cases.

    Returns:
        One axes, regions ordered by magnitude, the largest on top. For one case bars have no
        interval; for several they are means with bootstrap 95% intervals.

    Raises:
        ReportError: no rows, or rows of several methods.
    """
    if regions.empty:
        raise ReportError("figure: expected rows per region, found none")
    if "method" in regions.columns and regions["method"].nunique() > 1:
        found = ", ".join(sorted(regions["method"].unique()))
        raise ReportError(f"figure: expected regions of one method, found {found}")
    summary = summarise(regions)
    cases = int(regions["case_id"].nunique())
    order = np.argsort(-summary["signed_months"].abs().to_numpy(), kind="stable")
    summary = summary.iloc[order].reset_index(drop=True)
    values = summary["signed_months"].to_numpy(dtype=np.float64)
    low = summary["signed_low_months"].to_numpy(dtype=np.float64)
    high = summary["signed_high_months"].to_numpy(dtype=np.float64)
    figure = new_figure(1.4 + 0.34 * len(values))
    axes = figure.add_subplot()
    rows = np.arange(len(values))
    colours = [OLDER_COLOUR if value >= 0 else YOUNGER_COLOUR for value in values]
    axes.barh(rows, values, color=colours, height=0.72, alpha=0.85)
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        bars = np.clip([values - low, high - values], 0.0, None)[:, known]
        axes.errorbar(
            values[known],
            rows[known],
            xerr=bars,
            fmt="none",
            ecolor=BLACK,
            elinewidth=1.3,
            capsize=3,
        )
    left = np.where(known, np.minimum(low, values), values)
    right = np.where(known, np.maximum(high, values), values)
    for row, value in enumerate(values):
        positive = value >= 0
        axes.annotate(
            signed_text(float(value)),
            (float(right[row] if positive else left[row]), row),
            xytext=(5 if positive else -5, 0),
            textcoords="offset points",
            ha="left" if positive else "right",
            va="center",
            fontsize=9,
        )
    names = [str(name).replace("_", " ") for name in summary["region"]]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(values) - 0.4, -0.6)
    span = max(float(right.max()), 0.0) - min(float(left.min()), 0.0) or 1.0
    axes.set_xlim(
        min(float(left.min()), 0.0) - 0.12 * span, max(float(right.max()), 0.0) + 0.12 * span
    )
    axes.axvline(0.0, color=BLACK, linewidth=1.0)
    axes.grid(visible=False, axis="y")
    note = ", mean with 95% bootstrap interval" if known.any() else ""
    axes.set_xlabel(f"younger  ←  attribution (months{note})  →  older")
    axes.set_title(f"{title}, n = {cases:,} {'case' if cases == 1 else 'cases'}")
    return figure


@styled
def region_outlines(
    image: npt.ArrayLike, labels: npt.ArrayLike, names: Mapping[int, str]
) -> Figure:
    """Draw a radiograph with the outline of each region and a numbered legend.

    Args:
        image: (H, W) uint8, or float in [0, 1].
        labels: (H, W) integers, 0 is background.
        names: label value to name.

    Returns:
        One axes; the legend names the regions that are present.

    Raises:
        ReportError: shapes that do not match, or a label without a name.
    """
    picture, values = np.asarray(image), np.asarray(labels)
    if picture.ndim != 2 or picture.shape != values.shape:
        raise ReportError(
            f"figure: expected labels of the image's shape {picture.shape}, found {values.shape}"
        )
    present = [int(value) for value in np.unique(values) if value != 0]
    nameless = [value for value in present if value not in names]
    if nameless:
        raise ReportError(f"figure: expected a name for every label, found none for {nameless}")
    figure = new_figure(6.2 * min(picture.shape[0] / picture.shape[1], 1.15) + 0.2)
    axes = figure.add_subplot()
    draw_radiograph(axes, picture)
    colours = region_colours(len(present))
    for number, (value, colour) in enumerate(zip(present, colours, strict=True), start=1):
        mask = (values == value).astype(np.float64)
        # A frame of zeros closes the outline of a region that touches the border.
        framed = np.pad(mask, 1)
        along_y, along_x = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(along_x, along_y, framed, levels=[0.5], colors=[colour], linewidths=1.6)
        for y, x in _deepest_points(framed):
            axes.text(
                x - 1,
                y - 1,
                str(number),
                color=colour,
                fontsize=9,
                fontweight="bold",
                ha="center",
                va="center",
                path_effects=[withStroke(linewidth=2.5, foreground="black")],
            )
        label = f"{number}  {names[value].replace('_', ' ')}"
        axes.plot([], [], color=colour, linewidth=3, label=label)
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(picture.shape[0] - 0.5, -0.5)
    if present:
        # Dark like the film, since the outlines are bright.
        figure.legend(
            loc="outside right center",
            ncols=1 + (len(present) - 1) // 20,
            facecolor="#202020",
            framealpha=1.0,
            labelcolor="white",
            title="regions",
        ).get_title().set_color("white")
    return figure


def region_colours(count: int) -> list[str]:
    """Return bright colours for outlines on black; numbers tell regions apart beyond twelve."""
    base = [
        *("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#33D6A6", "#FF7A33"),
        *("#6FA8FF", "#FFFFFF", "#B5E61D", "#C8A2FF", "#FFC0A0", "#9AD0D0"),
    ]
    return [base[index % len(base)] for index in range(count)]


def _deepest_points(mask: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return (row, column) farthest from the edge in every large piece of a region.

    Pieces under a quarter of the largest get none, so that specks stay unnumbered.
    """
    pieces, count = label_pieces(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    depth = distance_transform_edt(mask)
    points = []
    for piece in np.flatnonzero(4 * sizes >= sizes.max()) + 1:
        deepest = int(np.argmax(np.where(pieces == piece, depth, 0.0)))
        row, column = np.unravel_index(deepest, mask.shape)
        points.append((float(row), float(column)))
    return points

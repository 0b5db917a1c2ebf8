"""Figures of what a network looks at: signed maps and activations.

Maps are given in months per pixel and stay signed; they are scaled for the eye here, on one
scale for all cases of a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    WIDTH_INCHES,
    draw_radiograph,
    fitted_font_size,
    new_figure,
    signed_colormap,
    signed_text,
    styled,
)

SMOOTHING_PX = 1.5
_LIMIT_PERCENTILE = 99.8
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def smoothed_months(
    maps_months: npt.ArrayLike, smoothing_px: float = SMOOTHING_PX
) -> npt.NDArray[np.float64]:
    """Return maps smoothed for the eye; sign and total are kept.

    Args:
        maps_months: (n, H, W) months per pixel.
        smoothing_px: standard deviation of the Gaussian in pixels, 0 for none.

    Returns:
        (n, H, W) months per pixel.
    """
    maps = np.asarray(maps_months, dtype=np.float64)
    if smoothing_px <= 0:
        return maps.copy()
    return np.asarray(gaussian_filter(maps, sigma=(0.0, smoothing_px, smoothing_px)))


def shared_limit_months(maps_months: npt.ArrayLike) -> float:
    """Return the one limit, in months per pixel, that the scale of all these maps ends at.

    It is the 99.8th percentile of the magnitudes of all maps together, so that single
    pixels do not set the scale; beyond it the colour stays that of the limit.
    """
    magnitudes = np.abs(np.asarray(maps_months, dtype=np.float64))
    limit = float(np.percentile(magnitudes, _LIMIT_PERCENTILE)) if magnitudes.size else 0.0
    if limit == 0.0 and magnitudes.size:
        limit = float(magnitudes.max())
    return limit if limit > 0.0 else 1.0


def _stack(inputs: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(inputs)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise ReportError(f"figure: expected {name} of shape (n, H, W), found {array.shape}")
    return array


def _exponent(limit: float) -> int:
    """Return the power of ten, a multiple of 3, that makes ``limit`` 1 to 999 (0 for months)."""
    return 0 if limit >= 0.1 else 3 * math.floor(math.log10(limit) / 3)


def _smoothing_note(smoothing_px: float) -> str:
    return f"smoothed over {smoothing_px:g} px; " if smoothing_px > 0 else ""


def colour_bar(
    figure: Figure, drawn: AxesImage, axes: Sequence[Axes], limit: float, note: str
) -> None:
    """Add the colour bar of signed maps below axes.

    Args:
        figure: what the axes are part of.
        drawn: one of the maps as drawn.
        axes: all axes whose maps share the scale.
        limit: end of the scale in months per pixel.
        note: what else is to be known of the maps.
    """
    bar = figure.colorbar(
        drawn, ax=list(axes), location="bottom", aspect=45, fraction=0.05, pad=0.02, extend="both"
    )
    # Opacity is part of the scale, so the bar is laid on the grey of soft tissue.
    bar.ax.set_facecolor("#303030")
    exponent = _exponent(limit)
    ticks = np.asarray(MaxNLocator(7, symmetric=True).tick_values(-limit, limit))
    ticks = ticks[np.abs(ticks) <= limit * (1 + 1e-9)]
    bar.set_ticks(list(ticks), labels=[signed_text(tick / 10**exponent, ".3g") for tick in ticks])
    unit = (
        "months per pixel"
        if exponent == 0
        else f"10{str(exponent).translate(_RAISED)} months per pixel"
    )
    bar.set_label(f"← younger      attribution ({unit}; {note})      older →")
    bar.ax.tick_params(length=3)
    bar.outline.set_visible(False)


def _overlays(
    images: npt.NDArray[Any],
    shown: npt.NDArray[np.float64],
    titles: Sequence[str],
    limit: float,
    note: str,
    columns: int,
) -> Figure:
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    # A single case in full width would be taller than a page.
    height = WIDTH_INCHES / max(columns, 2) * images.shape[1] / images.shape[2]
    figure = new_figure(rows * (height + 0.42) + 0.75)
    grid = figure.subplots(rows, columns, squeeze=False)
    colours = signed_colormap()
    font_size = fitted_font_size(titles, WIDTH_INCHES / columns, 9.5)
    used: list[Axes] = []
    drawn: AxesImage | None = None
    for index, axes in enumerate(grid.flat):
        if index >= len(images):
            axes.remove()
            continue
        draw_radiograph(axes, images[index])
        drawn = axes.imshow(
            shown[index],
            cmap=colours,
            norm=Normalize(-limit, limit, clip=True),
            interpolation="bilinear",
            interpolation_stage="data",
        )
        axes.set_title(titles[index], fontsize=font_size, fontweight="normal", loc="center")
        used.append(axes)
    if drawn is not None:
        colour_bar(figure, drawn, used, limit, note)
    return figure


@styled
def attribution_grid(
    inputs: npt.ArrayLike,
    maps_months: npt.ArrayLike,
    titles: Sequence[str],
    *,
    limit_months: float | None = None,
    smoothing_px: float = SMOOTHING_PX,
    columns: int = 4,
) -> Figure:
    """Draw radiographs in grey, each with its signed attribution over it, on one scale.

    Args:
        inputs: (n, H, W) what the network saw, uint8, or float in [0, 1].
        maps_months: (n, H, W) signed months per pixel.
        titles: (n,) what stands over each case.
        limit_months: end of the scale in months per pixel; None takes
            ``shared_limit_months`` of the maps as drawn.
        smoothing_px: Gaussian smoothing for the eye, stated at the colour bar; 0 for none.
        columns: cases side by side, at most.

    Returns:
        One axes per case and the colour bar's.

    Raises:
        ReportError: no cases, or shapes that do not match.
    """
    images, maps = _stack(inputs, "inputs"), _stack(maps_months, "maps")
    if images.shape != maps.shape or len(titles) != len(images):
        raise ReportError(
            f"figure: expected a map and a title per input, found {images.shape} inputs, "
            f"{maps.shape} maps and {len(titles)} titles"
        )
    shown = smoothed_months(maps, smoothing_px)
    limit = shared_limit_months(shown) if limit_months is None else limit_months
    scale = "one scale for all cases" if len(images) > 1 else "symmetric scale"
    return _overlays(images, shown, titles, limit, _smoothing_note(smoothing_px) + scale, columns)


@styled
def attribution_overlay(
    image: npt.ArrayLike,
    map_months: npt.ArrayLike,
    title: str,
    *,
    limit_months: float | None = None,
    smoothing_px: float = SMOOTHING_PX,
) -> Figure:
    """Draw one radiograph plain, and beside it with its signed attribution.

    Args:
        image: (H, W) what the network saw, uint8, or float in [0, 1].
        map_months: (H, W) signed months per pixel.
        title: what stands over the overlay.
        limit_months: end of the scale in months per pixel, to compare with other figures;
            None takes ``shared_limit_months`` of this map.
        smoothing_px: Gaussian smoothing for the eye, stated at the colour bar; 0 for none.

    Returns:
        Two axes and the colour bar's.

    Raises:
        ReportError: shapes that do not match.
    """
    images, maps = _stack(image, "image"), _stack(map_months, "map")
    if images.shape != maps.shape or len(images) != 1:
        raise ReportError(
            f"figure: expected one map for one image, found {images.shape} and {maps.shape}"
        )
    shown = smoothed_months(maps, smoothing_px)
    limit = shared_limit_months(shown) if limit_months is None else limit_months
    return _overlays(
        np.concatenate([images, images]),
        np.concatenate([np.zeros_like(shown), shown]),
        ["radiograph as the network sees it", title],
        limit,
        _smoothing_note(smoothing_px) + "symmetric scale",
        columns=2,
    )


@styled
def activation_grid(
    inputs: npt.ArrayLike,
    activations: Mapping[str, npt.ArrayLike],
    titles: Sequence[str],
) -> Figure:
    """Draw each radiograph and, beside it, the mean activation of each layer.

    Args:
        inputs: (n, H, W) what the network saw, uint8, or float in [0, 1].
        activations: layer name to (n, h, w), shallow to deep; own units per layer.
        titles: (n,) what stands beside each row.

    Returns:
        n rows of 1 + number of layers axes. A layer has one scale for all cases; layers
        differ in scale, since their units do.

    Raises:
        ReportError: no cases or layers, or numbers of cases that do not match.
    """
    images = _stack(inputs, "inputs")
    layers = {
        name: _stack(values, f"activations of {name}") for name, values in activations.items()
    }
    counts = {len(images), len(titles), *(len(values) for values in layers.values())}
    if not layers or len(counts) != 1:
        raise ReportError(
            f"figure: expected activations and a title for each of {len(images)} inputs, found "
            f"{len(titles)} titles and "
            f"{ {name: len(values) for name, values in layers.items()} or 'no layers' }"
        )
    columns = 1 + len(layers)
    side = (WIDTH_INCHES - 0.4) / columns
    figure = new_figure(len(images) * (side * images.shape[1] / images.shape[2] + 0.1) + 0.7)
    grid = figure.subplots(len(images), columns, squeeze=False)
    extent = (-0.5, images.shape[2] - 0.5, images.shape[1] - 0.5, -0.5)
    colours = colormaps["magma"]
    font_size = fitted_font_size(layers, side, 9.0)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        draw_radiograph(grid[row, 0], image)
        grid[row, 0].text(
            -0.04,
            0.5,
            title,
            rotation=90,
            ha="right",
            va="center",
            fontsize=9.5,
            transform=grid[row, 0].transAxes,
        )
        for column, (name, values) in enumerate(layers.items(), start=1):
            axes = grid[row, column]
            finite = values.astype(np.float64)
            low, high = float(min(finite.min(), 0.0)), float(np.percentile(finite, 99.8))
            axes.imshow(
                finite[row],
                cmap=colours,
                vmin=low,
                vmax=high if high > low else low + 1.0,
                extent=extent,
                interpolation="nearest",
            )
            axes.set_axis_off()
            if row == 0:
                size = f"{values.shape[1]}×{values.shape[2]}"
                axes.set_title(
                    f"{name}\n{size}", fontsize=font_size, fontweight="normal", loc="center"
                )
    grid[0, 0].set_title("radiograph", fontsize=9.0, fontweight="normal", loc="center")
    figure.supxlabel(
        "mean activation per layer: dark low, bright high; one scale per layer, same for all rows",
        fontsize=9.5,
    )
    return figure

"""Signed maps over radiographs as pixels, on one scale for a whole analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from boneage_xai.errors import ReportError
from boneage_xai.figures.attribution import SMOOTHING_PX, shared_limit_months, smoothed_months
from boneage_xai.figures.style import signed_colormap
from boneage_xai.stored_maps import StoredMaps

_CASES_FOR_SCALE = 48


def analysis_limit_months(
    maps: StoredMaps, method: str, smoothing_px: float = SMOOTHING_PX
) -> float:
    """Return the limit, in months per pixel, of the scale that all cases of an analysis share.

    Args:
        maps: of the analysis.
        method: name of an attribution method in it.
        smoothing_px: smoothing of the maps as they are shown.

    Returns:
        ``shared_limit_months`` of up to 48 cases, taken evenly from all, so that memory does
        not grow with the cohort.
    """
    array = maps[method]
    n = array.shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n, _CASES_FOR_SCALE)).astype(int))
    shown = np.stack([smoothed_months(array[int(row)][None], smoothing_px)[0] for row in rows])
    return shared_limit_months(shown)


def overlay_pixels(
    image: npt.NDArray[np.uint8],
    map_months: npt.NDArray[np.float32],
    limit_months: float,
    *,
    opacity: float = 0.9,
    smoothing_px: float = SMOOTHING_PX,
    size_px: int = 640,
) -> npt.NDArray[np.uint8]:
    """Lay a signed map over a radiograph.

    Args:
        image: (H, W) what the network saw.
        map_months: (H, W) signed months per pixel.
        limit_months: end of the colour scale, months per pixel.
        opacity: of the strongest attributions, 0 (radiograph alone) to 1.
        smoothing_px: Gaussian smoothing of the map for the eye.
        size_px: longer side of the result.

    Returns:
        (h, w, 3) RGB; blue reads younger, orange older, as in ``signed_colormap``.

    Raises:
        ReportError: shapes that do not match.
    """
    if image.ndim != 2 or image.shape != map_months.shape:
        raise ReportError(
            f"overlay: expected one map for one image, found {image.shape} and {map_months.shape}"
        )
    factor = size_px / max(image.shape)
    grey = _resized(image.astype(np.float32) / np.float32(255), factor)
    shown = _resized(smoothed_months(map_months[None], smoothing_px)[0], factor)
    return laid_over(grey, shown, limit_months, opacity=opacity)


def _resized(values: npt.NDArray[np.floating[Any]], factor: float) -> npt.NDArray[np.float32]:
    """Return values (H, W) as many times larger or smaller, linear in between."""
    height, width = (max(1, round(factor * side)) for side in values.shape)
    resized = Image.fromarray(np.float32(values)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def laid_over(
    grey: npt.NDArray[np.floating[Any]],
    shown_months: npt.NDArray[np.floating[Any]],
    limit_months: float,
    *,
    opacity: float = 0.9,
) -> npt.NDArray[np.uint8]:
    """Blend a signed map, ready to be shown, into a grey image of the same size.

    Args:
        grey: (H, W) in [0, 1].
        shown_months: (H, W) signed months per pixel of the network's input.
        limit_months: end of the colour scale.
        opacity: of the strongest attributions.

    Returns:
        (H, W, 3) RGB; where the map is 0 the image is as it was.
    """
    colormap = signed_colormap(strongest_alpha=opacity)
    # Blended per colour of the map rather than per pixel: what hides the grey, and what is added.
    entries = np.asarray(colormap(np.arange(colormap.N)), dtype=np.float32)
    added = 255.0 * entries[:, :3] * entries[:, 3:]
    through = 255.0 * (1.0 - entries[:, 3])
    place = (np.clip(np.float32(shown_months / limit_months), -1.0, 1.0) / 2.0 + 0.5) * colormap.N
    place = np.nan_to_num(place, nan=colormap.N / 2)
    entry = np.minimum(place.astype(np.int32), colormap.N - 1)
    left = np.float32(grey) * through.take(entry)
    blended = np.empty((*left.shape, 3), dtype=np.uint8)
    # A colour at a time: what is worked on stays small.
    for channel in range(3):
        blended[..., channel] = np.round(left + added[:, channel].take(entry))
    return blended

"""Where the hand lies in a prepared picture: from its map of regions, or from grey levels alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_li
from skimage.measure import regionprops

from boneage_xai.anatomy import CARPALS, MARKER, MCP, OUTSIDE_HAND
from boneage_xai.types import RegionMap

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

# Of the prepared picture's longer side, or of its content's area.
_SMOOTHING = 0.01
_FEWEST_HAND = 0.05
_MOST_SOLID = 0.9
_PLATE_EDGE = 0.02
_LEAST_ELONGATION = 1.2
_MARKER_GREY = 0.9
_MARKER_AREA = (0.0004, 0.03)
_MARKER_MARGIN = 0.03


def hand_from_regions(
    regions: RegionMap | None, content_px: npt.NDArray[np.integer]
) -> dict[str, float]:
    """Read hand and marker from a map of regions.

    Args:
        regions: (S, S) labels on the input grid, None for a case without a map.
        content_px: (4,) left, top, width and height of the picture's content.

    Returns:
        hand_found (0 or 1), hand_share of the content, hand_tilt_deg (0 to 180: angle between the
        line from carpals to knuckles and straight up), hand_offset (distance of the hand's centre
        from the content's, over the content's longer side), marker (0 or 1); NaN what is unknown.
    """
    if regions is None:
        return _hand(None, content_px, np.nan, np.nan)
    mask = np.isin(regions.labels, [v for v, n in regions.names.items() if n not in OUTSIDE_HAND])
    marker = np.isin(regions.labels, [v for v, n in regions.names.items() if n == MARKER])
    ends = [
        np.argwhere(np.isin(regions.labels, [v for v, n in regions.names.items() if n == name]))
        for name in (CARPALS, MCP)
    ]
    tilt = np.nan
    if all(len(one) for one in ends):
        down, right = ends[1].mean(axis=0) - ends[0].mean(axis=0)
        tilt = float(np.degrees(np.abs(np.arctan2(right, -down))))
    return _hand(mask if mask.any() else None, content_px, tilt, float(marker.any()))


def hand_from_grey(
    pixels: npt.NDArray[np.uint8], content_px: npt.NDArray[np.integer]
) -> dict[str, float]:
    """Read hand and marker from grey levels, where there are no maps of regions.

    The hand is the largest part above Li's threshold after light smoothing, its holes filled. Where
    that fills its convex hull it is no hand but a lit plate, within which the threshold is taken
    again; where that does not help either, no hand counts as found. A marker is a small, nearly
    white part away from the hand and the edge.

    Args:
        pixels: (S, S) prepared picture.
        content_px: (4,) left, top, width and height of its content.

    Returns:
        As :func:`hand_from_regions`, but hand_tilt_deg is that of the hand's longest axis (0 to
        90).

    Source: Li and Tam, Pattern Recognition Letters, 1998 (minimum cross entropy). Otsu's threshold
    loses the fingertips of radiographs that are bright at the wrist.
    """
    left, top, width, height = (int(one) for one in content_px)
    grey = pixels[top : top + height, left : left + width].astype(np.float64) / 255.0
    longer = max(grey.shape)
    if grey.min() == grey.max():
        return _hand(None, content_px, np.nan, 0.0)
    smooth = ndimage.gaussian_filter(grey, _SMOOTHING * longer)
    mask = _brightest_part(smooth, np.ones(grey.shape, dtype=np.bool_))
    if _solidity(mask) > _MOST_SOLID:
        # A lit plate on black: the hand is what is brighter within.
        edge_px = max(1, round(_PLATE_EDGE * longer))
        plate = np.asarray(ndimage.binary_erosion(mask, iterations=edge_px))
        mask = _brightest_part(smooth, plate)
    solid = _solidity(mask)
    found = mask.mean() >= _FEWEST_HAND and solid <= _MOST_SOLID
    margin = max(1, round(_MARKER_MARGIN * longer))
    near = ndimage.binary_dilation(mask, iterations=margin) if found else np.zeros_like(mask)
    marker = float(_small_parts((grey >= _MARKER_GREY) & ~near))
    if not found:
        return _hand(None, content_px, np.nan, marker)
    whole = np.zeros(pixels.shape, dtype=np.bool_)
    whole[top : top + height, left : left + width] = mask
    return _hand(whole, content_px, _axis_tilt_deg(whole), marker)


def _hand(
    mask: Mask | None, content_px: npt.NDArray[np.integer], tilt_deg: float, marker: float
) -> dict[str, float]:
    left, top, width, height = (float(one) for one in content_px)
    share = offset = np.nan
    if mask is not None:
        y, x = (float(one.mean()) for one in np.nonzero(mask))
        share = float(mask.sum()) / (width * height)
        away = np.hypot(x - (left + (width - 1) / 2), y - (top + (height - 1) / 2))
        offset = float(away / max(width, height))
    return {
        "hand_found": float(mask is not None),
        "hand_share": share,
        "hand_tilt_deg": tilt_deg,
        "hand_offset": offset,
        "marker": marker,
    }


def _brightest_part(smooth: FloatArray, inside: Mask) -> Mask:
    """Return the largest connected part above the threshold inside of a mask, holes filled."""
    if not inside.any() or np.ptp(smooth[inside]) == 0:
        return np.zeros(smooth.shape, dtype=np.bool_)
    limit = float(threshold_li(smooth[inside]))  # type: ignore[no-untyped-call]
    labels, n = ndimage.label((smooth > limit) & inside)
    if not n:
        return np.zeros(smooth.shape, dtype=np.bool_)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel(), minlength=n + 1)[1:]))
    return np.asarray(ndimage.binary_fill_holes(labels == largest))


def _solidity(mask: Mask) -> float:
    """Return the share of its convex hull that a mask fills, 0 for an empty one."""
    found = regionprops(mask.astype(np.uint8))  # type: ignore[no-untyped-call]
    return float(found[0].solidity) if found else 0.0


def _axis_tilt_deg(mask: Mask) -> float:
    """Return the angle of a mask's longest axis with the vertical, NaN for one without such."""
    values, vectors = np.linalg.eigh(np.cov(np.argwhere(mask).T.astype(np.float64)))
    if values[1] < _LEAST_ELONGATION * max(float(values[0]), 1e-12):
        return float("nan")
    down, right = np.abs(vectors[:, 1])
    return float(np.degrees(np.arctan2(right, down)))


def _small_parts(bright: Mask) -> bool:
    """Return whether a bright part of a marker's size lies away from the edge."""
    joined = ndimage.binary_closing(np.pad(bright, 2), iterations=1)[2:-2, 2:-2] | bright
    labels, n = ndimage.label(joined)
    if not n:
        return False
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:] / bright.size
    at_edge = np.zeros(n + 1, dtype=np.bool_)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_edge[line] = True
    fits = (sizes >= _MARKER_AREA[0]) & (sizes <= _MARKER_AREA[1]) & ~at_edge[1:]
    return bool(fits.any())

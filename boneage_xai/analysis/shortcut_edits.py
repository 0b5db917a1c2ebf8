"""Changes of a prepared radiograph that leave the hand as it is, and their controls.

Every change is made to what the network sees, so that nothing but the pixels named here differs.
A control is the same change, made to a patch of the same shape elsewhere in the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from boneage_xai.analysis.shortcut_features import Mask, region_mask
from boneage_xai.anatomy import BACKGROUND, MARKER
from boneage_xai.attribution.road import impute
from boneage_xai.data.preprocess import Box
from boneage_xai.types import RegionMap

Pixels = npt.NDArray[np.uint8]

BORDER_SHARE = 0.03
"""Width of the border that is replaced, in shares of the input's side; 2 pixels at least."""

BRIGHTER, DARKER = 1.5, 0.5
"""Factors on the grey of a marker."""

# Resizing spreads a marker and a hand over the pixels beside them, in shares of the side.
_MARGIN_SHARE = 0.012

MARKER_TESTS = ("marker_erased", "marker_moved", "marker_brighter", "marker_darker")
BORDER_TEST, BACKGROUND_TEST = "border_replaced", "background_levelled"


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of a prepared radiograph.

    Args:
        pixels: (S, S) changed.
        control: (S, S) the same change elsewhere, None where there is none.
    """

    pixels: Pixels
    control: Pixels | None


@dataclass(frozen=True, eq=False)
class Places:
    """Where marker, border and open background lie on the grid of the input.

    Args:
        marker: (S, S) with the pixels beside it.
        border: (S, S) the outermost strip of the radiograph, without hand and marker.
        ring: (S, S) the strip inside of it, likewise.
        background: (S, S) background away from hand, marker and border.
        away: (S, S) the marker's shape elsewhere in the background, empty if it fits nowhere.
    """

    marker: Mask
    border: Mask
    ring: Mask
    background: Mask
    away: Mask


def find_places(regions: RegionMap, content_px: Box, seed: int) -> Places:
    """Find what is not the hand.

    Args:
        regions: (S, S) labels on the grid of the input.
        content_px: part of the input that the radiograph fills.
        seed: draws where the control of a marker lies.
    """
    size = regions.labels.shape[0]
    margin = max(1, round(_MARGIN_SHARE * size))
    left, top, width, height = content_px
    content = np.zeros(regions.labels.shape, dtype=np.bool_)
    content[top : top + height, left : left + width] = True
    background = region_mask(regions, BACKGROUND) & content
    lead = region_mask(regions, MARKER) & content
    hand = _grown(content & ~background & ~lead, margin)
    marker = _grown(lead, margin) & content & ~hand
    strip = max(2, round(BORDER_SHARE * size))
    depth = _depth(content_px, size)
    free = content & ~hand & ~marker
    border = free & (depth < strip)
    ring = free & (depth >= strip) & (depth < 2 * strip)
    opened = free & (depth >= strip)
    return Places(marker, border, ring, opened, _elsewhere(marker, opened, seed))


def edits(pixels: Pixels, places: Places) -> dict[str, Edit]:
    """Make every change that is possible.

    Args:
        pixels: (S, S) prepared radiograph.
        places: what is not the hand.

    Returns:
        Name of the test to the change. Without a marker its tests are left out, and
        ``marker_moved`` also where it fits nowhere else.
    """
    found: dict[str, Edit] = {}
    away = places.away if places.away.any() else None
    if places.marker.any() and not places.marker.all():
        erased = erase(pixels, places.marker)
        found["marker_erased"] = Edit(erased, None if away is None else erase(pixels, away))
        if away is not None:
            moved, swapped = erased.copy(), erase(pixels, away)
            moved[away] = pixels[places.marker]
            # The background moves where the marker was, and the marker stays as a whole.
            found["marker_moved"] = Edit(moved, swapped)
        for name, factor in (("marker_brighter", BRIGHTER), ("marker_darker", DARKER)):
            control = None if away is None else scale(pixels, away, factor)
            found[name] = Edit(scale(pixels, places.marker, factor), control)
    if places.border.any():
        control = erase(pixels, places.ring) if places.ring.any() else None
        found[BORDER_TEST] = Edit(erase(pixels, places.border), control)
    if places.background.any():
        found[BACKGROUND_TEST] = Edit(level(pixels, places.background), None)
    return found


def erase(pixels: Pixels, mask: Mask) -> Pixels:
    """Return the picture with a part filled smoothly from its surroundings.

    Args:
        pixels: (S, S).
        mask: (S, S) True where it is filled; not everywhere.
    """
    grey = impute(pixels / 255, mask, 0.0, np.random.default_rng(0))
    return np.rint(grey * 255).astype(np.uint8)


def scale(pixels: Pixels, mask: Mask, factor: float) -> Pixels:
    """Return the picture with the grey of a part multiplied, white at most."""
    out = pixels.copy()
    out[mask] = np.rint(np.minimum(pixels[mask] * factor, 255)).astype(np.uint8)
    return out


def level(pixels: Pixels, mask: Mask) -> Pixels:
    """Return the picture with a part at its own median."""
    out = pixels.copy()
    out[mask] = np.rint(np.median(pixels[mask])).astype(np.uint8)
    return out


def _grown(mask: Mask, by_px: int) -> Mask:
    if not mask.any():
        return mask
    grown = ndimage.maximum_filter(mask, size=2 * by_px + 1, mode="constant")
    return np.asarray(grown, dtype=np.bool_)


def _depth(content_px: Box, size: int) -> npt.NDArray[np.intp]:
    """Return (S, S) how many pixels lie between a pixel and the radiograph's nearest edge."""
    left, top, width, height = content_px
    x, y = np.arange(size)[None, :], np.arange(size)[:, None]
    across = np.minimum(x - left, left + width - 1 - x)
    return np.asarray(np.minimum(across, np.minimum(y - top, top + height - 1 - y)))


def _elsewhere(marker: Mask, background: Mask, seed: int) -> Mask:
    """Return a mask's shape at a random free place of the half of places farthest from it."""
    out = np.zeros_like(marker)
    if not marker.any():
        return out
    rows, columns = np.flatnonzero(marker.any(axis=1)), np.flatnonzero(marker.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    shape = marker[top : rows[-1] + 1, left : columns[-1] + 1]
    height, width = shape.shape
    sums = np.pad(np.cumsum(np.cumsum(background, axis=0), axis=1), ((1, 0), (1, 0)))
    inside = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    y, x = np.nonzero(inside == height * width)
    if not len(y):
        return out
    far = np.argsort(-np.hypot(y - top, x - left), kind="stable")[: max(1, len(y) // 2)]
    chosen = int(np.random.default_rng(seed).choice(far))
    out[y[chosen] : y[chosen] + height, x[chosen] : x[chosen] + width] = shape
    return out

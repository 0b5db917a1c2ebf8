"""A region taken out of a prepared radiograph, in ways that differ in what they put there.

No filling is what the hand would look like without the region: each is off the distribution of
radiographs in its own way, which is why there are three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter, map_coordinates
from scipy.ndimage import label as label_pieces
from skimage.restoration import inpaint_biharmonic

from boneage_xai.errors import ConfigError, DataError

FillName = Literal["blur", "inpaint", "mean"]
FILL_NAMES: tuple[FillName, ...] = get_args(FillName)

FEATHER_FRACTION = 0.015
"""Width of the soft edge outside a region, as a fraction of the image's longer side."""

BLUR_SIGMA_FRACTION = 0.05
"""Standard deviation of the blur, as a fraction of the longer side: a joint's width."""

RIM_FRACTION = 0.02
"""Width of the rim whose mean fills a piece, as a fraction of the longer side."""

INPAINTED_PX = 4096
"""Pixels solved for at most; a larger region is inpainted on a coarser grid."""

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

# Diagonal neighbours belong to one piece.
_EIGHT = np.ones((3, 3), dtype=np.int64)


def remove_region(pixels: Grey, region: Mask, fill: FillName) -> Grey:
    """Take a region out of a radiograph.

    ``blur`` puts the picture there as a heavy Gaussian leaves it: detail goes, brightness stays.
    ``inpaint`` continues the surroundings smoothly into the region. ``mean`` fills each connected
    piece with the mean of its own rim and not with that of soft tissue: the rim has the exposure
    of the place, exists for every region of every label map, and leaves the faintest edge.

    Args:
        pixels: (H, W) uint8, prepared for a network.
        region: (H, W) True where the region is.
        fill: ``blur``, ``inpaint`` or ``mean``.

    Returns:
        (H, W) uint8. The region is replaced whole; over ``feather_px`` pixels outside of it the
        filling fades out; farther away every pixel is as it was.

    Raises:
        ConfigError: an unknown filling.
        DataError: other shapes or types, or a region of no pixel or of all.

    Source: the biharmonic equation, Damelin and Hoang, On Surface Completion and Image Inpainting
    by Biharmonic Functions, 2018, as scikit-image solves it; regions of over ``INPAINTED_PX``
    pixels are solved on a coarser grid of means of what is known.
    """
    if fill not in _FILLINGS:
        raise ConfigError(f"fill: expected one of {', '.join(FILL_NAMES)}, found {fill}")
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or region.shape != pixels.shape:
        raise DataError(
            f"removal: expected pixels (H, W) uint8 and a region of their shape, found "
            f"{pixels.shape} of {pixels.dtype} and {region.shape}"
        )
    if not region.any() or region.all():
        raise DataError(
            f"removal: expected some but not all of {region.size} pixels in the region, found "
            f"{int(region.sum())}"
        )
    weight = feather(region, feather_px(pixels.shape))
    grey = pixels.astype(np.float64)
    filled = _FILLINGS[fill](grey, region)
    mixed = np.clip(np.rint(grey + weight * (filled - grey)), 0, 255).astype(np.uint8)
    return np.where(weight > 0, mixed, pixels)


def feather_px(shape: tuple[int, ...]) -> int:
    """Return how many pixels outside a region a filling reaches, for an image of this shape."""
    return max(1, round(FEATHER_FRACTION * max(shape)))


def feather(region: Mask, width_px: int) -> Values:
    """Return the weight of the filling: 1 in the region, falling to 0 past ``width_px`` outside."""
    distance = np.asarray(distance_transform_edt(~region))
    inside = np.minimum(distance / (width_px + 1), 1.0)
    weight: Values = np.where(distance > width_px, 0.0, 0.5 * (1 + np.cos(math.pi * inside)))
    return weight


def _blurred(grey: Values, region: Mask) -> Values:
    sigma_px = BLUR_SIGMA_FRACTION * max(region.shape)
    return np.asarray(gaussian_filter(grey, sigma_px, mode="nearest"), dtype=np.float64)


def _rim_means(grey: Values, region: Mask) -> Values:
    """Return for every pixel the mean of the rim of the piece that it is in, or nearest to."""
    pieces, count = label_pieces(region, _EIGHT)
    distance, nearest = distance_transform_edt(~region, return_indices=True)
    owner = pieces[tuple(nearest)]
    rim = ~region & (distance <= max(1.0, RIM_FRACTION * max(region.shape)))
    sums = np.bincount(owner[rim], weights=grey[rim], minlength=count + 1)
    number = np.bincount(owner[rim], minlength=count + 1)
    # A speck whose neighbours are all nearer to other pieces has no rim of its own.
    means = np.where(number > 0, sums / np.maximum(number, 1), grey[rim].mean())
    return np.asarray(means[owner], dtype=np.float64)


def _inpainted(grey: Values, region: Mask) -> Values:
    """Return the picture with the region continued from its surroundings."""
    factor = math.ceil(math.sqrt(region.sum() / INPAINTED_PX))
    rows, columns = find_objects(region.astype(np.uint8))[0]
    margin = 4 * factor
    place = tuple(
        slice(max(span.start - margin, 0), min(span.stop + margin, size))
        for span, size in zip((rows, columns), region.shape, strict=True)
    )
    out = grey.copy()
    part, hole = grey[place], region[place]
    out[place] = _solved(part, hole) if factor == 1 else _solved_coarsely(part, hole, factor)
    return out


def _solved(grey: Values, hole: Mask) -> Values:
    return np.asarray(inpaint_biharmonic(grey, hole), dtype=np.float64)


def _solved_coarsely(grey: Values, hole: Mask, factor: int) -> Values:
    """Inpaint on blocks of ``factor`` pixels, of which only what is known is averaged."""
    known = _block_sums((~hole).astype(np.float64), factor)
    sums = _block_sums(np.where(hole, 0.0, grey), factor)
    inside = _block_sums(np.ones(hole.shape), factor)
    missing = 2 * known <= inside
    if missing.all():
        missing = known == 0
    coarse = _solved(sums / np.maximum(known, 1), missing)
    places = np.meshgrid(
        *((np.arange(size) + 0.5) / factor - 0.5 for size in grey.shape), indexing="ij"
    )
    return np.asarray(map_coordinates(coarse, places, order=1, mode="nearest"), dtype=np.float64)


def _block_sums(values: Values, factor: int) -> Values:
    """Return the sums over blocks of ``factor`` pixels, of fewer at the far edges."""
    rows, columns = (np.arange(0, size, factor) for size in values.shape)
    return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1))


_FILLINGS: Mapping[str, Callable[[Values, Mask], Values]] = MappingProxyType(
    {"blur": _blurred, "inpaint": _inpainted, "mean": _rim_means}
)

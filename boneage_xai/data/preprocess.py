"""Turning a radiograph into the network's input, with an exact map back to source pixels.

Order: optional removal of the film border, percentile stretch of the contrast, resizing, optional
CLAHE, padding. CLAHE follows the resizing so that it equalises what the network sees, at a
thirtieth of the cost, and precedes the padding so that padding does not enter its histograms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from boneage_xai.data.film_border import content_box
from boneage_xai.errors import DataError
from boneage_xai.types import FloatImage, LabelImage, Radiograph

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""

INTENSITY_NAMES = ("mean", "sd", "p1", "p5", "p25", "p50", "p75", "p95", "p99")
"""What ``PreparedImage.intensity`` holds, in this order."""

_INTENSITY_PERCENTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
_LEVELS = 65535
_CLAHE_CLIP_LIMIT = 0.01  # scikit-image's default


class PreprocessSettings(BaseModel):
    """How radiographs become network inputs.

    Args:
        size_px: side of the square input.
        fit: ``pad`` keeps the aspect ratio and centres on black, ``squash`` does not.
        stretch_percentiles: percentiles of the image that become 0 and 1; None, in a
            recipe an empty list, leaves the contrast.
        clahe: contrast-limited adaptive histogram equalisation after resizing.
        remove_border: cut away uniform bright or dark margins of the film first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=256, ge=8, le=4096)
    fit: Literal["pad", "squash"] = "pad"
    stretch_percentiles: tuple[float, float] | None = (1.0, 99.0)
    clahe: bool = False
    remove_border: bool = False

    @field_validator("stretch_percentiles", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        # TOML has no null.
        return None if value == [] else value

    @field_validator("stretch_percentiles")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 100:
            raise ValueError(f"expected 0 ≤ low < high ≤ 100, found {value}")
        return value


@dataclass(frozen=True)
class SourceMap:
    """Where each pixel of a network input lies in its source image.

    Pixel centres have integer coordinates, x to the right and y down, in both images. Source
    coordinates are those of the pixels as read (after any EXIF orientation).

    Args:
        source_shape: (H, W) of the source image.
        size_px: side of the network input.
        crop_px: part of the source that was used.
        content_px: part of the input that it fills; the rest is padding.
    """

    source_shape: tuple[int, int]
    size_px: int
    crop_px: Box
    content_px: Box

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels per source pixel along x and y."""
        return (
            self.content_px[2] / self.crop_px[2],
            self.content_px[3] / self.crop_px[3],
        )

    @property
    def offset_xy(self) -> tuple[float, float]:
        """Input coordinates of source coordinate (0, 0)."""
        (scale_x, scale_y), crop, content = self.scale_xy, self.crop_px, self.content_px
        # Resizing maps edges onto edges, so centres shift by half a pixel on either side.
        return (
            content[0] - 0.5 + scale_x * (0.5 - crop[0]),
            content[1] - 0.5 + scale_y * (0.5 - crop[1]),
        )

    def to_input(self, xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map source coordinates to input coordinates.

        Args:
            xy: (..., 2) x and y in source pixels.

        Returns:
            (..., 2) float64 x and y in input pixels, beyond the input where cut away.
        """
        points = np.asarray(xy, dtype=np.float64)
        return np.asarray(points * np.array(self.scale_xy) + np.array(self.offset_xy))

    def to_source(self, xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map input coordinates to source coordinates, the inverse of ``to_input``.

        Args:
            xy: (..., 2) x and y in input pixels.

        Returns:
            (..., 2) float64 x and y in source pixels, beyond the source in the padding.
        """
        points = np.asarray(xy, dtype=np.float64)
        return np.asarray((points - np.array(self.offset_xy)) / np.array(self.scale_xy))

    def map_to_source(self, array: npt.NDArray[Any]) -> FloatImage:
        """Bring a map on the input grid back to the source grid, for showing.

        Bilinear between input pixels, so values (and signs) are kept, and the sum grows by the
        ratio of the areas: sum over the input grid wherever amounts matter. What lay in the
        padding is lost; source pixels that were cut away are 0.

        Args:
            array: (S, S) values per input pixel.

        Returns:
            (H, W) float32.

        Raises:
            DataError: the array does not have the input's shape.
        """
        if array.shape != (self.size_px, self.size_px):
            raise DataError(
                f"map to source: expected shape {(self.size_px, self.size_px)}, found {array.shape}"
            )
        left, top, width, height = self.content_px
        content = np.ascontiguousarray(
            array[top : top + height, left : left + width], dtype=np.float32
        )
        crop_left, crop_top, crop_width, crop_height = self.crop_px
        rows = _interpolate(content, crop_height)
        cut = np.ascontiguousarray(_interpolate(np.ascontiguousarray(rows.T), crop_width).T)
        if (crop_height, crop_width) == self.source_shape:
            return cut
        out = np.zeros(self.source_shape, dtype=np.float32)
        out[crop_top : crop_top + crop_height, crop_left : crop_left + crop_width] = cut
        return out


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A radiograph as the network sees it.

    Args:
        pixels: (S, S) uint8.
        source_map: the way back to source pixels.
        intensity: (9,) float32, ``INTENSITY_NAMES`` of the unprocessed pixels in [0, 1].
    """

    pixels: npt.NDArray[np.uint8]
    source_map: SourceMap
    intensity: npt.NDArray[np.float32]


def preprocess(
    radiograph: Radiograph, settings: PreprocessSettings, *, widening: float = 1.0
) -> PreparedImage:
    """Turn a radiograph into the network's input.

    Resizing is Pillow's bicubic with its support widened when shrinking: antialiased, exact at
    the edges, sharper at joint gaps than a triangle or box, with less ringing than Lanczos; the
    overshoot is clipped. An image without contrast becomes black.

    Args:
        radiograph: (H, W) pixels in [0, 1].
        settings: size, fit and contrast.
        widening: width that a pixel stands for against its height, where the fit keeps aspects.

    Returns:
        The prepared image.
    """
    pixels = radiograph.pixels
    histogram = IntensityHistogram.of(pixels)
    intensity = histogram.statistics()
    height, width = pixels.shape
    crop: Box = (0, 0, width, height)
    if settings.remove_border:
        crop = content_box(pixels)
        if crop != (0, 0, width, height):
            left, top, width, height = crop
            pixels = pixels[top : top + height, left : left + width]
            histogram = IntensityHistogram.of(pixels)
    source_map = SourceMap(
        source_shape=radiograph.pixels.shape,
        size_px=settings.size_px,
        crop_px=crop,
        content_px=_fit(max(1, round(width * widening)), height, settings),
    )
    if settings.stretch_percentiles is not None:
        pixels = _stretch(pixels, histogram, settings.stretch_percentiles)
    content = _resize(pixels, source_map.content_px[2], source_map.content_px[3])
    if settings.clahe:
        content = _equalise(content)
    out = np.zeros((settings.size_px, settings.size_px), dtype=np.uint8)
    left, top, width, height = source_map.content_px
    out[top : top + height, left : left + width] = np.rint(content * np.float32(255))
    return PreparedImage(pixels=out, source_map=source_map, intensity=intensity)


def warp_labels(labels: LabelImage, source_map: SourceMap, size_px: int) -> LabelImage:
    """Bring a label map from the source grid to the network's input grid.

    Args:
        labels: (H, W) integers on the source grid.
        source_map: the geometry of the prepared image.
        size_px: side of the input; must be the source map's.

    Returns:
        (S, S) of the same type: the label of the nearest source pixel, 0 in the padding.

    Raises:
        DataError: the labels or the size do not belong to this source map.
    """
    if labels.shape != source_map.source_shape or size_px != source_map.size_px:
        raise DataError(
            f"label map: expected shape {source_map.source_shape} for an input of "
            f"{source_map.size_px} px, found {labels.shape} for {size_px} px"
        )
    left, top, width, height = source_map.content_px
    columns = _nearest(left, width, source_map, axis=0)
    rows = _nearest(top, height, source_map, axis=1)
    out = np.zeros((size_px, size_px), dtype=labels.dtype)
    out[top : top + height, left : left + width] = labels[np.ix_(rows, columns)]
    return out


def _nearest(start: int, count: int, source_map: SourceMap, axis: int) -> npt.NDArray[np.intp]:
    positions = np.arange(start, start + count, dtype=np.float64)
    source = source_map.to_source(np.stack([positions, positions], axis=-1))[:, axis]
    low = source_map.crop_px[axis]
    high = low + source_map.crop_px[axis + 2] - 1
    return np.clip(np.floor(source + 0.5), low, high).astype(np.intp)


@dataclass(frozen=True, eq=False)
class IntensityHistogram:
    """How many pixels have each level k/65535, which 8- and 16-bit sources meet exactly.

    Args:
        levels: (m,) the levels that occur, ascending, in [0, 1].
        counts: (m,) how many pixels have each.
    """

    levels: npt.NDArray[np.float64]
    counts: npt.NDArray[np.intp]

    @classmethod
    def of(cls, pixels: FloatImage) -> IntensityHistogram:
        """Count the pixels of an image with values in [0, 1]."""
        levels = (pixels * np.float32(_LEVELS) + np.float32(0.5)).astype(np.uint16)
        counts = np.bincount(levels.ravel())
        occurring = np.flatnonzero(counts)
        return cls(occurring / _LEVELS, counts[occurring])

    def percentiles(self, percentiles: tuple[float, ...]) -> npt.NDArray[np.float64]:
        """Return percentiles (0 to 100) of the pixels, as ``numpy.percentile`` would."""
        cumulative = np.cumsum(self.counts)
        rank = np.asarray(percentiles) / 100 * (cumulative[-1] - 1)
        below = np.floor(rank)
        low = self.levels[np.searchsorted(cumulative, below, side="right")]
        high = self.levels[np.searchsorted(cumulative, np.ceil(rank), side="right")]
        return np.asarray(low + (rank - below) * (high - low))

    def statistics(self) -> npt.NDArray[np.float32]:
        """Return the values of ``INTENSITY_NAMES``."""
        share = self.counts / self.counts.sum()
        mean = float(share @ self.levels)
        sd = float(share @ (self.levels - mean) ** 2) ** 0.5
        return np.array([mean, sd, *self.percentiles(_INTENSITY_PERCENTILES)], dtype=np.float32)


def _stretch(
    pixels: FloatImage, histogram: IntensityHistogram, percentiles: tuple[float, float]
) -> FloatImage:
    low, high = histogram.percentiles(percentiles)
    if high <= low:
        # Nearly all pixels alike: the few others are all the contrast there is.
        low, high = histogram.percentiles((0.0, 100.0))
    if high <= low:
        return np.zeros_like(pixels)
    stretched = (pixels - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(stretched, 0, 1, out=stretched)


def _fit(width: int, height: int, settings: PreprocessSettings) -> Box:
    size = settings.size_px
    if settings.fit == "squash":
        return 0, 0, size, size
    scale = size / max(width, height)
    fitted_width = max(1, min(size, round(width * scale)))
    fitted_height = max(1, min(size, round(height * scale)))
    return (size - fitted_width) // 2, (size - fitted_height) // 2, fitted_width, fitted_height


def _resize(pixels: FloatImage, width: int, height: int) -> FloatImage:
    if pixels.shape == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(resized, 0, 1, out=resized)


def _equalise(pixels: FloatImage) -> FloatImage:
    # Imported here: scikit-image takes a second to load, which every worker would pay.
    from skimage.exposure import equalize_adapthist

    if min(pixels.shape) < 8 or pixels.min() == pixels.max():
        return pixels
    equalised = equalize_adapthist(pixels.astype(np.float64), clip_limit=_CLAHE_CLIP_LIMIT)
    return np.asarray(np.clip(equalised, 0, 1), dtype=np.float32)


def _interpolate(rows: FloatImage, count: int) -> FloatImage:
    """Resample the rows linearly to ``count``, edges onto edges, ends held."""
    position = (np.arange(count) + 0.5) * (len(rows) / count) - 0.5
    position = np.clip(position, 0, len(rows) - 1)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, len(rows) - 1)
    weight = (position - low).astype(np.float32)[:, None]
    return np.asarray(rows[low] * (1 - weight) + rows[high] * weight)

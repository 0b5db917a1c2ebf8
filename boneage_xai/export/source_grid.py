"""Maps brought from the network's input grid to the pixels of the radiograph, sums kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from boneage_xai.data.preprocess import SourceMap
from boneage_xai.errors import DataError

FloatArray = npt.NDArray[np.float64]


def spread_over_source(
    map_months: npt.NDArray[np.floating[Any]], source_map: SourceMap
) -> FloatArray:
    """Divide what each input pixel holds among the source pixels it covers, by area.

    Nothing is interpolated: an input pixel's months lie evenly on its footprint, so that the sum
    over any union of footprints, and over all, is that of the input grid.

    Args:
        map_months: (S, S) months per input pixel.
        source_map: how the radiograph was brought to the input.

    Returns:
        (H, W) float64, months per source pixel; 0 where the source was cut away. They add up to
        the map but for ``months_in_padding``, which no source pixel can hold.

    Raises:
        DataError: the map does not have the input's shape.
    """
    content = _content(map_months, source_map).astype(np.float64)
    left, top, width, height = source_map.crop_px
    rows = _shares(content.shape[0], height)
    columns = _shares(content.shape[1], width)
    out = np.zeros(source_map.source_shape, dtype=np.float64)
    out[top : top + height, left : left + width] = rows @ content @ columns.T
    return out


def held_by_source(values: npt.NDArray[Any], source_map: SourceMap) -> npt.NDArray[Any]:
    """Give each source pixel the value of the input pixel that holds its centre.

    For what does not add up over pixels: labels, the effect of a patch around a pixel.

    Args:
        values: (S, S) per input pixel.
        source_map: how the radiograph was brought to the input.

    Returns:
        (H, W) of the same type; 0 where the source was cut away.

    Raises:
        DataError: the map does not have the input's shape.
    """
    content = _content(values, source_map)
    left, top, width, height = source_map.crop_px
    rows = _holding(content.shape[0], height)
    columns = _holding(content.shape[1], width)
    out = np.zeros(source_map.source_shape, dtype=values.dtype)
    out[top : top + height, left : left + width] = content[np.ix_(rows, columns)]
    return out


def months_in_padding(map_months: npt.NDArray[np.floating[Any]], source_map: SourceMap) -> float:
    """Return the months that a map holds outside the radiograph, in the padding.

    Args:
        map_months: (S, S) months per input pixel.
        source_map: how the radiograph was brought to the input.
    """
    inside = _content(map_months, source_map)
    return float(map_months.sum(dtype=np.float64) - inside.sum(dtype=np.float64))


def _content(array: npt.NDArray[Any], source_map: SourceMap) -> npt.NDArray[Any]:
    if array.shape != (source_map.size_px, source_map.size_px):
        raise DataError(
            f"map to source: expected shape {(source_map.size_px, source_map.size_px)}, "
            f"found {array.shape}"
        )
    left, top, width, height = source_map.content_px
    return array[top : top + height, left : left + width]


def _shares(n_input: int, n_source: int) -> FloatArray:
    """Return (n_source, n_input): which part of each input pixel lies on each source pixel."""
    edges = np.arange(n_source + 1) * (n_input / n_source)
    edges[-1] = n_input
    pixels = np.arange(n_input)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    return np.asarray(np.maximum(high - low, 0.0))


def _holding(n_input: int, n_source: int) -> npt.NDArray[np.intp]:
    centres = (np.arange(n_source) + 0.5) * (n_input / n_source)
    return np.asarray(np.minimum(np.floor(centres), n_input - 1), dtype=np.intp)

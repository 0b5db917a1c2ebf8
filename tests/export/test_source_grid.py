"""Maps on source pixels: an independent reference, and sums that stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.data.preprocess import SourceMap
from boneage_xai.errors import DataError
from boneage_xai.export.source_grid import held_by_source, months_in_padding, spread_over_source


@st.composite
def source_maps(draw: st.DrawFn) -> SourceMap:
    size = draw(st.integers(4, 9))
    width, height = draw(st.integers(1, size)), draw(st.integers(1, size))
    content = (draw(st.integers(0, size - width)), draw(st.integers(0, size - height)))
    shape = (draw(st.integers(1, 23)), draw(st.integers(1, 23)))
    crop_h, crop_w = draw(st.integers(1, shape[0])), draw(st.integers(1, shape[1]))
    crop = (draw(st.integers(0, shape[1] - crop_w)), draw(st.integers(0, shape[0] - crop_h)))
    return SourceMap(shape, size, (*crop, crop_w, crop_h), (*content, width, height))


def slowly(months: np.ndarray, geometry: SourceMap) -> np.ndarray:
    """Cut every input pixel at the edges of every source pixel, through ``to_source``."""
    out = np.zeros(geometry.source_shape)
    left, top, width, height = geometry.content_px
    for y in range(top, top + height):
        for x in range(left, left + width):
            (x0, y0), (x1, y1) = geometry.to_source([[x - 0.5, y - 0.5], [x + 0.5, y + 0.5]])
            area = (x1 - x0) * (y1 - y0)
            for row in range(out.shape[0]):
                for column in range(out.shape[1]):
                    wide = min(x1, column + 0.5) - max(x0, column - 0.5)
                    high = min(y1, row + 0.5) - max(y0, row - 0.5)
                    if wide > 0 and high > 0:
                        out[row, column] += months[y, x] * wide * high / area
    return out


@settings(max_examples=40, deadline=None)
@given(source_maps(), st.integers(0, 9))
def test_months_are_divided_by_area_and_none_is_lost(geometry: SourceMap, seed: int) -> None:
    months = np.random.default_rng(seed).normal(size=(geometry.size_px,) * 2).astype(np.float32)
    spread = spread_over_source(months, geometry)
    np.testing.assert_allclose(spread, slowly(months, geometry), atol=1e-9)
    together = spread.sum() + months_in_padding(months, geometry)
    assert together == pytest.approx(months.sum(dtype=np.float64), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(source_maps(), st.integers(0, 9))
def test_labels_are_those_of_the_pixel_that_holds_the_centre(
    geometry: SourceMap, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(1, 200, (geometry.size_px,) * 2, np.uint8)
    found = held_by_source(labels, geometry)
    assert found.shape == geometry.source_shape
    crop_left, crop_top, crop_width, crop_height = geometry.crop_px
    left, top, width, height = geometry.content_px
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            inside = (
                crop_top <= row < crop_top + crop_height
                and crop_left <= column < crop_left + crop_width
            )
            if not inside:
                assert found[row, column] == 0
                continue
            x, y = geometry.to_input([column, row])
            # On an edge between two input pixels either of them holds the centre.
            near_x = {int(np.floor(x + 0.5 + d)) for d in (-1e-9, 1e-9)}
            near_y = {int(np.floor(y + 0.5 + d)) for d in (-1e-9, 1e-9)}
            assert found[row, column] in {
                labels[min(max(j, top), top + height - 1), min(max(i, left), left + width - 1)]
                for i in near_x
                for j in near_y
            }


def test_a_map_of_another_size_is_refused() -> None:
    geometry = SourceMap((4, 4), 8, (0, 0, 4, 4), (0, 0, 8, 8))
    with pytest.raises(DataError, match=r"expected shape \(8, 8\), found \(4, 4\)"):
        spread_over_source(np.zeros((4, 4)), geometry)


def test_the_footprint_of_an_input_pixel_keeps_its_months() -> None:
    months = np.arange(16, dtype=np.float32).reshape(4, 4)
    geometry = SourceMap((8, 8), 4, (0, 0, 8, 8), (0, 0, 4, 4))
    np.testing.assert_array_equal(
        held_by_source(months, geometry), months.repeat(2, axis=0).repeat(2, axis=1)
    )
    spread = spread_over_source(months, geometry)
    np.testing.assert_allclose(spread[2:4, 4:6], months[1, 2] / 4)

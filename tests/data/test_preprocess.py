"""Contrast, fit and the exact way between source and input pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from boneage_xai.data.preprocess import (
    INTENSITY_NAMES,
    IntensityHistogram,
    PreprocessSettings,
    SourceMap,
    preprocess,
    warp_labels,
)
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError
from boneage_xai.types import Radiograph

PLAIN = {"stretch_percentiles": None}


def radiograph(pixels: np.ndarray) -> Radiograph:
    return Radiograph(pixels.astype(np.float32), Path("made-up"))


def blob(shape: tuple[int, int], x: float, y: float, sd: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sd**2))


def centre_of_mass(pixels: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(pixels.shape)
    weights = pixels.astype(float)
    return (
        float((columns * weights).sum() / weights.sum()),
        float((rows * weights).sum() / weights.sum()),
    )


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (157, 157), (61, 40), (401, 97)])
@pytest.mark.parametrize("at", [(0.3, 0.25), (0.5, 0.5), (0.7, 0.8)])
def test_a_spot_lands_where_the_map_says(
    fit: Any, shape: tuple[int, int], at: tuple[float, float]
) -> None:
    x, y = round(at[0] * shape[1]), round(at[1] * shape[0])
    prepared = preprocess(
        radiograph(blob(shape, x, y, sd=max(shape) / 60)),
        PreprocessSettings(size_px=128, fit=fit, **PLAIN),
    )
    found = centre_of_mass(np.where(prepared.pixels > 8, prepared.pixels, 0))
    # A tenth of a pixel: the bounds of half a pixel would also pass a map that is half off.
    np.testing.assert_allclose(found, prepared.source_map.to_input((x, y)), atol=0.1)


def test_a_spot_lands_right_after_the_border_is_cut() -> None:
    shape, x, y = (220, 180), 90, 100
    pixels = 0.9 * blob(shape, x, y, sd=4) + 0.01 * np.random.default_rng(0).random(shape)
    pixels[:30], pixels[:, -25:] = 1, 1
    prepared = preprocess(
        radiograph(pixels), PreprocessSettings(size_px=128, remove_border=True, **PLAIN)
    )
    left, top, width, height = prepared.source_map.crop_px
    assert (left, top) == (0, 31)
    assert (width, height) == (154, 189)
    found = centre_of_mass(np.where(prepared.pixels > 20, prepared.pixels, 0))
    np.testing.assert_allclose(found, prepared.source_map.to_input((x, y)), atol=0.1)


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((200, 100), (32, 0, 64, 128)),
        ((100, 200), (0, 32, 128, 64)),
        ((1, 300), (0, 63, 128, 1)),
        ((50, 50), (0, 0, 128, 128)),
    ],
)
def test_padding_is_centred_and_black(
    shape: tuple[int, int], content: tuple[int, int, int, int]
) -> None:
    prepared = preprocess(radiograph(np.full(shape, 0.5)), PreprocessSettings(size_px=128, **PLAIN))
    assert prepared.source_map.content_px == content
    left, top, width, height = content
    expected = np.zeros((128, 128), dtype=np.uint8)
    expected[top : top + height, left : left + width] = 128
    np.testing.assert_array_equal(prepared.pixels, expected)


def test_edges_map_onto_edges_by_hand() -> None:
    source_map = SourceMap((200, 100), 128, (0, 0, 100, 200), (32, 0, 64, 128))
    # The outer edge of the first source pixel is the outer edge of the first content pixel.
    np.testing.assert_allclose(source_map.to_input((-0.5, -0.5)), (31.5, -0.5))
    np.testing.assert_allclose(source_map.to_input((99.5, 199.5)), (95.5, 127.5))
    np.testing.assert_allclose(source_map.to_source((31.5, 127.5)), (-0.5, 199.5))


@st.composite
def source_maps(draw: st.DrawFn) -> SourceMap:
    height, width = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    crop_width, crop_height = draw(st.integers(1, width)), draw(st.integers(1, height))
    size = draw(st.integers(8, 512))
    content_width, content_height = draw(st.integers(1, size)), draw(st.integers(1, size))
    left = draw(st.integers(0, width - crop_width))
    top = draw(st.integers(0, height - crop_height))
    return SourceMap(
        (height, width),
        size,
        (left, top, crop_width, crop_height),
        ((size - content_width) // 2, (size - content_height) // 2, content_width, content_height),
    )


@given(
    source_maps(),
    arrays(np.float64, (5, 2), elements=st.floats(-4000, 4000)),
)
def test_to_source_and_to_input_are_inverse(source_map: SourceMap, xy: np.ndarray) -> None:
    np.testing.assert_allclose(
        source_map.to_source(source_map.to_input(xy)), xy, rtol=1e-9, atol=1e-6
    )
    np.testing.assert_allclose(
        source_map.to_input(source_map.to_source(xy)), xy, rtol=1e-9, atol=1e-6
    )


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["pad", "squash"]))
@settings(deadline=None)
def test_any_shape_fits(height: int, width: int, fit: Any) -> None:
    pixels = np.random.default_rng(height).random((height, width))
    prepared = preprocess(radiograph(pixels), PreprocessSettings(size_px=32, fit=fit))
    assert prepared.pixels.shape == (32, 32)
    _, _, content_width, content_height = prepared.source_map.content_px
    assert max(content_width, content_height) == 32
    assert prepared.source_map.map_to_source(prepared.pixels).shape == (height, width)


def test_shrinking_averages_areas_and_does_not_alias() -> None:
    fine = np.indices((512, 512)).sum(axis=0) % 2
    prepared = preprocess(radiograph(fine), PreprocessSettings(size_px=64, **PLAIN))
    np.testing.assert_allclose(prepared.pixels[4:-4, 4:-4], 127.5, atol=1)
    ramp = np.tile(np.linspace(0, 1, 600), (600, 1))
    prepared = preprocess(radiograph(ramp), PreprocessSettings(size_px=64, **PLAIN))
    np.testing.assert_allclose(prepared.pixels.mean() / 255, ramp.mean(), atol=1e-3)


def test_stretch_by_hand() -> None:
    # 101 levels 0, .005 … .5: percentile p is .005 p.
    pixels = np.tile(np.arange(101) * 0.005, (101, 1))
    prepared = preprocess(
        radiograph(pixels), PreprocessSettings(size_px=101, stretch_percentiles=(10.0, 90.0))
    )
    expected = np.clip((np.arange(101) - 10) / 80, 0, 1) * 255
    np.testing.assert_allclose(prepared.pixels[50], expected, atol=0.51)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clahe", [False, True])
@pytest.mark.parametrize("remove_border", [False, True])
def test_an_image_without_contrast_becomes_black(
    value: float, clahe: bool, remove_border: bool
) -> None:
    prepared = preprocess(
        radiograph(np.full((40, 30), value)),
        PreprocessSettings(size_px=32, clahe=clahe, remove_border=remove_border),
    )
    assert not prepared.pixels.any()
    np.testing.assert_allclose(prepared.intensity[[0, 1, 5]], (value, 0, value), atol=2e-5)


def test_few_bright_pixels_keep_their_contrast() -> None:
    pixels = np.zeros((64, 64))
    pixels[10, 10] = 0.2
    prepared = preprocess(radiograph(pixels), PreprocessSettings(size_px=64))
    assert prepared.pixels[10, 10] == 255


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.lists(st.floats(0, 100), min_size=1, max_size=5),
)
def test_histogram_percentiles_are_numpys(pixels: np.ndarray, percentiles: list[float]) -> None:
    histogram = IntensityHistogram.of((pixels / np.float32(255)).astype(np.float32))
    np.testing.assert_allclose(
        histogram.percentiles(tuple(percentiles)),
        np.percentile(pixels, percentiles) / 255,
        atol=1e-9,
    )


@pytest.mark.parametrize("levels", [255, 65535])
def test_intensity_describes_the_unprocessed_pixels(levels: int) -> None:
    raw = np.random.default_rng(5).integers(0, levels // 2, (90, 70)) / levels
    prepared = preprocess(radiograph(raw), PreprocessSettings(size_px=32))
    expected = [raw.mean(), raw.std(), *np.percentile(raw, [1, 5, 25, 50, 75, 95, 99])]
    np.testing.assert_allclose(prepared.intensity, expected, atol=1e-5)
    assert len(INTENSITY_NAMES) == len(expected)


def test_clahe_raises_local_contrast_and_leaves_padding_black() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((200, 100), 0.3) + 0.02 * rng.random((200, 100))
    pixels[:20] = 1.0
    plain = preprocess(radiograph(pixels), PreprocessSettings(size_px=128, **PLAIN))
    clahe = preprocess(radiograph(pixels), PreprocessSettings(size_px=128, clahe=True, **PLAIN))
    inside = (slice(40, 128), slice(32, 96))
    assert clahe.pixels[inside].std() > 2 * plain.pixels[inside].std()
    assert not clahe.pixels[:, :32].any()


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("clahe", [False, True])
def test_the_radiograph_is_left_as_it_was(fit: Any, clahe: bool) -> None:
    pixels = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    before = pixels.copy()
    chosen = PreprocessSettings(size_px=64, fit=fit, clahe=clahe, remove_border=True)
    preprocess(radiograph(pixels), chosen)
    np.testing.assert_array_equal(pixels, before)


def test_labels_follow_the_image() -> None:
    labels = np.zeros((200, 100), dtype=np.uint8)
    labels[50:120, 30:70] = 3
    labels[130:190, 20:50] = 7
    image = preprocess(
        radiograph((labels == 3).astype(float)), PreprocessSettings(size_px=128, **PLAIN)
    )
    warped = warp_labels(labels, image.source_map, 128)
    assert warped.dtype == labels.dtype
    assert set(np.unique(warped)) == {0, 3, 7}
    np.testing.assert_array_equal(warped == 3, image.pixels > 127)


@given(source_maps())
@settings(deadline=None, max_examples=40)
def test_labels_by_the_plain_definition(source_map: SourceMap) -> None:
    labels = np.random.default_rng(0).integers(1, 200, source_map.source_shape, dtype=np.uint8)
    warped = warp_labels(labels, source_map, source_map.size_px)
    left, top, width, height = source_map.content_px
    for x, y in ((left, top), (left + width - 1, top + height - 1), (left + width // 2, top)):
        source_x, source_y = source_map.to_source((x, y))
        nearest = (int(np.floor(source_x + 0.5)), int(np.floor(source_y + 0.5)))
        assert warped[y, x] == labels[nearest[1], nearest[0]]
    inside = np.zeros_like(warped, dtype=bool)
    inside[top : top + height, left : left + width] = True
    assert not warped[~inside].any()


def test_labels_of_another_shape_are_refused() -> None:
    source_map = SourceMap((20, 10), 16, (0, 0, 10, 20), (4, 0, 8, 16))
    with pytest.raises(DataError, match="expected shape"):
        warp_labels(np.zeros((10, 20), dtype=np.uint8), source_map, 16)
    with pytest.raises(DataError, match="32 px"):
        warp_labels(np.zeros((20, 10), dtype=np.uint8), source_map, 32)
    with pytest.raises(DataError, match="found"):
        source_map.map_to_source(np.zeros((8, 8)))


def test_map_to_source_keeps_values_signs_and_places() -> None:
    source_map = SourceMap((300, 200), 64, (20, 30, 160, 240), (10, 0, 43, 64))
    rows, columns = np.indices((64, 64), dtype=np.float64)
    ramp = columns - 2 * rows
    back = source_map.map_to_source(ramp)
    x, y = source_map.to_input((90, 140))
    np.testing.assert_allclose(back[140, 90], x - 2 * y, atol=1e-3)
    # Cut away: nothing; held, not extrapolated, at the edge of what was used.
    assert back[10, 100] == 0
    assert back[100, 5] == 0
    assert back.min() >= ramp.min()
    assert back.max() <= ramp.max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 256},
        {"size_px": 0},
        {"fit": "crop"},
        {"stretch_percentiles": (99.0, 1.0)},
        {"stretch_percentiles": (-1.0, 99.0)},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PreprocessSettings(**wrong)


@pytest.mark.realdata
def test_real_hands_use_the_full_range(real_data: Path) -> None:
    files = sorted((real_data / "rsna-half-res").glob("*.png"))[::4]
    for file in files:
        prepared = preprocess(read_radiograph(file), PreprocessSettings(remove_border=True))
        left, top, width, height = prepared.source_map.content_px
        content = prepared.pixels[top : top + height, left : left + width]
        assert max(width, height) == 256
        assert min(width, height) > 100
        assert content.min() <= 2
        assert content.max() >= 253
        assert 20 < content.std() < 110

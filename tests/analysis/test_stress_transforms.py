"""Changes of appearance: by hand on small arrays, neutral where they should be, always images."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from boneage_xai.analysis.stress_transforms import (
    PUBLISHED_FAMILIES,
    STRESS_TRANSFORMS,
    add_noise,
    append_marker,
    blur,
    brighten,
    change_contrast,
    chosen_transforms,
    compress,
    crop,
    flip,
    invert,
    reduce_resolution,
    rotate,
    rotate_plate,
)
from boneage_xai.errors import ConfigError
from boneage_xai.types import FloatImage

SMALL = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.125]], dtype=np.float32)


def textured(height: int = 40, width: int = 30) -> FloatImage:
    return np.random.default_rng(5).random((height, width), dtype=np.float32)


def test_seven_published_families_hold_33_transforms() -> None:
    published = [one for one in STRESS_TRANSFORMS.values() if one.family in PUBLISHED_FAMILIES]
    assert len(published) == 33
    assert {one.family for one in published} == set(PUBLISHED_FAMILIES)
    assert len({(one.family, one.parameter) for one in STRESS_TRANSFORMS.values()}) == len(
        STRESS_TRANSFORMS
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: rotate(p, 90), [[0.5, 0.125], [0.25, 1.0], [0.0, 0.75]]),
        (lambda p: rotate(p, 180), [[0.125, 1.0, 0.75], [0.5, 0.25, 0.0]]),
        (lambda p: rotate(p, 270), [[0.75, 0.0], [1.0, 0.25], [0.125, 0.5]]),
        (lambda p: flip(p, "left-right"), [[0.5, 0.25, 0.0], [0.125, 1.0, 0.75]]),
        (lambda p: flip(p, "up-down"), [[0.75, 1.0, 0.125], [0.0, 0.25, 0.5]]),
        (lambda p: brighten(p, 0.25), [[0.25, 0.5, 0.75], [1.0, 1.0, 0.375]]),
        (lambda p: brighten(p, -0.25), [[0.0, 0.0, 0.25], [0.5, 0.75, 0.0]]),
        (lambda p: change_contrast(p, 0.5), [[0.25, 0.375, 0.5], [0.625, 0.75, 0.3125]]),
        (lambda p: change_contrast(p, 2), [[0.0, 0.0, 0.5], [1.0, 1.0, 0.0]]),
        (lambda p: invert(p), [[1.0, 0.75, 0.5], [0.25, 0.0, 0.875]]),
    ],
)
def test_by_hand(change: Callable[[FloatImage], FloatImage], expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(change(SMALL), np.array(expected, dtype=np.float32))


@pytest.mark.parametrize(
    "neutral",
    [
        lambda p: rotate(p, 0),
        lambda p: rotate(p, 360),
        lambda p: rotate_plate(p, 0),
        lambda p: flip(p, "none"),
        lambda p: brighten(p, 0),
        lambda p: change_contrast(p, 1),
        lambda p: invert(p, 0),
        lambda p: append_marker(p, "L", "upper left", 0),
        lambda p: reduce_resolution(p, 1),
        lambda p: crop(p, 0),
        lambda p: compress(p, None),
        lambda p: blur(p, 0),
        lambda p: add_noise(p, 0),
    ],
)
def test_neutral_parameter_changes_nothing(neutral: Callable[[FloatImage], FloatImage]) -> None:
    image = textured()
    changed = neutral(image)
    np.testing.assert_array_equal(changed, image)
    assert not np.shares_memory(changed, image)


def test_rotation_is_counter_clockwise_and_keeps_the_frame() -> None:
    image = np.zeros((41, 41), dtype=np.float32)
    image[18:23, 35:38] = 1
    turned = rotate(image, 45)
    rows, columns = np.nonzero(turned > 0.5)
    distance = 16 / np.sqrt(2)
    assert turned.shape == image.shape
    np.testing.assert_allclose(
        [rows.mean(), columns.mean()], [20 - distance, 20 + distance], atol=0.7
    )


def test_the_plate_keeps_all_that_is_on_it() -> None:
    image = np.zeros((60, 40), dtype=np.float32)
    image[3:7, 3:7] = image[53:57, 33:37] = 1
    grown, kept = rotate_plate(image, 45), rotate(image, 45)
    assert grown.shape[0] > 60
    assert grown.shape[1] > 40
    np.testing.assert_allclose(grown.sum(), image.sum(), rtol=0.03)
    assert kept.sum() < 0.5 * image.sum()


@pytest.mark.parametrize("letter", ["L", "R"])
@pytest.mark.parametrize("corner", ["upper left", "upper right", "lower left", "lower right"])
def test_a_marker_is_white_in_its_corner_and_nowhere_else(letter: str, corner: str) -> None:
    image = np.full((200, 120), 0.25, dtype=np.float32)
    rows, columns = np.nonzero(append_marker(image, letter, corner) != image)  # type: ignore[arg-type]
    assert append_marker(image, letter, corner).max() == 1  # type: ignore[arg-type]
    height = rows.max() - rows.min() + 1
    assert 10 <= height <= 20
    assert (rows.max() < 40) == corner.startswith("upper")
    assert (rows.min() >= 160) == corner.startswith("lower")
    assert (columns.max() < 40) == corner.endswith("left")
    assert (columns.min() >= 80) == corner.endswith("right")
    assert min(rows.min(), 199 - rows.max(), columns.min(), 119 - columns.max()) >= 1


def test_letters_differ() -> None:
    image = np.zeros((100, 100), dtype=np.float32)
    first, second = (append_marker(image, letter, "upper left") for letter in "LR")
    assert (first != second).any()


def test_resolution_averages_blocks() -> None:
    image = textured(64, 32)
    expected = image.reshape(32, 2, 16, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(reduce_resolution(image, 0.5), expected, atol=1e-6)
    assert reduce_resolution(textured(40, 20), 1 / 16).shape == (8, 8)
    assert reduce_resolution(textured(6, 20), 0.5).shape == (6, 10)


def test_crop_cuts_the_same_share_at_each_side() -> None:
    image = textured(40, 30)
    np.testing.assert_array_equal(crop(image, 0.1), image[4:36, 3:27])
    assert crop(textured(3, 1), 0.5).shape == (1, 1)


def test_blur_is_a_gaussian_of_a_share_of_the_side() -> None:
    image = np.zeros((101, 51), dtype=np.float32)
    image[50, 25] = 1
    blurred = blur(image, 0.02).astype(np.float64)
    spread = np.sqrt((blurred.sum(axis=1) * (np.arange(101) - 50) ** 2).sum() / blurred.sum())
    np.testing.assert_allclose([blurred.sum(), spread], [1, 2.02], rtol=0.01)


def test_noise_has_its_spread_and_is_the_same_each_time() -> None:
    image = np.full((200, 200), 0.5, dtype=np.float32)
    noisy = add_noise(image, 0.05)
    np.testing.assert_allclose([noisy.mean(), noisy.std()], [0.5, 0.05], atol=1e-3)
    np.testing.assert_array_equal(noisy, add_noise(image, 0.05))


def test_jpeg_is_what_a_decoder_reads() -> None:
    image = textured(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(buffer, "JPEG", quality=20)
    expected = np.asarray(Image.open(buffer)) / 255
    np.testing.assert_allclose(compress(image, 20), expected, atol=1e-6)
    errors = [np.abs(compress(image, quality) - image).mean() for quality in (95, 50, 10)]
    assert errors == sorted(errors)


@settings(max_examples=15, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.floats(0, 1, width=32),
    )
)
def test_every_transform_gives_an_image_and_leaves_its_input(image: FloatImage) -> None:
    before = image.copy()
    for name, one in STRESS_TRANSFORMS.items():
        changed = one.apply(image)
        assert changed.ndim == 2, name
        assert changed.size, name
        assert changed.dtype == np.float32, name
        assert changed.min() >= 0, name
        assert changed.max() <= 1, name
        assert not np.shares_memory(changed, image) or np.array_equal(changed, image), name
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["rotation", "flip"])
def test_quarter_turns_and_flips_come_back(name: str) -> None:
    image = textured()
    if name == "flip":
        np.testing.assert_array_equal(flip(flip(image, "up-down"), "up-down"), image)
    else:
        np.testing.assert_array_equal(rotate(rotate(image, 90), 270), image)


def test_names_and_families_choose_in_the_order_of_the_table() -> None:
    chosen = chosen_transforms(["inversion_100", "flip"])
    assert list(chosen) == ["flip_left_right", "flip_up_down", "inversion_100"]
    assert list(chosen_transforms(None)) == list(STRESS_TRANSFORMS)
    with pytest.raises(ConfigError, match=r"transform spin: expected a family \(rotation"):
        chosen_transforms(["spin"])
    with pytest.raises(ConfigError, match="at least one"):
        chosen_transforms([])

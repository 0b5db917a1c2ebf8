"""Margins of films are found, and hands are not taken for margins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boneage_xai.data.film_border import content_box
from boneage_xai.data.radiograph import read_radiograph

HEIGHT, WIDTH = 300, 240


def film(seed: int = 0) -> np.ndarray:
    """Grainy dark air with a bright forearm that runs out at the bottom and fingers above."""
    rng = np.random.default_rng(seed)
    pixels = 0.08 + 0.02 * rng.standard_normal((HEIGHT, WIDTH))
    pixels[120:, 90:150] += 0.6
    for left in (70, 100, 130, 160):
        pixels[40:120, left : left + 15] += 0.5
    return np.clip(pixels, 0, 1).astype(np.float32)


def white_strips(pixels: np.ndarray) -> None:
    pixels[:12] = 1
    pixels[:, -20:] = 0.98


def black_filler(pixels: np.ndarray) -> None:
    pixels[:12] = 0
    pixels[:, -20:] = 0


def grainy_grey(pixels: np.ndarray) -> None:
    grain = 0.36 + 0.008 * np.random.default_rng(1).standard_normal(pixels.shape)
    pixels[:12] = grain[:12]
    pixels[:, -20:] = grain[:, -20:]


@pytest.mark.parametrize("margin", [white_strips, black_filler, grainy_grey])
def test_margins_are_cut_to_within_the_blur(margin: Callable[[np.ndarray], None]) -> None:
    pixels = film()
    margin(pixels)
    left, top, width, height = content_box(pixels)
    assert left == 0
    assert 12 <= top <= 15
    assert 220 - 3 <= left + width <= 220
    assert top + height == HEIGHT


@pytest.mark.parametrize("seed", range(5))
def test_a_film_without_margins_is_kept_whole(seed: int) -> None:
    assert content_box(film(seed)) == (0, 0, WIDTH, HEIGHT)


def test_a_white_marker_at_the_edge_is_kept() -> None:
    pixels = film()
    pixels[:30, :40] = 1
    assert content_box(pixels) == (0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (40, 40)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_image_of_one_level_is_kept_whole(shape: tuple[int, int], value: float) -> None:
    assert content_box(np.full(shape, value, dtype=np.float32)) == (0, 0, shape[1], shape[0])


def test_margins_that_would_leave_little_are_not_believed() -> None:
    pixels = np.ones((HEIGHT, WIDTH), dtype=np.float32)
    pixels[100:150, 50:200] = film()[100:150, 50:200]
    assert content_box(pixels) == (0, 0, WIDTH, HEIGHT)


@pytest.mark.realdata
def test_real_films_keep_their_hands(real_data: Path) -> None:
    kept = []
    for file in sorted((real_data / "rsna-half-res").glob("*.png"))[::3]:
        pixels = read_radiograph(file).pixels
        _, _, width, height = content_box(pixels)
        kept.append(width * height / pixels.size)
    assert min(kept) > 0.3
    assert np.median(kept) > 0.95

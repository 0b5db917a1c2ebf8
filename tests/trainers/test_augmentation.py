"""Augmentation: identity when off, within its limits when on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.augmentation import augment, resize
from trainers.recipe import AugmentationSettings


def dot(row: int, column: int, n: int = 64, side: int = 65) -> torch.Tensor:
    images = torch.zeros(n, 1, side, side)
    images[:, 0, row, column] = 1
    return images


def centroids(images: torch.Tensor) -> torch.Tensor:
    side = images.shape[-1]
    at = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    mass = images.sum(dim=(1, 2, 3))
    x = (images[:, 0].sum(1) * at).sum(1) / mass
    y = (images[:, 0].sum(2) * at).sum(1) / mass
    return torch.stack([x, y], dim=1)


def test_nothing_asked_changes_nothing() -> None:
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(augment(images, AugmentationSettings()), images, atol=1e-5, rtol=0)


def test_input_is_left_alone() -> None:
    images = torch.rand(2, 1, 16, 16)
    before = images.clone()
    augment(images, AugmentationSettings(contrast=0.5, brightness=0.5, horizontal_flip=0.5))
    assert images.equal(before)


@pytest.mark.parametrize(("flip", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
@pytest.mark.parametrize(
    ("probability", "low", "high"),
    # Within four standard deviations of a binomial of 400.
    [(0.5, 160, 240), (0.1, 16, 64), (True, 160, 240), (False, 0, 0)],
)
def test_flips_mirror_so_many_of_the_images(
    flip: str, axis: int, probability: float, low: int, high: int
) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 16, 16).repeat(400, 1, 1, 1)
    flipped = augment(images, AugmentationSettings(**{flip: probability}))
    is_same = (flipped - images).abs().amax(dim=(1, 2, 3)) < 1e-4
    is_mirror = (flipped - images.flip(axis)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (is_same ^ is_mirror).all()
    assert low <= int(is_mirror.sum()) <= high


def test_shift_stays_within_its_fraction_and_uses_it() -> None:
    torch.manual_seed(0)
    moved = centroids(augment(dot(32, 32), AugmentationSettings(shift_fraction=0.25)))
    assert moved.abs().max() <= 0.25 * 65 + 0.5
    assert moved.abs().max() > 0.2 * 65


def test_zoom_moves_a_dot_away_from_or_towards_the_centre() -> None:
    torch.manual_seed(0)
    radius = centroids(augment(dot(32, 42), AugmentationSettings(zoom=(0.8, 1.5)))).norm(dim=1)
    assert radius.min() >= 0.8 * 10 - 0.6
    assert radius.max() <= 1.5 * 10 + 0.6
    assert radius.min() < 9 < 13 < radius.max()


def test_rotation_keeps_the_radius_and_the_angle_limit() -> None:
    torch.manual_seed(0)
    moved = centroids(augment(dot(32, 52), AugmentationSettings(rotation_degrees=30)))
    angles = torch.atan2(moved[:, 1], moved[:, 0]).abs() * 180 / math.pi
    torch.testing.assert_close(moved.norm(dim=1), torch.full((64,), 20.0), atol=0.8, rtol=0)
    assert 20 < angles.max() <= 32


@given(st.floats(0, 0.5), st.floats(0, 0.5))
def test_exposure_stays_within_its_limits(contrast: float, brightness: float) -> None:
    images = torch.full((8, 1, 4, 4), 0.5)
    changed = augment(images, AugmentationSettings(contrast=contrast, brightness=brightness))
    centre = changed[:, :, 1:3, 1:3]
    assert (centre - 0.5).abs().max() <= 0.5 * contrast + brightness + 1e-5


def test_resize_is_antialiased_and_lazy() -> None:
    checkers = (torch.arange(64)[:, None] + torch.arange(64)[None, :]).remainder(2).float()
    images = checkers[None, None]
    assert resize(images, 64) is images
    small = resize(images, 16)[..., 2:-2, 2:-2]
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.05, rtol=0)

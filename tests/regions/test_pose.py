from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.phantom.cohorts import draw_case, render_case
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.regions.hand_shape import median_shape
from boneage_xai.regions.locator import locate
from boneage_xai.regions.locator_network import LANDMARKS, TIP
from boneage_xai.regions.pose import HandPose, hand_pose, laid_usually
from boneage_xai.types import Radiograph


def boxes_of(points: np.ndarray) -> list[LocatedRegion]:
    return [
        LocatedRegion(region, finger, float(x), float(y), 9.0, 9.0, 0.8)
        for (region, finger), (x, y) in zip(LANDMARKS, points, strict=True)
        if region != TIP
    ]


def lying(turn_degrees: float, mirrored: bool, size: float = 100.0) -> np.ndarray:
    """Places of the median hand, mirrored and then turned clockwise; y points down."""
    points = median_shape() * (-1.0 if mirrored else 1.0, 1.0)
    sine, cosine = math.sin(math.radians(turn_degrees)), math.cos(math.radians(turn_degrees))
    clockwise = np.array([[cosine, -sine], [sine, cosine]])
    return points @ clockwise.T * size + (300.0, 200.0)


@given(st.floats(-179, 179), st.booleans(), st.floats(5, 2000))
def test_turn_and_side_are_those_it_was_laid_with(turn: float, mirrored: bool, size: float) -> None:
    x, y = median_shape()[LANDMARKS.index(("MCP", 3))] * (-1.0 if mirrored else 1.0, 1.0)
    tilt = math.degrees(math.atan2(x, -y))
    pose = hand_pose(boxes_of(lying(turn, mirrored, size)))
    assert pose is not None
    assert pose.looks_right is mirrored
    difference = (pose.turned_degrees - turn - tilt + 180) % 360 - 180
    assert abs(difference) < 1e-6


@pytest.mark.parametrize(
    ("turned", "quarters"),
    [(0.0, 0), (44.0, 0), (-44.0, 0), (46.0, 1), (-46.0, 3), (134.0, 1), (179.0, 2), (-179.0, 2)],
)
def test_the_nearest_quarter_turn(turned: float, quarters: int) -> None:
    assert HandPose(turned, False).quarter_turns == quarters
    assert HandPose(turned, False).is_usual == (quarters == 0)
    assert not HandPose(turned, True).is_usual


def test_too_few_boxes_and_those_of_a_users_own_do_not_tell() -> None:
    boxes = boxes_of(lying(10, False))
    assert hand_pose(boxes[:7]) is None
    assert hand_pose([replace(box, region="my own") for box in boxes]) is None
    assert hand_pose([]) is None
    # All in one place.
    assert hand_pose([replace(box, x_px=5.0, y_px=5.0) for box in boxes]) is None


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_laying_undoes_turns_and_mirroring(turns: int, mirrored: bool) -> None:
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4) / 12
    usual = Radiograph(pixels, Path("hand.png"), pixel_spacing_mm=(0.2, 0.1))
    mirror = pixels[:, ::-1] if mirrored else pixels
    there = np.ascontiguousarray(np.rot90(mirror, -turns))  # clockwise
    spacing = (0.1, 0.2) if turns % 2 else (0.2, 0.1)
    lies = replace(usual, pixels=there, pixel_spacing_mm=spacing)
    back = laid_usually(lies, HandPose(90.0 * turns if turns < 3 else -90.0, mirrored))
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.pixel_spacing_mm == (0.2, 0.1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turns", range(4))
def test_the_locator_tells_how_a_phantom_lies(side: str, turns: int) -> None:
    settings = PhantomSettings(size_px=224, side=side)
    image = render_case(draw_case(3, seed=907), settings)
    turned = np.ascontiguousarray(np.rot90(image.pixels, -turns))
    radiograph = Radiograph(turned.astype(np.float32), Path("phantom"))
    pose = hand_pose(locate(radiograph).boxes)
    assert pose is not None
    assert pose.quarter_turns == turns
    assert pose.looks_right == (side == "right")

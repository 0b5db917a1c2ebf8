from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.anatomy import DIP, MCP, PIP, RADIUS
from boneage_xai.regions.boxes import region_boxes
from boneage_xai.regions.hand_shape import (
    consistent,
    in_median_frame,
    index_of,
    median_shape,
    steadied,
    widening,
)
from boneage_xai.regions.locator_network import LANDMARKS, WRIST

SURE = np.full(len(LANDMARKS), 0.9)
ALL = np.ones(len(LANDMARKS), dtype=np.bool_)


def seen(
    turn: float, size: float, squash: float, mirror: bool, shape: np.ndarray | None = None
) -> np.ndarray:
    sine, cosine = math.sin(turn), math.cos(turn)
    square = np.array([[cosine, -sine], [sine, cosine]]) * size
    square[0] *= -squash if mirror else squash
    return (median_shape() if shape is None else shape) @ square.T + (70.0, 90.0)


placements = st.tuples(st.floats(-3, 3), st.floats(5, 500), st.floats(0.6, 1.8), st.booleans())


@given(placements)
def test_a_hand_is_itself_however_it_lies(placement: tuple[float, float, float, bool]) -> None:
    points = seen(*placement)
    assert consistent(points, SURE, 0.4).all()
    back = in_median_frame(points, ALL)
    assert back is not None
    np.testing.assert_allclose(back, median_shape(), atol=1e-6)


@given(placements, st.sampled_from([index_of(MCP, 4), index_of(WRIST), index_of(DIP, 3)]))
def test_a_landmark_far_from_its_place_is_rejected_alone(
    placement: tuple[float, float, float, bool], row: int
) -> None:
    points = seen(*placement)
    wrong = points.copy()
    wrong[row] += 2.5 * (points[index_of(MCP, 5)] - points[index_of(MCP, 2)])
    kept = consistent(wrong, SURE, 0.4)
    assert not kept[row]
    assert kept.sum() == len(LANDMARKS) - 1


@given(st.floats(-0.6, 0.6), st.floats(5, 500), st.floats(0.65, 1.9), st.booleans())
def test_a_squashed_hand_says_how_to_undo_it(
    turn: float, size: float, squash: float, mirror: bool
) -> None:
    assert widening(seen(turn, size, squash, mirror), ALL) == pytest.approx(1 / squash, rel=1e-6)


@given(placements, st.floats(-0.3, 0.3), st.floats(-0.1, 0.1))
def test_half_of_what_moves_the_radius_along_the_forearm_stays(
    placement: tuple[float, float, float, bool], along: float, across: float
) -> None:
    row = index_of(RADIUS)

    def steadied_by(along: float, across: float) -> np.ndarray:
        points = seen(*placement)
        ends = seen(*placement, shape=np.array([[0.0, 0.0], [across, along]]))
        points[row] += ends[1] - ends[0]
        before = points.copy()
        after = steadied(points, ALL)
        np.testing.assert_array_equal(points, before)
        np.testing.assert_array_equal(np.delete(after, row, 0), np.delete(points, row, 0))
        back = in_median_frame(after, np.arange(len(LANDMARKS)) != row)
        assert back is not None
        return back[row]

    moved = steadied_by(along, across) - steadied_by(0.0, 0.0)
    np.testing.assert_allclose(moved, (across, along / 2), atol=1e-6)


def test_a_hand_that_lies_aslant_does_not_say() -> None:
    assert widening(seen(math.pi / 4, 100.0, 0.7, False), ALL) == 1.0
    assert widening(np.zeros((len(LANDMARKS), 2)), ALL) == 1.0


def test_a_bone_that_turns_back_loses_its_less_certain_end() -> None:
    points = seen(0.0, 100.0, 1.0, False)
    tip, joint = index_of(DIP, 3), index_of(PIP, 3)
    points[tip] = points[joint] - 0.5 * (points[tip] - points[joint])
    doubtful = SURE.copy()
    doubtful[tip] = 0.5
    kept = consistent(points, doubtful, 0.4)
    assert not kept[tip]
    assert kept[joint]


def test_the_unsure_are_left_out_and_too_few_are_no_hand() -> None:
    points, confidence = seen(0.2, 80.0, 1.0, True), SURE.copy()
    confidence[:3] = 0.1
    kept = consistent(points, confidence, 0.4)
    np.testing.assert_array_equal(kept, confidence >= 0.4)
    confidence[7:] = 0.1
    assert not consistent(points, confidence, 0.4).any()


def test_points_on_a_line_or_at_random_are_no_hand() -> None:
    line = np.linspace(0, 1, len(LANDMARKS))[:, None] * np.array([[30.0, 50.0]])
    assert not consistent(line, SURE, 0.4).any()
    rng = np.random.default_rng(1)
    for _ in range(20):
        scattered = rng.uniform(0, 160, (len(LANDMARKS), 2))
        assert not consistent(scattered, SURE, 0.4).any()


def test_boxes_grow_with_the_hand_and_need_its_knuckles() -> None:
    points = seen(0.0, 60.0, 1.0, False)
    small, large = (region_boxes(points * factor, SURE, ALL) for factor in (1.0, 3.0))
    assert [(box.region, box.finger) for box in small] == [
        landmark for landmark in LANDMARKS if landmark[0] != "tip"
    ]
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(
            [3 * one.x_px, 3 * one.y_px, 3 * one.width_px, 3 * one.height_px],
            [other.x_px, other.y_px, other.width_px, other.height_px],
        )
    without = ALL.copy()
    without[index_of(MCP, 5)] = False
    assert region_boxes(points, SURE, without) == ()

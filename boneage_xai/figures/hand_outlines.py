"""Outlines of a median left hand at an age, region by region, from the phantom's skeleton."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage_xai import anatomy
from boneage_xai.phantom.growth import maturities, median_hand
from boneage_xai.phantom.shapes import Field, Frame, locate
from boneage_xai.phantom.skeleton import Landmark, Pose, Skeleton, build_skeleton
from boneage_xai.phantom.soft_tissue import soft_tissue
from boneage_xai.types import Sex

Points = npt.NDArray[np.float64]

# In shares of the hand's size against a median adult man's.
_PITCH_MM = 0.5
_MARGIN_MM = 15.0
_FOREARM_TO_MM = -58.0
# A joint is a rounded area, wrist and forearm rather boxes, as they are labelled.
_JOINT_POWER, _ZONE_POWER = 2.6, 6.0
_CORNERS = 40
# How far an outline may leave the grid's, in pixels: more than that is seen, less is only weight.
_TOLERANCE_PX = 0.3


@dataclass(frozen=True, eq=False)
class Shape:
    """A closed outline.

    Args:
        region: the region that it belongs to.
        points: (k, 2) x and y in mm, y up, the last not repeated.
        is_bone: whether it is a bone or epiphysis, rather than the area of a region.
    """

    region: str
    points: Points
    is_bone: bool


@dataclass(frozen=True, eq=False)
class HandOutlines:
    """A hand to draw: what comes later lies on top.

    Args:
        skin: outlines of the soft tissue; holes between fingers run the other way round.
        areas: wrist and forearm as they are labelled, then bones, then joints.
        bones: bones and epiphyses alone, to be drawn as lines over the areas.
        box_mm: (x_min, x_max, y_min, y_max) of the skin.
    """

    skin: tuple[Points, ...]
    areas: tuple[Shape, ...]
    bones: tuple[Shape, ...]
    box_mm: tuple[float, float, float, float]

    def regions(self) -> tuple[str, ...]:
        """Return the regions that can be coloured, soft tissue included."""
        found = dict.fromkeys(shape.region for shape in self.areas)
        return (anatomy.SOFT_TISSUE, *found)


@functools.lru_cache(maxsize=32)
def hand_outlines(sex: Sex, age_months: float) -> HandOutlines:
    """Return the outlines of the median left hand, fingers up and thumb to the right.

    Args:
        sex: sex.
        age_months: bone age in months.

    Returns:
        Outlines that follow the phantom's labels: bones and epiphyses apart until they are
        fused, joints over bones, both over wrist and forearm, and these over soft tissue.

    Raises:
        ConfigError: the age is negative or not a number.
    """
    hand = median_hand(sex, age_months)
    skeleton = build_skeleton(hand, maturities(hand), Pose())
    frame = _frame(skeleton)
    depth, _ = soft_tissue(hand, skeleton, frame)
    skin = tuple(_contours(depth, frame))
    zones = [
        _rounded(anatomy.CARPALS if one.region == "wrist" else one.region, one, _ZONE_POWER)
        for one in skeleton.landmarks
        if one.finger is None
    ]
    bones = tuple(_bones(skeleton, frame.finer(2)))
    joints = [
        _rounded(one.region, one, _JOINT_POWER)
        for one in skeleton.landmarks
        if one.finger is not None
    ]
    every = np.concatenate(skin)
    low, high = every.min(axis=0), every.max(axis=0)
    box = float(low[0]), float(high[0]), float(low[1]), float(high[1])
    return HandOutlines(skin, (*zones, *bones, *joints), bones, box)


def _frame(skeleton: Skeleton) -> Frame:
    """Return a grid that holds the hand and a part of the forearm."""
    points = np.array([point for ray in skeleton.rays.values() for point in ray])
    margin, pitch = _MARGIN_MM * skeleton.scale, _PITCH_MM * skeleton.scale
    left, right = points[:, 0].min() - margin, points[:, 0].max() + margin
    # The forearm is wider than a small child's fingers reach.
    half = 46.0 * skeleton.scale
    left, right = min(left, -half), max(right, half)
    top, bottom = points[:, 1].max() + margin, _FOREARM_TO_MM * skeleton.scale
    # Multiples of four, for which soft tissue has a faster grid.
    rows, columns = (4 * math.ceil(span / pitch / 4) for span in (top - bottom, right - left))
    return Frame(rows, columns, pitch, float(left), float(top))


def _bones(skeleton: Skeleton, frame: Frame) -> Iterator[Shape]:
    for part in skeleton.parts:
        window = frame.window(part.solid.reach_mm(), 2 * frame.mm_per_px)
        if window is None or not part.labelled:
            continue
        rows, columns, x, y = window
        place = Frame(
            rows.stop - rows.start,
            columns.stop - columns.start,
            frame.mm_per_px,
            frame.left_mm + columns.start * frame.mm_per_px,
            frame.top_mm - rows.start * frame.mm_per_px,
        )
        for points in _contours(locate(part.solid, x, y).edge_mm, place):
            yield Shape(part.region, points, is_bone=True)


def _contours(field: Field, frame: Frame) -> Iterator[Points]:
    """Yield the closed outlines in mm of where a field (H, W) is positive."""
    # Imported here: scikit-image takes a second to load.
    from skimage import measure

    tools: Any = measure
    # A frame of what is outside closes the outline of what reaches the border.
    framed = np.pad(field.astype(np.float64), 1, constant_values=-1e-3)
    for rows_columns in tools.find_contours(framed, 0.0):
        kept = tools.approximate_polygon(rows_columns, _TOLERANCE_PX)[:-1]
        if len(kept) >= 3:
            row, column = kept.T - 1
            yield np.stack(
                [
                    frame.left_mm + (column + 0.5) * frame.mm_per_px,
                    frame.top_mm - (row + 0.5) * frame.mm_per_px,
                ],
                axis=1,
            )


def _rounded(region: str, landmark: Landmark, power: float) -> Shape:
    """Return a superellipse that has the landmark's extents and direction."""
    turn = np.linspace(0.0, 2 * np.pi, _CORNERS, endpoint=False)
    cosine, sine = np.cos(turn), np.sin(turn)
    across = landmark.half_across_mm * np.sign(cosine) * np.abs(cosine) ** (2 / power)
    along = landmark.half_along_mm * np.sign(sine) * np.abs(sine) ** (2 / power)
    turned_sine, turned_cosine = math.sin(landmark.angle_rad), math.cos(landmark.angle_rad)
    x = landmark.x_mm + along * turned_sine + across * turned_cosine
    y = landmark.y_mm + along * turned_cosine - across * turned_sine
    return Shape(region, np.stack([x, y], axis=1), is_bone=False)

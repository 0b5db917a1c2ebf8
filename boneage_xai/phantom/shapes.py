"""Shapes of the phantom: bones as waisted, rounded solids with cortex and marrow.

One primitive serves shafts, epiphyses and carpals: an axis with a half-width that varies
along it, ends that may be tilted or curved, and rounded corners. Its section is round, so
that its thickness falls smoothly to its sides and in a step at a flat end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

_STEP_MM = 0.35


@dataclass(frozen=True)
class Solid:
    """A bone, or a part of one, in the plane of the hand (mm, x to the right, y up).

    Args:
        x_mm: x of the middle of its base end.
        y_mm: y of the middle of its base end.
        angle_rad: direction from base to head, from +y towards +x.
        length_mm: distance from base to head along the axis.
        base_mm: half-width at the base.
        middle_mm: half-width at the waist.
        head_mm: half-width at the head.
        base_flare: share of the length over which the base narrows to the waist.
        head_flare: share of the length over which the head narrows to the waist.
        base_plateau: share of the length over which the width of the base is kept.
        head_plateau: share of the length over which the width of the head is kept.
        base_round_mm: corner radius at the base.
        head_round_mm: corner radius at the head.
        base_bow_mm: how far the rim of the base end recedes (negative: its middle does).
        head_bow_mm: how far the rim of the head end recedes (negative: its middle does).
        base_tilt: slope of the base end across the axis.
        head_tilt: slope of the head end across the axis.
        cortex_mm: thickness of the cortex at the waist.
        shell_mm: thickness of the cortex at the ends.
        end_plate: thickness of the plate of bone that closes an end, in shares of that.
        marrow: mineral in the marrow space against cortex, in [0, 1].
        mineral: density factor of the whole solid.
        flat: thickness under the beam against width.
    """

    x_mm: float
    y_mm: float
    angle_rad: float
    length_mm: float
    base_mm: float
    middle_mm: float
    head_mm: float
    base_flare: float = 0.5
    head_flare: float = 0.4
    base_plateau: float = 0.0
    head_plateau: float = 0.0
    base_round_mm: float = 1.0
    head_round_mm: float = 1.0
    base_bow_mm: float = 0.0
    head_bow_mm: float = 0.0
    base_tilt: float = 0.0
    head_tilt: float = 0.0
    cortex_mm: float = 1.0
    shell_mm: float = 0.5
    end_plate: float = 0.45
    marrow: float = 0.3
    mineral: float = 1.0
    flat: float = 1.0

    def point(self, along_mm: float, across_mm: float = 0.0) -> tuple[float, float]:
        """Return (x, y) in mm of a point given along and across the axis."""
        sine, cosine = math.sin(self.angle_rad), math.cos(self.angle_rad)
        return (
            self.x_mm + along_mm * sine + across_mm * cosine,
            self.y_mm + along_mm * cosine - across_mm * sine,
        )

    def reach_mm(self) -> tuple[float, float, float, float]:
        """Return (x_min, x_max, y_min, y_max) in mm of a box that holds the solid."""
        half = max(self.base_mm, self.middle_mm, self.head_mm)
        below = abs(self.base_bow_mm) + abs(self.base_tilt) * half
        above = abs(self.head_bow_mm) + abs(self.head_tilt) * half
        corners = [
            self.point(along, across)
            for along in (-below, self.length_mm + above)
            for across in (-half, half)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), max(xs), min(ys), max(ys)


@dataclass(frozen=True)
class Frame:
    """The pixel grid in the plane of the hand.

    Args:
        height_px: rows.
        width_px: columns.
        mm_per_px: size of a pixel.
        left_mm: x of the left edge of the image.
        top_mm: y of the upper edge of the image.
    """

    height_px: int
    width_px: int
    mm_per_px: float
    left_mm: float
    top_mm: float

    def finer(self, factor: int) -> Frame:
        """Return the grid with ``factor`` times as many rows and columns."""
        return Frame(
            self.height_px * factor,
            self.width_px * factor,
            self.mm_per_px / factor,
            self.left_mm,
            self.top_mm,
        )

    def to_px(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Return (x, y) in pixels of a point in mm; the first pixel's centre is at 0.5."""
        return (x_mm - self.left_mm) / self.mm_per_px, (self.top_mm - y_mm) / self.mm_per_px

    def window(
        self, reach_mm: tuple[float, float, float, float], margin_mm: float = 0.0
    ) -> tuple[slice, slice, Field, Field] | None:
        """Return the part of the grid around a box.

        Args:
            reach_mm: (x_min, x_max, y_min, y_max).
            margin_mm: how much the box is widened on every side.

        Returns:
            Row slice, column slice, x (1, w) and y (h, 1) of the pixel centres in mm; None
            when the box lies outside the image.
        """
        x_min, x_max, y_min, y_max = reach_mm
        left, top = self.to_px(x_min - margin_mm, y_max + margin_mm)
        right, bottom = self.to_px(x_max + margin_mm, y_min - margin_mm)
        first_row, last_row = (
            max(0, math.floor(top) - 1),
            min(self.height_px, math.ceil(bottom) + 1),
        )
        first_col, last_col = max(0, math.floor(left) - 1), min(self.width_px, math.ceil(right) + 1)
        if first_row >= last_row or first_col >= last_col:
            return None
        x = self.left_mm + (np.arange(first_col, last_col, dtype=np.float32) + 0.5) * self.mm_per_px
        y = self.top_mm - (np.arange(first_row, last_row, dtype=np.float32) + 0.5) * self.mm_per_px
        return (
            slice(first_row, last_row),
            slice(first_col, last_col),
            x.astype(np.float32)[None, :],
            y.astype(np.float32)[:, None],
        )


@dataclass(frozen=True, eq=False)
class Inside:
    """Where points lie in a solid; every field is (h, w) float32.

    Args:
        edge_mm: signed distance to the outline, positive inside.
        across_mm: distance from the axis.
        end_mm: distance to the nearer end, positive inside.
        half_width_mm: half-width of the solid before its corners are rounded.
        round_mm: corner radius of the nearer end.
        share: position along the axis, 0 at the base and 1 at the head.
    """

    edge_mm: Field
    across_mm: Field
    end_mm: Field
    half_width_mm: Field
    round_mm: Field
    share: Field


def locate(solid: Solid, x_mm: Field, y_mm: Field) -> Inside:
    """Return where points lie in a solid.

    Args:
        solid: the solid.
        x_mm: (1, w) or (h, w) x of the points.
        y_mm: (h, 1) or (h, w) y of the points.
    """
    sine, cosine = np.float32(math.sin(solid.angle_rad)), np.float32(math.cos(solid.angle_rad))
    dx, dy = x_mm - np.float32(solid.x_mm), y_mm - np.float32(solid.y_mm)
    along = dx * sine + dy * cosine
    across = dx * cosine - dy * sine
    length = np.float32(solid.length_mm)
    share: Field = np.clip(along / length, 0, 1)
    from_base: Field = np.clip(1 - (share - solid.base_plateau) / solid.base_flare, 0, 1)
    from_head: Field = np.clip(1 - (1 - share - solid.head_plateau) / solid.head_flare, 0, 1)
    half_width: Field = np.float32(solid.middle_mm) + (
        np.float32(solid.base_mm - solid.middle_mm) * from_base * from_base
        + np.float32(solid.head_mm - solid.middle_mm) * from_head * from_head
    )
    inward_base, inward_head = along, length - along
    if solid.base_bow_mm or solid.base_tilt:
        inward_base = inward_base - _end(across, solid.base_mm, solid.base_bow_mm, solid.base_tilt)
    if solid.head_bow_mm or solid.head_tilt:
        inward_head = inward_head - _end(across, solid.head_mm, solid.head_bow_mm, solid.head_tilt)
    end = np.minimum(inward_base, inward_head)
    across = np.abs(across)
    radius = np.where(share < 0.5, np.float32(solid.base_round_mm), np.float32(solid.head_round_mm))
    outward, sideways = radius - end, across - half_width + radius
    corner = np.sqrt(np.maximum(outward, 0) ** 2 + np.maximum(sideways, 0) ** 2)
    edge = radius - corner - np.minimum(np.maximum(outward, sideways), 0)
    return Inside(edge, across, end, half_width, radius, share)


def _end(across: Field, half_width: float, bow: float, tilt: float) -> Field:
    """Return how far an end lies inward of its plane, (h, w) in mm: nothing bulges beyond."""
    curve = across / np.float32(half_width)
    curved = np.float32(bow) * (curve * curve if bow > 0 else curve * curve - 1)
    inward: Field = curved + np.float32(tilt) * across
    return inward


def chord_mm(depth_mm: Field, half_width_mm: Field) -> Field:
    """Return the chord through a round body of this half-width at this depth, in mm."""
    inside = np.minimum(np.maximum(depth_mm, 0), half_width_mm)
    chord: Field = 2 * np.sqrt(inside * (2 * half_width_mm - inside))
    return chord


def mineral_mm(solid: Solid, inside: Inside, texture: Field | None = None) -> Field:
    """Return the mineral a ray meets in a solid, as mm of cortical bone.

    Args:
        solid: the solid.
        inside: where the points lie in it.
        texture: (h, w) relative density of the bone, None for an even one.

    Returns:
        (h, w) float32.
    """
    waist = np.float32(4) * inside.share * (1 - inside.share)
    shell = np.float32(solid.shell_mm)
    cortex = shell + np.float32(solid.cortex_mm - solid.shell_mm) * waist
    # Spongy bone is densest at the ends; the middle of a shaft is marrow.
    spongy = np.float32(solid.marrow) * (np.float32(1.3) - np.float32(0.8) * waist)
    outer = _thickness_mm(inside, 0.0, inside.half_width_mm)
    plate_mm = solid.end_plate * solid.shell_mm
    inner = _thickness_mm(inside, plate_mm, inside.half_width_mm - cortex)
    solid_share = outer - (1 - spongy) * np.minimum(inner, outer)
    if texture is not None:
        solid_share = solid_share * texture
    mineral: Field = np.float32(solid.mineral * solid.flat) * solid_share
    return mineral


def _thickness_mm(inside: Inside, shell_mm: float, half_width_mm: Field) -> Field:
    """Return the thickness of a body of round section whose ends lie ``shell_mm`` further in."""
    end = inside.end_mm - np.float32(shell_mm)
    missing = np.maximum(inside.round_mm - end, 0)
    rounded = np.sqrt(np.maximum(inside.round_mm**2 - missing**2, 0)) - inside.round_mm
    outline = np.maximum(half_width_mm + rounded, np.float32(0.02))
    section = np.sqrt(np.maximum(1 - (inside.across_mm / outline) ** 2, 0))
    # A flat end is a step, softened over less than a pixel.
    step = np.clip(end / np.float32(_STEP_MM), 0, 1)
    thickness: Field = (
        2 * np.sqrt(outline * np.maximum(half_width_mm, np.float32(0.02))) * section * step
    )
    return thickness

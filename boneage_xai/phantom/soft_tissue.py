"""Soft tissue of the phantom's hand: its outline, and how thick it is under the beam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from boneage_xai.anatomy import FINGERS
from boneage_xai.phantom.growth import Hand, length_share
from boneage_xai.phantom.nuisances import Irregularity
from boneage_xai.phantom.shapes import Field, Frame, chord_mm
from boneage_xai.phantom.skeleton import Skeleton

# Half-widths of the fingers of an adult man in mm at knuckle, middle joint, end joint and tip.
_FINGER_MM = (10.3, 8.8, 7.5, 6.3)
_THUMB_MM = (12.5, 10.4, 8.0)
_FINGER_WIDTH = {1: 1.0, 2: 1.0, 3: 1.03, 4: 0.97, 5: 0.87}
_TIP_BEYOND_BONE_MM = 1.5
# Fat and skin of infants are thick against their bones, of children hardly: by the metacarpals'
# share of their adult length, after widths of fingers measured on radiographs.
_METACARPAL_SHARE = (0.30, 0.375, 0.48, 0.62, 0.76, 1.0)
_RELATIVE_WIDTH = (1.48, 1.42, 1.30, 1.08, 1.02, 1.0)

# Limbs end, and thin ones lie in thick ones, over so many mm (standard deviation).
_SMOOTH_MM = 5.0

Limb = tuple[float, float, float, float, float, float, float]
"""A tapered limb: x0, y0, x1, y1, half-width at both ends, half-thickness (mm)."""


def soft_tissue(
    hand: Hand, skeleton: Skeleton, frame: Frame, uneven: Irregularity | None = None
) -> tuple[Field, Field]:
    """Return outline and thickness of the soft tissue.

    Fingers, palm, ball of the thumb and forearm are tapered limbs that melt into each other.

    Args:
        hand: the individual.
        skeleton: its placed bones.
        frame: grid to draw on; an even number of pixels each way.
        uneven: how its thickness varies, None for an even one.

    Returns:
        (H, W) depth below the skin in mm (positive inside) and (H, W) thickness in mm.
    """
    limbs = np.array(list(_limbs(hand, skeleton)), dtype=np.float32)
    # Depth is smooth, so a coarse grid and linear interpolation lose nothing that is seen.
    step = 4 if frame.height_px % 4 == 0 and frame.width_px % 4 == 0 else 2
    rows, columns = frame.height_px // step, frame.width_px // step
    pitch = frame.mm_per_px * step
    x = frame.left_mm + (np.arange(columns, dtype=np.float32) + np.float32(0.5)) * np.float32(pitch)
    y = frame.top_mm - (np.arange(rows, dtype=np.float32) + np.float32(0.5)) * np.float32(pitch)
    depth, half = _melt(
        limbs,
        x.astype(np.float32)[None, :],
        y.astype(np.float32)[:, None],
        np.float32(1.9 * skeleton.scale),
    )
    half = _smoothed_within(half, depth > 0, _SMOOTH_MM * skeleton.scale / pitch)
    size = (frame.width_px, frame.height_px)
    depth = np.asarray(Image.fromarray(depth).resize(size, Image.Resampling.BILINEAR))
    half = np.asarray(Image.fromarray(half).resize(size, Image.Resampling.BILINEAR))
    thickness = chord_mm(depth, half)
    return depth, thickness if uneven is None else thickness * uneven.thickness


def _melt(limbs: Field, x: Field, y: Field, softness: np.float32) -> tuple[Field, Field]:
    """Return smooth union of the limbs: depth and half-thickness, each (h, w)."""
    total = np.zeros((y.shape[0], x.shape[1]), dtype=np.float32)
    weighted = np.zeros_like(total)
    for x0, y0, x1, y1, r0, r1, half in limbs:
        dx, dy = x1 - x0, y1 - y0
        px, py = x - x0, y - y0
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        depth = r0 + (r1 - r0) * along - np.hypot(px - dx * along, py - dy * along)
        # Depths are capped so that the union of many limbs cannot swell.
        weight = np.exp(np.clip(depth, -60 * softness, 14 * softness) / softness)
        total += weight
        weighted += weight * half
    floor = np.float32(1e-20)
    return softness * np.log(total + floor), weighted / (total + floor)


def _smoothed_within(values: Field, inside: npt.NDArray[np.bool_], sd_px: float) -> Field:
    """Return values blurred by those inside alone, so that no end of a limb shows deep inside."""
    share = ndimage.gaussian_filter(inside.astype(np.float32), sd_px)
    blurred = ndimage.gaussian_filter(np.where(inside, values, np.float32(0)), sd_px)
    smooth: Field = np.where(inside, blurred / np.maximum(share, np.float32(1e-6)), values)
    return smooth


def _limbs(hand: Hand, skeleton: Skeleton) -> Iterator[Limb]:
    scale = skeleton.scale
    share = length_share(hand.sex, hand.age_months)
    size = hand.soft_tissue_scale * share
    size *= float(np.interp(share, _METACARPAL_SHARE, _RELATIVE_WIDTH))
    size *= 1.0 if hand.sex.is_male else 0.9
    rays = skeleton.rays
    for finger in FINGERS:
        points = rays[finger]
        radii = [
            size * _FINGER_WIDTH[finger] * r for r in (_THUMB_MM if finger == 1 else _FINGER_MM)
        ]
        joints = list(points[1:-1])
        end, last = points[-1], points[-2]
        bone = math.dist(end, last)
        # The pad ends a little beyond the bone; the limb's own radius rounds it off.
        share = 1 + (_TIP_BEYOND_BONE_MM * size - 0.5 * radii[-1]) / bone
        tip = (last[0] + (end[0] - last[0]) * share, last[1] + (end[1] - last[1]) * share)
        stations = [*joints, tip]
        for i in range(len(stations) - 1):
            yield (
                *stations[i],
                *stations[i + 1],
                radii[i],
                radii[i + 1],
                0.56 * (radii[i] + radii[i + 1]),
            )
        root = points[0]
        if finger == 1:
            yield (*root, *points[1], 16.5 * size, 13.0 * size, 13.0 * size)
        else:
            yield (*root, *points[1], 12.5 * size, 10.8 * size, 11.0 * size)
            if finger == 5:
                yield (*_beside(root, points[1]), *points[1], 13.5 * size, 10.0 * size, 11.0 * size)
    # Webs between the fingers reach to about half of the proximal phalanges.
    webs = [_between(rays[f][1], rays[f][2], 0.32) for f in (2, 3, 4, 5)]
    for start, end in pairwise(webs):
        yield (*start, *end, 8.5 * size, 8.5 * size, 8.0 * size)
    for start, end in pairwise(rays[f][1] for f in (2, 3, 4, 5)):
        yield (*start, *end, 10.5 * size, 10.5 * size, 9.5 * size)
    # The web of the thumb, and its ball.
    thumb, index = _between(rays[1][0], rays[1][1], 0.62), _between(rays[2][0], rays[2][1], 0.55)
    yield (*thumb, *index, 12.0 * size, 12.0 * size, 9.5 * size)
    thumb, index = _between(rays[1][0], rays[1][1], 0.25), _between(rays[3][0], rays[3][1], 0.3)
    yield (*thumb, *index, 14.0 * size, 12.0 * size, 12.5 * size)

    def place(x_mm: float, y_mm: float) -> tuple[float, float]:
        turn = skeleton.rotation_rad + skeleton.forearm_rad
        sine, cosine = math.sin(turn), math.cos(turn)
        return (
            scale * (x_mm * cosine + y_mm * sine),
            scale * (y_mm * cosine - x_mm * sine),
        )

    yield (*place(-14, 5), *place(-11, -18), 22.0 * size, 21.5 * size, 16.5 * size)
    yield (*place(11, 2), *place(5, -20), 23.0 * size, 24.0 * size, 17.5 * size)
    yield (*place(-4.5, -8), *place(-4.5, -65), 30.5 * size, 33.0 * size, 20.0 * size)
    yield (*place(-4.5, -65), *place(-3, -230), 33.0 * size, 45.0 * size, 24.0 * size)


def _beside(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Return a point to the left of ``start`` as seen towards ``end``, by a tenth of the way."""
    return start[0] - 0.1 * (end[1] - start[1]), start[1] + 0.1 * (end[0] - start[0])


def _between(
    start: tuple[float, float], end: tuple[float, float], share: float
) -> tuple[float, float]:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share

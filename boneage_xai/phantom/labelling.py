"""Label maps of a drawn hand: grouped regions, and every bone and epiphysis by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boneage_xai import anatomy
from boneage_xai.anatomy import PART_LABELS, PART_NAMES, REGION_LABELS, REGION_NAMES
from boneage_xai.phantom.nuisances import Irregularity, Marker, marker_field, marker_window
from boneage_xai.phantom.ossification import Part
from boneage_xai.phantom.shapes import Field, Frame, Inside, locate
from boneage_xai.phantom.skeleton import Landmark
from boneage_xai.types import LabelImage, RegionMap

_SOFT = REGION_LABELS[anatomy.SOFT_TISSUE]


@dataclass(frozen=True, eq=False)
class Outline:
    """Where a piece of bone lies on the fine grid.

    Args:
        part: the piece.
        rows: rows of the window around it.
        columns: columns of the window.
        inside: where the window's points lie in it, fields of (h, w).
    """

    part: Part
    rows: slice
    columns: slice
    inside: Inside


def outline(part: Part, fine: Frame, uneven: Irregularity | None = None) -> Outline | None:
    """Return where a piece of bone lies on the fine grid, None when outside the image.

    Args:
        part: the piece.
        fine: the grid with twice the image's rows and columns.
        uneven: how its outline is irregular, None for an even one.
    """
    if uneven is None:
        window = fine.window(part.solid.reach_mm())
    else:
        # Shares of the image's longer side become mm.
        side = fine.mm_per_px * max(fine.height_px, fine.width_px)
        window = fine.window(part.solid.reach_mm(), uneven.reach * side)
    if window is None:
        return None
    rows, columns, x, y = window
    if uneven is not None:
        x = x + np.float32(side) * uneven.shift_x[rows, columns]
        y = y + np.float32(side) * uneven.shift_y[rows, columns]
    return Outline(part, rows, columns, locate(part.solid, x, y))


def label_regions(
    outlines: Sequence[Outline],
    landmarks: Sequence[Landmark],
    depth_mm: Field,
    fine: Frame,
    marker: Marker | None = None,
    mirrored: bool = False,
) -> RegionMap:
    """Label the regions of a hand, joints as readers box them.

    Args:
        outlines: every piece of bone, in the order of drawing.
        landmarks: joints, wrist and distal forearm bones.
        depth_mm: (2H, 2W) depth below the skin.
        fine: the grid with twice the image's rows and columns.
        marker: the marker over the finished image.
        mirrored: whether the image shows the hand the other way round.

    Returns:
        (H, W) labels, see ``anatomy.REGION_NAMES``.
    """
    skin = depth_mm > 0
    labels = skin.astype(np.uint8) * np.uint8(REGION_LABELS[anatomy.SOFT_TISSUE])
    # Zones first, so that bones keep their own names where they reach into one.
    zone_of = {"wrist": anatomy.CARPALS}
    for landmark in landmarks:
        if landmark.finger is None:
            region = zone_of.get(landmark.region, landmark.region)
            _label_zone(labels, skin, fine, landmark, REGION_LABELS[region])
    for one in outlines:
        if one.part.labelled:
            labels[one.rows, one.columns][one.inside.edge_mm > 0] = REGION_LABELS[one.part.region]
    for landmark in landmarks:
        if landmark.finger is not None:
            _label_zone(labels, skin, fine, landmark, REGION_LABELS[landmark.region])
    return RegionMap(
        _finish(labels, marker, mirrored, REGION_LABELS[anatomy.MARKER]), dict(REGION_NAMES)
    )


def label_parts(
    outlines: Sequence[Outline],
    depth_mm: Field,
    marker: Marker | None = None,
    mirrored: bool = False,
) -> RegionMap:
    """Label every bone and epiphysis by itself; a fused bone has one label.

    Args:
        outlines: every piece of bone, in the order of drawing.
        depth_mm: (2H, 2W) depth below the skin.
        marker: the marker over the finished image.
        mirrored: whether the image shows the hand the other way round.

    Returns:
        (H, W) labels, see ``anatomy.PART_NAMES``.
    """
    labels = (depth_mm > 0).astype(np.uint8) * np.uint8(PART_LABELS[anatomy.SOFT_TISSUE])
    for one in outlines:
        if one.part.labelled:
            labels[one.rows, one.columns][one.inside.edge_mm > 0] = PART_LABELS[one.part.part_id]
    return RegionMap(
        _finish(labels, marker, mirrored, PART_LABELS[anatomy.MARKER]), dict(PART_NAMES)
    )


def _label_zone(
    labels: LabelImage, skin: npt.NDArray[np.bool_], fine: Frame, landmark: Landmark, value: int
) -> None:
    reach = math.hypot(landmark.half_across_mm, landmark.half_along_mm)
    window = fine.window(
        (
            landmark.x_mm - reach,
            landmark.x_mm + reach,
            landmark.y_mm - reach,
            landmark.y_mm + reach,
        )
    )
    if window is None:
        return
    rows, columns, x, y = window
    sine, cosine = math.sin(landmark.angle_rad), math.cos(landmark.angle_rad)
    dx, dy = x - np.float32(landmark.x_mm), y - np.float32(landmark.y_mm)
    across = np.abs(dx * np.float32(cosine) - dy * np.float32(sine))
    along = np.abs(dx * np.float32(sine) + dy * np.float32(cosine))
    inside = (across <= landmark.half_across_mm) & (along <= landmark.half_along_mm)
    labels[rows, columns][inside & skin[rows, columns]] = value


def _finish(labels: LabelImage, marker: Marker | None, mirrored: bool, value: int) -> LabelImage:
    """Return labels on the image's grid: the most frequent of each block, the highest of equals.

    Bone and joints go before soft tissue however few, so that thin bone stays, and the marker
    before all.
    """
    if mirrored:
        labels = labels[:, ::-1].copy()
    if marker is not None:
        labels[marker_window(marker)][marker_field(marker) > 0] = value
    # Both kinds of map give soft tissue the same label.
    block = np.stack([labels[row::2, column::2] for row in (0, 1) for column in (0, 1)])
    counts = sum((block == other).astype(np.int32) for other in block)
    first = (counts * (block > _SOFT) + len(block) * (block == value)) * 256 + block
    coarse: LabelImage = np.take_along_axis(block, first.argmax(axis=0)[None], axis=0)[0]
    return coarse

"""The boxes that readers draw around what they look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from boneage_xai.phantom.shapes import Frame
from boneage_xai.phantom.skeleton import Landmark


@dataclass(frozen=True)
class RegionBox:
    """The box that a reader would draw around a joint, the wrist or a forearm bone.

    Args:
        region: ``DIP``, ``PIP``, ``MCP``, ``wrist``, ``radius`` or ``ulna``.
        finger: 1 to 5, None for wrist and forearm.
        x_px: x of the centre.
        y_px: y of the centre.
        width_px: width.
        height_px: height.
    """

    region: str
    finger: int | None
    x_px: float
    y_px: float
    width_px: float
    height_px: float


def box_of(landmark: Landmark, frame: Frame, mirrored: bool = False) -> RegionBox:
    """Return the box around a landmark.

    Args:
        landmark: the place, in the plane of a left hand.
        frame: the image's grid.
        mirrored: whether the image shows the hand the other way round.
    """
    x, y = frame.to_px(landmark.x_mm, landmark.y_mm)
    x = frame.width_px - x if mirrored else x
    # Readers draw upright boxes around what is turned.
    sine, cosine = abs(math.sin(landmark.angle_rad)), abs(math.cos(landmark.angle_rad))
    across, along = landmark.half_across_mm, landmark.half_along_mm
    turned = landmark.finger is not None
    half_x = across * cosine + 0.5 * along * sine if turned else across
    half_y = along * cosine + 0.5 * across * sine if turned else along
    return RegionBox(
        landmark.region,
        landmark.finger,
        x,
        y,
        2 * half_x / frame.mm_per_px,
        2 * half_y / frame.mm_per_px,
    )

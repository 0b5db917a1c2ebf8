"""The boxes that readers draw, from landmarks: as large as the hand, turned as it is turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boneage_xai.anatomy import DIP, MCP, PIP, RADIUS, ULNA
from boneage_xai.regions.hand_shape import Chosen, Points, index_of
from boneage_xai.regions.locator_network import LANDMARKS, TIP, WRIST


@dataclass(frozen=True)
class LocatedRegion:
    """The box around a region of a radiograph.

    Args:
        region: ``DIP``, ``PIP``, ``MCP``, ``wrist``, ``radius`` or ``ulna``, or a user's own.
        finger: 1 (thumb) to 5, None for wrist and forearm.
        x_px: x of the centre in source pixels; the first pixel's centre is at 0.5.
        y_px: y of the centre.
        width_px: width.
        height_px: height.
        confidence: 0 to 1; 1 for what a person has drawn.
    """

    region: str
    finger: int | None
    x_px: float
    y_px: float
    width_px: float
    height_px: float
    confidence: float


# Shift of the box's centre from the landmark, along and across the hand, and its height and
# width: along in distances from wrist to middle knuckle, across in distances from the fifth to
# the second knuckle, towards the thumb. Medians over boxes of readers, rounded.
_BOXES: dict[tuple[str, int | None], tuple[float, float, float, float]] = {
    (MCP, 1): (0.01, 0.00, 0.30, 0.35),
    (MCP, 2): (0.08, 0.01, 0.35, 0.38),
    (MCP, 3): (0.09, -0.00, 0.33, 0.34),
    (MCP, 4): (0.11, -0.04, 0.34, 0.33),
    (MCP, 5): (0.08, -0.05, 0.32, 0.33),
    (PIP, 1): (-0.03, -0.03, 0.29, 0.31),
    (PIP, 2): (0.04, 0.01, 0.28, 0.31),
    (PIP, 3): (0.04, 0.00, 0.30, 0.31),
    (PIP, 4): (0.06, -0.02, 0.29, 0.29),
    (PIP, 5): (0.04, -0.04, 0.25, 0.25),
    (DIP, 2): (0.02, 0.01, 0.25, 0.26),
    (DIP, 3): (0.01, -0.00, 0.27, 0.27),
    (DIP, 4): (0.03, -0.01, 0.25, 0.26),
    (DIP, 5): (0.03, -0.02, 0.25, 0.26),
    (WRIST, None): (0.08, 0.03, 0.64, 1.21),
    (RADIUS, None): (0.07, 0.04, 0.37, 0.61),
    (ULNA, None): (0.06, 0.04, 0.31, 0.39),
}


def region_boxes(
    points: Points, confidence: npt.NDArray[np.floating], kept: Chosen
) -> tuple[LocatedRegion, ...]:
    """Return the boxes of the landmarks that are believed.

    Args:
        points: (L, 2) landmarks in source pixels.
        confidence: (L,) in [0, 1].
        kept: (L,) which of them are believed.

    Returns:
        In the order of ``LANDMARKS``, none of the tips; nothing where the landmarks that tell the
        size of the hand are missing.
    """
    axes = _axes(points, kept)
    if axes is None:
        return ()
    along, across = axes
    boxes = []
    for row, (region, finger) in enumerate(LANDMARKS):
        if region == TIP or not kept[row]:
            continue
        up, aside, tall, wide = _BOXES[region, finger]
        x, y = points[row] + up * along + aside * across
        # Upright boxes around what is turned: half of what a turned box would reach beyond.
        main, minor = np.abs(tall * along), np.abs(wide * across)
        width = max(minor[0], main[0]) + 0.5 * min(minor[0], main[0])
        height = max(main[1], minor[1]) + 0.5 * min(minor[1], main[1])
        boxes.append(
            LocatedRegion(
                region,
                finger,
                float(x),
                float(y),
                float(width),
                float(height),
                float(confidence[row]),
            )
        )
    return tuple(boxes)


def not_found(boxes: Sequence[LocatedRegion]) -> tuple[tuple[str, int | None], ...]:
    """Return region and finger of what a hand has and these boxes lack."""
    found = {(box.region, box.finger) for box in boxes}
    return tuple(part for part in _BOXES if part not in found)


def _axes(points: Points, kept: Chosen) -> tuple[Points, Points] | None:
    """Return the vectors from wrist to middle knuckle and from fifth to second knuckle."""
    wrist, third = index_of(WRIST), index_of(MCP, 3)
    fifth, second = index_of(MCP, 5), index_of(MCP, 2)
    if not kept[[wrist, third, fifth, second]].all():
        return None
    along = points[third] - points[wrist]
    across = points[second] - points[fifth]
    # Knuckles lie aslant; across is what of it is at right angles to the hand.
    unit = along / max(float(np.linalg.norm(along)), 1e-9)
    return along, across - (across @ unit) * unit

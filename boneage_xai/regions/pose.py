"""How a hand lies on its radiograph: how far it is turned, and whether it looks left or right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from boneage_xai.anatomy import MCP
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.regions.hand_shape import FEWEST, index_of, median_shape, median_to_image
from boneage_xai.regions.locator_network import LANDMARKS
from boneage_xai.types import Radiograph


@dataclass(frozen=True)
class HandPose:
    """How a hand lies on its radiograph.

    Args:
        turned_degrees: by how much, clockwise, the fingers point away from the upper edge; more
            than −180 and at most 180.
        looks_right: whether it looks like a right hand with its palm on the film, or like a left
            one's mirror image, which nothing on a radiograph but its marker tells apart.
    """

    turned_degrees: float
    looks_right: bool

    @property
    def quarter_turns(self) -> int:
        """Quarter turns, clockwise, that it is nearest to: 0 (upright) to 3."""
        return round(self.turned_degrees / 90) % 4

    @property
    def is_usual(self) -> bool:
        """Whether it lies like the hands of the RSNA data: upright, and a left one."""
        return self.quarter_turns == 0 and not self.looks_right


def hand_pose(boxes: Sequence[LocatedRegion]) -> HandPose | None:
    """Return how the hand lies that boxes show, None where they are too few to tell.

    Args:
        boxes: of one radiograph, in its pixels.
    """
    points = np.zeros((len(LANDMARKS), 2))
    kept = np.zeros(len(LANDMARKS), dtype=np.bool_)
    for box in boxes:
        if (box.region, box.finger) in LANDMARKS:
            row = index_of(box.region, box.finger)
            points[row], kept[row] = (box.x_px, box.y_px), True
    fitted = median_to_image(points, kept) if kept.sum() >= FEWEST else None
    if fitted is None:
        return None
    square, _ = fitted
    x, y = median_shape()[index_of(MCP, 3)] @ square
    return HandPose(float(np.degrees(np.arctan2(x, -y))), bool(np.linalg.det(square) < 0))


def laid_usually(radiograph: Radiograph, pose: HandPose) -> Radiograph:
    """Return a radiograph turned by quarter turns and mirrored, so that its hand lies as usual.

    Args:
        radiograph: (H, W) pixels in [0, 1].
        pose: how its hand lies.
    """
    pixels = np.rot90(radiograph.pixels, pose.quarter_turns)
    if pose.looks_right:
        pixels = pixels[:, ::-1]
    spacing = radiograph.pixel_spacing_mm
    if spacing is not None and pose.quarter_turns % 2:
        spacing = spacing[::-1]
    return replace(radiograph, pixels=np.ascontiguousarray(pixels), pixel_spacing_mm=spacing)

"""Framing: which part of the plane the image shows, and how much room is left beside the hand."""

from __future__ import annotations

from boneage_xai.phantom.nuisances import Framing
from boneage_xai.phantom.shapes import Frame
from boneage_xai.phantom.skeleton import Skeleton

# Height of the image in mm for an adult man's hand, and where its carpus lies.
_IMAGE_HEIGHT_MM = 292.0
_CARPUS_AT = (0.495, 0.695)
# How far a plate may end above the lower edge of the image, where the forearm leaves it.
_ROOM_BELOW = 0.06


def frame_of(skeleton: Skeleton, framing: Framing, size_px: int) -> Frame:
    """Return the grid that shows the whole hand, fingers up.

    Args:
        skeleton: the placed bones.
        framing: how much the image shows.
        size_px: longer side of the image.
    """
    height_mm = _IMAGE_HEIGHT_MM * skeleton.scale * framing.zoom
    width_mm = height_mm * framing.aspect
    tips = [point for ray in skeleton.rays.values() for point in ray]
    margin = 13.0 * skeleton.scale
    x_at = _CARPUS_AT[0] + framing.shift[0]
    y_at = _CARPUS_AT[1] + framing.shift[1]
    # Nobody cuts fingers off on purpose: the plate grows with the reach of the hand.
    reach_left = margin - min(x for x, _ in tips)
    reach_right = margin + max(x for x, _ in tips)
    reach_up = margin + max(y for _, y in tips)
    width_mm = max(width_mm, reach_left / x_at, reach_right / (1 - x_at))
    height_mm = max(height_mm, reach_up / y_at)
    mm_per_px = max(height_mm, width_mm) / size_px
    # Whole multiples of two keep the coarse grids inside aligned.
    height_px = min(size_px, 2 * round(height_mm / mm_per_px / 2))
    width_px = min(size_px, 2 * round(width_mm / mm_per_px / 2))
    return Frame(
        height_px,
        width_px,
        mm_per_px,
        left_mm=-x_at * width_px * mm_per_px,
        top_mm=y_at * height_px * mm_per_px,
    )


def room_beside(
    skeleton: Skeleton, frame: Frame, mirrored: bool
) -> tuple[float, float, float, float]:
    """Return the free space left, right, above and below the hand in shares of the image."""
    free = 9.0 * skeleton.scale / frame.mm_per_px
    points = [frame.to_px(x, y) for ray in skeleton.rays.values() for x, y in ray]
    xs, ys = zip(*points, strict=True)
    sides = (min(xs) - free) / frame.width_px, 1 - (max(xs) + free) / frame.width_px
    left, right = (max(0.0, share) for share in (sides[::-1] if mirrored else sides))
    return left, right, max(0.0, (min(ys) - free) / frame.height_px), _ROOM_BELOW

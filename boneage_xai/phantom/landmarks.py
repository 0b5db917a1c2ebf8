"""Where the landmarks of a phantom lie in its image, without drawing it."""

from __future__ import annotations

from dataclasses import dataclass

from boneage_xai.phantom.boxes import RegionBox, box_of
from boneage_xai.phantom.framing import frame_of
from boneage_xai.phantom.growth import Hand, maturities
from boneage_xai.phantom.nuisances import draw_framing, draw_pose
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.skeleton import build_skeleton


@dataclass(frozen=True)
class PlacedHand:
    """Landmarks of a phantom in its image; the first pixel's centre is at 0.5.

    Args:
        height_px: rows of the image.
        width_px: columns of the image.
        boxes: joints, wrist and distal forearm bones.
        tips_px: finger to x and y of the tip of its distal phalanx.
    """

    height_px: int
    width_px: int
    boxes: tuple[RegionBox, ...]
    tips_px: dict[int, tuple[float, float]]


def place_hand(hand: Hand, settings: PhantomSettings, seed: int) -> PlacedHand:
    """Place the landmarks of a phantom as ``rendering.draw`` does with the same arguments.

    Args:
        hand: the individual.
        settings: size, side and nuisances.
        seed: of the nuisances.
    """
    skeleton = build_skeleton(hand, maturities(hand), draw_pose(settings, seed))
    frame = frame_of(skeleton, draw_framing(settings, seed), settings.size_px)
    mirrored = settings.side == "right"
    tips = {}
    for finger, points in skeleton.rays.items():
        x, y = frame.to_px(*points[-1])
        tips[finger] = (frame.width_px - x if mirrored else x, y)
    return PlacedHand(
        frame.height_px,
        frame.width_px,
        tuple(box_of(landmark, frame, mirrored) for landmark in skeleton.landmarks),
        tips,
    )

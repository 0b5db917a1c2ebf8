"""What is taken out of a radiograph: regions, composites of them, and controls of equal area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.ndimage import label as label_pieces
from scipy.signal import correlate

from boneage_xai.anatomy import (
    BACKGROUND,
    DIP,
    MCP,
    METACARPAL_SHAFTS,
    NOT_BONE,
    OUTSIDE_HAND,
    PHALANGEAL_SHAFTS,
    PIP,
    SOFT_TISSUE,
)
from boneage_xai.regions.removal import feather, feather_px
from boneage_xai.types import RegionMap

Kind = Literal["region", "composite", "control"]
Mask = npt.NDArray[np.bool_]

ALL_JOINTS = "all_joints"
WHOLE_HAND = "whole_hand"
BACKGROUND_AND_MARKER = "background_and_marker"

_QUIET = {SOFT_TISSUE: 0.5, PHALANGEAL_SHAFTS: 1.0, METACARPAL_SHAFTS: 1.0}
_MOVED = " (moved)"
# Share of a moved piece that may lie where it should not, in the best place there is.
_OVERLAP = 0.1
_SLACK = 0.02
_EIGHT = np.ones((3, 3), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Removable:
    """An area to take out.

    Args:
        name: region, composite, or the name of a region's control.
        kind: ``region``, ``composite`` or ``control``.
        mask: (H, W) True where it is.
        hand_fraction: share of it that lies on the hand.
    """

    name: str
    kind: Kind
    mask: Mask
    hand_fraction: float


def control_of(region: str) -> str:
    """Return the name of the control of a region: its shape, moved elsewhere."""
    return region + _MOVED


def removables(regions: RegionMap) -> list[Removable]:
    """Return everything that is taken out of a case, one after the other.

    Args:
        regions: (H, W) labels with names.

    Returns:
        Regions that have pixels, in the order of their labels; the composites ``ALL_JOINTS``,
        ``WHOLE_HAND`` and ``BACKGROUND_AND_MARKER``; and for each region of bone that finds
        room for it the control of equal area. Empty where no hand was found.
    """
    masks: dict[str, Mask] = {}
    for value, name in sorted(regions.names.items()):
        found = regions.labels == value
        if found.any():
            masks[name] = masks[name] | found if name in masks else found
    if not set(masks) - set(OUTSIDE_HAND):
        return []
    composites = {
        ALL_JOINTS: [name for name in masks if name in (DIP, PIP, MCP)],
        WHOLE_HAND: [name for name in masks if name not in OUTSIDE_HAND],
        BACKGROUND_AND_MARKER: [name for name in masks if name in OUTSIDE_HAND],
    }
    areas: list[tuple[str, Kind, Mask]] = [(name, "region", mask) for name, mask in masks.items()]
    areas += [
        (name, "composite", np.logical_or.reduce([masks[part] for part in parts]))
        for name, parts in composites.items()
        if parts
    ]
    for name in masks:
        if name not in NOT_BONE and (moved := moved_region(masks, name)) is not None:
            areas.append((control_of(name), "control", moved))
    hand = np.logical_or.reduce([masks[part] for part in composites[WHOLE_HAND]])
    # What fills the picture leaves nothing to fill it from.
    return [
        Removable(name, kind, mask, float(hand[mask].mean()))
        for name, kind, mask in areas
        if not mask.all()
    ]


def moved_region(masks: dict[str, Mask], name: str) -> Mask | None:
    """Move a region, piece by piece, to where no growth is to be read.

    Every connected piece keeps its shape and goes to the nearest of the places that lie best:
    on shafts before soft tissue, and on soft tissue before the background, but not on the
    region itself, on other regions, or on another moved piece.

    Args:
        masks: (H, W) by region.
        name: the region to move.

    Returns:
        (H, W) of the same number of pixels, None where a piece finds no place that is clear of
        what it must not cover by nine tenths of its area.
    """
    quiet = {**_QUIET, BACKGROUND: 0.0}
    shape = masks[name].shape
    worth = np.zeros(shape)
    # As far as a filling reaches, so that the control leaves the region alone.
    forbidden = feather(masks[name], feather_px(shape)) > 0
    for other, mask in masks.items():
        if other in quiet and other != name:
            worth[mask] = quiet[other]
        else:
            forbidden |= mask
    pieces, count = label_pieces(masks[name], _EIGHT)
    places = find_objects(pieces)
    moved = np.zeros(shape, dtype=np.bool_)
    # The large ones first, while there is room.
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    for index in np.argsort(-sizes, kind="stable"):
        place = places[index]
        piece = pieces[place] == index + 1
        # One pixel of another moved piece is too much, or the area would not be equal.
        cost = forbidden + moved * float(piece.sum())
        corner = _best_corner(piece, (place[0].start, place[1].start), cost, worth)
        if corner is None:
            return None
        top, left = corner
        moved[top : top + piece.shape[0], left : left + piece.shape[1]] |= piece
    return moved


def _best_corner(
    piece: Mask,
    start: tuple[int, int],
    cost: npt.NDArray[np.float64],
    worth: npt.NDArray[np.float64],
) -> tuple[int, int] | None:
    """Return where the upper left corner of a piece goes, None where it finds no room."""
    area = float(piece.sum())
    shape = piece.astype(np.float64)
    covered = np.rint(correlate(cost, shape, "valid", "fft"))
    if covered.min() > _OVERLAP * area:
        return None
    clear = covered <= max(float(covered.min()), _SLACK * area)
    value = np.where(clear, correlate(worth, shape, "valid", "fft"), -1.0)
    good = clear & (value >= value.max() - _SLACK * area)
    top, left = np.nonzero(good)
    nearest = int(np.argmin((top - start[0]) ** 2 + (left - start[1]) ** 2))
    return int(top[nearest]), int(left[nearest])

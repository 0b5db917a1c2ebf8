"""What a hand can look like: landmarks that contradict the others are rejected.

Places are compared in the frame of a median hand, to which the found landmarks are fitted by an
affine map; so a hand may be left or right, turned, of any size, or squashed with its image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from boneage_xai.anatomy import DIP, FINGERS, MCP, PIP, RADIUS, ULNA
from boneage_xai.phantom.growth import median_hand
from boneage_xai.phantom.landmarks import place_hand
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.regions.locator_network import LANDMARKS, TIP, WRIST
from boneage_xai.types import Sex

Points = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]

FEWEST = 8
"""With fewer landmarks than this nothing is taken for a hand."""

# Farthest from its place in the median hand, in lengths from wrist to middle knuckle; more for
# what moves more. A thumb may also be abducted.
_FARTHEST = {MCP: 0.35, PIP: 0.55, DIP: 0.75, TIP: 0.9}
_FARTHEST_OTHERS = 0.45
_THUMB = 1.6
# Within a finger: sharpest bend, and range of a bone's length against its neighbour's.
_SHARPEST_COSINE = 0.45
_LENGTH_RATIO = (0.3, 1.6)
_ROUNDS = 10
_MEDIAN_AGE_MONTHS = 120.0
_SMALLEST_DETERMINANT = 1e-9
# Where the radius is seen along the forearm against the median hand's, its median over the half of
# the hands with boxes that sizes and offsets of boxes were taken from.
_RADIUS_ALONG = -0.034
# Least cosine of twice a hand's turn from upright with which width and height can be told apart.
_UPRIGHT_COSINE = 0.3


@lru_cache(maxsize=1)
def median_shape() -> Points:
    """Return (L, 2) the landmarks of a median hand; wrist at 0, middle knuckle at distance 1."""
    hand = place_hand(median_hand(Sex.MALE, _MEDIAN_AGE_MONTHS), PhantomSettings.clean(), 0)
    centres = {(box.region, box.finger): (box.x_px, box.y_px) for box in hand.boxes}
    centres |= {(TIP, finger): tip for finger, tip in hand.tips_px.items()}
    points = np.array([centres[landmark] for landmark in LANDMARKS], dtype=np.float64)
    points -= points[index_of(WRIST)]
    points /= np.linalg.norm(points[index_of(MCP, 3)])
    points.setflags(write=False)
    return points


def index_of(region: str, finger: int | None = None) -> int:
    """Return the place of a landmark in ``LANDMARKS``."""
    return LANDMARKS.index((region, finger))


def consistent(points: Points, confidence: npt.NDArray[np.floating], floor: float) -> Chosen:
    """Return which landmarks are believed.

    Args:
        points: (L, 2) places in the image.
        confidence: (L,) in [0, 1].
        floor: least confidence of a landmark that is believed.

    Returns:
        (L,) bool; none at all where too few agree to be a hand.
    """
    kept = np.asarray(confidence >= floor)
    for _ in range(_ROUNDS):
        if kept.sum() < FEWEST:
            return np.zeros(len(LANDMARKS), dtype=np.bool_)
        seen = in_median_frame(points, kept)
        if seen is None:
            return np.zeros(len(LANDMARKS), dtype=np.bool_)
        excess = np.linalg.norm(seen - median_shape(), axis=1) / _farthest()
        excess[~kept] = 0
        # The worst alone goes, since it bends the fit of all others.
        worst = int(np.argmax(excess))
        if excess[worst] <= 1:
            return _without_broken_fingers(seen, confidence, kept)
        kept = kept.copy()
        kept[worst] = False
    return np.zeros(len(LANDMARKS), dtype=np.bool_)


def in_median_frame(points: Points, kept: Chosen) -> Points | None:
    """Return (L, 2) all points in the frame of the median hand, None where they span no plane.

    Args:
        points: (L, 2) places in the image.
        kept: (L,) which of them decide the frame.
    """
    fitted = median_to_image(points, kept)
    if fitted is None:
        return None
    square, offset = fitted
    return np.asarray((points - offset) @ np.linalg.inv(square))


def median_to_image(points: Points, kept: Chosen) -> tuple[Points, Points] | None:
    """Fit an affine map from the frame of the median hand to the image.

    Args:
        points: (L, 2) places in the image.
        kept: (L,) which of them are believed.

    Returns:
        The (2, 2) matrix that rows of the frame are multiplied by and the (2,) offset, None where
        the points span no plane.
    """
    shape = median_shape()[kept]
    design = np.column_stack([shape, np.ones(len(shape))])
    solution, _, rank, _ = np.linalg.lstsq(design, points[kept], rcond=None)
    square, offset = solution[:2], solution[2]
    if rank < 3 or abs(np.linalg.det(square)) < _SMALLEST_DETERMINANT:
        return None
    return np.asarray(square), np.asarray(offset)


def widening(points: Points, kept: Chosen) -> float:
    """Return by how much an image must be widened for its hand to have a median hand's proportions.

    Args:
        points: (L, 2) places in the image.
        kept: (L,) which of them are believed.

    Returns:
        The factor, 0.5 to 1.6; 1 where it cannot be told, as from a hand that lies aslant.
    """
    fitted = median_to_image(points, kept)
    if fitted is None:
        return 1.0
    (a, b), (c, d) = fitted[0]
    # Widened by w, what were a square in the median frame is one in the image, too: its sides,
    # (w a, b) and (w c, d), are of one length.
    down, across = d * d - b * b, a * a - c * c
    if down <= _UPRIGHT_COSINE * (d * d + b * b) or across <= _UPRIGHT_COSINE * (a * a + c * c):
        return 1.0
    return float(np.clip(np.sqrt(down / across), 0.5, 1.6))


def steadied(points: Points, kept: Chosen) -> Points:
    """Return the landmarks with the radius moved half way to where other landmarks put it.

    Along the forearm there is little to tell its place from on a film that ends near the wrist.
    What readers drew lies half as far from the place in the median hand as what is seen, so the
    mean of both is nearer to theirs than either; across the forearm what is seen stays.

    Args:
        points: (L, 2) places in the image; not changed.
        kept: (L,) which of them are believed.
    """
    row = index_of(RADIUS)
    others = kept.copy()
    others[[row, index_of(ULNA)]] = False
    fitted = median_to_image(points, others) if kept[row] else None
    if fitted is None:
        return points
    square, offset = fitted
    seen = (points[row] - offset) @ np.linalg.inv(square)
    seen[1] = (seen[1] + median_shape()[row, 1] + _RADIUS_ALONG) / 2
    moved = points.copy()
    moved[row] = seen @ square + offset
    return moved


@lru_cache(maxsize=1)
def _farthest() -> Points:
    return np.array(
        [
            _FARTHEST.get(region, _FARTHEST_OTHERS) * (_THUMB if finger == 1 else 1.0)
            for region, finger in LANDMARKS
        ]
    )


def _without_broken_fingers(
    seen: Points, confidence: npt.NDArray[np.floating], kept: Chosen
) -> Chosen:
    """Reject the less certain end of a bone that no straight finger could have."""
    kept = kept.copy()
    for finger in FINGERS:
        rows = (WRIST, MCP, PIP, DIP) if finger > 1 else (WRIST, MCP, PIP)
        chain = [index_of(row, None if row == WRIST else finger) for row in rows]
        for before, joint, after in zip(chain, chain[1:], chain[2:], strict=False):
            if not (kept[before] and kept[joint] and kept[after]):
                continue
            inner, outer = seen[joint] - seen[before], seen[after] - seen[joint]
            lengths = float(np.linalg.norm(inner)), float(np.linalg.norm(outer))
            cosine = inner @ outer / max(lengths[0] * lengths[1], 1e-9)
            ratio = lengths[1] / max(lengths[0], 1e-9)
            # From the wrist to a knuckle lies more than one bone.
            lowest = _LENGTH_RATIO[0] * (0.5 if rows[chain.index(before)] == WRIST else 1.0)
            if cosine < _SHARPEST_COSINE or not lowest <= ratio <= _LENGTH_RATIO[1]:
                kept[after if confidence[after] <= confidence[joint] else joint] = False
    return kept

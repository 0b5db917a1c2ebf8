"""Training examples of the locator: a phantom cohort as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from boneage_xai.errors import DataError
from boneage_xai.phantom.cohorts import IMAGE_FOLDER, LABEL_FOLDER, read_phantom_cohort
from boneage_xai.phantom.landmarks import PlacedHand, place_hand
from boneage_xai.regions.locator_network import LANDMARKS, TIP

NOT_EXPOSED = 255
"""Label of what lies outside a phantom's own image, in the square around it."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Phantoms centred in squares, with the truth about them.

    Args:
        images: (n, S, S) uint8.
        labels: (n, S, S) uint8, see ``anatomy.REGION_NAMES``; ``NOT_EXPOSED`` outside the image.
        points: (n, L, 2) float32 x and y of the landmarks in shares of the square's side.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of phantoms."""
        return len(self.images)

    def part(self, rows: slice) -> Examples:
        """Return some of the examples, without copying."""
        return Examples(self.images[rows], self.labels[rows], self.points[rows])


def read_examples(folder: Path, progress: Callable[[int, int], None] | None = None) -> Examples:
    """Read a cohort of phantoms whole into memory.

    Args:
        folder: written by ``boneage-xai phantom``.
        progress: called with (phantoms read, phantoms in all).

    Raises:
        DataError: not such a folder, or an image of it that is missing or of another size.
    """
    manifest, cases = read_phantom_cohort(folder)
    side = manifest.settings.size_px
    images = np.zeros((len(cases), side, side), dtype=np.uint8)
    labels = np.full((len(cases), side, side), NOT_EXPOSED, dtype=np.uint8)
    points = np.zeros((len(cases), len(LANDMARKS), 2), dtype=np.float32)
    for row, case in enumerate(cases):
        hand = place_hand(case.hand, manifest.settings, case.seed)
        top, left = (side - hand.height_px) // 2, (side - hand.width_px) // 2
        inside = slice(top, top + hand.height_px), slice(left, left + hand.width_px)
        for array, name in ((images, IMAGE_FOLDER), (labels, LABEL_FOLDER)):
            file = folder / name / f"{case.case_id}.png"
            array[row][inside] = _read(file, (hand.height_px, hand.width_px))
        points[row] = (_points(hand) + np.array([left, top])) / side
        if progress is not None:
            progress(row + 1, len(cases))
    return Examples(images, labels, points)


def _read(file: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file, formats=["PNG"]) as image:
            pixels = np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: expected a phantom's image, found {error}") from error
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise DataError(
            f"{file}: expected {shape} 8-bit pixels, found {pixels.shape} of {pixels.dtype}"
        )
    return pixels


def _points(hand: PlacedHand) -> npt.NDArray[np.float32]:
    """Return (L, 2) x and y in pixels in the order of ``LANDMARKS``."""
    centres = {(box.region, box.finger): (box.x_px, box.y_px) for box in hand.boxes}
    centres |= {(TIP, finger): tip for finger, tip in hand.tips_px.items()}
    return np.array([centres[landmark] for landmark in LANDMARKS], dtype=np.float32)

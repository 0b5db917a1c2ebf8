"""Baselines by name: the image, or the images, from which an attribution is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage


@dataclass(frozen=True, eq=False)
class SameSexReferences:
    """Reference images for the baseline ``expected``, by sex.

    Args:
        girls: (n, H, W) float32 in [0, 1].
        boys: (m, H, W) float32 in [0, 1].
    """

    girls: FloatImage
    boys: FloatImage

    def of(self, *, is_male: bool) -> FloatImage:
        """Return the references of one sex, (n, H, W)."""
        return self.boys if is_male else self.girls


def baseline_images(
    settings: AttributionSettings,
    image: Tensor,
    mean_image: FloatImage | None = None,
    references: FloatImage | None = None,
) -> Tensor:
    """Return the baselines of one image, in the network's input units.

    Args:
        settings: names the baseline and, for ``blurred``, its width.
        image: (1, 1, H, W) in [0, 1], before the network's own normalisation.
        mean_image: (H, W) in [0, 1], needed for ``mean``.
        references: (n, H, W) in [0, 1] of the image's sex, needed for ``expected``.

    Returns:
        (k, 1, H, W) of the image's type and device: n for ``expected``, otherwise one.

    Raises:
        ConfigError: ``mean`` without a mean image, ``expected`` without references.
        AttributionError: a mean image or references of another shape.
    """
    if settings.baseline == "black":
        return torch.zeros_like(image)
    if settings.baseline == "blurred":
        pixels = image.detach().cpu().numpy()[0, 0]
        sigma_px = settings.blur_sigma_fraction * max(pixels.shape)
        return _like(gaussian_filter(pixels, sigma_px, mode="nearest")[None], image)
    if settings.baseline == "expected":
        if references is None or not len(references):
            raise ConfigError("baseline 'expected': expected reference images, found none")
        return _like(_of_shape(references, image, "expected"), image)
    if mean_image is None:
        raise ConfigError("baseline 'mean': expected the training mean image, found none")
    return _like(_of_shape(mean_image[None], image, "mean"), image)


def single_baseline(
    settings: AttributionSettings, image: Tensor, mean_image: FloatImage | None, method: str
) -> Tensor:
    """Return the baseline (1, 1, H, W) of a method that compares with one image.

    Raises:
        ConfigError: the baseline ``expected``, or ``mean`` without a mean image.
        AttributionError: a mean image of another shape.
    """
    if settings.baseline == "expected":
        raise ConfigError(
            f"{method}: expected a baseline that is one image (black, blurred or mean), "
            "found 'expected', which is an average over many"
        )
    return baseline_images(settings, image, mean_image)


def draw_references(
    pixels: npt.NDArray[np.uint8],
    rows: Sequence[int] | npt.NDArray[np.integer[Any]],
    is_male: npt.NDArray[np.bool_],
    n: int,
    seed: int,
) -> SameSexReferences:
    """Draw reference images of each sex without replacement.

    Args:
        pixels: (m, H, W) uint8, may be memory-mapped.
        rows: (k,) which images may be drawn, e.g. those of the training split.
        is_male: (k,) True for boys.
        n: images of each sex; where there are fewer, all of them.
        seed: the same seed draws the same images.

    Raises:
        ConfigError: no image of either sex.
    """
    drawn = []
    for male in (False, True):
        candidates = np.asarray(rows)[np.asarray(is_male) == male]
        if not len(candidates):
            raise ConfigError(
                "baseline 'expected': expected training images of both sexes, found none of "
                f"{'boys' if male else 'girls'}"
            )
        rng = np.random.default_rng([seed, int(male)])
        chosen = np.sort(rng.choice(candidates, min(n, len(candidates)), replace=False))
        drawn.append((pixels[chosen] / 255.0).astype(np.float32))
    return SameSexReferences(*drawn)


def mean_of_pixels(pixels: npt.NDArray[np.uint8], rows: Iterable[int]) -> FloatImage:
    """Average prepared images one by one, for the baseline ``mean``.

    Args:
        pixels: (n, H, W) uint8, may be memory-mapped.
        rows: which images, e.g. those of the training split.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ConfigError: no rows.
    """
    total = np.zeros(pixels.shape[1:], dtype=np.int64)
    count = 0
    for row in rows:
        total += pixels[row]
        count += 1
    if count == 0:
        raise ConfigError("baseline 'mean': expected at least one training image, found none")
    return (total / (255.0 * count)).astype(np.float32)


def _of_shape(pixels: FloatImage, image: Tensor, baseline: str) -> FloatImage:
    if pixels.shape[1:] != tuple(image.shape[2:]):
        raise AttributionError(
            f"baseline '{baseline}': expected a {'mean ' if baseline == 'mean' else 'reference '}"
            f"image of shape {tuple(image.shape[2:])}, found {pixels.shape[1:]}"
        )
    return pixels


def _like(pixels: npt.NDArray[np.floating[Any]], image: Tensor) -> Tensor:
    # A copy, since torch would otherwise share memory with the caller's array.
    return torch.tensor(pixels, dtype=image.dtype, device=image.device)[:, None]

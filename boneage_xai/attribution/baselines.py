"""Baselines by name: the image from which an attribution is measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage


def baseline_image(
    settings: AttributionSettings, image: Tensor, mean_image: FloatImage | None = None
) -> Tensor:
    """Return the baseline of one image, in the network's input units.

    Args:
        settings: names the baseline and, for ``blurred``, its width.
        image: (1, 1, H, W) in [0, 1], before the network's own normalisation.
        mean_image: (H, W) in [0, 1], needed for ``mean``.

    Returns:
        (1, 1, H, W) of the image's type and device.

    Raises:
        ConfigError: ``mean`` without a mean image.
        AttributionError: a mean image of another shape.
    """
    if settings.baseline == "black":
        return torch.zeros_like(image)
    if settings.baseline == "blurred":
        pixels = image.detach().cpu().numpy()[0, 0]
        sigma_px = settings.blur_sigma_fraction * max(pixels.shape)
        return _like(gaussian_filter(pixels, sigma_px, mode="nearest"), image)
    if mean_image is None:
        raise ConfigError("baseline 'mean': expected the training mean image, found none")
    if mean_image.shape != tuple(image.shape[2:]):
        raise AttributionError(
            f"baseline 'mean': expected a mean image of shape {tuple(image.shape[2:])}, "
            f"found {mean_image.shape}"
        )
    return _like(mean_image, image)


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


def _like(pixels: npt.NDArray[np.floating[Any]], image: Tensor) -> Tensor:
    # A copy, since torch would otherwise share memory with the caller's array.
    return torch.tensor(pixels, dtype=image.dtype, device=image.device)[None, None]

"""Random augmentation of whole batches on the device that trains."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.recipe import AugmentationSettings
from trainers.share import WHOLE, Share


def augment(images: Tensor, settings: AugmentationSettings, share: Share = WHOLE) -> Tensor:
    """Move, flip and re-expose each image by its own random amount.

    One affine resampling does rotation, shift, zoom and flips together; what moves in from
    outside the image is black. Random numbers come from torch's global generator; each of several
    processes draws those of the whole batch and takes its part, so that with equal seeds an image
    is changed alike whatever their number.

    Args:
        images: (N, 1, H, W) in [0, 1].
        settings: how far each change may go.
        share: this process's part of the batch.

    Returns:
        (N, 1, H, W), a new tensor; exposure changes may leave [0, 1].
    """
    n = len(images)
    part = slice(share.rank * n, (share.rank + 1) * n)
    whole = share.count * n

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(whole, *shape, device=images.device).uniform_(low, high)[part]

    angle = uniform(-settings.rotation_degrees, settings.rotation_degrees) * (math.pi / 180)
    zoom = uniform(*settings.zoom)
    mirror = _random_sign(whole, settings.horizontal_flip, images.device)[part]
    upset = _random_sign(whole, settings.vertical_flip, images.device)[part]
    # The grid maps output to input, so a magnification divides.
    affine = torch.zeros(n, 2, 3, device=images.device)
    affine[:, 0, 0] = torch.cos(angle) * mirror / zoom
    affine[:, 0, 1] = -torch.sin(angle) * upset / zoom
    affine[:, 1, 0] = torch.sin(angle) * mirror / zoom
    affine[:, 1, 1] = torch.cos(angle) * upset / zoom
    affine[:, :, 2] = uniform(-2 * settings.shift_fraction, 2 * settings.shift_fraction, 2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.contiguous(), grid, mode="bilinear", align_corners=False)
    if settings.gamma:
        exponent = uniform(-settings.gamma, settings.gamma, 1, 1, 1).exp()
        moved = moved.clamp(1e-4, 1).pow(exponent)
    if settings.contrast:
        moved = moved * uniform(1 - settings.contrast, 1 + settings.contrast, 1, 1, 1)
    if settings.brightness:
        moved = moved + uniform(-settings.brightness, settings.brightness, 1, 1, 1)
    return moved


def _random_sign(n: int, flipped: float, device: torch.device) -> Tensor:
    """Return (n,) -1 with this probability, at most one half, 1 otherwise."""
    if not flipped:
        return torch.ones(n, device=device)
    sign = torch.randint(0, 2, (n,), device=device) * 2.0 - 1.0
    if flipped < 0.5:
        sign = torch.where(torch.rand(n, device=device) < 2 * flipped, sign, 1.0)
    return sign


def resize(images: Tensor, size_px: int) -> Tensor:
    """Resize (N, 1, S, S) images to ``size_px``, antialiased; the same tensor if they have it."""
    if images.shape[-1] == size_px:
        return images
    return F.interpolate(
        images, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True
    )

"""Random placement of phantoms: turned, scaled, squashed, moved and mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.locator.examples import NOT_EXPOSED
from trainers.locator.recipe import RandomisationSettings


@dataclass(frozen=True, eq=False)
class Placed:
    """Phantoms as they lie in their images; all coordinates in shares of the side.

    Args:
        images: (N, 1, S, S) in [0, 1], 0 where nothing was exposed.
        exposed: (N, 1, S, S) share of each pixel that shows the phantom's own image.
        air: (N, 1, S, S) share of each pixel that shows air.
        labels: (N, s, s) int64 on the grid of the segmentation; background where not exposed.
        points: (N, L, 2) x and y of the landmarks, in [0, 1] where they lie in the image.
    """

    images: Tensor
    exposed: Tensor
    air: Tensor
    labels: Tensor
    points: Tensor


def uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Return (n,) uniform random numbers."""
    return low + (high - low) * torch.rand(n, generator=generator)


def happens(generator: torch.Generator, n: int, share: float) -> Tensor:
    """Return (n,) bool, True with this probability."""
    return torch.rand(n, generator=generator) < share


def draw_placement(
    points: Tensor, settings: RandomisationSettings, generator: torch.Generator
) -> Tensor:
    """Draw a placement for each hand.

    Args:
        points: (N, L, 2) landmarks in shares of the side.
        settings: how far each change may go.
        generator: source of randomness.

    Returns:
        (N, 2, 3) float32: from source to placed coordinates, both from -1 to 1.
    """
    n = len(points)
    limit = math.radians(settings.rotation_degrees)
    # Most hands lie nearly straight; a third of them may lie anyhow.
    angle = (torch.randn(n, generator=generator) * 0.35 * limit).clamp(-limit, limit)
    anyhow = happens(generator, n, 1 / 3)
    angle = torch.where(anyhow, uniform(generator, n, -limit, limit), angle)
    zoom = _log_uniform(generator, n, settings.zoom)
    squash = _log_uniform(generator, n, settings.squash)
    mirror = 1 - 2 * happens(generator, n, settings.mirror_share).float()
    across, down = squash.sqrt() * zoom, zoom / squash.sqrt()
    turned = torch.stack(
        [
            torch.stack([mirror * across * angle.cos(), -across * angle.sin()], dim=1),
            torch.stack([mirror * down * angle.sin(), down * angle.cos()], dim=1),
        ],
        dim=1,
    )
    placed = torch.einsum("nij,nlj->nli", turned, 2 * points - 1)
    low, high = placed.amin(dim=1), placed.amax(dim=1)
    # A hand that would be wider than the image shrinks until it nearly fits.
    fit = (1.9 / (high - low).amax(dim=1)).clamp(max=1.0)[:, None]
    turned = turned * fit[:, :, None]
    low, high = low * fit, high * fit
    # The hand as a whole stays in the image, and is then moved a little out of it at times.
    room = (2 - (high - low)).clamp_min(0)
    at = torch.rand(n, 2, generator=generator) * room - 1
    centred = -0.5 * (low + high)
    wild = happens(generator, n, 0.5)[:, None]
    shift = torch.where(wild, at - low, centred)
    shift = shift + 2 * settings.shift * (2 * torch.rand(n, 2, generator=generator) - 1) * (
        torch.rand(n, 1, generator=generator) ** 2
    )
    return torch.cat([turned, shift[:, :, None]], dim=2)


def place(
    images: Tensor, labels: Tensor, points: Tensor, forward: Tensor, size_px: int, stride: int
) -> Placed:
    """Place hands in new images.

    Args:
        images: (N, S, S) uint8.
        labels: (N, S, S) uint8, ``NOT_EXPOSED`` outside the phantom's image.
        points: (N, L, 2) landmarks in shares of the side.
        forward: (N, 2, 3) from source to placed coordinates, both from -1 to 1.
        size_px: side of the new images.
        stride: pixels of the new images for each cell of the labels.
    """
    n = len(images)
    square = forward[:, :, :2]
    backward = torch.linalg.inv(square)
    offset = -torch.einsum("nij,nj->ni", backward, forward[:, :, 2])
    inverse = torch.cat([backward, offset[:, :, None]], dim=2)
    exposed = (labels != NOT_EXPOSED).float()
    air = (labels == 0).float()
    stacked = torch.stack([images.float() / 255 * exposed, exposed, air], dim=1)
    grid = F.affine_grid(inverse, [n, 1, size_px, size_px], align_corners=False)
    moved = F.grid_sample(stacked, grid, mode="bilinear", align_corners=False)
    coarse = F.affine_grid(inverse, [n, 1, size_px // stride, size_px // stride], False)
    # Shifted by one, so that what lies beyond the source is 0 and told from background.
    shifted = (labels.float() + 1)[:, None]
    values = F.grid_sample(shifted, coarse, mode="nearest", align_corners=False)[:, 0].long() - 1
    values = torch.where((values < 0) | (values == NOT_EXPOSED), 0, values)
    placed = torch.einsum("nij,nlj->nli", square, 2 * points - 1) + forward[:, None, :, 2]
    return Placed(moved[:, :1], moved[:, 1:2], moved[:, 2:], values, (placed + 1) / 2)


def _log_uniform(generator: torch.Generator, n: int, limits: tuple[float, float]) -> Tensor:
    return uniform(generator, n, math.log(limits[0]), math.log(limits[1])).exp()

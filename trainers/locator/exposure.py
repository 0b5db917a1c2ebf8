"""Random exposure of placed phantoms: everything between the hand and the file."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.locator.placement import Placed, happens, uniform
from trainers.locator.recipe import RandomisationSettings

_MOST_OCCLUDERS = 4
_JPEG_BLOCK = 8
# Of what is left of the contrast, these shares of the pixels become black and white.
_STRETCH = (0.01, 0.99)
_STRETCH_SAMPLE = 7


def expose(placed: Placed, settings: RandomisationSettings, generator: torch.Generator) -> Tensor:
    """Return (N, 1, S, S) images in [0, 1] as other machines, hands and scanners would give.

    Args:
        placed: the hands.
        settings: how far each change may go.
        generator: source of randomness.
    """
    n, _, size, _ = placed.images.shape

    def each(low: float, high: float) -> Tensor:
        return uniform(generator, n, low, high)[:, None, None, None]

    def some(share: float) -> Tensor:
        return happens(generator, n, share)[:, None, None, None]

    images = _add_neighbour(placed, settings, generator)
    images = images.clamp_min(1e-3) ** each(-settings.gamma, settings.gamma).exp()
    shade = torch.rand(n, 1, 3, 3, generator=generator) * 2 - 1
    shade = F.interpolate(shade, size=(size, size), mode="bicubic", align_corners=False)
    images = images * (1 + each(0, settings.shading) * shade)
    bright = each(0.3, 1.0) * some(settings.bright_air_share)
    images = torch.where((bright > 0) & (placed.air > 0.5), bright - 0.3 * images, images)
    if settings.sharpen:
        wide = _blurred(images, float(torch.rand(1, generator=generator)) * 0.02 * size + 0.6)
        images = images + some(0.4) * each(0, settings.sharpen) * (images - wide)
    contrast = each(settings.contrast, 1.0)
    images = each(0, 1) * (1 - contrast) + contrast * images.clamp(0, 1)
    # Beyond the phantom's own image: black, or whatever a scanner leaves there.
    beyond = each(0, 1) * some(0.4)
    images = placed.exposed * images + (1 - placed.exposed) * beyond
    images = _cover_with_plate(images, placed, settings, generator)
    images = _occlude(images, settings, generator)
    images = _coarsen(images, settings, generator)
    grain = torch.randn(n, 1, size, size, generator=generator)
    soft = F.avg_pool2d(grain, 3, stride=1, padding=1) * 2
    images = images + each(0, 1) ** 2 * settings.noise * torch.where(some(0.5), grain, soft)
    images = _compress(images.clamp(0, 1), settings, generator)
    return _stretch(images)


def without_hand(
    images: Tensor, settings: RandomisationSettings, generator: torch.Generator
) -> Tensor:
    """Return (N, 1, S, S) images that hold no hand: blank, noise, shapes, shuffled pieces.

    Args:
        images: (N, 1, S, S) images, whose pieces may be used.
        settings: of occluders and noise.
        generator: source of randomness.
    """
    n, _, size, _ = images.shape
    kind = torch.randint(0, 4, (n,), generator=generator)[:, None, None, None]
    cells = int(torch.randint(2, 24, (1,), generator=generator))
    coarse = torch.rand(n, 1, cells, cells, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    blank = torch.rand(n, 1, 1, 1, generator=generator).expand(-1, -1, size, size)
    noise = torch.rand(n, 1, size, size, generator=generator)
    block = size // 4
    pieces = F.unfold(images, block, stride=block)
    order = torch.randperm(pieces.shape[-1], generator=generator)
    shuffled = F.fold(pieces[:, :, order], (size, size), block, stride=block)
    empty = torch.where(kind == 0, blank, torch.where(kind == 1, noise, smooth))
    empty = torch.where(kind == 3, shuffled, empty)
    return _stretch(_occlude(empty, settings, generator).clamp(0, 1))


def _add_neighbour(
    placed: Placed, settings: RandomisationSettings, generator: torch.Generator
) -> Tensor:
    """Let a part of the next hand of the batch, a carer's say, reach in from an edge."""
    images = placed.images
    n, _, size, _ = images.shape
    chosen = happens(generator, n, settings.neighbour_share).nonzero()[:, 0].tolist()
    if not chosen:
        return images
    images = images.clone()
    for row in chosen:
        other = placed.images[(row + 1) % n, 0]
        across = int(torch.randint(size // 8, size // 3, (1,), generator=generator))
        side = int(torch.randint(0, 4, (1,), generator=generator))
        strip = torch.rot90(other, side)[:across]
        target = torch.rot90(images[row, 0], side)
        target[-across:] = torch.maximum(target[-across:], strip)
        images[row, 0] = torch.rot90(target, -side)
    return images


def _cover_with_plate(
    images: Tensor, placed: Placed, settings: RandomisationSettings, generator: torch.Generator
) -> Tensor:
    """Cover what lies outside a tilted plate around the hand."""
    n, _, size, _ = images.shape
    at = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    low, high = placed.points.amin(dim=1).clamp(0, 1), placed.points.amax(dim=1).clamp(0, 1)
    centre, half = (low + high) / 2, (high - low) / 2
    angle = torch.randn(n, generator=generator) * math.radians(4)
    dx = at[None, None, :] - centre[:, 0, None, None]
    dy = at[None, :, None] - centre[:, 1, None, None]
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    x, y = dx * cosine + dy * sine, dy * cosine - dx * sine
    room = torch.rand(n, 4, generator=generator) * 0.3 + 0.015
    left, right, above, below = (room[:, side, None, None] for side in range(4))
    wide, tall = half[:, 0, None, None], half[:, 1, None, None]
    inside = (x > -wide - left) & (x < wide + right) & (y > -tall - above) & (y < tall + below)
    covered = ~inside[:, None] & happens(generator, n, settings.plate_share)[:, None, None, None]
    grey = uniform(generator, n, 0.0, 1.0)[:, None, None, None]
    dark = happens(generator, n, 0.4)[:, None, None, None]
    return torch.where(covered, torch.where(dark, 0.05 * grey, grey), images)


def _occlude(images: Tensor, settings: RandomisationSettings, generator: torch.Generator) -> Tensor:
    """Lay rectangles and bars over some images: markers, letters, casts, labels."""
    n, _, size, _ = images.shape
    images = images.clone()
    for row in happens(generator, n, settings.occlusion_share).nonzero()[:, 0].tolist():
        count = int(torch.randint(1, _MOST_OCCLUDERS + 1, (1,), generator=generator))
        for numbers in torch.rand(count, 7, generator=generator).tolist():
            grey, x, y, width, height, kind, amount = numbers
            longest = 0.22 if kind < 0.7 else 0.6
            thinnest = 0.02 if kind < 0.4 else 0.15
            sides = sorted((0.01 + thinnest * width, 0.02 + longest * height**2))
            across, down = sides if amount < 0.5 else sides[::-1]
            left, top = int(x * size), int(y * size)
            window = (
                row,
                0,
                slice(top, top + max(1, int(down * size))),
                slice(left, left + max(1, int(across * size))),
            )
            share = 1.0 if kind < 0.55 else 0.2 + 0.6 * amount
            level = 1.0 if kind < 0.3 else grey
            images[window] = (1 - share) * images[window] + share * level
    return images


def _coarsen(images: Tensor, settings: RandomisationSettings, generator: torch.Generator) -> Tensor:
    """Lose resolution, a quarter of the batch by one amount."""
    size = images.shape[-1]
    parts = []
    for part in images.chunk(4):
        share = float(uniform(generator, 1, settings.coarsest, 1.6))
        if share < 1:
            small = max(8, int(share * size))
            part = F.interpolate(part, size=(small, small), mode="area")
            part = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False)
        parts.append(part)
    return torch.cat(parts)


def _compress(
    images: Tensor, settings: RandomisationSettings, generator: torch.Generator
) -> Tensor:
    """Quantise blocks of a few images by their cosine transform, as JPEG does."""
    n, _, size, _ = images.shape
    chosen = happens(generator, n, settings.jpeg_share)
    count = int(chosen.sum())
    if not count or size % _JPEG_BLOCK:
        return images
    k = torch.arange(_JPEG_BLOCK, dtype=torch.float32)
    basis = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * _JPEG_BLOCK)) / 2
    basis[0] /= math.sqrt(2)
    side = size // _JPEG_BLOCK
    blocks = images[chosen].reshape(count, side, _JPEG_BLOCK, side, _JPEG_BLOCK)
    blocks = blocks.permute(0, 1, 3, 2, 4) - 0.5
    coefficients = basis @ blocks @ basis.T
    step = uniform(generator, count, 0.01, 0.12)[:, None, None, None, None]
    step = step * (1 + 0.5 * (k[None, :] + k[:, None]))
    blocks = basis.T @ (torch.round(coefficients / step) * step) @ basis + 0.5
    out = images.clone()
    out[chosen] = blocks.permute(0, 1, 3, 2, 4).reshape(count, 1, size, size)
    return out


def _stretch(images: Tensor) -> Tensor:
    """Stretch the contrast as preprocessing does, by percentiles of a sample of the pixels."""
    sample = images.flatten(1)[:, ::_STRETCH_SAMPLE].sort(dim=1).values
    last = sample.shape[1] - 1
    low, high = (sample[:, round(share * last)] for share in _STRETCH)
    spread = (high - low).clamp_min(1e-3)
    return ((images - low[:, None, None, None]) / spread[:, None, None, None]).clamp(0, 1)


def _blurred(images: Tensor, sd_px: float) -> Tensor:
    """Return images blurred by two box filters, nearly a Gaussian of this spread."""
    side = max(3, 2 * round(sd_px * math.sqrt(1.5)) + 1)
    for _ in range(2):
        images = F.avg_pool2d(images, side, stride=1, padding=side // 2, count_include_pad=False)
    return images

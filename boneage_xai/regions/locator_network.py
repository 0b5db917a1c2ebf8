"""The locator's network: where joints lie and what each pixel belongs to, from one radiograph.

A small encoder and decoder. Every landmark has a map of its likely place and, beside it, one
score for "not in this image"; together they are a distribution, so that a place is believed only
as far as it outweighs its absence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boneage_xai.anatomy import DIP, FINGERS, MCP, PIP, RADIUS, REGION_NAMES, ULNA

WRIST = "wrist"
TIP = "tip"

LANDMARKS: tuple[tuple[str, int | None], ...] = (
    *((MCP, finger) for finger in FINGERS),
    *((PIP, finger) for finger in FINGERS),
    *((DIP, finger) for finger in FINGERS[1:]),
    *((TIP, finger) for finger in FINGERS),
    (WRIST, None),
    (RADIUS, None),
    (ULNA, None),
)
"""Region and finger of every landmark, in the order of the network's maps.

The thumb's interphalangeal joint counts as PIP. Tips of the fingers are no region; they help to
tell how large the outermost joints are."""

CLASSES: tuple[str, ...] = tuple(REGION_NAMES.values())
"""What a pixel may belong to, in the order of the labels of ``anatomy.REGION_NAMES``."""

HEATMAP_STRIDE = 4
"""Input pixels for each cell of a landmark's map."""

SEGMENTATION_STRIDE = 2
"""Input pixels for each cell of the segmentation."""

SIZE_MULTIPLE = 32
"""Sides of the input are multiples of this."""

_WIDTHS = (16, 32, 64, 128, 144)
_BLOCKS = (0, 1, 2, 2, 1)
_DECODER_WIDTH = 64
_FINE_WIDTH = 24
# Of the local contrast: side of the window in shares of the input, and the least spread.
_CONTRAST_WINDOW = 1 / 9
_LEAST_SPREAD = 0.02


class LocatorNetwork(nn.Module):
    """Landmark maps and a segmentation of one radiograph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(2, _WIDTHS[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _convolution(narrow, wide, stride=2), *(_Residual(wide) for _ in range(blocks))
            )
            for narrow, wide, blocks in zip(_WIDTHS, _WIDTHS[1:], _BLOCKS[1:], strict=False)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w, _DECODER_WIDTH, 1) for w in _WIDTHS[1:])
        self.merges = nn.ModuleList(_convolution(_DECODER_WIDTH, _DECODER_WIDTH) for _ in range(3))
        self.landmarks = nn.Sequential(
            _convolution(_DECODER_WIDTH, _DECODER_WIDTH),
            nn.Conv2d(_DECODER_WIDTH, len(LANDMARKS), 1),
        )
        self.absence = nn.Linear(_WIDTHS[-1], len(LANDMARKS))
        self.coarse = nn.Conv2d(_DECODER_WIDTH, _FINE_WIDTH, 1)
        self.fine = nn.Conv2d(_WIDTHS[0], _FINE_WIDTH, 1)
        self.segmentation = nn.Sequential(
            _convolution(_FINE_WIDTH, _FINE_WIDTH), nn.Conv2d(_FINE_WIDTH, len(CLASSES), 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of every landmark and class.

        Args:
            images: (N, 1, S, S) in [0, 1]; S a multiple of ``SIZE_MULTIPLE``.

        Returns:
            Scores of each landmark's place (N, L, S/4, S/4) and of its absence (N, L), and of
            each pixel's class (N, C, S/2, S/2).
        """
        finest = self.stem(torch.cat([images - 0.5, local_contrast(images)], dim=1))
        levels = [finest]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        merged = self.laterals[-1](levels[-1])
        for order in (2, 1, 0):
            finer = F.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = self.merges[order](finer + self.laterals[order](levels[order + 1]))
        pooled = levels[-1].mean(dim=(2, 3))
        upsampled = F.interpolate(self.coarse(merged), scale_factor=2.0, mode="nearest")
        return (
            self.landmarks(merged),
            self.absence(pooled),
            self.segmentation(upsampled + self.fine(finest)),
        )


def local_contrast(images: Tensor) -> Tensor:
    """Return how far each pixel stands out from its surroundings, in their own spread.

    It is the same for a dark and a bright exposure, which phantoms and radiographs share less
    than they share the shapes of bones.

    Args:
        images: (N, 1, S, S).

    Returns:
        (N, 1, S, S) within ±3, thirds of which are units.
    """
    side = max(3, int(images.shape[-1] * _CONTRAST_WINDOW) // 2 * 2 + 1)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=False)

    level = mean(images)
    variance = mean(images.square()) - level.square()
    spread = variance.clamp_min(_LEAST_SPREAD**2).sqrt()
    return ((images - level) / spread).clamp(-3, 3) / 3


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape."""
        return F.relu(values + self.second(self.first(values)))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )

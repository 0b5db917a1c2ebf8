"""Finding hand regions on a radiograph: joints by finger, carpus, forearm bones, soft tissue.

The network that does it is shipped with the package and was trained on phantoms alone. What it
is not sure of, or what no hand could have, is left out: an absent region, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from boneage_xai.anatomy import (
    BACKGROUND,
    DIP,
    MARKER,
    MCP,
    PIP,
    REGION_LABELS,
    REGION_NAMES,
)
from boneage_xai.data.preprocess import (
    PreparedImage,
    PreprocessSettings,
    SourceMap,
    preprocess,
)
from boneage_xai.errors import CheckpointError
from boneage_xai.files import write_safetensors
from boneage_xai.regions.boxes import LocatedRegion, region_boxes
from boneage_xai.regions.hand_shape import consistent, steadied, widening
from boneage_xai.regions.locator_network import (
    CLASSES,
    HEATMAP_STRIDE,
    LocatorNetwork,
)
from boneage_xai.types import Radiograph, RegionMap

INPUT = PreprocessSettings(size_px=160, fit="pad", stretch_percentiles=(1.0, 99.0))
"""How radiographs become the network's input."""

CONFIDENCE_FLOOR = 0.4
"""Least confidence of a region that is reported."""

# Natural logarithm of the widening from which on a hand is looked at again.
_SQUASHED = 0.1
# Cells about the likeliest one over which a landmark's place is averaged.
_NEAR = 2
# Labels are decided on a grid so much finer than the input.
_FINER = 2
_JOINTS = (DIP, PIP, MCP)


@dataclass(frozen=True, eq=False)
class HandRegions:
    """What was found on one radiograph.

    Args:
        boxes: a box per region that was found, joints by finger; empty where there is no hand.
        labels: (H, W) region of every pixel, see ``anatomy.REGION_NAMES``.
    """

    boxes: tuple[LocatedRegion, ...]
    labels: RegionMap


def shipped_weights() -> Path:
    """Return the path of the weights that come with the package."""
    return Path(str(files("boneage_xai") / "regions" / "weights" / "locator.safetensors"))


def load_locator(weights: Path | None = None) -> LocatorNetwork:
    """Load the locator's network.

    Args:
        weights: a file from ``save_locator``, None for the shipped one.

    Returns:
        The network in evaluation mode with frozen parameters, in float32.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another network.
    """
    file = shipped_weights() if weights is None else weights
    # Initial weights are drawn and thrown away; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        network = LocatorNetwork()
    try:
        state = safetensors.torch.load_file(file)
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{file}: expected the locator's weights ({error})") from error
    return network.requires_grad_(False).eval()


def save_locator(network: LocatorNetwork, path: Path) -> None:
    """Write the locator's weights as float16 safetensors, whole or not at all."""
    state = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().numpy()
        for key, value in network.state_dict().items()
    }
    write_safetensors(path, state)


@lru_cache(maxsize=1)
def default_locator() -> LocatorNetwork:
    """Return the shipped network, loaded once."""
    return load_locator()


def locate(radiograph: Radiograph, network: LocatorNetwork | None = None) -> HandRegions:
    """Find the regions of a hand.

    The image and its mirror image are looked at together, which costs little and steadies both.
    Where nothing is found the image is looked at in quarter turns, too; where the hand is much
    wider or narrower than a median one, as in images that were squashed to a square, it is looked
    at again in a median hand's proportions.

    Args:
        radiograph: (H, W) pixels in [0, 1], bone bright; a left or right hand.
        network: from ``load_locator``, None for the shipped one.

    Returns:
        Boxes in source pixels and labels on the source grid. Every pixel has exactly one label.
    """
    network = default_locator() if network is None else network
    found = _look(network, preprocess(radiograph, INPUT))
    if abs(np.log(found.widening)) > _SQUASHED:
        again = _look(network, preprocess(radiograph, INPUT, widening=found.widening))
        if len(again.boxes) >= len(found.boxes):
            found = again
    return HandRegions(found.boxes, _label(found.classes, found.source, found.boxes))


@dataclass(frozen=True, eq=False)
class _Look:
    """What one look at a radiograph shows; ``widening`` as in ``hand_shape``."""

    boxes: tuple[LocatedRegion, ...]
    classes: Tensor
    source: SourceMap
    widening: float


def _look(network: LocatorNetwork, prepared: PreparedImage) -> _Look:
    source = prepared.source_map
    best: tuple[LocatedRegion, ...] = ()
    stretch = 1.0
    upright, classes = _looked_at(network, prepared.pixels, 0)
    for turns, places in _quarter_turns(network, prepared.pixels, upright):
        cells, confidence = find_peaks(places)
        points = source.to_source(cells * HEATMAP_STRIDE - 0.5) + 0.5
        kept = consistent(cells, confidence, CONFIDENCE_FLOOR) & _inside(points, source)
        boxes = region_boxes(steadied(points, kept), confidence, kept)
        if len(boxes) > len(best):
            best, stretch = boxes, widening(points, kept)
            if turns:
                classes = _looked_at(network, prepared.pixels, turns)[1]
        if turns == 0 and best:
            break
    return _Look(best, classes, source, stretch)


def find_peaks(
    places: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where each landmark most likely lies.

    Args:
        places: (L, h, w) probability of each place; what is missing to 1 is its absence.

    Returns:
        (L, 2) x and y in cells from the upper left edge, averaged about the likeliest cell, and
        (L,) the probability that is gathered there.
    """
    cells = np.zeros((len(places), 2))
    confidence = np.zeros(len(places))
    for row, probability in enumerate(places.astype(np.float64)):
        y, x = np.unravel_index(int(probability.argmax()), probability.shape)
        top, left = max(0, int(y) - _NEAR), max(0, int(x) - _NEAR)
        near = probability[top : int(y) + _NEAR + 1, left : int(x) + _NEAR + 1]
        total = float(near.sum())
        across = near.sum(axis=0) @ (left + 0.5 + np.arange(near.shape[1]))
        down = near.sum(axis=1) @ (top + 0.5 + np.arange(near.shape[0]))
        cells[row] = across / max(total, 1e-12), down / max(total, 1e-12)
        confidence[row] = min(total, 1.0)
    return cells, confidence


def _quarter_turns(
    network: LocatorNetwork, pixels: npt.NDArray[np.uint8], upright: npt.NDArray[np.float32]
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield the places seen with so many quarter turns, upright first."""
    yield 0, upright
    for turns in (1, 3, 2):
        yield turns, _looked_at(network, pixels, turns)[0]


def _looked_at(
    network: LocatorNetwork, pixels: npt.NDArray[np.uint8], turns: int
) -> tuple[npt.NDArray[np.float32], Tensor]:
    """Return (L, h, w) probabilities of places and (C, s, s) of classes, over both mirrorings.

    The image is turned by so many quarter turns before, and the maps back afterwards.
    """
    turned = np.ascontiguousarray(np.rot90(pixels, turns))
    images = torch.from_numpy(turned)[None, None].float() / 255
    with torch.inference_mode():
        places, absence, classes = network(torch.cat([images, images.flip(3)]))
        scores = torch.cat([places.flatten(2), absence[:, :, None]], dim=2).softmax(dim=2)
        likely = scores[:, :, :-1].reshape(places.shape)
        shares = classes.softmax(dim=1)
        both = 0.5 * (likely[0] + likely[1].flip(2)), 0.5 * (shares[0] + shares[1].flip(2))
        back = [torch.rot90(maps, -turns, (1, 2)) for maps in both]
    return back[0].contiguous().numpy(), back[1].contiguous()


def _inside(points: npt.NDArray[np.float64], source: SourceMap) -> npt.NDArray[np.bool_]:
    height, width = source.source_shape
    return np.asarray(((points >= 0) & (points <= (width, height))).all(axis=1))


def _label(classes: Tensor, source: SourceMap, boxes: tuple[LocatedRegion, ...]) -> RegionMap:
    """Return the label of every source pixel: bones and tissue as segmented, joints as boxed."""
    size = source.size_px * _FINER
    shares = F.interpolate(classes[None], size=(size, size), mode="bilinear")[0].numpy()
    labels = shares.argmax(axis=0).astype(np.uint8)
    outside = (REGION_LABELS[BACKGROUND], REGION_LABELS[MARKER])
    if boxes:
        # A joint is where its box is: elsewhere the best of the other classes holds.
        shares[[CLASSES.index(joint) for joint in _JOINTS]] = -1
        others = shares.argmax(axis=0).astype(np.uint8)
        labels = np.where(np.isin(labels, outside), labels, others)
    else:
        labels[labels != REGION_LABELS[MARKER]] = REGION_LABELS[BACKGROUND]
    height, width = source.source_shape
    columns = _grid(width, source, 0, size)
    rows = _grid(height, source, 1, size)
    out = labels[np.ix_(rows, columns)]
    for box in boxes:
        if box.region in _JOINTS:
            window = out[_span(box.y_px, box.height_px), _span(box.x_px, box.width_px)]
            window[~np.isin(window, outside)] = REGION_LABELS[box.region]
    return RegionMap(out, dict(REGION_NAMES))


def _grid(count: int, source: SourceMap, axis: int, size: int) -> npt.NDArray[np.intp]:
    """Return the row or column of the finer grid in which each source pixel's centre lies."""
    at = np.arange(count, dtype=np.float64)
    seen = source.to_input(np.stack([at, at], axis=1))[:, axis] + 0.5
    return np.clip(np.floor(seen * _FINER), 0, size - 1).astype(np.intp)


def _span(centre: float, length: float) -> slice:
    return slice(max(0, round(centre - length / 2)), max(0, round(centre + length / 2)))

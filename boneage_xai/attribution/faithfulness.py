"""Deletion and insertion: whether the cells that a map calls important move the prediction.

Removal is of square cells, not of single pixels. A network at input size hardly answers to one
pixel, a gradient is noisy from one pixel to the next, and thousands of scattered holes are a
texture of their own that no radiograph has. A map is summed over each cell with its sign: for
Integrated Gradients of a linear network from the same baseline that sum is exactly what removing
the cell does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.baselines import baseline_images
from boneage_xai.attribution.forward import check_single
from boneage_xai.attribution.gradients import CPU_BATCH, predictions
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError

Order = Literal["magnitude", "older_first"]
Replacement = Literal["blurred", "black"]
Months = npt.NDArray[np.float64]

CELL_PX = 4
"""Default side of a cell."""


@dataclass(frozen=True, eq=False)
class RemovalCurve:
    """Predictions while an image turns into its baseline, or the baseline into the image.

    Args:
        fractions: (k + 1,) share of the cells that has been exchanged, from 0 to 1.
        months: (k + 1,) predictions in the order of the map.
        random_months: (r, k + 1) predictions in r random orders.
    """

    fractions: Months
    months: Months
    random_months: Months

    @property
    def change_months(self) -> Months:
        """Distance (k + 1,) of each prediction from the first, whichever way it moved."""
        return np.asarray(np.abs(self.months - self.months[0]))

    @property
    def random_change_months(self) -> Months:
        """The same (k + 1,) for random orders, averaged over them."""
        return np.asarray(np.abs(self.random_months - self.months[0]).mean(axis=0))

    @property
    def area_change_months(self) -> float:
        """Area between the changes in the map's and in random order; above 0 beats chance."""
        return self._area(self.change_months - self.random_change_months)

    @property
    def area_signed_months(self) -> float:
        """Area between the predictions in the map's and in random order, with its sign.

        For deletion of what makes older first, below 0 beats chance; for insertion, above 0.
        """
        return self._area(self.months - self.random_months.mean(axis=0))

    def _area(self, heights: Months) -> float:
        return float(np.trapezoid(heights, self.fractions))


def deletion(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    map_months: npt.NDArray[np.floating[Any]],
    *,
    order: Order = "magnitude",
    baseline: Replacement = "blurred",
    cell_px: int = CELL_PX,
    n_steps: int = 20,
    n_random: int = 10,
    seed: int = 0,
    batch_size: int = CPU_BATCH,
) -> RemovalCurve:
    """Replace cells of an image by its baseline, the most important first.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        map_months: (H, W) signed map.
        order: ``magnitude`` by |sum over the cell|; ``older_first`` from the cell that makes
            most older to that which makes most younger. Equal cells come in random order.
        baseline: ``blurred`` image, which keeps the brightness, or ``black``.
        cell_px: side of the cells; those at the right and lower edge may be smaller.
        n_steps: predictions along the way, after the first.
        n_random: random orders to compare with.
        seed: of the random orders and of ties.
        batch_size: images a step; does not change the curve.

    Returns:
        The curve, from the image to the baseline.

    Raises:
        AttributionError: wrong shapes, or a map or prediction that is not finite.
        ConfigError: an unknown order or baseline, a cell, or numbers of steps or orders
            below 1.

    Source: Petsiuk, Das & Saenko, RISE, 2018, and Samek et al., Evaluating the Visualization
    of What a Deep Neural Network Has Learned, 2017 (area against a random order). Departures:
    months in place of a class's probability, absolute change, and cells.
    """
    ends = image, _baseline(image, is_male, baseline)
    return _curve(
        network, ends, is_male, map_months, order, cell_px, (n_steps, n_random), seed, batch_size
    )


def insertion(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    map_months: npt.NDArray[np.floating[Any]],
    *,
    order: Order = "magnitude",
    baseline: Replacement = "blurred",
    cell_px: int = CELL_PX,
    n_steps: int = 20,
    n_random: int = 10,
    seed: int = 0,
    batch_size: int = CPU_BATCH,
) -> RemovalCurve:
    """Put cells of an image into its baseline, the most important first.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        map_months: (H, W) signed map.
        order: as for ``deletion``.
        baseline: as for ``deletion``.
        cell_px: as for ``deletion``.
        n_steps: as for ``deletion``.
        n_random: as for ``deletion``.
        seed: as for ``deletion``.
        batch_size: as for ``deletion``.

    Returns:
        The curve, from the baseline to the image.

    Raises:
        AttributionError: as ``deletion``.
        ConfigError: as ``deletion``.

    Source: as ``deletion``.
    """
    ends = _baseline(image, is_male, baseline), image
    return _curve(
        network, ends, is_male, map_months, order, cell_px, (n_steps, n_random), seed, batch_size
    )


def check_map(map_months: npt.NDArray[np.floating[Any]], image: Tensor) -> Months:
    """Return the map in float64 if it belongs to the image.

    Raises:
        AttributionError: another shape than the image's, NaN or infinity.
    """
    if map_months.shape != tuple(image.shape[2:]):
        raise AttributionError(
            f"attribution map: expected the image's shape {tuple(image.shape[2:])}, "
            f"found {map_months.shape}"
        )
    if not np.isfinite(map_months).all():
        raise AttributionError("attribution map: expected finite months, found NaN or infinity")
    return np.asarray(map_months, dtype=np.float64)


def cells(shape: tuple[int, int], cell_px: int) -> npt.NDArray[np.intp]:
    """Return (H, W) the number of the square cell, row by row, that each pixel is in.

    Raises:
        ConfigError: a side below 1.
    """
    if cell_px < 1:
        raise ConfigError(f"cells: expected a side of at least 1 px, found {cell_px}")
    rows, columns = (np.arange(size) // cell_px for size in shape)
    return np.asarray(rows[:, None] * (columns[-1] + 1) + columns[None], dtype=np.intp)


def ranked(scores: Months, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return positions from the highest score to the lowest, equal ones in random order."""
    return np.asarray(np.lexsort((rng.random(scores.size), -scores)), dtype=np.intp)


def _baseline(image: Tensor, is_male: Tensor, name: Replacement) -> Tensor:
    check_single(image, is_male)
    if name not in ("blurred", "black"):
        raise ConfigError(f"removal: expected baseline 'blurred' or 'black', found {name!r}")
    return baseline_images(AttributionSettings(baseline=name), image)


def _curve(
    network: nn.Module,
    ends: tuple[Tensor, Tensor],
    is_male: Tensor,
    map_months: npt.NDArray[np.floating[Any]],
    order: Order,
    cell_px: int,
    numbers: tuple[int, int],
    seed: int,
    batch_size: int,
) -> RemovalCurve:
    n_steps, n_random = numbers
    if order not in ("magnitude", "older_first"):
        raise ConfigError(f"removal: expected 'magnitude' or 'older_first', found {order!r}")
    if min(n_steps, n_random, batch_size) < 1:
        raise ConfigError(
            "removal: expected at least 1 step, random order and image a batch, "
            f"found {n_steps}, {n_random} and {batch_size}"
        )
    values = check_map(map_months, ends[0])
    cell_of = cells((values.shape[0], values.shape[1]), cell_px)
    sums: Months = np.bincount(cell_of.ravel(), weights=values.ravel()).astype(np.float64)
    rng = np.random.default_rng(seed)
    own = ranked(np.abs(sums) if order == "magnitude" else sums, rng)
    counts = np.unique(np.round(np.linspace(0, sums.size, n_steps + 1)).astype(np.intp))
    curves = []
    for sequence in [own, *(rng.permutation(sums.size) for _ in range(n_random))]:
        curves.append(_along(network, ends, is_male, cell_of, sequence, counts, batch_size))
    # Both ends are the same images in all orders.
    return RemovalCurve(counts / sums.size, curves[0], np.stack(curves[1:]))


def _along(
    network: nn.Module,
    ends: tuple[Tensor, Tensor],
    is_male: Tensor,
    cell_of: npt.NDArray[np.intp],
    sequence: npt.NDArray[np.intp],
    counts: npt.NDArray[np.intp],
    batch_size: int,
) -> Months:
    """Predict after each count of cells, in the order of the sequence, has been exchanged."""
    place = np.empty(sequence.size, dtype=np.intp)
    place[sequence] = np.arange(sequence.size)
    turn = torch.tensor(place[cell_of], device=ends[0].device)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(counts), batch_size):
            part = torch.tensor(counts[start : start + batch_size], device=turn.device)
            yield torch.where(turn < part[:, None, None, None], ends[1], ends[0])

    return predicted(network, batches(), is_male, batch_size)


def predicted(
    network: nn.Module, batches: Iterator[Tensor], is_male: Tensor, batch_size: int
) -> Months:
    """Predict altered copies of one case and refuse what is not finite.

    Args:
        network: ``network(image (N, 1, H, W), is_male (N,)) -> (N,)`` months.
        batches: images (n, 1, H, W).
        is_male: (1,) 0 or 1.
        batch_size: images a step.

    Raises:
        AttributionError: NaN or infinity, or an output of another shape.
    """
    parts = [
        predictions(network, images, is_male.expand(len(images)), batch_size) for images in batches
    ]
    months = torch.cat(parts).cpu().numpy()
    if not np.isfinite(months).all():
        raise AttributionError("network: expected finite months, found NaN or infinity")
    return np.asarray(months, dtype=np.float64)

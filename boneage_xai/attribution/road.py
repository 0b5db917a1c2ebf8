"""ROAD: pixels removed so that neither their absence nor their shape can be read.

Each removed pixel becomes the weighted mean of its eight neighbours, all removed pixels at once
by a sparse linear system, and a little noise hides how smooth that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csc_array
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from boneage_xai.attribution.faithfulness import Months, cells, check_map, predicted, ranked
from boneage_xai.attribution.forward import check_single
from boneage_xai.attribution.gradients import CPU_BATCH
from boneage_xai.errors import ConfigError

NOISE_SD = 0.01
"""Default noise on imputed pixels, of intensities in [0, 1]."""

FRACTIONS = (0.1, 0.3, 0.5)
"""Default shares of the image to remove."""

_DIRECT, _DIAGONAL = 1 / 6, 1 / 12
_NEIGHBOURS = [
    (y, x, _DIRECT if 0 in (y, x) else _DIAGONAL)
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if (y, x) != (0, 0)
]


@dataclass(frozen=True, eq=False)
class RoadScores:
    """What removing the most and the least important pixels does to a prediction.

    Args:
        prediction_months: of the image as it is.
        fractions: (k,) shares of the image removed.
        most_first_months: (k,) change of the prediction, most important pixels removed.
        least_first_months: (k,) change of the prediction, least important pixels removed.
    """

    prediction_months: float
    fractions: Months
    most_first_months: Months
    least_first_months: Months

    @property
    def difference_months(self) -> Months:
        """|change| by the most minus |change| by the least important (k,); chance is 0."""
        return np.abs(self.most_first_months) - np.abs(self.least_first_months)


def road(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    map_months: npt.NDArray[np.floating[Any]],
    *,
    fractions: Sequence[float] = FRACTIONS,
    cell_px: int = 1,
    noise_sd: float = NOISE_SD,
    seed: int = 0,
    batch_size: int = CPU_BATCH,
) -> RoadScores:
    """Measure what removing pixels in the order of |map| and in the opposite order does.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        map_months: (H, W) signed map.
        fractions: shares of the image to remove.
        cell_px: side of the squares that are removed whole, by |sum of the map|; 1 removes
            single pixels as the source does.
        noise_sd: standard deviation of the noise on imputed pixels.
        seed: of the noise and of ties.
        batch_size: images a step; does not change the scores.

    Returns:
        Changes in months, by fraction.

    Raises:
        AttributionError: wrong shapes, or a map or prediction that is not finite.
        ConfigError: fractions not between 0 and 1, or so small or large that nothing is
            removed or kept; a cell, noise or batch out of range.

    Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods,
    2022. Departures: change in months in place of accuracy; intensities are kept in [0, 1].
    """
    check_single(image, is_male)
    if not fractions or not all(0 < fraction < 1 for fraction in fractions) or batch_size < 1:
        raise ConfigError(
            "ROAD: expected fractions between 0 and 1 and at least 1 image a batch, "
            f"found {list(fractions)} and {batch_size}"
        )
    values = check_map(map_months, image)
    cell_of = cells((values.shape[0], values.shape[1]), cell_px)
    sums: Months = np.bincount(cell_of.ravel(), weights=values.ravel()).astype(np.float64)
    rng = np.random.default_rng(seed)
    most_first = ranked(np.abs(sums), rng)
    pixels = image.detach().cpu().double().numpy()[0, 0]
    pictures = [pixels]
    for sequence in (most_first, most_first[::-1]):
        for fraction in fractions:
            removed = np.zeros(sums.size, dtype=np.bool_)
            removed[sequence[: round(fraction * sums.size)]] = True
            pictures.append(impute(pixels, removed[cell_of], noise_sd, rng))
    stack = torch.tensor(np.stack(pictures)[:, None], dtype=image.dtype, device=image.device)
    months = predicted(network, iter(torch.split(stack, batch_size)), is_male, batch_size)
    change = (months[1:] - months[0]).reshape(2, -1)
    return RoadScores(
        float(months[0]), np.asarray(fractions, dtype=np.float64), change[0], change[1]
    )


def impute(
    pixels: Months, removed: npt.NDArray[np.bool_], noise_sd: float, rng: np.random.Generator
) -> Months:
    """Fill removed pixels with the weighted mean of their neighbours, and noise.

    Neighbours beside count 1/6 each and those across corners 1/12; at the image's edge the
    weights of those that exist are scaled to add up to 1.

    Args:
        pixels: (H, W) in [0, 1].
        removed: (H, W) True where a pixel is to be filled.
        noise_sd: standard deviation of the noise.
        rng: draws the noise.

    Returns:
        (H, W) in [0, 1], kept pixels unchanged.

    Raises:
        ConfigError: nothing removed or nothing kept, other shapes, or a negative noise.
    """
    if removed.shape != pixels.shape or removed.all() or not removed.any():
        raise ConfigError(
            f"imputation: expected some but not all of {pixels.size} pixels removed, "
            f"found {int(removed.sum())} in a mask of shape {removed.shape}"
        )
    if not 0 <= noise_sd < np.inf:
        raise ConfigError(f"imputation: expected a noise of 0 or more, found {noise_sd}")
    height, width = pixels.shape
    number = np.full(pixels.shape, -1, dtype=np.intp)
    y, x = np.nonzero(removed)
    count = len(y)
    number[y, x] = np.arange(count)
    diagonal, known = np.zeros(count), np.zeros(count)
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [diagonal]
    for step_y, step_x, weight in _NEIGHBOURS:
        near_y, near_x = y + step_y, x + step_x
        inside = np.flatnonzero(
            (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
        )
        diagonal[inside] += weight
        neighbour = number[near_y[inside], near_x[inside]]
        unknown = neighbour >= 0
        rows.append(inside[unknown])
        columns.append(neighbour[unknown])
        entries.append(np.full(int(unknown.sum()), -weight))
        at = inside[~unknown]
        known[at] += weight * pixels[near_y[at], near_x[at]]
    places = np.concatenate(rows), np.concatenate(columns)
    system = csc_array((np.concatenate(entries), places), shape=(count, count))
    filled = np.atleast_1d(spsolve(system, known)) + rng.normal(0, noise_sd, count)
    out = np.array(pixels, dtype=np.float64)
    out[y, x] = np.clip(filled, 0, 1)
    return out

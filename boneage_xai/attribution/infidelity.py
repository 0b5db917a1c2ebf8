"""Infidelity, how far a map is wrong about perturbations, and how far noise changes a map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.faithfulness import Months, check_map, predicted
from boneage_xai.attribution.forward import check_single
from boneage_xai.attribution.gradients import CPU_BATCH
from boneage_xai.attribution.interface import AttributionMethod, AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage


@dataclass(frozen=True, eq=False)
class Infidelity:
    """What a map says squares do to a prediction, and what they do.

    Args:
        corners: (n, 2) top and left of the squares.
        square_px: their side.
        claimed_months: (n,) change of the prediction that the map gives to each square.
        observed_months: (n,) prediction minus that with the square replaced.
    """

    corners: npt.NDArray[np.intp]
    square_px: int
    claimed_months: Months
    observed_months: Months

    @property
    def infidelity_months2(self) -> float:
        """Mean squared difference between claim and observation, in months squared."""
        return self._error(1.0)

    @property
    def scale(self) -> float:
        """Factor on the map that makes the infidelity least; 0 where the map claims nothing."""
        power = float(self.claimed_months @ self.claimed_months)
        return float(self.claimed_months @ self.observed_months) / power if power > 0 else 0.0

    @property
    def scaled_infidelity_months2(self) -> float:
        """Infidelity of the map times ``scale``: whether its shape is right, in months squared."""
        return self._error(self.scale)

    @property
    def zero_map_months2(self) -> float:
        """Infidelity of a map that is 0 everywhere, which a map should stay below."""
        return self._error(0.0)

    def _error(self, factor: float) -> float:
        return float(np.mean((factor * self.claimed_months - self.observed_months) ** 2))


@dataclass(frozen=True)
class MaxSensitivity:
    """How much a map changes under small noise.

    Args:
        max_relative_change: largest norm of the map's change over the norm of the map.
        mean_relative_change: its mean over the draws.
        max_prediction_change_months: largest change of the prediction under the same noise.
        radius: of the noise, in intensity.
        n_samples: draws.
    """

    max_relative_change: float
    mean_relative_change: float
    max_prediction_change_months: float
    radius: float
    n_samples: int


def infidelity(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    map_months: npt.NDArray[np.floating[Any]],
    baseline: Tensor,
    *,
    per_intensity: bool = False,
    square_px: int = 8,
    n_squares: int = 100,
    seed: int = 0,
    batch_size: int = CPU_BATCH,
) -> Infidelity:
    """Compare what a map claims for random squares with what replacing them does.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        map_months: (H, W) signed map.
        baseline: (1, 1, H, W) what a square is replaced by; for a map in months, the baseline
            it was made with (``baselines.baseline_images``).
        per_intensity: whether the map is in months per unit of intensity, as of ``gradient``;
            it is then multiplied by image minus baseline.
        square_px: side of the squares, which lie wholly inside the image.
        n_squares: how many.
        seed: of where they lie.
        batch_size: images a step; does not change the result.

    Returns:
        Claims and observations, in months, with the infidelities they give.

    Raises:
        AttributionError: wrong shapes, or a map or prediction that is not finite.
        ConfigError: squares that are none or do not fit, or a batch below 1.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, with its
    square removal and its optimal scaling.
    """
    check_single(image, is_male)
    check_single(baseline, is_male)
    values = check_map(map_months, image)
    height, width = values.shape
    if baseline.shape != image.shape:
        raise AttributionError(
            f"baseline: expected the image's shape {tuple(image.shape)}, "
            f"found {tuple(baseline.shape)}"
        )
    if not 1 <= square_px <= min(height, width) or min(n_squares, batch_size) < 1:
        raise ConfigError(
            f"infidelity: expected squares of 1 to {min(height, width)} px, at least one of them "
            f"and one image a batch, found {square_px}, {n_squares} and {batch_size}"
        )
    if per_intensity:
        values = values * (image - baseline).detach().cpu().double().numpy()[0, 0]
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, height - square_px + 1, n_squares)
    lefts = rng.integers(0, width - square_px + 1, n_squares)
    # Sums over all that is above and to the left give that of any square by its four corners.
    table = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    ends_y, ends_x = tops + square_px, lefts + square_px
    claimed = table[ends_y, ends_x] - table[tops, ends_x] - table[ends_y, lefts]
    claimed += table[tops, lefts]

    def batches() -> Iterator[Tensor]:
        yield image
        for start in range(0, n_squares, batch_size):
            part = slice(start, start + batch_size)
            pictures = image.repeat(len(tops[part]), 1, 1, 1)
            for picture, top, left in zip(pictures, tops[part], lefts[part], strict=True):
                square = slice(top, top + square_px), slice(left, left + square_px)
                picture[0][square] = baseline[0, 0][square]
            yield pictures

    months = predicted(network, batches(), is_male, batch_size)
    corners = np.stack([tops, lefts], axis=1).astype(np.intp)
    return Infidelity(corners, square_px, claimed, months[0] - months[1:])


def max_sensitivity(
    method: AttributionMethod,
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    *,
    settings: AttributionSettings | None = None,
    mean_image: FloatImage | None = None,
    radius: float = 0.02,
    n_samples: int = 10,
    seed: int = 0,
) -> MaxSensitivity:
    """Measure the largest relative change of a map under noise of a given radius.

    Args:
        method: makes the maps.
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: of the method.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        radius: largest change of a pixel; noise is uniform within it.
        n_samples: draws of the noise.
        seed: of the noise.

    Returns:
        Relative changes (Frobenius norm), and what the noise did to the prediction.

    Raises:
        AttributionError: as the method, or a map that is 0 everywhere.
        ConfigError: a radius that is not above 0 and at most 1, or no draws.

    Source: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019. Departure:
    intensities are kept in [0, 1], as the network knows no others.
    """
    check_single(image, is_male)
    if not 0 < radius <= 1 or n_samples < 1:
        raise ConfigError(
            "max-sensitivity: expected a radius in (0, 1] and at least 1 draw, "
            f"found {radius} and {n_samples}"
        )
    settings = settings or AttributionSettings()
    own = method(network, image, is_male, settings, mean_image)
    size = float(np.linalg.norm(own.map_months.astype(np.float64)))
    if size == 0:
        raise AttributionError("max-sensitivity: expected a map with values, found 0 everywhere")
    rng = np.random.default_rng(seed)
    changes, moves = [], []
    for _ in range(n_samples):
        noise = rng.uniform(-radius, radius, tuple(image.shape))
        noisy = (image + torch.tensor(noise, dtype=image.dtype, device=image.device)).clamp(0, 1)
        other = method(network, noisy, is_male, settings, mean_image)
        difference = other.map_months.astype(np.float64) - own.map_months
        changes.append(float(np.linalg.norm(difference)) / size)
        moves.append(abs(other.prediction_months - own.prediction_months))
    return MaxSensitivity(max(changes), float(np.mean(changes)), max(moves), radius, n_samples)

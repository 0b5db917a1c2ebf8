"""What a model must beat: the mean, the mean per sex, and global intensity statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV

from boneage_xai.errors import DataError

FloatArray = npt.NDArray[np.float64]

BASELINES = ("mean", "sex_mean", "intensity_ridge")
_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-2, 4, 13))


@dataclass(frozen=True)
class Baselines:
    """Baselines fitted on training cases, as plain numbers that JSON can hold.

    Args:
        n: number of training cases.
        mean_months: their mean bone age.
        female_mean_months: mean of the girls; ``mean_months`` when there were none.
        male_mean_months: mean of the boys; ``mean_months`` when there were none.
        intensity_mean: (k,) training mean of each intensity statistic.
        intensity_sd: (k,) training standard deviation, 1 for a constant statistic.
        ridge_coefficients_months: (k,) months per standard deviation of each statistic.
        ridge_intercept_months: prediction at average intensity.
        ridge_alpha: penalty that leave-one-out validation chose.
    """

    n: int
    mean_months: float
    female_mean_months: float
    male_mean_months: float
    intensity_mean: tuple[float, ...]
    intensity_sd: tuple[float, ...]
    ridge_coefficients_months: tuple[float, ...]
    ridge_intercept_months: float
    ridge_alpha: float

    def predict(self, name: str, is_male: npt.ArrayLike, intensity: npt.ArrayLike) -> FloatArray:
        """Predict bone age with one baseline.

        Args:
            name: one of ``BASELINES``.
            is_male: (n,) bool.
            intensity: (n, k) the statistics the ridge was fitted on.

        Returns:
            (n,) months.

        Raises:
            DataError: an unknown name, or intensities of another shape.
        """
        male = np.asarray(is_male, dtype=np.bool_)
        if name == "mean":
            return np.full(male.shape, self.mean_months)
        if name == "sex_mean":
            return np.where(male, self.male_mean_months, self.female_mean_months)
        if name != "intensity_ridge":
            raise DataError(f"baseline: expected one of {', '.join(BASELINES)}, found {name!r}")
        statistics = np.asarray(intensity, dtype=np.float64)
        expected = (male.size, len(self.intensity_mean))
        if statistics.shape != expected:
            raise DataError(
                f"baseline intensity_ridge: expected statistics of shape {expected}, "
                f"found {statistics.shape}"
            )
        standardised = (statistics - np.array(self.intensity_mean)) / np.array(self.intensity_sd)
        predicted = self.ridge_intercept_months + standardised @ np.array(
            self.ridge_coefficients_months
        )
        return np.asarray(predicted, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Baselines:
        """Return the baselines that ``to_dict`` wrote.

        Raises:
            DataError: a key is missing or unknown, or a value is not a number.
        """
        expected = {item.name for item in fields(cls)}
        if set(data) != expected:
            raise DataError(
                f"baselines: expected the keys {', '.join(sorted(expected))}, "
                f"found {', '.join(sorted(data))}"
            )
        try:
            values: dict[str, Any] = {
                key: tuple(float(item) for item in value)
                if isinstance(value, list | tuple)
                else float(value)
                for key, value in data.items()
            }
        except (TypeError, ValueError) as error:
            raise DataError(f"baselines: expected numbers only, found {error}") from error
        return cls(**{**values, "n": int(values["n"])})


def fit_baselines(
    bone_ages_months: npt.ArrayLike, is_male: npt.ArrayLike, intensity: npt.ArrayLike
) -> Baselines:
    """Fit all baselines on training cases.

    The constant is the mean, as in the published studies, although the median is what
    minimises the MAE. The ridge sees only standardised global intensity statistics: what it
    explains is a property of the acquisition (in the RSNA data brighter images are
    younger), not of the bones.

    Args:
        bone_ages_months: (n,) reference bone age of the training cases, months.
        is_male: (n,) bool.
        intensity: (n, k) statistics of the unprocessed pixels, such as mean and percentiles.

    Returns:
        The fitted baselines.

    Raises:
        DataError: fewer than two cases, shapes that do not match, or values not finite.
    """
    ages = np.asarray(bone_ages_months, dtype=np.float64)
    male = np.asarray(is_male, dtype=np.bool_)
    statistics = np.asarray(intensity, dtype=np.float64)
    n = ages.size
    if ages.ndim != 1 or n < 2 or male.shape != (n,) or statistics.shape[:1] != (n,):
        raise DataError(
            "baselines: expected ages, sexes and intensity statistics of the same two or more "
            f"cases, found shapes {ages.shape}, {male.shape} and {statistics.shape}"
        )
    if statistics.ndim != 2 or statistics.shape[1] == 0:
        raise DataError(
            f"baselines: expected (n, k) intensity statistics, found shape {statistics.shape}"
        )
    if not (np.isfinite(ages).all() and np.isfinite(statistics).all()):
        raise DataError(
            "baselines: expected finite ages and intensity statistics, found one that is not"
        )
    mean = statistics.mean(axis=0)
    sd = statistics.std(axis=0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    ridge = RidgeCV(alphas=_ALPHAS).fit((statistics - mean) / sd, ages)
    overall = float(ages.mean())
    return Baselines(
        n=int(n),
        mean_months=overall,
        female_mean_months=float(ages[~male].mean()) if (~male).any() else overall,
        male_mean_months=float(ages[male].mean()) if male.any() else overall,
        intensity_mean=tuple(mean.tolist()),
        intensity_sd=tuple(sd.tolist()),
        ridge_coefficients_months=tuple(np.asarray(ridge.coef_, dtype=np.float64).tolist()),
        ridge_intercept_months=float(ridge.intercept_),
        ridge_alpha=float(ridge.alpha_),
    )

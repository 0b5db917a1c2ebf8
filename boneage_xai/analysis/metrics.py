"""Error metrics in months with their intervals, and the paired test between two models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, wilcoxon

from boneage_xai.analysis.large_samples import mean_interval, median_interval
from boneage_xai.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]

CONFIDENCE = 0.95
N_RESAMPLES = 10_000
# Above this many cases the interval of infinitely many resamples is computed instead, which
# differs by less than the resamples' own scatter and costs nothing.
LARGE_SAMPLE = 5000
# Below this many cases a percentile interval is known to be too narrow.
FEW_CASES = 20
# Resamples are drawn in blocks of so many errors: few enough to stay in the processor's cache.
_BLOCK_ELEMENTS = 200_000


class Estimate(TypedDict):
    """A value with its 95% interval; ``low`` and ``high`` are None where there is none."""

    value: float | None
    low: float | None
    high: float | None


def _share_within(limit_months: float) -> Statistic:
    def share(errors_months: FloatArray) -> FloatArray:
        within = np.abs(errors_months) <= limit_months
        return np.asarray(within.mean(axis=-1), dtype=np.float64)

    return share


def _mean_absolute(errors_months: FloatArray) -> FloatArray:
    return np.asarray(np.abs(errors_months).mean(axis=-1))


def _root_mean_square(errors_months: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.square(errors_months).mean(axis=-1)))


def _mean(values: FloatArray) -> FloatArray:
    return np.asarray(values.mean(axis=-1))


def _median_absolute(errors_months: FloatArray) -> FloatArray:
    return np.asarray(np.median(np.abs(errors_months), axis=-1))


_RESAMPLED: Mapping[str, Statistic] = {
    "mae_months": _mean_absolute,
    "rmse_months": _root_mean_square,
    "bias_months": _mean,
    "median_absolute_error_months": _median_absolute,
}
_SHARES: Mapping[str, Statistic] = {
    f"within_{limit}_months": _share_within(limit) for limit in (6, 12, 24)
}
METRICS: Mapping[str, Statistic] = {**_RESAMPLED, **_SHARES}


def _checked(values: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(
            f"{name}: expected at least one value in one dimension, found {array.shape}"
        )
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{name}: expected finite values, found {array[first]} at position {first}")
    return array


def bootstrap(
    values: npt.ArrayLike,
    statistics: Mapping[str, Statistic],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Estimate]:
    """Return each statistic with its bootstrap percentile interval.

    All statistics see the same resamples, drawn block by block from one generator, so
    that the size of a block does not change the result.

    Args:
        values: (n,) one value per case; cases are what is resampled.
        statistics: name to a function that reduces the last axis of (..., n).
        seed: of the resampling.
        n_resamples: number of resamples.
        confidence: share of resamples the interval spans.

    Returns:
        Per statistic its value, low and high; low and high are None when n < 2.

    Raises:
        DataError: no values, or a value that is not finite.
        ConfigError: ``n_resamples`` under 1 or ``confidence`` outside (0, 1).

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    sample = _checked(values, "bootstrap")
    if n_resamples < 1:
        raise ConfigError(f"n_resamples: expected at least 1, found {n_resamples}")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence: expected a share between 0 and 1, found {confidence}")
    n = sample.size
    point = {name: float(statistic(sample)) for name, statistic in statistics.items()}
    if n < 2:
        return {name: {"value": value, "low": None, "high": None} for name, value in point.items()}
    resampled = {name: np.empty(n_resamples) for name in statistics}
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, n_resamples, rows):
        stop = min(start + rows, n_resamples)
        block = sample[rng.integers(0, n, size=(stop - start, n))]
        for name, statistic in statistics.items():
            resampled[name][start:stop] = statistic(block)
    tails = [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)]
    estimates: dict[str, Estimate] = {}
    for name, value in point.items():
        low, high = np.percentile(resampled[name], tails)
        estimates[name] = {"value": value, "low": float(low), "high": float(high)}
    return estimates


def bootstrap_mean(
    values: npt.ArrayLike, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Estimate:
    """Return the mean of ``values`` (n,) with its bootstrap 95% interval.

    Above ``LARGE_SAMPLE`` values nothing is resampled, see ``large_samples``.
    """
    sample = _checked(values, "bootstrap")
    if sample.size > LARGE_SAMPLE:
        low, high = mean_interval(sample, CONFIDENCE)
        return {"value": float(sample.mean()), "low": low, "high": high}
    return bootstrap(values, {"mean": _mean}, seed=seed, n_resamples=n_resamples)["mean"]


def share_estimate(count: int, n: int) -> Estimate:
    """Return the share ``count`` of ``n`` with Wilson's 95% interval, None where n is 0.

    Resamples of cases that all agree agree, too, so that a bootstrap interval of 100% of 30 cases
    would be 100% to 100%.

    Source:
        Wilson, Journal of the American Statistical Association, 1927.
    """
    if n == 0:
        return {"value": None, "low": None, "high": None}
    interval = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": count / n, "low": float(interval.low), "high": float(interval.high)}


def error_metrics(
    errors_months: npt.ArrayLike, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> dict[str, Any]:
    """Return every metric of ``METRICS`` with its 95% interval: Wilson's of shares, else bootstrap.

    Above ``LARGE_SAMPLE`` cases nothing is resampled, see ``large_samples``.

    Args:
        errors_months: (n,) predicted minus reference, months.
        seed: of the resampling.
        n_resamples: number of resamples.

    Returns:
        ``n``, ``few_cases`` (True under 20 cases, where intervals come out too narrow), and
        per metric ``{value, low, high}``: months, or shares from 0 to 1 for ``within_*``,
        which count errors of at most that size. ``low`` and ``high`` are None when n < 2.

    Raises:
        DataError: no errors, or one that is not finite.
    """
    errors = _checked(errors_months, "errors in months")
    if errors.size > LARGE_SAMPLE:
        estimates = _large_sample_estimates(errors)
    else:
        estimates = bootstrap(errors, _RESAMPLED, seed=seed, n_resamples=n_resamples)
    estimates |= {name: _share(errors, share) for name, share in _SHARES.items()}
    return {"n": int(errors.size), "few_cases": bool(errors.size < FEW_CASES), **estimates}


def _share(errors: FloatArray, share: Statistic) -> Estimate:
    value = float(share(errors))
    if errors.size < 2:
        return {"value": value, "low": None, "high": None}
    return share_estimate(round(value * errors.size), errors.size)


def _large_sample_estimates(errors: FloatArray) -> dict[str, Estimate]:
    absolute = np.abs(errors)
    square_low, square_high = mean_interval(np.square(errors), CONFIDENCE)
    intervals = {
        "mae_months": mean_interval(absolute, CONFIDENCE),
        "rmse_months": (float(np.sqrt(max(square_low, 0.0))), float(np.sqrt(square_high))),
        "bias_months": mean_interval(errors, CONFIDENCE),
        "median_absolute_error_months": median_interval(absolute, CONFIDENCE),
    }
    return {
        name: {
            "value": float(METRICS[name](errors)),
            "low": intervals[name][0],
            "high": intervals[name][1],
        }
        for name in _RESAMPLED
    }


def paired_difference(
    errors_a: npt.ArrayLike,
    errors_b: npt.ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Any]:
    """Compare the errors two models make on the same cases.

    Args:
        errors_a: (n,) predicted minus reference of model A, months.
        errors_b: (n,) the same cases in the same order for model B.
        seed: of the resampling of cases.
        n_resamples: number of resamples.

    Returns:
        ``n``; ``mae_difference_months`` ``{value, low, high}``, MAE of A minus MAE of B with
        its paired bootstrap 95% interval (negative: A is closer); ``wilcoxon_p``, of
        :func:`signed_rank_p` on the differences of the absolute errors.

    Raises:
        DataError: no errors, one that is not finite, or two lengths.
    """
    a, b = _checked(errors_a, "errors of model A"), _checked(errors_b, "errors of model B")
    if a.shape != b.shape:
        raise DataError(
            f"paired difference: expected the same cases twice, found {a.size} and {b.size} errors"
        )
    difference = np.abs(a) - np.abs(b)
    return {
        "n": int(difference.size),
        "mae_difference_months": bootstrap_mean(difference, seed=seed, n_resamples=n_resamples),
        "wilcoxon_p": signed_rank_p(difference),
    }


def signed_rank_p(difference: npt.ArrayLike) -> float | None:
    """Return Wilcoxon's two-sided p for paired differences that scatter around 0.

    Args:
        difference: (n,) one value per case.

    Returns:
        The p-value; 1 when every difference is zero, None when n < 2.

    Source:
        Wilcoxon, Biometrics Bulletin, 1945; zeros are dropped as there.
    """
    values = np.asarray(difference, dtype=np.float64)
    if values.size < 2:
        return None
    return float(wilcoxon(values).pvalue) if values.any() else 1.0

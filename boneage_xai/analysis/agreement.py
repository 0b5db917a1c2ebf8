"""Agreement of predicted with reference bone age: Bland-Altman, correlation, concordance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

from boneage_xai.analysis.metrics import CONFIDENCE, Estimate, FloatArray
from boneage_xai.errors import DataError

_TAIL = 0.5 * (1.0 + CONFIDENCE)
_NO_LEVERAGE_LEFT = 1e-9
_NO_SLOPE: dict[str, float | None] = {"value": None, "low": None, "high": None, "intercept": None}
_NO_ESTIMATE: Estimate = {"value": None, "low": None, "high": None}


def regression_slope(x: FloatArray, y: FloatArray) -> dict[str, float | None]:
    """Fit y = intercept + slope · x by least squares.

    Args:
        x: (n,) explaining values.
        y: (n,) explained values.

    Returns:
        ``value``, ``low``, ``high`` of the slope and ``intercept``; all None when n < 3, x is
        constant or a single case decides the slope. The 95% interval is from Student's t with n - 2
        degrees of freedom and the standard error HC3, since errors spread more at some ages.

    Source:
        MacKinnon and White, Journal of Econometrics, 1985; Long and Ervin, The American
        Statistician, 2000.
    """
    n = x.size
    if n < 3 or not varies(x):
        return _NO_SLOPE.copy()
    centred = x - x.mean()
    spread = float(np.square(centred).sum())
    free = 1 - 1 / n - np.square(centred) / spread
    if free.min() < _NO_LEVERAGE_LEFT:
        return _NO_SLOPE.copy()
    slope = float(centred @ (y - y.mean())) / spread
    intercept = float(y.mean()) - slope * float(x.mean())
    residuals = (y - intercept - slope * x) / free
    error = float(np.linalg.norm(centred * residuals)) / spread
    margin = float(student.ppf(_TAIL, n - 2)) * error
    return {"value": slope, "low": slope - margin, "high": slope + margin, "intercept": intercept}


def varies(values: FloatArray) -> bool:
    """Return whether values (n,) differ by more than rounding, as the SD of equal ones may."""
    if values.size < 2:
        return False
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


def pearson_correlation(x: FloatArray, y: FloatArray) -> Estimate:
    """Return Pearson's correlation of x and y, both (n,), with Fisher's 95% interval.

    The value is None when n < 2 or one is constant, the interval when n < 4.

    Source:
        Fisher, Metron, 1921.
    """
    if not (varies(x) and varies(y)):
        return _NO_ESTIMATE.copy()
    value = float(((x - x.mean()) * (y - y.mean())).mean()) / float(x.std() * y.std())
    value = min(1.0, max(-1.0, value))
    if x.size < 4 or abs(value) == 1.0:
        return {"value": value, "low": None, "high": None}
    return _fisher_interval(value, 1.0 / math.sqrt(x.size - 3))


def lin_concordance(x: FloatArray, y: FloatArray) -> Estimate:
    """Return Lin's concordance correlation of x and y, both (n,), with its 95% interval.

    The value is None when n < 2 or both are constant and equal, the interval when n < 4.

    Source:
        Lin, Biometrics, 1989, with the variance as corrected in Biometrics, 2000; variances
        divide by n, as there.
    """
    if x.size < 2:
        return _NO_ESTIMATE.copy()
    shift = float(x.mean() - y.mean())
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    total = float(x.var() + y.var()) + shift**2
    if total == 0.0:
        return _NO_ESTIMATE.copy()
    value = 2.0 * covariance / total
    correlation = pearson_correlation(x, y)["value"]
    if x.size < 4 or not correlation or abs(value) >= 1.0 or abs(correlation) == 1.0:
        return {"value": value, "low": None, "high": None}
    r2, c2 = correlation**2, value**2
    u2 = shift**2 / float(x.std() * y.std())
    variance = (
        (1.0 - r2) * c2 / ((1.0 - c2) * r2)
        + 2.0 * value**3 * (1.0 - value) * u2 / (correlation * (1.0 - c2) ** 2)
        - c2**2 * u2**2 / (2.0 * r2 * (1.0 - c2) ** 2)
    ) / (x.size - 2)
    return _fisher_interval(value, math.sqrt(max(variance, 0.0)))


def _fisher_interval(value: float, standard_error: float) -> Estimate:
    margin = float(norm.ppf(_TAIL)) * standard_error
    centre = math.atanh(value)
    return {"value": value, "low": math.tanh(centre - margin), "high": math.tanh(centre + margin)}


def agreement(reference_months: npt.ArrayLike, predicted_months: npt.ArrayLike) -> dict[str, Any]:
    """Measure how well predicted agrees with reference bone age.

    Differences are predicted minus reference. A model that pulls towards the middle age
    (regression to the mean) reads young children too old and old ones too young, which
    shows as a negative slope. ``slope_on_reference`` states that as a user meets it, but the
    reference is then in both axes, so that even the best possible model of imperfect accuracy
    is below zero, at -(1 - R²). ``slope``, on the mean of the two as in a Bland-Altman plot,
    is zero when predictions spread as widely as references.

    Args:
        reference_months: (n,) reference bone age, months.
        predicted_months: (n,) predicted bone age, months.

    Returns:
        ``n``; ``bias_months``, ``sd_months`` (n - 1), ``lower_months`` and ``upper_months``,
        the limits of agreement bias ± 1.96 sd; ``intervals`` with the 95% intervals of bias
        and limits; ``slope`` of the difference on the mean of the two and
        ``slope_on_reference``, each ``{value, low, high, intercept_months, on}`` in months per
        month; ``correlation`` and ``concordance`` ``{value, low, high}``. None stands for
        what too few cases (n < 2, slopes n < 3) or constant values do not give.

    Raises:
        DataError: no cases, two lengths, or a value that is not finite.

    Source:
        Bland and Altman, Lancet, 1986: standard errors sqrt(s²/n) of the bias and
        sqrt(3 s²/n) of a limit, Student's t with n - 1 degrees of freedom.
    """
    reference = np.asarray(reference_months, dtype=np.float64)
    predicted = np.asarray(predicted_months, dtype=np.float64)
    if reference.ndim != 1 or reference.shape != predicted.shape or reference.size == 0:
        raise DataError(
            "agreement: expected as many predicted as reference ages, at least one, "
            f"found {predicted.shape} and {reference.shape}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(predicted).all()):
        raise DataError("agreement: expected finite ages in months, found one that is not")
    n = reference.size
    difference = predicted - reference
    bias = float(difference.mean())
    sd = lower = upper = bias_margin = limit_margin = None
    if n >= 2:
        sd = float(difference.std(ddof=1))
        lower, upper = bias - 1.96 * sd, bias + 1.96 * sd
        quantile = float(student.ppf(_TAIL, n - 1))
        bias_margin = quantile * sd / math.sqrt(n)
        limit_margin = quantile * sd * math.sqrt(3.0 / n)
    return {
        "n": n,
        "bias_months": bias,
        "sd_months": sd,
        "lower_months": lower,
        "upper_months": upper,
        "intervals": {
            "bias_months": _around(bias, bias_margin),
            "lower_months": _around(lower, limit_margin),
            "upper_months": _around(upper, limit_margin),
        },
        "slope": _slope((predicted + reference) / 2.0, difference, "mean of both"),
        "slope_on_reference": _slope(reference, difference, "reference"),
        "correlation": pearson_correlation(reference, predicted),
        "concordance": lin_concordance(reference, predicted),
    }


def _around(value: float | None, margin: float | None) -> Estimate:
    if value is None or margin is None:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": value - margin, "high": value + margin}


def _slope(x: FloatArray, difference: FloatArray, on: str) -> dict[str, Any]:
    fit = regression_slope(x, difference)
    intercept = fit.pop("intercept")
    return {**fit, "intercept_months": intercept, "on": on}

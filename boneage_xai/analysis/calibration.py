"""Calibration: whether children whose prediction is x months are x months on average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from boneage_xai.analysis.agreement import regression_slope, varies
from boneage_xai.analysis.metrics import CONFIDENCE, FEW_CASES, Estimate, FloatArray
from boneage_xai.errors import ConfigError, DataError

N_BINS = 10


def _checked(
    reference_months: npt.ArrayLike, predicted_months: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    reference = np.asarray(reference_months, dtype=np.float64)
    predicted = np.asarray(predicted_months, dtype=np.float64)
    if reference.ndim != 1 or reference.shape != predicted.shape or reference.size == 0:
        raise DataError(
            "calibration: expected as many predicted as reference ages, at least one, "
            f"found {predicted.shape} and {reference.shape}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(predicted).all()):
        raise DataError("calibration: expected finite ages in months, found one that is not")
    return reference, predicted


def calibration_curve(
    reference_months: npt.ArrayLike, predicted_months: npt.ArrayLike, *, n_bins: int = N_BINS
) -> list[dict[str, Any]]:
    """Return mean reference bone age over bins of the prediction that hold as many cases each.

    Args:
        reference_months: (n,) reference bone age, months.
        predicted_months: (n,) predicted bone age, months.
        n_bins: number of bins; equal predictions stay in one bin, so that there may be fewer.

    Returns:
        Per bin ``n``, ``few_cases``, ``predicted_months`` (mean), ``from_months`` and
        ``to_months`` (smallest and largest prediction), and ``reference_months`` and
        ``error_months`` (predicted minus reference), each ``{value, low, high}``, the mean with
        Student's 95% interval.

    Raises:
        DataError: no cases, two lengths, or a value that is not finite.
        ConfigError: fewer than one bin.
    """
    reference, predicted = _checked(reference_months, predicted_months)
    if n_bins < 1:
        raise ConfigError(f"calibration bins: expected at least 1, found {n_bins}")
    edges = np.quantile(predicted, np.linspace(0.0, 1.0, n_bins + 1)[1:-1])
    codes = np.searchsorted(edges, predicted, side="right")
    rows: list[dict[str, Any]] = []
    for code in np.unique(codes):
        mask = codes == code
        own, truth = predicted[mask], reference[mask]
        rows.append(
            {
                "n": int(own.size),
                "few_cases": bool(own.size < FEW_CASES),
                "predicted_months": float(own.mean()),
                "from_months": float(own.min()),
                "to_months": float(own.max()),
                "reference_months": _mean_estimate(truth),
                "error_months": _mean_estimate(own - truth),
            }
        )
    return rows


def _mean_estimate(values: FloatArray) -> Estimate:
    mean = float(values.mean())
    if values.size < 2:
        return {"value": mean, "low": None, "high": None}
    tail = float(student.ppf(0.5 * (1.0 + CONFIDENCE), values.size - 1))
    margin = tail * float(values.std(ddof=1)) / math.sqrt(values.size)
    return {"value": mean, "low": mean - margin, "high": mean + margin}


def calibration_line(
    reference_months: npt.ArrayLike, predicted_months: npt.ArrayLike
) -> dict[str, Any]:
    """Return the line of reference on predicted bone age, and how far regression to the mean goes.

    Args:
        reference_months: (n,) reference bone age, months.
        predicted_months: (n,) predicted bone age, months.

    Returns:
        ``slope`` ``{value, low, high}`` of the reference on the prediction, 1 where predictions
        are calibrated, below 1 where they are spread too far; ``intercept_months``;
        ``sd_ratio``, standard deviation of predictions by that of references, below 1 where
        predictions keep to the middle; ``regression_to_the_mean``, one minus the slope of the
        prediction on the reference ``{value, low, high}``: the share of a child's distance from
        the mean age that its prediction loses. None stands for what fewer than 3 cases or
        constant values do not give.

    Raises:
        DataError: no cases, two lengths, or a value that is not finite.

    Source:
        Galton, Journal of the Anthropological Institute, 1886.
    """
    reference, predicted = _checked(reference_months, predicted_months)
    line = regression_slope(predicted, reference)
    back = regression_slope(reference, predicted)
    lost: dict[str, float | None] = {"value": None, "low": None, "high": None}
    value, low, high = (back[key] for key in ("value", "low", "high"))
    if value is not None and low is not None and high is not None:
        lost = {"value": 1.0 - value, "low": 1.0 - high, "high": 1.0 - low}
    return {
        "slope": {key: line[key] for key in ("value", "low", "high")},
        "intercept_months": line["intercept"],
        "sd_ratio": float(predicted.std() / reference.std()) if varies(reference) else None,
        "regression_to_the_mean": lost,
    }

"""Whether prediction intervals keep their promise: calibrated on one half, checked on the other."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.conformal import COVERAGE, Conformal, IntervalMethod, fit_conformal
from boneage_xai.analysis.groups import standard_groupings
from boneage_xai.analysis.metrics import FEW_CASES, FloatArray, share_estimate
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE
from boneage_xai.types import Sex

MIN_CASES = 100
N_SPLITS = 100
# Repeated splits are for samples whose halves are small; of large ones a few say as much.
_REPEATED_CASES = 4_000_000

Halves = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


def halves(n: int, seed: int) -> Halves:
    """Return the positions of the calibrating and of the checked half, drawn at random."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def interval_results(
    predictions: pd.DataFrame,
    *,
    method: IntervalMethod = "mondrian",
    coverage: float = COVERAGE,
    seed: int = 0,
    age_bins: tuple[float, ...] = AGE_BINS_MONTHS,
    n_splits: int = N_SPLITS,
) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """Calibrate intervals on half of the cases and count how often they hold on the other.

    Args:
        predictions: case_id, sex ('F' or 'M'), reference_months and predicted_months per case.
        method: how widths vary, see ``fit_conformal``.
        coverage: share of references that intervals are to contain.
        seed: of the division into halves.
        age_bins: edges in months of the bins, by predicted age.
        n_splits: number of further divisions at random, by which the scatter of a single one
            is known; fewer on large samples.

    Returns:
        None under ``MIN_CASES`` cases. Else what intervals.json holds: ``settings``,
        ``calibration`` (of ``Conformal``), ``overall`` with ``n`` cases that have an interval,
        ``n_without_interval``, ``coverage`` ``{value, low, high}`` and the mean ``width_months``
        (None where there is none), ``groups`` with an interval the same by sex, age bin of the
        prediction, and both, and ``repeated``, per method the mean of coverage and width over
        the further divisions with the 2.5th and 97.5th percentile of coverage; and the checked
        half as a table of case_id, low_months, high_months, covered; infinite limits, and covered,
        where there is no interval.
    """
    n = len(predictions)
    if n < MIN_CASES:
        return None
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    predicted = predictions["predicted_months"].to_numpy(dtype=np.float64)
    is_male = predictions["sex"].to_numpy(dtype=object) == Sex.MALE.value

    def calibrate(part: npt.NDArray[np.intp], how: IntervalMethod, draw: int) -> Conformal:
        return fit_conformal(
            reference[part],
            predicted[part],
            is_male[part],
            method=how,
            coverage=coverage,
            age_bins=age_bins,
            seed=draw,
        )

    fitted_on, checked = halves(n, seed)
    calibration = calibrate(fitted_on, method, seed)
    low, high = calibration.interval(predicted[checked], is_male[checked])
    covered = (reference[checked] >= low) & (reference[checked] <= high)
    table = pd.DataFrame(
        {
            "case_id": predictions["case_id"].to_numpy()[checked],
            "low_months": low,
            "high_months": high,
            "covered": covered,
        }
    )
    repeats = int(np.clip(_REPEATED_CASES // n, 1, n_splits))
    repeated: dict[str, Any] = {"n_splits": repeats}
    for how in get_args(IntervalMethod):
        found = []
        for draw in range(seed + 1, seed + 1 + repeats):
            one, other = halves(n, draw)
            half = calibrate(one, how, draw).half_width(predicted[other], is_male[other])
            given = np.isfinite(half)
            hits = np.abs(reference[other] - predicted[other])[given] <= half[given]
            if hits.size:
                found.append((float(hits.mean()), 2.0 * float(half[given].mean())))
        repeated[how] = _repeated(found)
    return {
        "settings": {
            "method": method,
            "coverage": coverage,
            "seed": seed,
            "n_calibrated": int(fitted_on.size),
            "age_bins_months": [float(edge) for edge in age_bins],
        },
        "calibration": calibration.to_dict(),
        "overall": _held(covered, high - low),
        "groups": _groups(
            predicted[checked], predictions["sex"].iloc[checked], covered, high - low, age_bins
        ),
        "repeated": repeated,
    }, table


def _repeated(found: list[tuple[float, float]]) -> dict[str, Any]:
    """Sum up coverage and width of divisions, None where none gave an interval."""
    if not found:
        return {"coverage": dict.fromkeys(("value", "low", "high")), "width_months": None}
    shares, widths = np.array(found).T
    low, high = np.percentile(shares, [2.5, 97.5]).tolist()
    return {
        "coverage": {"value": float(shares.mean()), "low": low, "high": high},
        "width_months": float(widths.mean()),
    }


def _held(covered: npt.NDArray[np.bool_], widths: FloatArray) -> dict[str, Any]:
    # Too few cases to calibrate on make an infinite interval, which says nothing and always holds.
    given = np.isfinite(widths)
    n = int(given.sum())
    return {
        "n": n,
        "n_without_interval": int(widths.size) - n,
        "few_cases": n < FEW_CASES,
        "coverage": share_estimate(int(covered[given].sum()), n),
        "width_months": float(widths[given].mean()) if n else None,
    }


def _groups(
    predicted: FloatArray,
    sex: pd.Series[Any],
    covered: npt.NDArray[np.bool_],
    widths: FloatArray,
    age_bins: tuple[float, ...],
) -> list[dict[str, Any]]:
    # Grouped by the prediction, since that is all that is known when an interval is quoted.
    inside = np.clip(predicted, age_bins[0], age_bins[-1])
    frame = pd.DataFrame({"sex": sex.to_numpy(), "reference_months": inside})
    rows: list[dict[str, Any]] = []
    groupings = standard_groupings(frame, age_bins)
    for by in ("sex", "age", SEX_BY_AGE):
        grouping = groupings[by]
        for code, keys in enumerate(grouping.keys):
            mask = grouping.codes == code
            if np.isfinite(widths[mask]).any():
                rows.append({"by": by, **keys, **_held(covered[mask], widths[mask])})
    return rows

"""What errors mean for a diagnosis: skeletal age in standard deviations, delayed to advanced.

With chronological ages this is what a radiologist states. Without them the standard deviation
can only be taken at the reference bone age: a proxy, and called so in every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.groups import standard_groupings
from boneage_xai.analysis.metrics import FEW_CASES, FloatArray, share_estimate
from boneage_xai.analysis.skeletal_age_table import skeletal_age_sd_months
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE
from boneage_xai.types import Sex

LIMIT_SD = 2.0
CLASSES = ("delayed", "normal", "advanced")
CHRONOLOGICAL = "chronological age"
PROXY = "proxy: reference bone age"
AGE_COLUMN = "chronological_age_months"


def skeletal_age_scores(
    bone_age_months: npt.ArrayLike, chronological_age_months: npt.ArrayLike, is_male: npt.ArrayLike
) -> FloatArray:
    """Return how many standard deviations bone ages lie from the chronological ages.

    Args:
        bone_age_months: (n,) months.
        chronological_age_months: (n,) months, NaN where unknown.
        is_male: (n,) bool.

    Returns:
        (n,) standard deviations, positive where the bone age is ahead; NaN where the
        chronological age is unknown or outside of the table.
    """
    age = np.asarray(chronological_age_months, dtype=np.float64)
    distance = np.asarray(bone_age_months, dtype=np.float64) - age
    return np.asarray(distance / skeletal_age_sd_months(age, is_male), dtype=np.float64)


def maturity_classes(scores: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Return (n,) positions in ``CLASSES``: below -2, within ±2 and above +2 standard deviations.

    -1 stands for a score that is not a number; ±2 itself is normal.
    """
    values = np.asarray(scores, dtype=np.float64)
    classes = 1 + (values > LIMIT_SD).astype(np.intp) - (values < -LIMIT_SD).astype(np.intp)
    return np.where(np.isnan(values), -1, classes).astype(np.intp)


def clinical_results(
    predictions: pd.DataFrame, *, age_bins: Sequence[float] = AGE_BINS_MONTHS
) -> dict[str, Any]:
    """Count errors that matter to a diagnosis.

    Args:
        predictions: sex ('F' or 'M'), reference_months and predicted_months per case, and
            ``AGE_COLUMN`` where chronological ages are known (NaN for cases without).
        age_bins: edges in months of the bins by reference bone age.

    Returns:
        ``basis``: ``CHRONOLOGICAL`` where a case has a chronological age, else ``PROXY``;
        ``n`` cases judged, ``n_without_age`` and ``n_outside_table`` that are left out;
        ``significant_errors`` ``{value, low, high}``, the share of errors above 2 standard
        deviations of skeletal age at the age of the basis, and ``significant_by`` the same by
        sex, age bin and both. With chronological age also ``confusion``, (3, 3) numbers of
        cases by class of the reference (rows) and of the prediction (columns) in the order of
        ``classes``; ``class_changed`` and ``missed_abnormal``, shares of all cases whose class
        the prediction changes, and of those not normal whom it calls normal; and
        ``score_error_sd`` mean and standard deviation of the error in standard deviations.

    Source:
        Beheshtian et al., Radiology, 2023, for errors that change the diagnosis.
    """
    is_male = predictions["sex"].to_numpy(dtype=object) == Sex.MALE.value
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    predicted = predictions["predicted_months"].to_numpy(dtype=np.float64)
    known = np.full(reference.size, np.nan)
    if AGE_COLUMN in predictions:
        known = predictions[AGE_COLUMN].to_numpy(dtype=np.float64, na_value=np.nan)
    real = bool(np.isfinite(known).any())
    age = known if real else reference
    sd = skeletal_age_sd_months(age, is_male)
    judged = np.isfinite(sd)
    with np.errstate(invalid="ignore"):
        significant = np.abs(predicted - reference) > LIMIT_SD * sd
    without_age = ~np.isfinite(age)
    result: dict[str, Any] = {
        "basis": CHRONOLOGICAL if real else PROXY,
        "limit_sd": LIMIT_SD,
        "n": int(judged.sum()),
        "n_without_age": int(without_age.sum()),
        "n_outside_table": int((~judged & ~without_age).sum()),
        "significant_errors": share_estimate(int(significant[judged].sum()), int(judged.sum())),
        "significant_by": _by_group(predictions, judged, significant, age_bins),
    }
    if real:
        result |= _diagnoses(reference, predicted, age, is_male, judged)
    return result


def _by_group(
    predictions: pd.DataFrame,
    judged: npt.NDArray[np.bool_],
    significant: npt.NDArray[np.bool_],
    age_bins: Sequence[float],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    groupings = standard_groupings(predictions, age_bins)
    for by in ("sex", "age", SEX_BY_AGE):
        grouping = groupings[by]
        totals = np.bincount(grouping.codes[judged], minlength=len(grouping.keys))
        counts = np.bincount(grouping.codes[judged & significant], minlength=len(grouping.keys))
        for keys, total, count in zip(grouping.keys, totals, counts, strict=True):
            if total:
                share = share_estimate(int(count), int(total))
                few = bool(total < FEW_CASES)
                row = {"n": int(total), "few_cases": few, "significant_errors": share}
                rows.append({"by": by, **keys, **row})
    return rows


def _diagnoses(
    reference: FloatArray,
    predicted: FloatArray,
    age: FloatArray,
    is_male: npt.NDArray[np.bool_],
    judged: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    true_scores, read_scores = (
        skeletal_age_scores(bone_age, age, is_male)[judged] for bone_age in (reference, predicted)
    )
    true, read = maturity_classes(true_scores), maturity_classes(read_scores)
    n_classes = len(CLASSES)
    confusion = np.bincount(n_classes * true + read, minlength=n_classes**2)
    abnormal = true != 1
    difference = read_scores - true_scores
    return {
        "classes": list(CLASSES),
        "confusion": confusion.reshape(n_classes, n_classes).tolist(),
        "class_changed": share_estimate(int((true != read).sum()), int(true.size)),
        "missed_abnormal": share_estimate(int((abnormal & (read == 1)).sum()), int(abnormal.sum())),
        "score_error_sd": {
            "mean": float(difference.mean()) if difference.size else None,
            "sd": float(difference.std(ddof=1)) if difference.size > 1 else None,
        },
    }

"""Whether the sexes of a cohort look inverted: does a network do better with each one swapped?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.metrics import FloatArray, paired_difference
from boneage_xai.data.cache import PixelCache
from boneage_xai.models.interface import Model
from boneage_xai.predict import predict_pixels
from boneage_xai.types import Cohort

FEWEST_CASES = 40
MOST_CASES = 500
"""So many cases tell; more would only take time."""

GAIN_MONTHS = 1.0
"""What a swapped sex must gain at the least, with 95% confidence, to look inverted."""


def sex_check(
    own_months: FloatArray, swapped_months: FloatArray, reference_months: FloatArray, seed: int = 0
) -> dict[str, Any]:
    """Compare the errors with the sex that is stated and with the other one.

    A network without use for the sex shows no difference, and one that learnt it from labels
    which are right does worse with the other sex. Both stay without a warning.

    Args:
        own_months: (n,) predictions with the sex of the cohort.
        swapped_months: (n,) predictions with the other sex.
        reference_months: (n,) reference bone ages.
        seed: of the bootstrap.

    Returns:
        ``n``, ``mae_change_months`` ``{value, low, high}`` of swapping (negative: the other sex
        is nearer), and ``looks_inverted``: at least ``FEWEST_CASES`` cases, and an interval that
        lies wholly below minus ``GAIN_MONTHS``.
    """
    change = paired_difference(
        swapped_months - reference_months, own_months - reference_months, seed=seed
    )["mae_difference_months"]
    n = int(np.size(reference_months))
    sure = change["high"] is not None and change["high"] < -GAIN_MONTHS
    return {
        "n": n,
        "mae_change_months": change,
        "looks_inverted": bool(n >= FEWEST_CASES and sure),
    }


def sex_warning(check: dict[str, Any]) -> str | None:
    """Return the warning that a check calls for, None when it calls for none."""
    if not check["looks_inverted"]:
        return None
    change = check["mae_change_months"]
    return (
        f"the sexes of the data look inverted: with each one swapped the error of {check['n']} "
        f"cases is {-change['value']:.1f} months lower (95% interval {-change['high']:.1f} to "
        f"{-change['low']:.1f}); see whether male and female are exchanged in the label table, or "
        "in what the network was trained on"
    )


def check_sexes(
    model: Model, cohort: Cohort, cache: PixelCache, predictions: pd.DataFrame, *, seed: int = 0
) -> dict[str, Any]:
    """Predict cases with the other sex, and compare with what was predicted with their own.

    Args:
        model: the network.
        cohort: labelled cases, at most ``MOST_CASES`` of them to save time.
        cache: pixels prepared with the network's preprocessing.
        predictions: as from ``prediction_table``, of at least these cases.
        seed: of the bootstrap.

    Returns:
        As ``sex_check``.
    """
    case_ids = [case.case_id for case in cohort]
    swapped = predict_pixels(
        model.network, cache.pixels, ~cohort.is_male(), rows=cache.rows(case_ids)
    )
    known = predictions.set_index("case_id").loc[case_ids]
    own = known["predicted_months"].to_numpy(dtype=np.float64)
    return sex_check(own, swapped, known["reference_months"].to_numpy(dtype=np.float64), seed)

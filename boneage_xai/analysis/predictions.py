"""The table of predictions that every analysis starts from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from boneage_xai.analysis.clinical import AGE_COLUMN
from boneage_xai.analysis.correction import Correction
from boneage_xai.data.cache import PixelCache
from boneage_xai.data.tables import normalise_header
from boneage_xai.errors import ConfigError
from boneage_xai.models.interface import Model
from boneage_xai.predict import Progress, predict_cohort
from boneage_xai.types import Cohort, Sex

# Names that the toolkit gives to columns of its own.
RESERVED = (
    "case_id",
    "sex",
    "reference_months",
    "predicted_months",
    "error_months",
    "uncorrected_months",
    AGE_COLUMN,
)


def prediction_table(
    run: Model, cohort: Cohort, cache: PixelCache, progress: Progress | None = None
) -> pd.DataFrame:
    """Predict every case of a labelled cohort.

    Args:
        run: the network.
        cohort: cases with a reference bone age.
        cache: pixels prepared with the network's preprocessing.
        progress: called with (done, total).

    Returns:
        One row per case: case_id, sex, reference_months, predicted_months, error_months, and
        chronological_age_months where a case has one.
    """
    predictions = predict_cohort(run, cohort, cache, progress=progress)
    frame = pd.DataFrame(
        {
            "case_id": [one.case_id for one in predictions],
            "sex": [one.sex.value for one in predictions],
            "reference_months": [one.reference_months for one in predictions],
            "predicted_months": [one.predicted_months for one in predictions],
            "error_months": [one.error_months for one in predictions],
        }
    )
    ages = [case.chronological_age_months for case in cohort]
    if any(age is not None for age in ages):
        frame[AGE_COLUMN] = np.array([np.nan if age is None else age for age in ages])
    return frame


def corrected_table(frame: pd.DataFrame, correction: Correction) -> pd.DataFrame:
    """Return the table with corrected predictions, the others kept as ``uncorrected_months``."""
    is_male = (frame["sex"] == Sex.MALE.value).to_numpy()
    raw = frame["predicted_months"].to_numpy(dtype=np.float64)
    months = correction.apply(raw, is_male)
    return frame.assign(
        predicted_months=months,
        error_months=months - frame["reference_months"].to_numpy(dtype=np.float64),
        uncorrected_months=raw,
    )


def column_values(cohort: Cohort, column: str) -> list[str]:
    """Return what a column of the label table says of each case, '' where it says nothing.

    Args:
        cohort: the cases.
        column: header, as it is written or but for case, spaces and punctuation.

    Raises:
        ConfigError: no such column without a role of its own, or a name that the toolkit uses.
    """
    if column in RESERVED:
        raise ConfigError(
            f"--by {column}: expected a column other than {', '.join(RESERVED)}, which have "
            "meanings of their own"
        )
    headers = dict.fromkeys(name for case in cohort for name in case.attributes)
    found = [name for name in headers if name == column] or [
        name for name in headers if normalise_header(name) == normalise_header(column)
    ]
    if len(found) != 1:
        known = ", ".join(repr(name) for name in headers) or "none without a role"
        raise ConfigError(
            f"--by {column}: expected one such column in the label table, found {len(found)} "
            f"(columns: {known})"
        )
    return [case.attributes.get(found[0], "") for case in cohort]

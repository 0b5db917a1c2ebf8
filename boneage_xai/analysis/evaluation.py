"""The whole of metrics.json from a table of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.agreement import agreement
from boneage_xai.analysis.calibration import calibration_curve, calibration_line
from boneage_xai.analysis.clinical import clinical_results
from boneage_xai.analysis.comparisons import group_tests
from boneage_xai.analysis.groups import column_grouping, group_metrics, standard_groupings
from boneage_xai.analysis.metrics import (
    CONFIDENCE,
    LARGE_SAMPLE,
    N_RESAMPLES,
    error_metrics,
    paired_difference,
)
from boneage_xai.analysis.multiplicity import holm_of_known
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE, subgroup_metrics
from boneage_xai.errors import ConfigError, DataError

COLUMNS = ("case_id", "sex", "reference_months", "predicted_months")

REFERENCE_VALUES: tuple[Mapping[str, Any], ...] = (
    {
        "name": "radiologists",
        "mae_months": 6.0,
        "source": (
            "quoted from the literature: radiologists on the 200 cases of the RSNA 2017 test "
            "set; not measured here and not comparable across test sets"
        ),
        "quoted": True,
        "comparable": False,
    },
)


def _check(predictions: pd.DataFrame) -> None:
    missing = [column for column in COLUMNS if column not in predictions.columns]
    if missing:
        raise DataError(
            f"predictions: expected the columns {', '.join(COLUMNS)}, found no {', '.join(missing)}"
        )
    if predictions.empty:
        raise DataError("predictions: expected at least one case, found none")
    duplicated = predictions.loc[predictions["case_id"].duplicated(), "case_id"]
    if len(duplicated):
        raise DataError(
            f"predictions: expected every case once, found case {duplicated.iloc[0]} again"
        )
    for column in ("reference_months", "predicted_months"):
        values = predictions[column].to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            case_id = predictions["case_id"].iloc[int(bad[0])]
            raise DataError(
                f"case {case_id}: expected {column} as a finite number, found {values[bad[0]]}"
            )


def evaluate(
    predictions: pd.DataFrame,
    baselines_predictions: Mapping[str, npt.ArrayLike],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    age_bins: Sequence[float] = AGE_BINS_MONTHS,
    columns: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure predictions overall, by subgroup, and beside baselines.

    Args:
        predictions: one row per case with case_id, sex ('F' or 'M'), reference_months and
            predicted_months; chronological_age_months where known.
        baselines_predictions: name to (n,) months, in the order of the rows.
        seed: of the bootstrap; model and baselines see the same resamples.
        n_resamples: number of bootstrap resamples.
        age_bins: edges in months, see ``age_bin_indices``.
        columns: further columns of ``predictions`` to group cases by.

    Returns:
        What metrics.json holds: ``settings``, ``overall``, ``baselines`` by name,
        ``subgroups`` as a list, ``groups`` the same by developmental stage, year of bone age and
        ``columns``, ``tests`` of every group, ``paired`` tests against each baseline,
        ``agreement``, ``calibration``, ``clinical``, ``reference_values``.

    Raises:
        DataError: a column or value is missing, a case appears twice, or a baseline has
            another number of cases.
        ConfigError: age bins that do not increase, no resamples, or a column of ``columns``
            that is not there or has too many values.
    """
    _check(predictions)
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    predicted = predictions["predicted_months"].to_numpy(dtype=np.float64)
    baselines: dict[str, Any] = {}
    for name, values in baselines_predictions.items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != reference.shape:
            raise DataError(
                f"baseline {name}: expected {reference.size} predictions, found shape {array.shape}"
            )
        baselines[name] = error_metrics(array - reference, seed=seed, n_resamples=n_resamples)
    errors = predicted - reference
    subgroups = subgroup_metrics(predictions, age_bins=age_bins, seed=seed, n_resamples=n_resamples)
    groupings = standard_groupings(predictions, age_bins)
    further = [groupings["stage"], groupings["sex×stage"], groupings["year"]]
    for column in columns:
        if column not in predictions:
            raise ConfigError(f"--by {column}: expected a column of the predictions, found none")
        further.append(column_grouping(predictions[column], column))
    return {
        "settings": {
            "seed": seed,
            "n_resamples": n_resamples,
            "large_sample": LARGE_SAMPLE,
            "confidence": CONFIDENCE,
            "age_bins_months": [float(edge) for edge in age_bins],
        },
        "overall": error_metrics(errors, seed=seed, n_resamples=n_resamples),
        "baselines": baselines,
        "subgroups": subgroups,
        "groups": group_metrics(errors, further, seed=seed, n_resamples=n_resamples),
        "tests": [
            row
            for grouping in (groupings["sex"], groupings["age"], groupings[SEX_BY_AGE], *further)
            for row in group_tests(errors, grouping)
        ],
        "paired": _paired(errors, reference, baselines_predictions, seed, n_resamples),
        "agreement": agreement(reference, predicted),
        "calibration": {
            "line": calibration_line(reference, predicted),
            "curve": calibration_curve(reference, predicted),
        },
        "clinical": clinical_results(predictions, age_bins=age_bins),
        "reference_values": [dict(value) for value in REFERENCE_VALUES],
    }


def _paired(
    errors: npt.NDArray[np.float64],
    reference: npt.NDArray[np.float64],
    baselines: Mapping[str, npt.ArrayLike],
    seed: int,
    n_resamples: int,
) -> dict[str, Any]:
    """Return the paired test of the model against each baseline, with Holm's correction."""
    found = {
        name: paired_difference(
            errors,
            np.asarray(values, dtype=np.float64) - reference,
            seed=seed,
            n_resamples=n_resamples,
        )
        for name, values in baselines.items()
    }
    adjusted = holm_of_known([entry["wilcoxon_p"] for entry in found.values()])
    for entry, value in zip(found.values(), adjusted, strict=True):
        entry["wilcoxon_p_holm"] = value
    return found

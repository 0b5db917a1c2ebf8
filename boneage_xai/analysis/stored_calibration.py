"""A correction and prediction intervals kept beside a run: ``calibration.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai import __version__
from boneage_xai.analysis.conformal import COVERAGE, Conformal, IntervalMethod, fit_conformal
from boneage_xai.analysis.correction import MIN_CASES, Against, Correction, fit_correction
from boneage_xai.analysis.intervals import Halves, halves
from boneage_xai.analysis.predictions import prediction_table
from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.files import read_json, write_json
from boneage_xai.models.interface import Model
from boneage_xai.predict import Progress
from boneage_xai.types import Sex

if TYPE_CHECKING:
    from boneage_xai.analysis.run_analysis import RunOnCohort

CALIBRATION_FILE = "calibration.json"
CALIBRATION_FORMAT = "boneage_xai.calibration"
CALIBRATION_VERSION: Literal[1] = 1


@dataclass(frozen=True)
class StoredCalibration:
    """What was fitted on a run's validation cases.

    Args:
        correction: linear correction of predictions.
        intervals: around predictions as the network makes them.
        corrected_intervals: around corrected predictions.
        record: model, data and settings it was fitted with.
    """

    correction: Correction
    intervals: Conformal
    corrected_intervals: Conformal
    record: dict[str, Any]


def fit_calibration(
    predictions: pd.DataFrame,
    *,
    against: Against = "prediction",
    per_sex: bool = True,
    method: IntervalMethod = "mondrian",
    coverage: float = COVERAGE,
    seed: int = 0,
) -> StoredCalibration:
    """Fit the correction and intervals on cases that the network was not trained on.

    Args:
        predictions: sex ('F' or 'M'), reference_months and predicted_months per case.
        against: see ``fit_correction``.
        per_sex: whether girls and boys get lines of their own.
        method: see ``fit_conformal``.
        coverage: share of references that intervals are to contain.
        seed: of the division into halves, and of the method.

    Returns:
        Both. Intervals around corrected predictions are calibrated on predictions that were
        corrected by a line of the other half, so that no case corrects itself.

    Raises:
        DataError: too few cases of a sex.

    Source:
        Vovk, Annals of Mathematics and Artificial Intelligence, 2015 (cross-conformal).
    """
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    predicted = predictions["predicted_months"].to_numpy(dtype=np.float64)
    is_male = predictions["sex"].to_numpy(dtype=object) == Sex.MALE.value
    correction = fit_correction(reference, predicted, is_male, against=against, per_sex=per_sex)
    crossed = np.empty_like(predicted)
    one, other = _halves(is_male, per_sex, seed)
    for part, rest in ((one, other), (other, one)):
        half = fit_correction(
            reference[rest], predicted[rest], is_male[rest], against=against, per_sex=per_sex
        )
        crossed[part] = half.apply(predicted[part], is_male[part])
    intervals, corrected = (
        fit_conformal(reference, values, is_male, method=method, coverage=coverage, seed=seed)
        for values in (predicted, crossed)
    )
    return StoredCalibration(correction, intervals, corrected, {"seed": seed})


def _halves(is_male: npt.NDArray[np.bool_], per_sex: bool, seed: int) -> Halves:
    """Return halves in which each sex is halved where each has a line of its own."""
    if not per_sex:
        return halves(is_male.size, seed)
    ones, others = [], []
    for male, who in ((False, "girls"), (True, "boys")):
        of_sex = np.flatnonzero(is_male == male)
        if of_sex.size < 2 * MIN_CASES:
            raise DataError(
                f"calibration: expected at least {2 * MIN_CASES} {who}, {MIN_CASES} for the line "
                f"of each half, found {of_sex.size}"
            )
        one, other = halves(of_sex.size, seed)
        ones.append(of_sex[one])
        others.append(of_sex[other])
    return np.sort(np.concatenate(ones)), np.sort(np.concatenate(others))


def calibrate_run(
    prepared: RunOnCohort,
    *,
    against: Against = "prediction",
    per_sex: bool = True,
    method: IntervalMethod = "mondrian",
    coverage: float = COVERAGE,
    seed: int = 0,
    progress: Progress | None = None,
) -> StoredCalibration:
    """Fit correction and intervals on a run's validation cases and keep them beside the run.

    Args:
        prepared: run and its validation cases.
        against: see ``fit_correction``.
        per_sex: whether girls and boys get lines of their own.
        method: see ``fit_conformal``.
        coverage: share of references that intervals are to contain.
        seed: see ``fit_calibration``.
        progress: called with (done, total) cases predicted.

    Returns:
        What ``calibration.json`` in the run folder now holds, in place of an earlier one.

    Raises:
        ConfigError: cases other than the validation cases of a run.
        DataError: too few validation cases of a sex.
    """
    if prepared.split != "validation":
        raise ConfigError(
            f"calibration: expected the validation cases of a run, found split {prepared.split}"
        )
    cohort = prepared.cohort.labelled()
    frame = prediction_table(prepared.run, cohort, prepared.cache, progress)
    found = fit_calibration(
        frame, against=against, per_sex=per_sex, method=method, coverage=coverage, seed=seed
    )
    data = prepared.record()[1]
    record = {
        "format": CALIBRATION_FORMAT,
        "version": CALIBRATION_VERSION,
        "toolkit_version": __version__,
        "model_id": prepared.run.model_id,
        "data": data,
        "seed": seed,
    }
    parts = {
        "correction": found.correction.to_dict(),
        "intervals": found.intervals.to_dict(),
        "corrected_intervals": found.corrected_intervals.to_dict(),
    }
    write_json(prepared.run.path / CALIBRATION_FILE, record | parts)
    return StoredCalibration(found.correction, found.intervals, found.corrected_intervals, record)


def read_calibration(run: Model) -> StoredCalibration | None:
    """Return the calibration kept beside a run, None where there is none.

    Raises:
        CheckpointError: a damaged file, one of another version or of other weights.
    """
    file: Path = run.path / CALIBRATION_FILE
    if not file.is_file():
        return None
    try:
        content = read_json(file)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected an object, found {type(content).__name__}")
    expected = (CALIBRATION_FORMAT, CALIBRATION_VERSION, run.model_id)
    found = tuple(content.get(key) for key in ("format", "version", "model_id"))
    if found != expected:
        raise CheckpointError(
            f"{file}: expected format, version and model {expected}, found {found}; "
            "`boneage-xai calibrate` makes it anew"
        )
    try:
        parts = [content.pop(key) for key in ("correction", "intervals", "corrected_intervals")]
        return StoredCalibration(
            Correction.from_dict(parts[0]),
            Conformal.from_dict(parts[1]),
            Conformal.from_dict(parts[2]),
            content,
        )
    except (KeyError, DataError) as error:
        raise CheckpointError(f"{file}: damaged ({error})") from error


def stored_calibration(run: Model) -> StoredCalibration:
    """Return the calibration kept beside a run.

    Raises:
        ConfigError: there is none.
        CheckpointError: see ``read_calibration``.
    """
    found = read_calibration(run)
    if found is None:
        raise ConfigError(
            f"{run.path}: expected a calibration of the run (from `boneage-xai calibrate`), "
            "found none"
        )
    return found

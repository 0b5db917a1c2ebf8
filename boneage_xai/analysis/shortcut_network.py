"""Whether a network uses what is not the hand: its predictions while that changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.run_analysis import RunOnCohort
from boneage_xai.analysis.shortcut_edits import (
    BACKGROUND_TEST,
    BORDER_TEST,
    MARKER_TESTS,
    Pixels,
    Places,
    edits,
    find_places,
)
from boneage_xai.attribution.interventions import Predictor
from boneage_xai.data.preprocess import preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import AttributionError, DataError
from boneage_xai.predict import Progress
from boneage_xai.regions.label_maps import read_region_map, regions_on_input
from boneage_xai.types import Case, Cohort, Radiograph

FloatArray = npt.NDArray[np.float64]

GLOBAL_TESTS: Mapping[str, tuple[float, float]] = {
    "whole_brighter": (0.15, 0.85),
    "whole_darker": (0.0, 0.85),
}
"""What is added to the grey of a whole radiograph after it was multiplied; no grey is lost."""

TESTS = (*MARKER_TESTS, BORDER_TEST, BACKGROUND_TEST, *GLOBAL_TESTS)
"""Every test, in the order in which they are shown."""

LEAST_MONTHS = 3.0
"""Mean movement of a prediction, beyond that of the control, that raises an alarm: half of what
readers differ by."""

LEAST_SLOPE = 0.10
"""Share of the relation with age that must hang on a change for an alarm."""

FEWEST_CASES = 20
N_RESAMPLES = 2000

CHANGE_COLUMNS = (
    "case_id",
    "sex",
    "reference_months",
    "predicted_months",
    "test",
    "change_months",
    "control_months",
)


def places_of(prepared: RunOnCohort, case: Case) -> Places | None:
    """Return where marker, border and background lie in a case's input, None without a map."""
    if case.region_file is None:
        return None
    source = prepared.cache.source_map(case.case_id)
    size_px = prepared.run.preprocessing.size_px
    regions = regions_on_input(read_region_map(case.region_file), source, size_px)
    # Of the cohort's order, so that a case keeps its control in a larger audit.
    seed = int(prepared.cache.rows([case.case_id])[0])
    return find_places(regions, source.content_px, seed)


def measure_changes(
    prepared: RunOnCohort, cohort: Cohort, predict: Predictor, progress: Progress | None = None
) -> pd.DataFrame:
    """Predict every case again and again, each time with one thing changed beside the hand.

    Args:
        prepared: run and cases.
        cohort: the cases to take, of those prepared.
        predict: from prepared pixels (n, S, S) and is_male (n,) to months (n,).
        progress: called with (done, total) cases.

    Returns:
        A row per case and test that was possible, with the columns ``CHANGE_COLUMNS``; the
        control is NaN where there is none.

    Raises:
        AttributionError: predictions that are not finite.
        DataError: a label map that cannot be read or is of another size.
    """
    rows: list[dict[str, Any]] = []
    for done, case in enumerate(cohort, start=1):
        pixels = np.array(prepared.cache.pixels[prepared.cache.rows([case.case_id])[0]])
        pictures: list[Pixels] = [pixels]
        found: list[tuple[str, int, int | None]] = []
        places = places_of(prepared, case)
        changed = {} if places is None else edits(pixels, places)
        for test, edit in changed.items():
            pictures.append(edit.pixels)
            at, control = len(pictures) - 1, None
            if edit.control is not None:
                pictures.append(edit.control)
                control = len(pictures) - 1
            found.append((test, at, control))
        radiograph = read_radiograph(case.image)
        for test, (offset, factor) in GLOBAL_TESTS.items():
            grey = np.float32(offset) + np.float32(factor) * radiograph.pixels
            again = preprocess(Radiograph(grey, case.image), prepared.run.preprocessing)
            pictures.append(again.pixels)
            found.append((test, len(pictures) - 1, None))
        is_male = np.full(len(pictures), case.sex.is_male)
        months = np.asarray(predict(np.stack(pictures), is_male), dtype=np.float64)
        if months.shape != (len(pictures),) or not np.isfinite(months).all():
            raise AttributionError(
                f"case {case.case_id}: expected {len(pictures)} finite predictions in months, "
                f"found {months}"
            )
        rows += [
            {
                "case_id": case.case_id,
                "sex": case.sex.value,
                "reference_months": np.nan
                if case.bone_age_months is None
                else case.bone_age_months,
                "predicted_months": float(months[0]),
                "test": test,
                "change_months": float(months[at] - months[0]),
                "control_months": np.nan if c is None else float(months[c] - months[0]),
            }
            for test, at, c in found
        ]
        if progress is not None:
            progress(done, len(cohort))
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def summarise_changes(
    changes: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Average the changes of each test over cases, with bootstrap 95% intervals, and judge them.

    ``moved`` is the mean of |change|, ``excess`` the mean of |change| − |control| over the cases
    that have a control (|change| where a test has none), ``slope`` the change in months per month
    of reference age (of the prediction, without a reference). An alarm is raised if

    - the lower limit of ``excess`` is at least ``LEAST_MONTHS`` (not for a levelled background,
      which no control tells from any other great change), or
    - the interval of ``slope`` lies beyond ``LEAST_SLOPE`` on one side of 0, further than that of
      the control, and the lower limit of ``excess`` is above 0.

    Args:
        changes: as from ``measure_changes``.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        A row per test in the order of ``TESTS``: test, n, n_control, moved_months, shift_months
        (mean change), control_months (mean of |control|), excess_months and
        slope_months_per_month, each with _low and _high, control_slope_months_per_month,
        correlation (with the age), alarm; and per test that was not made, why. The limits of the
        excess are NaN, and there is no alarm, where some cases have a control but fewer than
        ``FEWEST_CASES``.

    Raises:
        DataError: a column is missing.
    """
    if missing := [name for name in CHANGE_COLUMNS if name not in changes.columns]:
        raise DataError(f"changes: expected the columns {CHANGE_COLUMNS}, found no {missing}")
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for test in TESTS:
        ours = changes[changes["test"] == test]
        if len(ours) < FEWEST_CASES:
            skipped[test] = f"expected at least {FEWEST_CASES} cases, found {len(ours)}"
            continue
        rows.append({"test": test} | _summary(ours, np.random.default_rng(seed), n_resamples))
    return pd.DataFrame(rows, columns=["test", *_SUMMARY_COLUMNS]), skipped


_ESTIMATES = ("moved", "shift", "control", "excess", "slope")
_UNITS = dict.fromkeys(_ESTIMATES, "months") | {"slope": "months_per_month"}
_SUMMARY_COLUMNS = [
    "n",
    "n_control",
    *(f"{name}_{_UNITS[name]}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")),
    "control_slope_months_per_month",
    "correlation",
    "alarm",
]


def _summary(ours: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> dict[str, Any]:
    change = ours["change_months"].to_numpy(dtype=np.float64)
    control = ours["control_months"].to_numpy(dtype=np.float64)
    reference = ours["reference_months"].to_numpy(dtype=np.float64)
    age = np.where(np.isfinite(reference), reference, ours["predicted_months"])
    with_control = np.isfinite(control)
    # A test that has controls is judged on the cases that have one.
    judged = with_control if with_control.any() else np.ones(len(change), dtype=np.bool_)
    excess = np.abs(change) - np.where(with_control, np.abs(control), 0.0)
    draws = rng.integers(0, len(change), (n_resamples, len(change)))
    every = np.vstack([np.arange(len(change)), draws])
    estimates = {
        "moved": np.abs(change)[every].mean(axis=1),
        "shift": change[every].mean(axis=1),
        "control": _mean_where(np.abs(control), with_control, every),
        "excess": _mean_where(excess, judged, every),
        "slope": _slopes(age[every], change[every]),
    }
    out: dict[str, Any] = {"n": len(change), "n_control": int(with_control.sum())}
    for name, values in estimates.items():
        key = f"{name}_{_UNITS[name]}"
        known = values[1:][np.isfinite(values[1:])]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        if name == "excess" and 0 < with_control.sum() < FEWEST_CASES:
            low, high = np.nan, np.nan
        out |= {key: float(values[0]), f"{key}_low": float(low), f"{key}_high": float(high)}
    control_slope = 0.0
    if with_control.any():
        control_slope = float(_slopes(age[None, with_control], control[None, with_control])[0])
    out["control_slope_months_per_month"] = control_slope
    spread = change.std() * age.std()
    covariance = float(np.mean((change - change.mean()) * (age - age.mean())))
    out["correlation"] = covariance / spread if spread > 0 else 0.0
    comparable = str(ours["test"].iloc[0]) != BACKGROUND_TEST
    out["alarm"] = (comparable and _moves(out)) or _follows_age(out)
    return out


def _moves(row: Mapping[str, Any]) -> bool:
    return bool(row["excess_months_low"] >= LEAST_MONTHS)


def _follows_age(row: Mapping[str, Any]) -> bool:
    low, high = row["slope_months_per_month_low"], row["slope_months_per_month_high"]
    nearest = low if low > 0 else -high if high < 0 else 0.0
    least = max(LEAST_SLOPE, abs(row["control_slope_months_per_month"]))
    return bool(nearest >= least and row["excess_months_low"] > 0)


def _mean_where(
    values: FloatArray, chosen: npt.NDArray[np.bool_], draws: npt.NDArray[np.integer[Any]]
) -> FloatArray:
    """Return the mean over the chosen of each draw (r, n), NaN where none is chosen."""
    weights = chosen.astype(np.float64)
    sums = np.where(chosen, values, 0.0)[draws].sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / weights[draws].sum(axis=1))


def _slopes(ages: FloatArray, changes: FloatArray) -> FloatArray:
    """Return the least-squares slope of changes on ages along the last axis, NaN for one age."""
    centred = ages - ages.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((centred * changes).sum(axis=1) / np.square(centred).sum(axis=1))

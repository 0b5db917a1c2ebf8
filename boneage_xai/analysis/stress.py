"""Stress tests: what changes of a radiograph's appearance do to a network's predictions.

Each radiograph is read again, changed, prepared and predicted, so that a change counts only as far
as preprocessing lets it through. The bone age of the hand is the same before and after: whatever
the prediction moves by is error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open

from boneage_xai.analysis.metrics import N_RESAMPLES, paired_difference
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.analysis.stress_transforms import StressTransform, chosen_transforms
from boneage_xai.data.preprocess import preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError
from boneage_xai.files import write_safetensors, write_table
from boneage_xai.models.interface import Model
from boneage_xai.predict import Progress, predict_pixels
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Cohort

STRESS_TABLE = "stress.parquet"
EXAMPLES_FILE = "stress_examples.safetensors"
MOVED_MONTHS = (6, 12, 24)
"""Limits beyond which a prediction counts as moved."""


@dataclass(frozen=True, eq=False)
class StressExample:
    """The case that a family of transforms moves most.

    Args:
        family: of the transform.
        transform: its name.
        case_id: the case.
        original_months: prediction for the radiograph as it is.
        predicted_months: prediction for the changed one.
        original: (S, S) uint8 network input.
        changed: (S, S) uint8 network input after the change.
    """

    family: str
    transform: str
    case_id: str
    original_months: float
    predicted_months: float
    original: npt.NDArray[np.uint8]
    changed: npt.NDArray[np.uint8]

    @property
    def delta_months(self) -> float:
        """What the change did to the prediction."""
        return self.predicted_months - self.original_months


def stress(
    run: Model,
    cohort: Cohort,
    transforms: Mapping[str, StressTransform],
    *,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, list[StressExample]]:
    """Predict every case under every transform.

    Args:
        run: the network with its preprocessing; left as it was found.
        cohort: the cases; their radiographs are read again.
        transforms: by name.
        progress: called with (done, total) cases.

    Returns:
        One row per case and transform: case_id, sex, reference_months (NaN where unknown), family,
        transform, parameter, original_months, predicted_months, delta_months; and per family the
        case that it moves most.

    Raises:
        DataError: no cases, a radiograph that cannot be read, or a prediction that is no finite
            number.
    """
    if not len(cohort):
        raise DataError("stress: expected at least one case, found none")
    rows: list[dict[str, Any]] = []
    worst: dict[str, StressExample] = {}
    for done, case in enumerate(cohort, start=1):
        radiograph = read_radiograph(case.image)
        changed = [
            replace(radiograph, pixels=one.apply(radiograph.pixels)) for one in transforms.values()
        ]
        prepared = [preprocess(one, run.preprocessing).pixels for one in (radiograph, *changed)]
        is_male = np.full(len(prepared), case.sex.is_male)
        months = predict_pixels(run.network, np.stack(prepared), is_male)
        if not np.isfinite(months).all():
            raise DataError(
                f"case {case.case_id}: expected finite months, found a number that is not"
            )
        reference = np.nan if case.bone_age_months is None else case.bone_age_months
        for (name, one), value, pixels in zip(
            transforms.items(), months[1:], prepared[1:], strict=True
        ):
            delta = float(value - months[0])
            rows.append(
                {
                    "case_id": case.case_id,
                    "sex": case.sex.value,
                    "reference_months": reference,
                    "family": one.family,
                    "transform": name,
                    "parameter": one.parameter,
                    "original_months": float(months[0]),
                    "predicted_months": float(value),
                    "delta_months": delta,
                }
            )
            if one.family not in worst or abs(delta) > abs(worst[one.family].delta_months):
                worst[one.family] = StressExample(
                    one.family, name, case.case_id, float(months[0]), float(value),
                    prepared[0], pixels,
                )  # fmt: skip
        if progress is not None:
            progress(done, len(cohort))
    return pd.DataFrame(rows), [worst[one] for one in dict.fromkeys(row["family"] for row in rows)]


def summarise_stress(
    table: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Measure what each transform does, with paired intervals and tests.

    Args:
        table: as from ``stress``.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per transform, in the table's order: family, transform, parameter, n;
        mean_delta_months (signed) and mean_absolute_delta_months; over the n_labelled cases with a
        reference mae_months (of the changed radiographs) and mae_change_months, its change by the
        transform, with its paired bootstrap 95% interval low and high, the Wilcoxon p_value of the
        absolute errors before and after, and p_holm, corrected over the transforms;
        moved_over_6_months and so on, the share of cases that move by more; worst_case_id and
        worst_delta_months. NaN stands for what cannot be told.

    Raises:
        DataError: an empty table.
    """
    if table.empty:
        raise DataError("stress: expected at least one case, found none")
    rows: list[dict[str, Any]] = []
    for name, group in table.groupby("transform", sort=False):
        delta = group["delta_months"].to_numpy(dtype=np.float64)
        worst = int(np.argmax(np.abs(delta)))
        rows.append(
            {
                "family": group["family"].iloc[0],
                "transform": name,
                "parameter": group["parameter"].iloc[0],
                "n": len(group),
                "mean_delta_months": float(delta.mean()),
                "mean_absolute_delta_months": float(np.abs(delta).mean()),
                **_error_change(group, seed, n_resamples),
                **{
                    f"moved_over_{limit}_months": float((np.abs(delta) > limit).mean())
                    for limit in MOVED_MONTHS
                },
                "worst_case_id": group["case_id"].iloc[worst],
                "worst_delta_months": float(delta[worst]),
            }
        )
    summary = pd.DataFrame(rows)
    place = int(summary.columns.get_loc("p_value")) + 1  # type: ignore[arg-type]
    summary.insert(place, "p_holm", holm(summary["p_value"]))
    return summary


def _error_change(group: pd.DataFrame, seed: int, n_resamples: int) -> dict[str, float]:
    known = group.dropna(subset=["reference_months"])
    if known.empty:
        unknown = dict.fromkeys(
            ("mae_months", "mae_change_months", "low", "high", "p_value"), np.nan
        )
        return {"n_labelled": 0, **unknown}
    after = known["predicted_months"] - known["reference_months"]
    before = known["original_months"] - known["reference_months"]
    found = paired_difference(after, before, seed=seed, n_resamples=n_resamples)
    change, p_value = found["mae_difference_months"], found["wilcoxon_p"]
    return {
        "n_labelled": len(known),
        "mae_months": float(after.abs().mean()),
        "mae_change_months": change["value"],
        "low": np.nan if change["low"] is None else change["low"],
        "high": np.nan if change["high"] is None else change["high"],
        "p_value": np.nan if p_value is None else p_value,
    }


def stress_run(
    prepared: RunOnCohort,
    out: Path,
    *,
    transforms: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> AnalysisFolder:
    """Put a network to the stress test and write what came of it.

    Args:
        prepared: run and cases.
        out: analysis folder, new or of the same run and data.
        transforms: names or families; None takes all.
        limit: at most so many cases, chosen evenly over sex and age.
        progress: called with (done, total) cases.

    Returns:
        The analysis folder with ``stress.parquet`` and ``stress_examples.safetensors``.

    Raises:
        ConfigError: an unknown transform, or a limit under 1.
        DataError: a radiograph that cannot be read.
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    chosen = chosen_transforms(transforms)
    cohort = choose_cases(prepared.cohort, limit)
    table, examples = stress(prepared.run, cohort, chosen, progress=progress)
    detail = {"n": len(cohort), "limit": limit, "transforms": list(chosen)}
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="stress", detail=detail)
    write_table(out / STRESS_TABLE, table)
    write_examples(out / EXAMPLES_FILE, examples)
    return folder


def write_examples(path: Path, examples: Sequence[StressExample]) -> None:
    """Write examples as safetensors, whole or not at all; ``read_examples`` reads them."""
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    words: dict[str, str] = {}
    for number, one in enumerate(examples):
        arrays[f"{number}.original"] = np.ascontiguousarray(one.original)
        arrays[f"{number}.changed"] = np.ascontiguousarray(one.changed)
        words |= {
            f"{number}.family": one.family,
            f"{number}.transform": one.transform,
            f"{number}.case_id": one.case_id,
            f"{number}.original_months": repr(one.original_months),
            f"{number}.predicted_months": repr(one.predicted_months),
        }
    write_safetensors(path, arrays, {"n": str(len(examples)), **words})


def read_examples(path: Path) -> list[StressExample]:
    """Read the examples that ``write_examples`` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            words = file.metadata()
            return [
                StressExample(
                    words[f"{number}.family"],
                    words[f"{number}.transform"],
                    words[f"{number}.case_id"],
                    float(words[f"{number}.original_months"]),
                    float(words[f"{number}.predicted_months"]),
                    file.get_tensor(f"{number}.original"),
                    file.get_tensor(f"{number}.changed"),
                )
                for number in range(int(words["n"]))
            ]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected examples of a stress test, found {error!r}") from error

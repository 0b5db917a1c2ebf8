"""A network on a cohort: which cases, how they are prepared, and their evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.baselines import BASELINES, Baselines
from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.analysis.intervals import interval_results
from boneage_xai.analysis.predictions import (
    column_values,
    corrected_table,
    prediction_table,
)
from boneage_xai.analysis.sex_check import MOST_CASES, check_sexes
from boneage_xai.analysis.stored_calibration import stored_calibration
from boneage_xai.data.cache import (
    PixelCache,
    default_cache_folder,
    label_fingerprint,
    open_cache,
)
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import staged_file, write_json, write_table
from boneage_xai.models.interface import Model
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Cohort

SplitName = Literal["held-out", "validation", "train", "all"]


@dataclass(frozen=True, eq=False)
class RunOnCohort:
    """A network with a cohort prepared as the network needs it.

    Args:
        run: the network, a run of the toolkit's or one from a model card.
        cohort: the cases chosen for analysis.
        cache: prepared pixels of at least these cases.
        source: where the cohort was read from.
        split: which part of the source the cases are.
        train_ids: cases of the source that the run was trained on.
        train_is_male: (n,) their sex, True for boys.
        skipped_problem_rows: rows of the source that were left out on request.
    """

    run: Model
    cohort: Cohort
    cache: PixelCache
    source: str
    split: SplitName
    train_ids: tuple[str, ...]
    train_is_male: npt.NDArray[np.bool_]
    skipped_problem_rows: int = 0

    def record(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the ``run`` and ``data`` parts of ``analysis.json``."""
        data = {
            "cohort": self.cohort.name,
            "source": self.source,
            "fingerprint": self.cache.fingerprint,
            "labels": label_fingerprint(self.cohort),
            "split": self.split,
            "n": len(self.cohort),
            "skipped_problem_rows": self.skipped_problem_rows,
        }
        return self.run.record(), data


def prepare_run(
    run: Model,
    cohort: Cohort,
    *,
    source: str = "",
    split: SplitName = "held-out",
    skipped_problem_rows: int = 0,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
) -> RunOnCohort:
    """Choose the cases to analyse and prepare their pixels.

    Args:
        run: the network, a run of the toolkit's or one from a model card.
        cohort: every case of the source.
        source: where the cohort was read from, for the record.
        split: ``held-out`` leaves out the cases that the run was trained on, whatever the
            source; ``validation`` and ``train`` take those parts of the run's own data;
            ``all`` takes every case, trained on or not, and so does ``held-out`` for a network
            whose training is not recorded; it then counts as ``all``.
        skipped_problem_rows: rows that the caller chose to leave out, for the record.
        cache_folder: where prepared pixels are kept.
        progress: called with (done, total) while radiographs are decoded.

    Raises:
        CheckpointError: the run's record of its training cases is damaged.
        ConfigError: a part of the training cases of a network that has no record of them.
        DataError: no case is left, or radiographs that cannot be read.
    """
    splits = run.splits()
    if splits is None:
        if split not in ("held-out", "all"):
            raise ConfigError(
                f"split {split}: expected a run with a record of its training cases, found "
                f"{run.path}, which has none; expected held-out or all, which are the same for it"
            )
        split, splits = "all", pd.DataFrame({"split": [], "pixels_digest": []})
    cache = open_cache(
        cohort, run.preprocessing, cache_folder or default_cache_folder(), progress=progress
    )
    # Told by their pixels: ids, order and files may have changed, and the same ids in another
    # data set are other children.
    parts = {name: set(group["pixels_digest"]) for name, group in splits.groupby("split")}
    digests = dict(zip(cache.case_ids, cache.digests(), strict=True))

    def is_of(case_id: str, part: str) -> bool:
        return digests[case_id] in parts.get(part, set())

    trained_on = tuple(case.case_id for case in cohort if is_of(case.case_id, "train"))
    is_male = dict(zip([case.case_id for case in cohort], cohort.is_male().tolist(), strict=True))
    chosen = [case.case_id for case in cohort]
    if split == "held-out":
        chosen = [case_id for case_id in chosen if not is_of(case_id, "train")]
    elif split != "all":
        chosen = [case_id for case_id in chosen if is_of(case_id, split)]
    if not chosen:
        raise DataError(f"{source or cohort.name}: expected cases of split {split}, found none")
    train_is_male = np.array([is_male[case_id] for case_id in trained_on], dtype=bool)
    return RunOnCohort(
        run,
        cohort.select(chosen),
        cache,
        source,
        split,
        trained_on,
        train_is_male,
        skipped_problem_rows,
    )


def evaluate_run(
    prepared: RunOnCohort,
    out: Path,
    *,
    seed: int = 0,
    by: Sequence[str] = (),
    corrected: bool = False,
    progress: Progress | None = None,
) -> AnalysisFolder:
    """Predict every labelled case and write predictions, metrics and intervals.

    Args:
        prepared: run and cases.
        out: analysis folder, new or of the same run and data.
        seed: of the bootstrap and of the division of cases for intervals.
        by: columns of the label table to group cases by, too.
        corrected: whether the linear correction stored with the run is applied.
        progress: called with (done, total) cases predicted.

    Returns:
        The analysis folder with ``predictions.parquet`` and ``metrics.json``, and with enough
        cases ``intervals.json`` and ``intervals.parquet``.

    Raises:
        DataError: no case has a reference bone age.
        ConfigError: a column that the label table does not have, or ``corrected`` for a network
            that has no stored correction.
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    cohort = prepared.cohort.labelled()
    if not len(cohort):
        raise DataError(f"{prepared.source}: expected cases with a bone age, found none")
    columns = {name: column_values(cohort, name) for name in by}
    calibration = stored_calibration(prepared.run) if corrected else None
    frame = prediction_table(prepared.run, cohort, prepared.cache, progress)
    few = choose_cases(cohort, MOST_CASES)
    sexes = check_sexes(prepared.run, few, prepared.cache, frame, seed=seed)
    n_unlabelled = len(prepared.cohort) - len(cohort)
    detail: dict[str, Any] = {"n": len(frame), "seed": seed, "n_unlabelled": n_unlabelled}
    detail["n_training"] = _in_split(prepared, cohort, "train")
    detail["n_validation"] = seen = _in_split(prepared, cohort, "validation")
    if calibration is not None:
        frame = corrected_table(frame, calibration.correction)
        detail["corrected"] = {**calibration.correction.to_dict(), "n_fitted_on": seen}
    frame = frame.assign(**columns)
    metrics = evaluate(frame, _baseline_predictions(prepared, cohort), seed=seed, columns=by)
    metrics["sex_check"] = sexes
    intervals = interval_results(frame, seed=seed)
    if by:
        detail["by"] = list(by)
    # Recorded before the results, so that a kill between them leaves a folder to go on in.
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="evaluate", detail=detail)
    write_table(out / "predictions.parquet", frame)
    write_json(out / "metrics.json", metrics)
    if intervals is not None:
        write_json(out / "intervals.json", intervals[0])
        write_table(out / "intervals.parquet", intervals[1])
    history = prepared.run.path / "history.csv"
    if history.is_file():
        with staged_file(out / "history.csv") as staged:
            shutil.copyfile(history, staged)
    return folder


def _in_split(prepared: RunOnCohort, cohort: Cohort, part: str) -> int:
    """Return how many cases belong to a part of the run's own data, told by their pixels."""
    splits = prepared.run.splits()
    if splits is None:
        return 0
    digests = dict(zip(prepared.cache.case_ids, prepared.cache.digests(), strict=True))
    known = set(splits.loc[splits["split"] == part, "pixels_digest"])
    return sum(digests[case.case_id] in known for case in cohort)


def _baseline_predictions(
    prepared: RunOnCohort, cohort: Cohort
) -> dict[str, npt.NDArray[np.float64]]:
    """Return what baselines predict; none without training cases that they were fitted on."""
    if prepared.run.baselines is None:
        return {}
    baselines = Baselines.from_dict(prepared.run.baselines)
    intensity = prepared.cache.intensity[prepared.cache.rows([case.case_id for case in cohort])]
    return {name: baselines.predict(name, cohort.is_male(), intensity) for name in BASELINES}


def choose_cases(cohort: Cohort, limit: int | None) -> Cohort:
    """Choose cases evenly over sex and age.

    Args:
        cohort: the cases.
        limit: how many at most; None takes all.

    Returns:
        Every k-th case of the cohort sorted by sex and bone age, in the cohort's order.

    Raises:
        ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1 case, found {limit}")
    if limit is None or limit >= len(cohort):
        return cohort
    ages = np.nan_to_num(cohort.bone_ages_months(), nan=-1.0)
    order = np.lexsort((ages, cohort.is_male()))
    chosen = np.sort(order[np.linspace(0, len(order) - 1, limit).round().astype(int)])
    return cohort.select([cohort.cases[index].case_id for index in chosen])

"""Measuring trained arms: an analysis of each, its pictures, and the record of them all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boneage_xai.analysis.reproduction import activation_control, reproduction_record
from boneage_xai.analysis.run_analysis import RunOnCohort, SplitName, evaluate_run, prepare_run
from boneage_xai.data.cache import source_fingerprint
from boneage_xai.errors import AttributionError
from boneage_xai.figures.reproduction import (
    activations_beside_random,
    curves_by_arm,
    example_cases,
    sex_differences_figure,
)
from boneage_xai.figures.style import figure_bytes
from boneage_xai.files import read_json, write_bytes, write_json
from boneage_xai.models.checkpoint import load_run, read_manifest
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, Cohort, Sex
from trainers.reproduction.arms import ArmState

SETS: Mapping[str, tuple[str, SplitName]] = {
    "validation": ("analyses", "validation"),
    "test": ("analyses-test", "held-out"),
}
"""Folder of the analyses on each set, and the part of its source that is taken."""

_CONTROL_FILE = "activation_control.json"
_CONTROL_CASES = 16
# What is written last, so that a folder that has it is whole.
_LAST_FILE = {"validation": _CONTROL_FILE, "test": "history.csv"}
_SEX_WORDS = {Sex.FEMALE: "girl", Sex.MALE: "boy"}


@dataclass(frozen=True)
class Source:
    """A data set that arms are trained or measured on.

    Args:
        cohort: its cases.
        path: where it was read from.
        skipped_problem_rows: rows that the caller chose to leave out.
    """

    cohort: Cohort
    path: Path
    skipped_problem_rows: int = 0

    def record(self) -> dict[str, Any]:
        """Return what ``reproduction.json`` holds of it."""
        return {
            "source": self.path.name,
            "cohort": self.cohort.name,
            "n": len(self.cohort.labelled()),
            "skipped_problem_rows": self.skipped_problem_rows,
        }


def measure_arm(
    state: ArmState,
    sources: Mapping[str, Source],
    out: Path,
    *,
    seed: int = 0,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Evaluate an arm on every set and draw its examples and activation maps.

    What is there of the same weights and cases is kept; what is of an earlier state of the arm, or
    of another set, gives way.

    Args:
        state: the arm; without a run nothing is done.
        sources: set (``validation``, ``test``) to the data it is part of.
        out: folder of the reproduction.
        seed: of the bootstrap and of the random weights.
        cache_folder: where prepared pixels are kept.
        progress: called with (done, total) while cases are predicted.

    Raises:
        CheckpointError: a run that is damaged.
        DataError: no case to measure on, or radiographs that cannot be read.
    """
    if state.run is None:
        return
    missing = {
        name: source
        for name, source in sources.items()
        if _measured(state, name, source, out) is None
    }
    if not missing:
        return
    run = load_run(state.run, "cuda" if torch.cuda.is_available() else "cpu")
    for name, source in missing.items():
        parent, split = SETS[name]
        folder = out / parent / state.arm.name
        shutil.rmtree(folder, ignore_errors=True)
        prepared = prepare_run(
            run,
            source.cohort,
            source=str(source.path),
            split=split,
            skipped_problem_rows=source.skipped_problem_rows,
            cache_folder=cache_folder,
        )
        analysis = evaluate_run(prepared, folder, seed=seed, progress=progress)
        if name == "validation":
            _draw(prepared, analysis, state.arm.name, out / "figures", seed)


def _measured(state: ArmState, name: str, source: Source, out: Path) -> AnalysisFolder | None:
    """Return the analysis of an arm as it is on a set as it is, None where there is none whole."""
    folder = out / SETS[name][0] / state.arm.name
    if state.run is None or not (folder / _LAST_FILE[name]).is_file():
        return None
    analysis = AnalysisFolder.open(folder)
    run, manifest = analysis.manifest["run"], read_manifest(state.run)
    # Also of which folder: the best epoch so far may prove the best of all, in another one then.
    recorded = (run["model_id"], Path(run["path"]).name, analysis.manifest["data"]["fingerprint"])
    found = (manifest.weights_sha256[:12], state.run.name, source_fingerprint(source.cohort))
    return analysis if recorded == found else None


def _draw(
    prepared: RunOnCohort, analysis: AnalysisFolder, arm: str, figures: Path, seed: int
) -> None:
    try:
        control = activation_control(prepared, _CONTROL_CASES, seed=seed)
    except AttributionError as error:
        write_json(analysis.path / _CONTROL_FILE, {"n": 0, "layers": [], "reason": str(error)})
        return
    answers = analysis.predictions().set_index("case_id")["predicted_months"]
    cases = control.cohort.cases
    order = sorted(range(len(cases)), key=lambda at: (cases[at].sex.value, _age(cases[at])))
    examples = [order[int(share * len(order))] for share in (0.1, 0.35, 0.6, 0.85)]
    titles = [_title(cases[at], float(answers[cases[at].case_id])) for at in examples]
    drawn = example_cases(control.inputs[examples], titles)
    write_bytes(figures / f"{arm}-examples.png", figure_bytes(drawn))
    pair = sorted({order[len(order) // 4], order[3 * len(order) // 4]})
    drawn = activations_beside_random(
        control.inputs[pair],
        {name: maps[pair] for name, maps in control.trained.items()},
        {name: maps[pair] for name, maps in control.random.items()},
        [f"{_SEX_WORDS[cases[at].sex]}, {_age(cases[at]):.0f} months" for at in pair],
    )
    write_bytes(figures / f"{arm}-activations.png", figure_bytes(drawn))
    content = {"n": len(cases), "layers": control.similarity}
    write_json(analysis.path / _CONTROL_FILE, content)


def _age(case: Case) -> float:
    return float("nan") if case.bone_age_months is None else case.bone_age_months


def _title(case: Case, predicted_months: float) -> str:
    error = f"{predicted_months - _age(case):+.1f}".replace("-", "−")
    return (
        f"{_SEX_WORDS[case.sex]}, reference {_age(case):.0f} months\n"
        f"predicted {predicted_months:.1f} ({error})"
    )


def collect(
    states: Sequence[ArmState],
    sources: Mapping[str, Source],
    out: Path,
    *,
    seed: int = 0,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together what is known of all arms, and draw the figures that compare them.

    Args:
        states: every arm, measured or not; what was measured of another state is left out.
        sources: as for ``measure_arm``.
        out: folder of the reproduction.
        seed: of the bootstrap.
        about: what else is to be recorded.

    Returns:
        The content of ``reproduction.json``.
    """
    analyses: dict[str, dict[str, AnalysisFolder]] = {name: {} for name in sources}
    arms, pictures = [], {}
    for state in states:
        arm = state.record()
        for name, source in sources.items():
            if (analysis := _measured(state, name, source, out)) is not None:
                analyses[name][state.arm.name] = analysis
        if state.arm.name in analyses["validation"]:
            control = read_json(analyses["validation"][state.arm.name].path / _CONTROL_FILE)
            arm["activations"] = control
            if control["n"]:
                kinds = ("examples", "activations")
                pictures[state.arm.name] = {one: f"{state.arm.name}-{one}.png" for one in kinds}
        arms.append(arm)
    record = reproduction_record(arms, analyses, seed=seed, about=about)
    figures = {"charts": _charts(states, record, out / "figures"), "arms": pictures}
    return {**record, "figures": figures}


def _charts(states: Sequence[ArmState], record: Mapping[str, Any], out: Path) -> dict[str, str]:
    charts = {}
    known = {state.arm.name: state.history() for state in states}
    # A training that diverged at once has no curve.
    if histories := {
        name: one
        for name, one in known.items()
        if one is not None and np.isfinite(one["val_mae_months"]).any()
    }:
        charts["curves"] = "learning-curves.png"
        write_bytes(out / charts["curves"], figure_bytes(curves_by_arm(histories)))
    for name, pairs in record["sex"].items():
        if pairs:
            charts[f"sex-{name}"] = f"sex-{name}.png"
            words = f"{pairs[0]['n']:,} {name} cases"
            drawn = figure_bytes(sex_differences_figure(pairs, words))
            write_bytes(out / charts[f"sex-{name}"], drawn)
    return charts

"""Run and analysis folders under any sequence of commands, kills, damage and moves.

A plain model knows what each folder was told to hold. Whatever happens to it, what was committed is
read unchanged or refused in one sentence, nothing half written is read, and a repeated command
changes nothing. Text (JSON, CSV) has no checksum: a flipped bit may leave another readable text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from boneage_xai.analysis.run_analysis import RunOnCohort, attribute_run, evaluate_run, prepare_run
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import BoneAgeError
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import AnalysisFolder, read_json, read_table
from boneage_xai.types import Cohort
from trained_runs import TINY
from trainers.engine import train
from trainers.recipe import Recipe, load_recipe

FEW = settings(
    max_examples=12,
    stateful_step_count=14,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # Each step runs real commands: to shrink a failure would take longer than to read it.
    phases=[Phase.generate],
)
N_ATTRIBUTED, BLOCK = 10, 8
KINDS = st.sampled_from(["flip", "cut", "delete"])
PLACE = st.floats(0, 1, exclude_max=True)
Served = Mapping[str, Any]
ABSENT = "absent"


class Refused(str):
    """What a reader said instead of serving something."""


@dataclass(eq=False)
class Folder:
    """What the model knows of a folder.

    Args:
        path: where it lies.
        holds: name of what is read to the value that was committed.
        damaged: files below it, with how they were damaged.
        unfinished: a command was stopped in it.
    """

    path: Path
    holds: dict[str, Any] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    unfinished: bool = False

    def moved(self, path: Path) -> Folder:
        return replace(self, path=path, holds=dict(self.holds), damaged=dict(self.damaged))

    def mend(self, *starts: str) -> None:
        """Forget damage to files that were written anew."""
        self.damaged = {n: k for n, k in self.damaged.items() if not n.startswith(starts)}

    def touches(self, starts: tuple[str, ...]) -> dict[str, str]:
        return {n: k for n, k in self.damaged.items() if n.startswith(starts)}


def tried(read: Callable[[], Any]) -> Any:
    """Return what is read, or the one sentence that refuses it; any other error is a failure."""
    try:
        found = read()
        return ABSENT if found is None else found
    except BoneAgeError as error:
        said = Refused(error)
    assert "\n" not in said
    return said


def damage(file: Path, kind: str, place: float) -> None:
    whole = file.read_bytes()
    at = int(place * len(whole))
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])


def check(folder: Folder, found: Served, files: Mapping[str, tuple[str, ...]]) -> None:
    """Compare what a folder serves with what the model knows of it."""
    for name, value in found.items():
        hurt = folder.touches(files[name])
        expected = folder.holds.get(name, ABSENT)
        if not hurt:
            assert value == expected, (folder, name)
        elif isinstance(value, Refused):
            assert any(Path(file).parts[0] in value for file in hurt), (hurt, value)
        elif value == ABSENT:
            assert "delete" in hurt.values(), (hurt, name)
        elif not any(file.endswith((".json", ".csv")) for file in hurt):
            assert value == expected, (hurt, name)


class FolderMachine(RuleBasedStateMachine):
    """What both kinds of folders have in common."""

    folders = Bundle("folders")

    def __init__(self, root: Path) -> None:
        super().__init__()
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.root = root
        self.known: list[Folder] = []
        self.made = 0

    def new(self) -> Path:
        self.made += 1
        return self.root / f"folder-{self.made}"

    def keep(self, folder: Folder) -> Folder:
        self.known.append(folder)
        return folder

    @rule(target=folders)
    def begin(self) -> Folder:
        return self.keep(Folder(self.new()))

    @rule(target=folders, folder=folders)
    def copy(self, folder: Folder) -> Folder:
        made = folder.moved(self.new())
        if folder.path.exists():
            shutil.copytree(folder.path, made.path)
        return self.keep(made)

    @rule(target=folders, folder=consumes(folders))
    def rename(self, folder: Folder) -> Folder:
        made = folder.moved(self.new())
        if folder.path.exists():
            folder.path.rename(made.path)
        self.known.remove(folder)
        return self.keep(made)

    @rule(folder=folders, place=PLACE)
    def leave_what_a_kill_leaves(self, folder: Folder, place: float) -> None:
        """Half of a file under its temporary name, as ``staged_file`` has it at work."""
        files = [file for file in folder.path.glob("*.*") if file.is_file()]
        if files:
            file = files[int(place * len(files))]
            litter = file.with_name(f".{file.stem}.abc{file.suffix}")
            litter.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    @rule(folder=folders, kind=KINDS, which=PLACE, place=PLACE)
    def hurt(self, folder: Folder, kind: str, which: float, place: float) -> None:
        files = sorted(
            file
            for file in folder.path.rglob("*")
            if file.is_file()
            and file.stat().st_size
            and not file.name.startswith(".")
            and file.suffix != ".png"
        )
        if files:
            file = files[int(which * len(files))]
            damage(file, kind, place)
            folder.damaged[file.relative_to(folder.path).as_posix()] = kind


GROUP = "attributions.zarr/zarr.json"
ANALYSIS_FILES: dict[str, tuple[str, ...]] = {
    "predictions": ("analysis.json", "predictions.parquet"),
    "metrics": ("analysis.json", "metrics.json"),
    "history": ("analysis.json", "history.csv"),
    "attributions": ("analysis.json", "attributions.parquet"),
    "regions": ("analysis.json", "regions.parquet"),
    **{
        f"map {name}": ("analysis.json", GROUP, f"attributions.zarr/{name}/")
        for name in ("gradient", "inputs", "regions")
    },
}
EVALUATED = ("predictions", "metrics", "history")


def _csv(table: pd.DataFrame | None) -> str | None:
    return None if table is None else table.drop(columns="seconds", errors="ignore").to_csv()


def served_by_analysis(path: Path) -> Served:
    if not path.exists() or not any(path.glob("[!.]*")):
        return dict.fromkeys(ANALYSIS_FILES, ABSENT)
    opened = tried(lambda: AnalysisFolder.open(path))
    if isinstance(opened, Refused):
        return dict.fromkeys(ANALYSIS_FILES, opened)

    def stored(name: str) -> bytes | None:
        maps = opened.maps()
        return None if maps is None else maps[name][:].tobytes()

    evaluated = (path / "predictions.parquet").exists() or "evaluate" in opened.manifest["steps"]
    return {
        "predictions": tried(lambda: _csv(opened.predictions())) if evaluated else ABSENT,
        "metrics": tried(lambda: repr(opened.metrics())) if evaluated else ABSENT,
        "history": tried(lambda: _csv(opened.history())),
        "attributions": tried(lambda: _csv(opened.attributions())),
        "regions": tried(lambda: _csv(opened.regions())),
        **{
            f"map {name}": tried(lambda n=name: stored(n))
            for name in ("gradient", "inputs", "regions")
        },
    }


class AnalysisMachine(FolderMachine):
    """``evaluate`` and ``attribute`` into analysis folders."""

    folders = FolderMachine.folders

    def __init__(self, root: Path, prepared: RunOnCohort, truth: Mapping[int, Served]) -> None:
        super().__init__(root)
        self.prepared, self.truth = prepared, truth

    def attribute(self, path: Path, mode: str, stop_at: int | None = None) -> None:
        def progress(done: int, total: int) -> None:
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        attribute_run(
            self.prepared,
            path,
            methods=["gradient"],
            layers=[],
            settings=AttributionSettings(memory_budget_mb=1),
            limit=N_ATTRIBUTED,
            replace=mode == "replace",
            resume=mode == "resume",
            progress=progress,
        )

    @rule(folder=folders, seed=st.sampled_from(sorted((0, 1))))
    def evaluate(self, folder: Folder, seed: int) -> None:
        done = tried(lambda: evaluate_run(self.prepared, folder.path, seed=seed))
        if isinstance(done, Refused):
            assert folder.touches(("analysis.json",))
            return
        folder.mend("predictions", "metrics", "intervals", "history")
        folder.holds |= {name: self.truth[seed][name] for name in EVALUATED}

    @rule(folder=folders)
    def evaluate_again(self, folder: Folder) -> None:
        """The same command once more leaves the same bytes."""
        if "metrics" not in folder.holds or folder.damaged:
            return
        names = ("predictions.parquet", "metrics.json", "history.csv", "analysis.json")
        seed = read_json(folder.path / "analysis.json")["steps"]["evaluate"]["seed"]
        before = [(folder.path / name).read_bytes() for name in names]
        evaluate_run(self.prepared, folder.path, seed=seed)
        assert [(folder.path / name).read_bytes() for name in names] == before

    @rule(
        folder=folders,
        mode=st.sampled_from(["begin", "resume", "replace"]),
        stop_at=st.sampled_from([None, None, 0, BLOCK]),
    )
    def explain(self, folder: Folder, mode: str, stop_at: int | None) -> None:
        there = "map gradient" in folder.holds
        try:
            done = tried(lambda: self.attribute(folder.path, mode, stop_at))
        except KeyboardInterrupt:
            folder.unfinished = (folder.path / ".attribute" / "claim.json").exists()
            assert folder.unfinished or stop_at == 0
            return
        if isinstance(done, Refused):
            hurt = folder.touches(("analysis.json", "attributions", ".attribute"))
            assert hurt or (mode == "begin" and (there or folder.unfinished)), done
            return
        if there and not folder.unfinished and mode == "resume":
            return  # complete already, and left alone
        folder.unfinished = False
        folder.mend("attributions", "regions", ".attribute")
        folder.holds |= {n: v for n, v in self.truth[0].items() if n not in EVALUATED}

    @invariant()
    def serves_what_was_committed(self) -> None:
        for folder in self.known:
            check(folder, served_by_analysis(folder.path), ANALYSIS_FILES)


RUN_FILES: dict[str, tuple[str, ...]] = {
    "weights": ("model.safetensors", "run.json"),
    "months": ("model.safetensors", "run.json"),
    "splits": ("model.safetensors", "run.json", "splits.csv"),
    "history": ("history.csv",),
}


def served_by_run(path: Path) -> Served:
    run = tried(lambda: load_run(path))
    history = tried(lambda: _csv(read_table(path / "history.csv")))
    if isinstance(run, Refused):
        return dict.fromkeys(("weights", "months", "splits"), run) | {"history": history}
    images = torch.linspace(0, 1, 2 * 48 * 48).reshape(2, 1, 48, 48)
    return {
        "weights": run.manifest.weights_sha256,
        "months": run.network(images, torch.tensor([0.0, 1.0])).numpy().tobytes(),
        "splits": tried(lambda: _csv(run.splits())),
        "history": history,
    }


class RunMachine(FolderMachine):
    """``train`` into run folders."""

    folders = FolderMachine.folders

    def __init__(self, root: Path, recipe: Recipe, cohort: Cohort, cache: Path) -> None:
        super().__init__(root)
        self.recipe, self.cohort, self.cache = recipe, cohort, cache
        self.truth: Served = {}

    def train(self, path: Path, *, resume: bool, stop_in: int | None = None) -> None:
        def on_epoch(row: Mapping[str, float]) -> None:
            if row["epoch"] == stop_in:
                raise KeyboardInterrupt

        train(
            self.recipe,
            self.cohort,
            path,
            resume=resume,
            cache_folder=self.cache,
            on_epoch=on_epoch,
        )

    @rule(folder=folders, resume=st.booleans(), stop_in=st.sampled_from([None, None, 0, 1]))
    def learn(self, folder: Folder, resume: bool, stop_in: int | None) -> None:
        finished, used = bool(folder.holds), folder.path.exists()
        try:
            done = tried(lambda: self.train(folder.path, resume=resume, stop_in=stop_in))
        except KeyboardInterrupt:
            folder.unfinished = True
            return
        if isinstance(done, Refused):
            assert folder.damaged or (used and not resume), done
            return
        if finished and "run.json" not in folder.damaged:
            return  # finished already, and left alone
        folder.unfinished = False
        folder.mend("model", "run.json", "splits", "history", "engine")
        folder.holds = dict(self.truth)

    @invariant()
    def serves_what_was_committed(self) -> None:
        for folder in self.known:
            found = served_by_run(folder.path)
            if folder.holds:
                check(folder, found, RUN_FILES)
            else:
                # Of a training under way nothing is taken for a network.
                for name in ("weights", "months", "splits"):
                    assert isinstance(found[name], Refused)


@pytest.fixture
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


def test_analysis_folders_under_any_sequence_of_commands(
    sex_run: Path, cohort: Cohort, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    prepared = prepare_run(load_run(sex_run), cohort, split="all", cache_folder=cache)
    truth = {}
    for seed in (0, 1):
        machine = AnalysisMachine(tmp_path / "machine", prepared, {})
        machine.attribute(tmp_path / f"{seed}", "begin")
        evaluate_run(prepared, tmp_path / f"{seed}", seed=seed)
        truth[seed] = served_by_analysis(tmp_path / f"{seed}")
    assert not [name for one in truth.values() for name, value in one.items() if value == ABSENT]
    assert truth[0]["metrics"] != truth[1]["metrics"]
    assert truth[0]["map gradient"] == truth[1]["map gradient"]
    run_state_machine_as_test(
        lambda: AnalysisMachine(tmp_path / "machine", prepared, truth), settings=FEW
    )


def test_run_folders_under_any_sequence_of_commands(cohort: Cohort, tmp_path: Path) -> None:
    recipe = load_recipe("demo", (*TINY, "training.epochs=2"))
    made = RunMachine(tmp_path / "machine", recipe, cohort, tmp_path / "cache")
    made.train(tmp_path / "undisturbed", resume=False)
    truth = served_by_run(tmp_path / "undisturbed")
    assert not [name for name, value in truth.items() if isinstance(value, Refused)]

    def machine() -> RunMachine:
        one = RunMachine(tmp_path / "machine", recipe, cohort, tmp_path / "cache")
        one.truth = truth
        return one

    run_state_machine_as_test(machine, settings=FEW)

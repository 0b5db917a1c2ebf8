"""Run folders under any sequence of trainings, kills, damage and moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_table
from boneage_xai.models.checkpoint import load_run
from boneage_xai.types import Cohort
from folder_machine import (
    FEW,
    Folder,
    FolderMachine,
    Refused,
    Served,
    check,
    csv_of,
    tried,
)
from trained_runs import TINY
from trainers.engine import train
from trainers.recipe import Recipe, load_recipe

RUN_FILES: dict[str, tuple[str, ...]] = {
    "weights": ("model.safetensors", "run.json"),
    "months": ("model.safetensors", "run.json"),
    "splits": ("model.safetensors", "run.json", "splits.csv"),
    "history": ("history.csv",),
}


def served_by_run(path: Path) -> Served:
    run = tried(lambda: load_run(path))
    history = tried(lambda: csv_of(read_table(path / "history.csv")))
    if isinstance(run, Refused):
        return dict.fromkeys(("weights", "months", "splits"), run) | {"history": history}
    images = torch.linspace(0, 1, 2 * 48 * 48).reshape(2, 1, 48, 48)
    return {
        "weights": run.manifest.weights_sha256,
        "months": run.network(images, torch.tensor([0.0, 1.0])).numpy().tobytes(),
        "splits": tried(lambda: csv_of(run.splits())),
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
            found = self.served(folder, served_by_run)
            if folder.holds:
                check(folder, found, RUN_FILES)
            else:
                # Of a training under way nothing is taken for a network.
                for name in ("weights", "months", "splits"):
                    assert isinstance(found[name], Refused)


@pytest.fixture
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


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

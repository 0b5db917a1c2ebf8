"""Trainings that are stopped, killed or damaged: resumed to the same, or refused."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from training_fixture import TINY, cohort, finished, recipe

from apps.cli import main
from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.models.checkpoint import load_run, read_manifest
from boneage_xai.types import Cohort
from trainers.claim import check_same_recipe
from trainers.engine import train
from trainers.recipe import Recipe, load_recipe

__all__ = ["cohort", "finished", "recipe"]


class StopError(Exception):
    """Stands for anything that ends a training early."""


def test_a_stopped_training_resumes_to_the_same_weights(
    finished: Path, cohort: Cohort, recipe: Recipe, tmp_path: Path
) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise StopError

    out, cache = tmp_path / "run", finished / "cache"
    with pytest.raises(StopError):
        train(recipe, cohort, out, cache_folder=cache, on_epoch=stop)
    with pytest.raises(CheckpointError, match="unfinished"):
        load_run(out)
    train(recipe, cohort, out, cache_folder=cache, resume=True)
    whole = load_run(finished / "run").network.state_dict()
    resumed = load_run(out).network.state_dict()
    assert all(resumed[key].equal(value) for key, value in whole.items())
    columns = ["epoch", "train_mae_months", "val_mae_months", "train_loss", "val_loss", "lr"]
    pd.testing.assert_frame_equal(
        read_table(out / "history.csv")[columns],
        read_table(finished / "run" / "history.csv")[columns],
    )


# Nothing is learnt, so that nothing improves; a schedule passes over steps below 1e-8.
IDLE = (*TINY, "training.stages=[]", "training.epochs=8", "training.schedule=plateau")


PLATEAU = ("training.learning_rate=3e-8", "training.plateau_factor=0.1")


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ((*IDLE, *PLATEAU, "training.plateau_patience=1"), 8),
        ((*IDLE, "training.learning_rate=1e-12", "training.early_stopping_patience=3"), 4),
    ],
)
def test_schedule_and_early_stopping_outlast_a_stop(
    settings: tuple[str, ...], epochs: int, finished: Path, cohort: Cohort, tmp_path: Path
) -> None:
    recipe, cache = load_recipe("demo", settings), finished / "cache"
    train(recipe, cohort, tmp_path / "whole", cache_folder=cache)
    whole = read_table(tmp_path / "whole" / "history.csv")
    assert len(whole) == epochs
    assert whole["lr"].nunique() == (2 if epochs == 8 else 1)

    stopped = tmp_path / "stopped"
    for resume in (False, *[True] * epochs):
        train(recipe, cohort, stopped, cache_folder=cache, resume=resume, stop=StopAfterOne())
    pd.testing.assert_frame_equal(
        read_table(stopped / "history.csv").drop(columns="seconds"),
        whole.drop(columns="seconds"),
    )
    assert result(stopped) == result(tmp_path / "whole")
    # As if killed after the last epoch, before the results were written.
    (stopped / "run.json").unlink()
    train(recipe, cohort, stopped, cache_folder=cache, resume=True)
    assert result(stopped) == result(tmp_path / "whole")


def result(run: Path) -> tuple[str, int, int]:
    manifest = read_manifest(run)
    return manifest.weights_sha256, manifest.epochs, manifest.best_epoch


class StopAfterOne:
    """Ask to stop, but not before the first epoch."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > 1


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    finished: Path, cohort: Cohort, recipe: Recipe, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk; it comes when epoch 2 is reported."""
    out, cache = tmp_path / "run", finished / "cache"
    last = out / "engine" / "last.ckpt"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = b""

    def fill(row: dict[str, float]) -> None:
        nonlocal before
        if row["epoch"] == 2:
            before = last.read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))

    try:
        with pytest.raises(OSError, match="large"):
            train(recipe, cohort, out, cache_folder=cache, on_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last.read_bytes() == before
    train(recipe, cohort, out, cache_folder=cache, resume=True)
    whole = load_run(finished / "run").network.state_dict()
    resumed = load_run(out).network.state_dict()
    assert all(resumed[key].equal(value) for key, value in whole.items())


def test_a_flipped_bit_in_a_checkpoint_is_not_trained_on(
    finished: Path, cohort: Cohort, recipe: Recipe, tmp_path: Path
) -> None:
    """torch would read it: it does not compare the checksums that it wrote."""

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise StopError

    out, cache = tmp_path / "run", finished / "cache"
    with pytest.raises(StopError):
        train(recipe, cohort, out, cache_folder=cache, on_epoch=stop)
    last = out / "engine" / "last.ckpt"
    whole = last.read_bytes()
    place = len(whole) // 2
    for spoilt in (
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        whole[:place],
    ):
        last.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            train(recipe, cohort, out, cache_folder=cache, resume=True)
    last.write_bytes(whole)
    assert train(recipe, cohort, out, cache_folder=cache, resume=True).manifest.epochs == 4


def test_a_moved_training_still_knows_its_best_epoch(
    finished: Path, cohort: Cohort, tmp_path: Path
) -> None:
    """A learning rate that ruins the network at once: no later epoch is better than the first."""
    settings = ["training.stages=[]", "training.schedule=constant"]
    recipe = load_recipe("demo", [*TINY, *settings, "training.learning_rate=0.3"])

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise StopError

    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.raises(StopError):
        train(recipe, cohort, before, cache_folder=finished / "cache", on_epoch=stop)
    before.rename(after)
    run = train(recipe, cohort, after, cache_folder=finished / "cache", resume=True)
    assert read_table(after / "history.csv")["val_mae_months"].idxmin() == 0
    assert run.manifest.best_epoch == 0


def test_a_killed_process_resumes_to_the_same_weights(
    finished: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "apps.cli", "train", "demo", "--data", str(phantoms)]
    command += ["--out", str(out), "--cache", str(finished / "cache")]
    for change in TINY:
        command += ["--set", change]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    history = out / "history.csv"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if history.is_file() and len(read_table(history)) >= 2:
            break
        time.sleep(0.02)
    process.kill()
    _, stderr = process.communicate()
    assert history.is_file(), stderr.decode()
    monkeypatch.setattr(sys, "argv", ["boneage-xai", *command[3:], "--resume"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    whole = load_run(finished / "run").network.state_dict()
    resumed = load_run(out).network.state_dict()
    assert all(torch.allclose(resumed[key], value, atol=1e-6) for key, value in whole.items())


def test_two_trainings_do_not_share_a_folder(
    finished: Path, cohort: Cohort, recipe: Recipe, tmp_path: Path
) -> None:
    out, cache = tmp_path / "run", finished / "cache"
    refusals = []

    def begin_another(row: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="no other training at work in this folder") as other:
            train(recipe, cohort, out, cache_folder=cache, resume=True)
        refusals.append(other)

    train(recipe, cohort, out, cache_folder=cache, on_epoch=begin_another)
    assert len(refusals) == 4
    whole = load_run(finished / "run").network.state_dict()
    ours = load_run(out).network.state_dict()
    assert all(ours[key].equal(value) for key, value in whole.items())


def test_a_folder_in_use_or_another_recipe_is_refused(
    finished: Path, cohort: Cohort, recipe: Recipe
) -> None:
    run, cache = finished / "run", finished / "cache"
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(ConfigError, match="--resume"):
        train(recipe, cohort, run, cache_folder=cache)
    other = load_recipe("demo", [*TINY, "training.learning_rate=0.5"])
    with pytest.raises(ConfigError, match="must not change"):
        train(other, cohort, run, cache_folder=cache, resume=True)
    fewer = cohort.select([case.case_id for case in cohort][:30])
    with pytest.raises(ConfigError, match="expected the data"):
        train(recipe, fewer, run, cache_folder=cache, resume=True)
    # Also where somebody has removed the checkpoints of a finished run.
    (run / "engine").rename(finished / "engine")
    try:
        with pytest.raises(ConfigError, match="must not change"):
            train(other, cohort, run, cache_folder=cache, resume=True)
    finally:
        shutil.rmtree(run / "engine")
        (finished / "engine").rename(run / "engine")
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_a_run_from_before_a_key_of_recipes_is_gone_on_with(
    finished: Path, recipe: Recipe, tmp_path: Path
) -> None:
    manifest = read_json(finished / "run" / "run.json")
    del manifest["recipe"]["auxiliary"]
    write_json(tmp_path / "run.json", manifest)
    check_same_recipe(tmp_path, recipe)
    with pytest.raises(ConfigError, match="must not change"):
        check_same_recipe(tmp_path, recipe.model_copy(update={"name": "other"}))


def test_resuming_a_finished_training_returns_it(
    finished: Path, cohort: Cohort, recipe: Recipe
) -> None:
    weights = finished / "run" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    run = train(recipe, cohort, finished / "run", cache_folder=finished / "cache", resume=True)
    assert run.manifest == read_manifest(finished / "run")
    assert weights.stat().st_mtime_ns == before

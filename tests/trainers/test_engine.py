"""Training runs: what they write, that they learn, and that a killed one resumes to the same."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from apps.cli import main
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.models.checkpoint import load_run, read_manifest
from boneage_xai.predict import predict_cohort, predict_pixels
from boneage_xai.types import Cohort
from trainers.claim import check_same_recipe
from trainers.engine import train
from trainers.feeding import Batch
from trainers.module import BoneAgeTraining
from trainers.recipe import Recipe, load_recipe

TINY = (
    "preprocessing.size_px=48",
    "architecture.backbone=squeezenet1_1",
    "architecture.dropout=0.3",
    "training.batch_size=8",
    "training.epochs=4",
    "training.stages=[{epochs=2,size_px=32},{epochs=2,size_px=48}]",
    "training.precision=float32",
    "training.ema_decay=0.9",
)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", TINY)


@pytest.fixture(scope="module")
def finished(cohort: Cohort, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    train(recipe, cohort, folder / "run", cache_folder=folder / "cache", source="phantoms")
    return folder


def test_the_run_folder_is_whole(finished: Path, cohort: Cohort) -> None:
    run = finished / "run"
    history, splits = read_table(run / "history.csv"), read_table(run / "splits.csv")
    assert history.columns.tolist() == [
        "epoch", "train_mae_months", "val_mae_months", "train_loss", "val_loss", "lr", "seconds",
        "size_px",
    ]  # fmt: skip
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert history["size_px"].tolist() == [32, 32, 48, 48]
    assert sorted(splits["case_id"]) == sorted(case.case_id for case in cohort)
    assert splits["split"].value_counts().to_dict() == {"train": 32, "validation": 8}
    assert (run / "learning_curve.png").stat().st_size > 10_000
    manifest = read_manifest(run)
    assert manifest.data.n_train == 32
    assert manifest.best_epoch in (2, 3)  # those at the full size
    assert not list(run.glob(".*"))


def test_the_age_scale_comes_from_the_training_cases_alone(finished: Path, cohort: Cohort) -> None:
    splits = read_table(finished / "run" / "splits.csv")
    ids = splits.loc[splits["split"] == "train", "case_id"].tolist()
    ages = cohort.select(ids).bone_ages_months()
    manifest = read_manifest(finished / "run")
    assert manifest.age_mean_months == pytest.approx(ages.mean(), abs=1e-3)
    assert manifest.age_sd_months == pytest.approx(ages.std(), abs=1e-3)


def test_the_recorded_mae_is_that_of_the_saved_weights(finished: Path, cohort: Cohort) -> None:
    from boneage_xai.data.cache import open_cache

    run = load_run(finished / "run")
    splits = read_table(finished / "run" / "splits.csv")
    held_out = cohort.select(splits.loc[splits["split"] == "validation", "case_id"].tolist())
    cache = open_cache(cohort, run.preprocessing, finished / "cache")
    predictions = predict_cohort(run, held_out, cache, batch_size=3)
    mae = np.mean([abs(one.error_months) for one in predictions])
    assert run.manifest.val_mae_months == pytest.approx(mae, abs=1e-3)
    best = read_table(finished / "run" / "history.csv").set_index("epoch")["val_mae_months"]
    assert mae == pytest.approx(best[run.manifest.best_epoch], abs=0.01)


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


def test_a_training_that_diverges_ends_there(
    finished: Path, cohort: Cohort, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = BoneAgeTraining.training_step

    def diverging(module: BoneAgeTraining, batch: Batch, index: int) -> torch.Tensor:
        loss = step(module, batch, index)
        return loss * torch.nan if module.current_epoch == 1 else loss

    monkeypatch.setattr(BoneAgeTraining, "training_step", diverging)
    settings = (*TINY, "training.stages=[]")
    out = tmp_path / "run"
    train(load_recipe("demo", settings), cohort, out, cache_folder=finished / "cache")
    assert read_table(out / "history.csv")["epoch"].tolist() == [0, 1]
    assert read_manifest(out).best_epoch == 0


def test_a_warm_up_of_exactly_one_step_is_possible(
    finished: Path, cohort: Cohort, tmp_path: Path
) -> None:
    # Four steps an epoch.
    settings = (*TINY, "training.stages=[]", "training.epochs=1", "training.warmup_fraction=0.25")
    run = train(
        load_recipe("demo", [*settings, "training.schedule=one_cycle"]),
        cohort,
        tmp_path / "run",
        cache_folder=finished / "cache",
    )
    assert run.manifest.epochs == 1


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


def test_a_run_begins_where_another_ended(finished: Path, cohort: Cohort, tmp_path: Path) -> None:
    earlier = load_run(finished / "run")
    settings = (
        *TINY,
        f'initialisation.weights="{finished / "run"}"',
        "training.epochs=1",
        "training.stages=[]",
        "training.learning_rate=1e-9",
        "training.ema_decay=0.0001",
    )
    later = train(load_recipe("demo", settings), cohort, tmp_path / "run", cache_folder=tmp_path)
    before, after = earlier.network.state_dict(), later.network.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value.float(), after[name].float(), atol=1e-4), name
    assert later.manifest.val_mae_months == pytest.approx(earlier.manifest.val_mae_months, abs=0.1)


def test_a_run_of_another_architecture_does_not_begin_one(
    finished: Path, cohort: Cohort, tmp_path: Path
) -> None:
    settings = (*TINY, f'initialisation.weights="{finished / "run"}"', "architecture.hidden=[7]")
    with pytest.raises(ConfigError, match="architecture"):
        train(load_recipe("demo", settings), cohort, tmp_path / "run", cache_folder=tmp_path)


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


def test_too_few_cases_are_refused_before_anything_is_written(
    cohort: Cohort, recipe: Recipe, tmp_path: Path
) -> None:
    one = cohort.select([cohort.cases[0].case_id])
    with pytest.raises(DataError, match="at least 2 cases"):
        train(recipe, one, tmp_path / "run", cache_folder=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_an_input_too_small_for_the_network_is_refused_before_anything_is_written(
    cohort: Cohort, tmp_path: Path
) -> None:
    recipe = load_recipe("kimmel-inception-v3", ["preprocessing.size_px=48"])
    with pytest.raises(ConfigError, match="inception_v3 can take, found 48 pixels"):
        train(recipe, cohort, tmp_path / "run", cache_folder=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_cases_without_bone_age_are_refused(cohort: Cohort, recipe: Recipe, tmp_path: Path) -> None:
    bare = Cohort("bare", tuple(replace(case, bone_age_months=None) for case in cohort))
    with pytest.raises(DataError, match="expected cases with a bone age"):
        train(recipe, bare, tmp_path / "run", cache_folder=tmp_path / "cache")


def test_global_random_state_is_left_alone(cohort: Cohort, finished: Path, tmp_path: Path) -> None:
    short = load_recipe("demo", [*TINY, "training.epochs=1", "training.stages=[]"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(short, cohort, tmp_path / "run", cache_folder=finished / "cache")
    assert torch.rand(3).equal(expected)


def test_a_network_learns_to_tell_bright_from_dark(tmp_path: Path) -> None:
    from PIL import Image

    from boneage_xai.types import Case, Sex

    rng = np.random.default_rng(0)
    cases = []
    for index in range(64):
        age = 20 + 180 * (index % 2)
        pixels = rng.integers(0, 40, (48, 48), dtype=np.uint8)
        pixels[: 24 if age > 100 else 6] += 200
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        sex = Sex.MALE if index % 4 < 2 else Sex.FEMALE
        cases.append(Case(str(index), tmp_path / f"{index}.png", sex, float(age)))
    changes = [*TINY, "architecture.backbone=resnet18", "training.epochs=6", "training.stages=[]"]
    recipe = load_recipe("demo", [*changes, "augmentation.rotation_degrees=0"])
    run = train(recipe, Cohort("two", tuple(cases)), tmp_path / "run", cache_folder=tmp_path / "c")
    assert run.manifest.val_mae_months < 25  # the mean is 90 months off


def test_damaged_and_foreign_runs_are_refused(finished: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(CheckpointError, match="found none"):
        load_run(tmp_path / "absent")
    copy = tmp_path / "copy"
    shutil.copytree(finished / "run", copy, ignore=shutil.ignore_patterns("engine"))
    content = read_json(copy / "run.json")
    write_json(copy / "run.json", {**content, "version": 7})
    with pytest.raises(CheckpointError, match=r"expected boneage_xai.run version 1, found .* 7"):
        load_run(copy)
    write_json(copy / "run.json", {**content, "surprise": 1})
    with pytest.raises(CheckpointError, match="surprise"):
        load_run(copy)
    write_json(copy / "run.json", content)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_run(copy)


def test_batch_size_does_not_change_predictions(finished: Path) -> None:
    network = load_run(finished / "run").network
    pixels = np.random.default_rng(0).integers(0, 256, (7, 48, 48), dtype=np.uint8)
    is_male = np.array([True, False] * 3 + [True])
    one, many = (predict_pixels(network, pixels, is_male, batch_size=size) for size in (1, 7))
    np.testing.assert_allclose(one, many, atol=1e-3)
    assert not network.training

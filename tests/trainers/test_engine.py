"""Training runs: what they write, where they begin, that they learn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_fixture import TINY, cohort, finished, recipe

from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.models.checkpoint import load_run, read_manifest
from boneage_xai.predict import predict_cohort, predict_pixels
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.feeding import Batch
from trainers.module import BoneAgeTraining
from trainers.recipe import Recipe, load_recipe

__all__ = ["cohort", "finished", "recipe"]


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

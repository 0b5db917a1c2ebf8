"""Loggers: they hold what history.csv holds, and change nothing of the run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import ConfigError
from boneage_xai.files import file_sha256, read_json, read_table
from boneage_xai.models.checkpoint import WEIGHTS_FILE, read_manifest
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.loggers import hyper_parameters
from trainers.recipe import Recipe, load_recipe

TINY = (
    "preprocessing.size_px=32",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=16",
    "training.epochs=3",
    "training.stages=[]",
    "training.precision=float32",
    "training.schedule=one_cycle",
)
MEASURED = (
    "train_mae_months", "val_mae_months", "train_loss", "val_loss", "lr", "seconds", "size_px",
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", TINY)


@pytest.fixture(scope="module")
def plain(cohort: Cohort, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without any logger."""
    folder = tmp_path_factory.mktemp("plain")
    train(recipe, cohort, folder / "run", cache_folder=folder / "cache")
    return folder


class _KilledError(Exception):
    pass


def _interrupted(recipe: Recipe, cohort: Cohort, out: Path, cache: Path, name: str) -> None:
    """Train until the first epoch is over, then go on to the end."""

    def stop(row: dict[str, float]) -> None:
        # The checkpoint of an epoch follows its row.
        if row["epoch"] == 1:
            raise _KilledError

    with pytest.raises(_KilledError):
        train(recipe, cohort, out, cache_folder=cache, loggers=(name,), on_epoch=stop)
    train(recipe, cohort, out, cache_folder=cache, loggers=(name,), resume=True)


def test_tensorboard_holds_the_history_also_when_resumed(
    cohort: Cohort, recipe: Recipe, plain: Path, tmp_path: Path
) -> None:
    events: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="boneage-xai[tensorboard] is not installed",
    )
    out = tmp_path / "run"
    _interrupted(recipe, cohort, out, plain / "cache", "tensorboard")
    history = read_table(out / "history.csv")
    assert len(history) == 3
    read = events.EventAccumulator(str(out / "logs" / "tensorboard"))
    read.Reload()
    assert set(MEASURED) <= set(read.Tags()["scalars"])
    for name in MEASURED:
        # Of an epoch that was repeated, the last counts.
        found = {event.step: event.value for event in read.Scalars(name)}
        expected = dict(zip(history["epoch"], history[name], strict=True))
        assert found == pytest.approx(expected, rel=1e-6), name
    assert len({row.value for row in read.Scalars("lr")}) > 1


def test_mlflow_holds_the_history_in_one_run_also_when_resumed(
    cohort: Cohort,
    recipe: Recipe,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracking: Any = pytest.importorskip(
        "mlflow.tracking", reason="boneage-xai[mlflow] is not installed"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "run"
    _interrupted(recipe, cohort, out, plain / "cache", "mlflow")
    noted = read_json(out / "logs" / "mlflow-run.json")
    assert {path.name for path in out.iterdir()} >= {"run.json", "logs"}
    client = tracking.MlflowClient(tracking_uri=noted["tracking_uri"])
    experiment = client.get_experiment_by_name("demo")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == noted["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.params["training.learning_rate"] == str(recipe.training.learning_rate)
    history = read_table(out / "history.csv")
    for name in MEASURED:
        found = {one.step: one.value for one in client.get_metric_history(noted["run_id"], name)}
        expected = dict(zip(history["epoch"], history[name], strict=True))
        assert found == pytest.approx(expected, rel=1e-6), name
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_logger_changes_nothing_of_the_run(
    cohort: Cohort, recipe: Recipe, plain: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="boneage-xai[tensorboard] is not installed")
    out = tmp_path / "run"
    train(recipe, cohort, out, cache_folder=plain / "cache", loggers=("tensorboard",))
    assert file_sha256(out / WEIGHTS_FILE) == file_sha256(plain / "run" / WEIGHTS_FILE)
    assert read_manifest(out).recipe == read_manifest(plain / "run").recipe
    timed = ["seconds"]
    pd.testing.assert_frame_equal(
        read_table(out / "history.csv").drop(columns=timed),
        read_table(plain / "run" / "history.csv").drop(columns=timed),
    )
    # Nor does it tell a resumed training from the one that began.
    train(recipe, cohort, out, cache_folder=plain / "cache", resume=True)
    assert not (plain / "run" / "logs").exists()


def test_hyper_parameters_are_the_recipes_keys(recipe: Recipe) -> None:
    found = hyper_parameters(recipe)
    assert found["training.learning_rate"] == recipe.training.learning_rate
    assert found["preprocessing.size_px"] == 32
    assert found["architecture.backbone"] == "squeezenet1_1"
    assert found["training.stages"] == "[]"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed_is_refused_before_anything_is_read(
    cohort: Cohort,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"install boneage-xai\[{name}\]"):
        train(recipe, cohort, tmp_path / "run", cache_folder=tmp_path / "c", loggers=(name,))
    assert not list(tmp_path.iterdir())

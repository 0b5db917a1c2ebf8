"""A tiny training on phantoms, finished once for all tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.types import Cohort
from trainers.engine import train
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

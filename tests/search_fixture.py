"""A tiny search over a tiny recipe, finished once for all tests of a module."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_table
from boneage_xai.types import Cohort
from trainers.recipe import Recipe, load_recipe
from trainers.search.results import SearchResult
from trainers.search.run import search
from trainers.search.space import parse_knob
from trainers.search.worker import SearchSettings

TINY = (
    "preprocessing.size_px=32",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=16",
    "training.epochs=2",
    "training.stages=[]",
    "training.precision=float32",
)


SPACE = ("training.learning_rate=1e-5..1e-1:log", "architecture.hidden=[8]|[64]")


KNOBS = [*map(parse_knob, SPACE)]


HALVING = SearchSettings(5, pruner="halving", seed=3)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", TINY)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "cache"


@pytest.fixture(scope="module")
def finished(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    out = tmp_path_factory.mktemp("finished") / "search"
    return out, search(recipe, cohort, out, KNOBS, HALVING, cache_folder=cache)


def curves(out: Path) -> dict[int, list[float]]:
    return {
        int(folder.name): read_table(folder / "history.csv")["val_mae_months"].tolist()
        for folder in sorted((out / "trials").iterdir())
        if folder.is_dir()
    }


def assert_same_search(result: SearchResult, other: SearchResult) -> None:
    columns = ["state", "value", "training.learning_rate", "architecture.hidden", "epochs"]
    tables = [one.trials[one.trials["state"] != "failed"][columns] for one in (result, other)]
    pd.testing.assert_frame_equal(*[table.reset_index(drop=True) for table in tables])


def command(phantoms: Path, out: Path, cache: Path, *options: str) -> list[str]:
    given = [sys.executable, "-m", "apps.cli", "tune", "demo", "--data", str(phantoms)]
    given += ["--out", str(out), "--cache", str(cache), *options]
    for change in TINY:
        given += ["--set", change]
    for text in SPACE:
        given += ["--search", text]
    return given

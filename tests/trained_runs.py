"""Small runs on phantoms, with and without the sex, for the commands on trained networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from trainers.engine import train
from trainers.recipe import load_recipe

TINY = (
    "preprocessing.size_px=48",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    "training.epochs=1",
    "training.stages=[]",
    "training.precision=float32",
)


def write_run(phantoms: Path, out: Path, *settings: str) -> Path:
    """Train a tiny network on a cohort of phantoms, and return its run folder."""
    cohort = select_cohort(read_source(phantoms))
    train(load_recipe("demo", (*TINY, *settings)), cohort, out, cache_folder=out.parent / "cache")
    return out


@pytest.fixture(scope="session")
def sex_run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network that is given the sex; 32 training and 8 validation cases."""
    return write_run(phantoms, tmp_path_factory.mktemp("sex") / "run")


@pytest.fixture(scope="session")
def image_run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network that sees the image only, with the same split."""
    out = tmp_path_factory.mktemp("image") / "run"
    return write_run(phantoms, out, "architecture.sex_features=0")

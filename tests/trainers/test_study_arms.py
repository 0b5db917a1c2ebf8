"""Every arm of both studies trains: one epoch on small phantoms, by its recipe but for the size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_table
from boneage_xai.models.checkpoint import load_run
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.recipe import load_recipe
from trainers.reproduction.arms import STUDIES

# Inception takes nothing below 75 pixels.
SIZE_PX = {"wouters-vgg16": 32, "wouters-resnet18": 48, "kimmel-resnet101": 48}
SEX_WIDTH = {"wouters": 8, "kimmel": 16}


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arms-cache")


def pretrained(backbone: str, path: Path) -> Path:
    """Write weights in torchvision's format; those of a classifier, which is removed, are nought.

    An expanded tensor is stored as its one value: the classifier of VGG16 is half a gigabyte.
    """
    torch.manual_seed(3)
    with torch.device("meta"):
        shapes = torchvision.models.get_model(backbone).state_dict()
    state = {
        key: torch.zeros((), dtype=value.dtype).expand(value.shape)
        if key.startswith(("classifier", "fc")) or value.ndim < 2
        else torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
        for key, value in shapes.items()
    }
    scales = {
        key: torch.ones(value.shape)
        for key, value in state.items()
        if value.ndim == 1 and key.endswith(("weight", "running_var"))
    }
    torch.save(state | scales, path)
    return path


@pytest.mark.parametrize("name", [name for names in STUDIES.values() for name in names])
def test_an_arm_trains_an_epoch(name: str, cohort: Cohort, cache: Path, tmp_path: Path) -> None:
    study, twin = name.split("-")[0], name.removesuffix("-image-only")
    recipe = load_recipe(name)
    settings = [
        "training.epochs=1",
        "training.precision=float32",
        f"preprocessing.size_px={SIZE_PX.get(twin, 80)}",
    ]
    if study == "wouters":
        weights = pretrained(recipe.architecture.backbone, tmp_path / "weights.pth")
        settings.append(f'initialisation.weights="{weights}"')
    run = train(load_recipe(name, settings), cohort, tmp_path / "run", cache_folder=cache)
    history = read_table(tmp_path / "run" / "history.csv")
    assert len(history) == 1
    assert np.isfinite(history["val_mae_months"].iloc[0])
    assert run.manifest.architecture.backbone == recipe.architecture.backbone
    tensors = load_run(tmp_path / "run").network.state_dict()
    if name == twin:
        assert tensors["sex_branch.0.weight"].shape == (SEX_WIDTH[study], 1)
    else:
        assert not [key for key in tensors if key.startswith("sex_branch")]
    if study == "wouters":
        # Of the backbone only the last block has learnt.
        before = torch.load(weights, weights_only=True)
        first, last = (
            ("features.2.weight", "features.28.weight")
            if "vgg16" in name
            else ("layer1.0.conv1.weight", "layer4.1.conv2.weight")
        )
        assert tensors[f"backbone.{first}"].equal(before[first])
        assert not tensors[f"backbone.{last}"].equal(before[last])

"""Recipes: every shipped one parses and says what its study says; mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boneage_xai.errors import ConfigError
from trainers.recipe import load_recipe, recipe_names


def test_all_arms_are_shipped() -> None:
    assert set(recipe_names()) == {
        *ARMS,
        "cpu-small",
        "cpu-strong",
        "demo",
        "phantom",
        "phantom-clean",
        "phantom-pretraining",
        "strong",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


# Every key of every arm: what the studies say, and in what they are silent.
NO_CHANGE = {
    "rotation_degrees": 0.0,
    "shift_fraction": 0.0,
    "zoom": (1.0, 1.0),
    "horizontal_flip": 0.0,
    "vertical_flip": 0.0,
    "gamma": 0.0,
    "contrast": 0.0,
    "brightness": 0.0,
}
NOTHING_ELSE = {"sex": 0.0, "region_ages": 0.0}
SILENT = {
    "weight_decay": 0.0,
    "warmup_fraction": 0.15,
    "ema_decay": None,
    "gradient_clip": None,
    "stages": (),
    "seed": 0,
    "precision": "auto",
    "compiled": False,
}
STRETCHED = {"stretch_percentiles": (1.0, 99.0), "clahe": False, "remove_border": False}
PLAIN_HEAD = {"dropout": 0.0, "output": "value", "normalised_stem": False}
WOUTERS_SAYS = {
    "preprocessing": {"size_px": 256, "fit": "pad", **STRETCHED},
    "initialisation": {"weights": "imagenet", "fine_tuned_blocks": 1},
    "augmentation": {
        **NO_CHANGE,
        "rotation_degrees": 20.0,
        "shift_fraction": 20 / 256,
        "zoom": (1.0, 1 / 0.8),
        "horizontal_flip": 0.5,
    },
    "auxiliary": NOTHING_ELSE,
}
WOUTERS_TRAINS = {
    "batch_size": 64,
    "loss": "mse",
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "plateau_factor": 0.8,
    "plateau_patience": 10,
    "early_stopping_patience": 10,
    "validation_fraction": 0.2,
    **SILENT,
}
KIMMEL_SAYS = {
    "preprocessing": {"size_px": 299, "fit": "squash", **STRETCHED},
    "initialisation": {"weights": "none", "fine_tuned_blocks": "all"},
    "augmentation": {**NO_CHANGE, "horizontal_flip": 0.5, "vertical_flip": 0.5},
    "auxiliary": NOTHING_ELSE,
}
KIMMEL_TRAINS = {
    "epochs": 200,
    "batch_size": 16,
    "loss": "l1",
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "schedule": "plateau",
    "plateau_factor": 0.8,
    "plateau_patience": 10,
    "early_stopping_patience": None,
    "validation_fraction": 0.2,
    **SILENT,
}


def wouters(backbone: str, sex_features: int, epochs: int) -> dict[str, Any]:
    network = {"backbone": backbone, "sex_features": sex_features, "hidden": (32,), **PLAIN_HEAD}
    training = {"epochs": epochs, **WOUTERS_TRAINS}
    return {**WOUTERS_SAYS, "architecture": network, "training": training}


def kimmel(backbone: str, sex_features: int) -> dict[str, Any]:
    head = {"hidden": (1000, 500), **PLAIN_HEAD}
    network = {"backbone": backbone, "sex_features": sex_features, **head}
    return {**KIMMEL_SAYS, "architecture": network, "training": KIMMEL_TRAINS}


ARMS = {
    "wouters-vgg16": wouters("vgg16", 8, 20),
    "wouters-vgg16-image-only": wouters("vgg16", 0, 20),
    "wouters-resnet18": wouters("resnet18", 8, 30),
    "wouters-resnet18-image-only": wouters("resnet18", 0, 30),
    "kimmel-inception-v3": kimmel("inception_v3", 16),
    "kimmel-inception-v3-image-only": kimmel("inception_v3", 0),
    "kimmel-resnet101": kimmel("resnet101", 16),
    "kimmel-resnet101-image-only": kimmel("resnet101", 0),
}


@pytest.mark.parametrize("name", ARMS)
def test_every_key_of_an_arm_is_what_its_study_says(name: str) -> None:
    found = load_recipe(name).model_dump()
    del found["description"]
    assert found == {"name": name, **ARMS[name]}


def test_overrides_are_typed_by_toml() -> None:
    recipe = load_recipe(
        "cpu-small",
        ["training.epochs=2", "training.stages=[]", "initialisation.weights=some/file.pth"],
    )
    assert recipe.training.epochs == 2
    assert recipe.training.stages == ()
    assert recipe.initialisation.weights == "some/file.pth"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.epoch=2", r"unknown key training.epoch \(the nearest is training.epochs\)"),
        ("epochs=2", r"unknown key epochs \(the nearest is training.epochs\)"),
        ("colour=2", "unknown key colour$"),
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=7", "stages: expected 7 epochs together, found 20"),
        ("augmentation.zoom=[1.1, 0.9]", "zoom"),
        ("augmentation.horizontal_flip=0.6", "horizontal_flip: .* less than or equal to 0.5"),
        ("preprocessing.size_px=64", "end at preprocessing.size_px 64"),
        ("initialisation.fine_tuned_blocks=1", "without pretrained weights"),
        ("training.early_stopping_patience=3", "early_stopping_patience: not with stages"),
        ("training.schedule=plateau", "schedule = plateau: not with stages"),
        ("architecture.hidden=[-1]", "architecture.hidden"),
        ("training", "expected section.key=value"),
        ("training.epochs.more=1", "is a value, not a section"),
    ],
)
def test_mistakes_are_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("[", r"\[")):
        load_recipe("cpu-small", [override])


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\n[preprocessing]\n[architecture]\n[training]\nepochs = 1\n')
    assert load_recipe(str(own)).training.epochs == 1
    own.write_text('name = "own"\n[preprocessing]\n[architecture]\n[training]\n')
    with pytest.raises(ConfigError, match=r"training\.epochs: expected this key, found none"):
        load_recipe(str(own))
    own.write_text('name = "own"\n[preprocessing]\n[architecture]\n[training]\nepoch = 1\n')
    with pytest.raises(ConfigError, match=r"unknown key training.epoch \(the nearest"):
        load_recipe(str(own))
    own.write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(own))
    with pytest.raises(ConfigError, match="found neither"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_stages_give_the_size_of_each_epoch() -> None:
    training = load_recipe(
        "cpu-small",
        ["training.epochs=3", "training.stages=[{epochs=2,size_px=64},{epochs=1,size_px=160}]"],
    ).training
    assert [training.size_px_of_epoch(epoch, 160) for epoch in range(4)] == [64, 64, 160, 160]

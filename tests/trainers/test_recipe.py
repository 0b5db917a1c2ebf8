"""Recipes: every shipped one parses and says what its study says; mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.errors import ConfigError
from trainers.recipe import load_recipe, recipe_names

WOUTERS = [f"wouters-{net}{arm}" for net in ("vgg16", "resnet18") for arm in ("", "-image-only")]
KIMMEL = [
    f"kimmel-{net}{arm}" for net in ("inception-v3", "resnet101") for arm in ("", "-image-only")
]


def test_all_arms_are_shipped() -> None:
    assert set(recipe_names()) == {
        *WOUTERS,
        *KIMMEL,
        "cpu-small",
        "demo",
        "phantom",
        "phantom-clean",
        "strong",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize("name", WOUTERS)
def test_wouters_arms(name: str) -> None:
    recipe = load_recipe(name)
    training, change = recipe.training, recipe.augmentation
    assert (recipe.preprocessing.size_px, recipe.preprocessing.fit) == (256, "pad")
    assert recipe.architecture.backbone == name.split("-")[1]
    assert recipe.architecture.sex_features == (0 if name.endswith("image-only") else 8)
    assert recipe.architecture.hidden == (32,)
    assert recipe.initialisation.weights == "imagenet"
    assert (training.loss, training.optimiser, training.learning_rate) == ("mse", "adam", 1e-3)
    assert (training.batch_size, training.early_stopping_patience) == (64, 10)
    assert training.epochs == (20 if "vgg16" in name else 30)
    assert change.rotation_degrees == 20
    assert change.zoom == (1.0, 1 / 0.8)
    assert change.shift_fraction * 256 == 20
    assert change.horizontal_flip
    assert not change.vertical_flip


@pytest.mark.parametrize("name", KIMMEL)
def test_kimmel_arms(name: str) -> None:
    recipe = load_recipe(name)
    training, change = recipe.training, recipe.augmentation
    assert recipe.preprocessing.size_px == 299
    assert recipe.architecture.backbone in ("inception_v3", "resnet101")
    assert recipe.architecture.sex_features == (0 if name.endswith("image-only") else 16)
    assert recipe.architecture.hidden == (1000, 500)
    assert recipe.initialisation.weights == "none"
    assert (training.loss, training.optimiser, training.learning_rate) == ("l1", "adam", 1e-3)
    assert (training.epochs, training.batch_size) == (200, 16)
    assert (training.schedule, training.plateau_factor, training.plateau_patience) == (
        "plateau",
        0.8,
        10,
    )
    assert change.horizontal_flip
    assert change.vertical_flip


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
        ("training.epoch=2", "unknown key training.epoch"),
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=7", "stages: expected 7 epochs together, found 20"),
        ("augmentation.zoom=[1.1, 0.9]", "zoom"),
        ("preprocessing.size_px=64", "end at preprocessing.size_px 64"),
        ("initialisation.fine_tuned_blocks=1", "without pretrained weights"),
        ("training.early_stopping_patience=3", "not with stages"),
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

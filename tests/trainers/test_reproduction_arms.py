"""The arms of a reproduction: their split, their departures, their names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from boneage_xai.errors import ConfigError
from trainers.reproduction.arms import load_arms


def test_arms_share_the_split_and_tell_every_departure() -> None:
    arms = load_arms(
        ["studies", "strong", "wouters"],
        ["training.epochs=1", "training.stages=[]"],
        from_scratch=True,
        seed=7,
    )
    assert len(arms) == 9  # each once
    assert {(a.recipe.training.validation_fraction, a.recipe.training.seed) for a in arms} == {
        (0.2, 7)
    }
    by_name = {
        arm.name: {one.key: (one.shipped, one.used) for one in arm.departures} for arm in arms
    }
    assert by_name["kimmel-resnet101"] == {"training.epochs": (200, 1), "training.seed": (0, 7)}
    assert by_name["wouters-vgg16"] == {
        "initialisation.weights": ("imagenet", "none"),
        "initialisation.fine_tuned_blocks": (1, "all"),
        "training.epochs": (20, 1),
        "training.seed": (0, 7),
    }
    assert by_name["strong"]["training.validation_fraction"] == (0.1, 0.2)
    assert {arm.study for arm in arms} == {"wouters", "kimmel", None}


def test_a_recipe_that_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (files("trainers") / "recipes" / "demo.toml").read_text(encoding="utf-8")
    own.write_text(text.replace('name = "demo"', 'name = "../own"'))
    with pytest.raises(ConfigError, match="names folders"):
        load_arms([str(own)], [])


def test_a_change_may_be_for_one_arm_or_one_study() -> None:
    arms = load_arms(
        ["kimmel", "wouters-resnet18"],
        [
            "training.epochs=9",
            "kimmel-resnet101:training.epochs=3",
            "wouters:training.batch_size=16",
            'wouters-resnet18:architecture.backbone="resnet18"',
        ],
        from_scratch=True,
    )
    trained = {arm.name: arm.recipe.training for arm in arms}
    assert {name: one.epochs for name, one in trained.items()} == {
        "kimmel-inception-v3": 9,
        "kimmel-inception-v3-image-only": 9,
        "kimmel-resnet101": 3,
        "kimmel-resnet101-image-only": 9,
        "wouters-resnet18": 9,
    }
    assert trained["wouters-resnet18"].batch_size == 16
    told = {arm.name: {one.key for one in arm.departures} for arm in arms}
    assert "training.batch_size" in told["wouters-resnet18"]
    assert "training.batch_size" not in told["kimmel-resnet101"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("kimmel-resnet101:training.seed=1", "expected --seed"),
        ("training.seed=1", "expected --seed"),
        ("kimmel-resnet101:training.seed =1", "expected --seed"),
        (
            "kimmel-resnet101:training={epochs=1, validation_fraction=0.2, seed=1}",
            "expected --seed",
        ),
        ("kimmel-resnet101:training.validation_fraction=0.1", r"found 0\.1, 0\.2"),
    ],
)
def test_arms_that_would_hold_out_other_cases_are_refused(change: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_arms(["kimmel"], [change])


@pytest.mark.parametrize("name", ["wouters-vgg16", "nobody", ""])
def test_a_change_for_an_arm_that_is_not_trained_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of the arms kimmel-resnet101 before the"):
        load_arms(["kimmel-resnet101"], [f"{name}:training.epochs=1"])

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

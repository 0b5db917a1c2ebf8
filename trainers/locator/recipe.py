"""The recipe of the locator's training: one TOML file, checked once, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from boneage_xai.errors import ConfigError, first_problem
from boneage_xai.regions.locator_network import SIZE_MULTIPLE
from trainers.recipe import apply_override

RECIPE_FILE = "locator.toml"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RandomisationSettings(_Settings):
    """Random changes of each phantom, so that a radiograph is but one more of them.

    Shares are probabilities with which an image has a change at all; amounts are drawn uniformly
    up to what is given, on the scale of greys in [0, 1] or in shares of the image's side.

    Args:
        rotation_degrees: turn either way.
        zoom: (low, high) size of the hand against the phantom's.
        squash: (low, high) stretch of the width against the height: images squashed into a square.
        shift: how far the hand is moved either way.
        mirror_share: right hands among the left.
        plate_share: tilted exposed plates with foreign surroundings.
        bright_air_share: bright instead of dark air around the hand.
        gamma: exponent up to exp(±gamma).
        contrast: least range of grey that is left.
        shading: uneven exposure over the image.
        occlusion_share: images with rectangles, bars and letters over them.
        sharpen: edge enhancement.
        coarsest: least share of the resolution that is left.
        noise: standard deviation of grain.
        jpeg_share: images with artefacts of compression.
        neighbour_share: images with a part of another hand at their edge.
        no_hand_share: images without a hand, for which nothing may be found.
    """

    rotation_degrees: float = Field(default=35, ge=0, le=180)
    zoom: tuple[float, float] = (0.7, 1.3)
    squash: tuple[float, float] = (0.8, 1.7)
    shift: float = Field(default=0.15, ge=0, le=1)
    mirror_share: float = Field(default=0.5, ge=0, le=1)
    plate_share: float = Field(default=0.35, ge=0, le=1)
    bright_air_share: float = Field(default=0.06, ge=0, le=1)
    gamma: float = Field(default=0.7, ge=0, le=2)
    contrast: float = Field(default=0.3, gt=0, le=1)
    shading: float = Field(default=0.35, ge=0, le=1)
    occlusion_share: float = Field(default=0.5, ge=0, le=1)
    sharpen: float = Field(default=1.5, ge=0)
    coarsest: float = Field(default=0.35, gt=0, le=1)
    noise: float = Field(default=0.08, ge=0, le=1)
    jpeg_share: float = Field(default=0.3, ge=0, le=1)
    neighbour_share: float = Field(default=0.05, ge=0, le=1)
    no_hand_share: float = Field(default=0.03, ge=0, lt=1)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> RandomisationSettings:
        for name in ("zoom", "squash"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: expected 0 < low ≤ high, found {[low, high]}")
        return self


class LocatorStage(_Settings):
    """A run of steps on inputs of one size."""

    steps: int = Field(ge=1)
    size_px: int = Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)


class LocatorTrainingSettings(_Settings):
    """How the locator is trained.

    Args:
        stages: sizes of the input, the last being that of the finished locator.
        batch_size: phantoms a step.
        learning_rate: highest of the one-cycle schedule.
        weight_decay: of AdamW.
        warmup_fraction: share of the steps in which the learning rate rises.
        ema_decay: of the moving average of the weights, which is what is kept.
        gradient_clip: highest gradient norm.
        landmark_sd: spread of a landmark's target in cells of its map.
        segmentation_weight: of the segmentation's loss against the landmarks'.
        validation_fraction: share of the phantoms held out, the last ones of the cohort.
        seed: of initial weights, order and randomisation.
    """

    stages: tuple[LocatorStage, ...] = Field(min_length=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup_fraction: float = Field(default=0.1, gt=0, lt=1)
    ema_decay: float = Field(default=0.998, gt=0, lt=1)
    gradient_clip: float = Field(default=5.0, gt=0)
    landmark_sd: float = Field(default=1.0, gt=0)
    segmentation_weight: float = Field(default=1.0, ge=0)
    validation_fraction: float = Field(default=0.03, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


class LocatorRecipe(_Settings):
    """Everything that decides the locator's training, apart from the phantoms."""

    description: str = ""
    randomisation: RandomisationSettings = RandomisationSettings()
    training: LocatorTrainingSettings


def load_locator_recipe(path: Path | None = None, overrides: Sequence[str] = ()) -> LocatorRecipe:
    """Load the shipped recipe, or one's own.

    Args:
        path: a TOML file, None for the one that is shipped.
        overrides: ``section.key=value`` with a TOML value.

    Raises:
        ConfigError: no such file, not TOML, an unknown key or a value out of range.
    """
    name = RECIPE_FILE if path is None else str(path)
    try:
        if path is None:
            text = (files("trainers") / "locator" / RECIPE_FILE).read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"recipe {name}: expected a TOML file, found none") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {name}: not valid TOML: {error}") from error
    for override in overrides:
        apply_override(content, override)
    try:
        return LocatorRecipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {first_problem(error)}") from error

"""Training recipes: TOML files checked once, at the door, with unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import ConfigError, first_problem
from boneage_xai.models.regressor import ArchitectureSettings


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InitialisationSettings(_Settings):
    """Where the weights start and which of them learn.

    Args:
        weights: ``none``, ``imagenet``, or a path from the folder the command runs in: a file in
            torchvision's format for the backbone, or the folder of an earlier run of the same
            architecture, whose whole network, with its scale of ages, is taken over.
        fine_tuned_blocks: how many of the backbone's last blocks are trained, or ``all``.
    """

    weights: str = "none"
    fine_tuned_blocks: int | Literal["all"] = "all"


class AuxiliarySettings(_Settings):
    """What the features of the image learn to tell besides, as pretraining; nothing by default.

    The heads that tell it are not part of the trained network.

    Args:
        sex: weight of the cross-entropy of telling the sex from the image.
        region_ages: weight of the mean absolute error of the regions' standardised ages, which
            only phantoms have.
    """

    sex: float = Field(default=0.0, ge=0, le=100)
    region_ages: float = Field(default=0.0, ge=0, le=100)


def _probability(value: object) -> object:
    return 0.5 * value if isinstance(value, bool) else value


Flip = Annotated[float, BeforeValidator(_probability), Field(ge=0, le=0.5)]
"""Probability of a flip, at most one half, which ``true`` is."""


class AugmentationSettings(_Settings):
    """Random changes of each training image, drawn uniformly.

    Args:
        rotation_degrees: up to this angle either way.
        shift_fraction: up to this fraction of the side, in x and y, before the turn and the
            magnification, which move the hand with it.
        zoom: (low, high) magnification of the hand; below 1 shows it smaller.
        horizontal_flip: probability with which each image is mirrored, as right hands are to left
            ones; ``true`` is one half.
        vertical_flip: probability with which each image is turned upside down, likewise.
        gamma: exponent up to exp(±gamma).
        contrast: factor up to 1 ± contrast.
        brightness: offset up to ± brightness, on the [0, 1] scale.
    """

    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    shift_fraction: float = Field(default=0.0, ge=0, lt=1)
    zoom: tuple[float, float] = (1.0, 1.0)
    horizontal_flip: Flip = 0.0
    vertical_flip: Flip = 0.0
    gamma: float = Field(default=0.0, ge=0, le=2)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    brightness: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _zoom_is_a_range(self) -> AugmentationSettings:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom: expected 0 < low ≤ high, found {list(self.zoom)}")
        return self


class Stage(_Settings):
    """A run of epochs on inputs of one size (progressive resizing)."""

    epochs: int = Field(ge=1)
    size_px: int = Field(ge=32)


class TrainingSettings(_Settings):
    """How the network is trained.

    Args:
        epochs: at most this many.
        batch_size: images a step.
        loss: ``l1`` (mean absolute error), ``mse`` or ``huber``, on standardised ages. A
            network with ``expectation`` output adds the cross-entropy to a Gaussian around
            the reference age.
        optimiser: ``adam`` or ``adamw`` (decoupled weight decay).
        learning_rate: initial, or highest where the schedule is ``one_cycle``.
        weight_decay: of the optimiser.
        schedule: ``constant``, ``plateau`` or ``one_cycle``.
        plateau_factor: learning-rate factor on a plateau of the validation MAE.
        plateau_patience: epochs without improvement before that.
        warmup_fraction: share of the steps in which ``one_cycle`` rises.
        early_stopping_patience: stop after so many epochs without a better validation MAE.
        ema_decay: keep an exponential moving average of the weights and validate that.
        gradient_clip: highest gradient norm.
        stages: sizes of the training input by epoch; empty trains at the preprocessing size.
        validation_fraction: share of the labelled cases held out, stratified by sex and age.
        seed: of the split, the initial weights, the order and the augmentation.
        precision: ``auto`` takes bf16 where the machine computes it fast.
        compiled: compile the training step (``torch.compile``): a minute at the first step of each
            input size, then faster, above all on a GPU.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    loss: Literal["l1", "mse", "huber"] = "l1"
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, lt=100)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "plateau", "one_cycle"] = "constant"
    plateau_factor: float = Field(default=0.8, gt=0, lt=1)
    plateau_patience: int = Field(default=10, ge=0)
    warmup_fraction: float = Field(default=0.15, gt=0, lt=1)
    early_stopping_patience: int | None = Field(default=None, ge=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0)
    stages: tuple[Stage, ...] = ()
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compiled: bool = False

    @model_validator(mode="after")
    def _stages_cover_all_epochs(self) -> TrainingSettings:
        if self.stages:
            waits = {
                "early_stopping_patience": self.early_stopping_patience is not None,
                "schedule = plateau": self.schedule == "plateau",
            }
            if refused := [name for name, asked in waits.items() if asked]:
                raise ValueError(
                    f"{refused[0]}: not with stages, whose validation errors are measured at "
                    "different input sizes"
                )
        if self.stages and (staged := sum(stage.epochs for stage in self.stages)) != self.epochs:
            raise ValueError(
                f"stages: expected {self.epochs} epochs together, found {staged} (give other "
                "stages, or none with --set training.stages=[])"
            )
        return self

    def size_px_of_epoch(self, epoch: int, full_size_px: int) -> int:
        """Return the side of the training input in this epoch (counted from 0)."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.size_px
            epoch -= stage.epochs
        return full_size_px


class Recipe(_Settings):
    """Everything that decides a training, apart from the data."""

    name: str = Field(min_length=1)
    description: str = ""
    preprocessing: PreprocessSettings
    architecture: ArchitectureSettings
    initialisation: InitialisationSettings = InitialisationSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    auxiliary: AuxiliarySettings = AuxiliarySettings()
    training: TrainingSettings

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        if self.initialisation.weights == "none" and self.initialisation.fine_tuned_blocks != "all":
            raise ValueError(
                "initialisation.fine_tuned_blocks: without pretrained weights every block must "
                f"learn, expected 'all', found {self.initialisation.fine_tuned_blocks}"
            )
        if self.training.stages and self.training.stages[-1].size_px != self.preprocessing.size_px:
            raise ValueError(
                f"training.stages: expected to end at preprocessing.size_px "
                f"{self.preprocessing.size_px}, found {self.training.stages[-1].size_px}"
            )
        return self


def recipe_names() -> list[str]:
    """Return the names of the recipes that are shipped."""
    folder = files("trainers") / "recipes"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name or one's own by path.

    Args:
        name_or_path: e.g. ``cpu-small``, or the path of a TOML file.
        overrides: ``section.key=value`` with a TOML value, e.g. ``training.epochs=3``; a
            value that is no TOML is taken as a string.

    Returns:
        The checked recipe.

    Raises:
        ConfigError: no such recipe, not TOML, an unknown key or a value out of range.
    """
    if name_or_path in recipe_names():
        text = (files("trainers") / "recipes" / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"recipe {name_or_path}: expected a TOML file or one of "
                f"{', '.join(recipe_names())}; found neither"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"recipe {path}: expected UTF-8 text, found {error.reason}"
            ) from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path}: not valid TOML: {error}") from error
    for override in overrides:
        apply_override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"recipe {name_or_path}: {first_problem(error, Recipe)}") from error


def apply_override(content: dict[str, Any], override: str) -> None:
    """Change one key of a recipe's content in place, by ``section.key=value``.

    Raises:
        ConfigError: no such form, or a section that is a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip().split(".")[-1]:
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        set_key(content, key.strip(), parse_value(text))
    except ConfigError as error:
        raise ConfigError(f"--set {override}: {error}") from error


def parse_value(text: str) -> Any:
    """Return a TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Change one key, e.g. ``training.epochs``, of a recipe's content in place.

    Raises:
        ConfigError: a section that is a value.
    """
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{section} is a value, not a section")
    content[last] = value

"""Model cards: TOML files that say what a network from elsewhere is and how it is called.

A card is text and executes nothing. What it points at may: a factory, a TorchScript file and an
exported program are code. Weights on their own never are.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import ConfigError, first_problem

SourceKind = Literal["factory", "torchscript", "exported"]

# A default would decide silently what the network was trained with.
_STATED_PREPROCESSING = ("size_px", "fit", "stretch_percentiles")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _refuse_unless(self, condition: bool, keys: tuple[str, ...], needed: str) -> None:
        if not condition and (stray := [key for key in keys if key in self.model_fields_set]):
            raise ValueError(f"{stray[0]}: only with {needed}")


class NetworkSource(_Part):
    """Where the network comes from: exactly one of three; paths are relative to the card.

    Args:
        factory: ``package.module:function`` that returns an ``nn.Module``; also looked for beside
            the card. Importing and calling it **executes code**.
        arguments: keyword arguments of the factory.
        weights: state dict for the factory's network, safetensors or what ``torch.load`` reads
            with ``weights_only=True``; never executes code.
        weights_key: key under which the file holds the state dict; empty where it is one.
        weights_prefix: prefix of every tensor's name that is cut off, e.g. ``module.``.
        torchscript: file written by ``torch.jit.save``; loading and running it **executes code**.
        exported: ``.pt2`` file written by ``torch.export.save``; **executes code**, too.
    """

    factory: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = Field(default=None, min_length=1)
    weights_key: str = ""
    weights_prefix: str = ""
    torchscript: str | None = Field(default=None, min_length=1)
    exported: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("factory", "torchscript", "exported") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(
                "expected exactly one of factory, torchscript and exported, "
                f"found {' and '.join(given) or 'none'}"
            )
        self._refuse_unless(self.factory is not None, ("arguments", "weights"), "factory")
        self._refuse_unless(self.weights is not None, ("weights_key", "weights_prefix"), "weights")
        return self

    @property
    def kind(self) -> SourceKind:
        """Which of the three the network is."""
        if self.factory is not None:
            return "factory"
        return "torchscript" if self.torchscript is not None else "exported"


class InputSettings(_Part):
    """What the network makes of a radiograph, after preprocessing.

    Args:
        channels: 1, or 3 with the grey image repeated.
        range: values for black and white; ``[0, 255]`` scales, ``[1, 0]`` inverts.
        mean: subtracted per channel, on the scale of ``range``; empty normalises nothing.
        std: divided by, per channel.
    """

    channels: Literal[1, 3] = 1
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.range[0] == self.range[1]:
            raise ValueError(f"range: expected two different values, found {list(self.range)}")
        if (self.mean or self.std) and not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean, std: expected {self.channels} numbers each, as many as channels, or "
                f"neither, found {len(self.mean)} and {len(self.std)}"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std: expected numbers above 0, found {list(self.std)}")
        return self


class SexSettings(_Part):
    """How the network is told the sex.

    Args:
        passed_as: ``none``; ``argument``; or ``channel``, a constant plane behind the image's
            channels, which is not normalised.
        female: value for girls.
        male: value for boys.
        shape: of the argument: ``N`` or ``N1``, that is (N,) or (N, 1).
        type: of the argument; ``integer`` for embeddings.
        position: of the argument: after the image or before it.
        keyword: name of the argument, where it is passed by name.
    """

    passed_as: Literal["none", "argument", "channel"]
    female: float = 0.0
    male: float = 1.0
    shape: Literal["N", "N1"] = "N"
    type: Literal["float", "integer"] = "float"
    position: Literal["after", "before"] = "after"
    keyword: str = Field(default="", pattern=r"^([A-Za-z_]\w*)?$")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        self._refuse_unless(
            self.passed_as != "none", ("female", "male"), "passed_as = 'argument' or 'channel'"
        )
        self._refuse_unless(
            self.passed_as == "argument",
            ("shape", "type", "position", "keyword"),
            "passed_as = 'argument'",
        )
        if self.keyword and "position" in self.model_fields_set:
            raise ValueError("keyword, position: expected one of the two, found both")
        if self.female == self.male:
            raise ValueError(f"female, male: expected different values, found {self.male:g} twice")
        if self.type == "integer" and not (self.female.is_integer() and self.male.is_integer()):
            raise ValueError(
                f"female, male: expected whole numbers with type = 'integer', "
                f"found {self.female:g} and {self.male:g}"
            )
        return self


class OutputSettings(_Part):
    """How months are read from what the network returns.

    Args:
        unit: of its number; ``z-score`` counts ``sd_months`` from ``mean_months``.
        mean_months: with ``z-score``.
        sd_months: with ``z-score``.
        element: which element of a tuple (a number) or dictionary (a key) it is.
        column: which column of an output (N, k).
        classes: ages of the k classes, in ``unit``: the expectation over them is taken.
        scores: whether the classes' scores are ``logits`` or ``probabilities``.
    """

    unit: Literal["months", "years", "z-score"]
    mean_months: float | None = None
    sd_months: float | None = Field(default=None, gt=0)
    element: int | str | None = None
    column: int | None = Field(default=None, ge=0)
    classes: tuple[float, ...] = ()
    scores: Literal["logits", "probabilities"] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        scaled = self.unit == "z-score"
        self._refuse_unless(scaled, ("mean_months", "sd_months"), "unit = 'z-score'")
        if scaled and (self.mean_months is None or self.sd_months is None):
            raise ValueError("unit: 'z-score' needs mean_months and sd_months")
        if bool(self.classes) != (self.scores is not None):
            raise ValueError("classes, scores: expected both or neither, found one")
        if self.classes and (len(self.classes) < 2 or self.column is not None):
            raise ValueError("classes: expected two ages or more, and no column")
        return self


class ModelCard(_Part):
    """The whole of a card; unknown keys are refused.

    Args:
        name: how reports call the model.
        description: for people.
        source: what the network is.
        preprocessing: how radiographs are prepared; size_px, fit and stretch_percentiles must
            be stated.
        input: what the network makes of them.
        sex: how it is told the sex.
        output: how months are read from its output.
    """

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    source: NetworkSource
    preprocessing: PreprocessSettings
    input: InputSettings = InputSettings()
    sex: SexSettings
    output: OutputSettings

    @model_validator(mode="after")
    def _preprocessing_is_stated(self) -> Self:
        for key in _STATED_PREPROCESSING:
            if key not in self.preprocessing.model_fields_set:
                raise ValueError(f"preprocessing.{key}: expected it in the card, found none")
        return self


def load_card(path: Path) -> ModelCard:
    """Read and check a model card, without touching the network it describes.

    Args:
        path: the TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a value out of range or two that
            contradict each other.
    """
    if not path.is_file():
        raise ConfigError(f"model card {path}: expected a TOML file, found none")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"model card {path}: not valid TOML: {error}") from error
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"model card {path}: {first_problem(error, ModelCard)}") from error

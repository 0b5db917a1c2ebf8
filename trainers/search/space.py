"""The space of a search: which keys of a recipe are tried, over which values."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from boneage_xai.errors import ConfigError, first_problem
from boneage_xai.models.backbones import build_backbone, feature_blocks
from trainers.recipe import Recipe, parse_value, set_key

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(:\s*log)?\s*")
_FORMS = "expected low..high, low..high:log or two or more values separated by |"

_SAME_FOR_ALL = ("training.seed", "training.validation_fraction")
"""Keys that decide which cases a trial is validated on."""

_DECIDE_AN_EPOCH = ("training.epochs", "training.stages", "preprocessing.size_px")
"""Keys without which an epoch of one trial is not the same epoch of another."""


@dataclass(frozen=True)
class Range:
    """A key whose values lie between two numbers, ends included; whole numbers where both are.

    Args:
        key: of the recipe, e.g. ``training.learning_rate``.
        low: smallest value.
        high: largest value.
        log: drawn evenly by the logarithm.
    """

    key: str
    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.low}..{self.high}{':log' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def tested(self) -> tuple[Any, ...]:
        """The values that a recipe must take for it to take all."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Return whether the value is one of the range."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def stored(self, value: Any) -> Any:
        """Return the value as the study stores it."""
        return value

    def loaded(self, stored: Any) -> Any:
        """Return the value that the study stores."""
        return stored

    def suggest(self, trial: Any) -> Any:
        """Return the value that an Optuna trial is to have."""
        draw = trial.suggest_int if self.whole else trial.suggest_float
        return draw(self.key, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choices:
    """A key whose values are listed.

    Args:
        key: of the recipe, e.g. ``architecture.hidden``.
        values: two or more, of any kind that a recipe may hold.
    """

    key: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.key}={'|'.join(map(json.dumps, self.values))}"

    @property
    def tested(self) -> tuple[Any, ...]:
        """The values that a recipe must take for it to take all."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Return whether the value is one of those listed."""
        return value in self.values

    def stored(self, value: Any) -> Any:
        """Return the value as the study stores it: text, since Optuna takes no lists."""
        return json.dumps(value)

    def loaded(self, stored: Any) -> Any:
        """Return the value that the study stores as text."""
        return json.loads(stored)

    def suggest(self, trial: Any) -> Any:
        """Return the value that an Optuna trial is to have."""
        return self.loaded(trial.suggest_categorical(self.key, [*map(self.stored, self.values)]))


Knob = Range | Choices


def parse_knob(text: str) -> Knob:
    """Return the knob that ``key=low..high``, ``key=low..high:log`` or ``key=a|b|c`` names.

    Raises:
        ConfigError: another form, or a range that is empty or that has no logarithm.
    """
    key, separator, values = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--search {text}: expected section.key=values, e.g. {_EXAMPLE}")
    return _knob(key.strip(), values)


_EXAMPLE = "training.learning_rate=1e-4..1e-2:log"


def _knob(key: str, text: str) -> Knob:
    found = _RANGE.fullmatch(text)
    if found is None:
        return _choices(key, [parse_value(value) for value in text.split("|")], text)
    low, high = (float(end) if re.search("[.eE]", end) else int(end) for end in found.groups()[:2])
    log = found.group(3) is not None
    if not low < high:
        raise ConfigError(f"knob {key}: expected low < high, found {text.strip()}")
    if log and low <= 0:
        raise ConfigError(f"knob {key}: expected low > 0 on a log scale, found {text.strip()}")
    return Range(key, low, high, log)


def _choices(key: str, values: Sequence[Any], text: object) -> Choices:
    try:
        distinct = len(set(map(json.dumps, values)))
    except TypeError:  # dates, which TOML has and no recipe
        distinct = 0
    if len(values) < 2 or distinct != len(values) or "" in values:
        raise ConfigError(f"knob {key}: {_FORMS}, all different, found {text}")
    return Choices(key, tuple(values))


def load_space(path: Path) -> list[Knob]:
    """Read a space from a TOML file with the sections of a recipe.

    A value is a string as after ``=`` of ``--search``, or a list of values.

    Raises:
        ConfigError: no such file, not TOML, or a value of another form.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"space {path}: expected a TOML file, found none") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"space {path}: not valid TOML: {error}") from error
    knobs = list(_knobs_of(content, ""))
    if not knobs:
        raise ConfigError(f"space {path}: expected one key or more, found none")
    return knobs


def _knobs_of(content: Mapping[str, Any], before: str) -> Iterator[Knob]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _knobs_of(value, f"{before}{key}.")
        elif isinstance(value, list):
            yield _choices(before + key, value, value)
        elif isinstance(value, str):
            yield _knob(before + key, value)
        else:
            raise ConfigError(f"knob {before}{key}: {_FORMS}, found {value}")


def default_space(recipe: Recipe) -> list[Knob]:
    """Return the knobs that Wouters' study names, around the values of the recipe.

    These are the learning rate, by a factor of ten either way; neurons in the last hidden layer,
    half to twice as many; and, where blocks of a pretrained backbone are frozen, how many learn.
    """
    rate = recipe.training.learning_rate
    low, high = (float(f"{rate * factor:.6g}") for factor in (0.1, 10))
    knobs: list[Knob] = [Range("training.learning_rate", low, high, log=True)]
    if recipe.architecture.hidden:
        *first, last = recipe.architecture.hidden
        widths = sorted({max(last // 2, 1), last, 2 * last})
        knobs.append(Choices("architecture.hidden", tuple([*first, width] for width in widths)))
    if recipe.initialisation.weights != "none" and recipe.initialisation.fine_tuned_blocks != "all":
        blocks = len(feature_blocks(build_backbone(recipe.architecture.backbone)))
        knobs.append(Range("initialisation.fine_tuned_blocks", 0, blocks))
    return knobs


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values of some keys.

    Raises:
        ConfigError: an unknown key, or values that the recipe refuses.
    """
    content = recipe.model_dump(mode="json")
    try:
        for key, value in values.items():
            set_key(content, key, value)
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from error


def value_of(recipe: Recipe, key: str) -> Any:
    """Return the recipe's value of a key as TOML has it, with lists for tuples."""
    content: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        content = content[part]
    return content


def checked_space(recipe: Recipe, knobs: Sequence[Knob], *, pruning: bool) -> list[Knob]:
    """Return the knobs once the recipe is known to take every one of their values.

    Every pair of knobs is tried at all listed values and at both ends of ranges.

    Args:
        recipe: that is searched over.
        knobs: as they were parsed.
        pruning: whether trials are compared epoch by epoch.

    Returns:
        The knobs, with values as the recipe holds them: fractions for whole numbers where the key
        holds fractions.

    Raises:
        ConfigError: a key that is unknown, named twice or must be the same for all trials, or
            values that the recipe refuses or holds to be the same.
    """
    keys = [knob.key for knob in knobs]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"knob {key}: expected it once, found it {keys.count(key)} times")
        if "." not in key:
            raise ConfigError(f"knob {key}: expected section.key, found a whole section")
        if key in _SAME_FOR_ALL:
            raise ConfigError(
                f"knob {key}: expected a key that leaves the validation cases as they are, "
                "found one that chooses them"
            )
        if pruning and key in _DECIDE_AN_EPOCH:
            raise ConfigError(
                f"knob {key}: expected --pruner none, since pruning compares trials after the "
                "same epochs on the same input sizes, found a pruner"
            )
    settled = [_settled(recipe, knob) for knob in knobs]
    for one, other in itertools.combinations(settled, 2):
        for first, second in itertools.product(one.tested, other.tested):
            try:
                with_values(recipe, {one.key: first, other.key: second})
            except ConfigError as error:
                raise ConfigError(f"knobs {one}, {other}: {error}") from error
    return settled


def _settled(recipe: Recipe, knob: Knob) -> Knob:
    taken = []
    for value in knob.tested:
        try:
            changed = with_values(recipe, {knob.key: value})
        except ConfigError as error:
            raise ConfigError(f"knob {knob}: {error}") from error
        taken.append(value_of(changed, knob.key))
    if isinstance(knob, Choices):
        return _choices(knob.key, taken, knob)
    if all(isinstance(value, float) for value in taken):
        return replace(knob, low=float(knob.low), high=float(knob.high))
    if isinstance(taken[0], bool) or not knob.whole:
        kind = "values separated by |" if isinstance(taken[0], bool) else "whole numbers"
        raise ConfigError(f"knob {knob}: expected {kind}, found fractions or a range")
    return knob

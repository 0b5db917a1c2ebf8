"""The errors the toolkit raises for mistakes its user can mend.

Every message is one sentence that names the file or case, what was expected
and what was found. The command line prints it and exits with 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


_MOST_LETTERS = 300


class BoneAgeError(Exception):
    """Base of all errors raised on purpose by the toolkit."""


class DataError(BoneAgeError):
    """An image, label table, cohort or cache that cannot be used as it is."""


class ConfigError(BoneAgeError):
    """A recipe, option or setting that is unknown, contradictory or out of range."""


class CheckpointError(BoneAgeError):
    """A run folder or weight file that is missing, damaged or of another version."""


class AttributionError(BoneAgeError):
    """An attribution that is not valid for the network or case asked for."""


class ReportError(BoneAgeError):
    """An analysis folder from which no report or page can be made."""


def first_problem(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Say in one clause what pydantic found wrong first, with its key.

    Args:
        error: of pydantic.
        model: whose keys an unknown one is compared with, to name the nearest.
    """
    problems = error.errors()
    # A misspelt key leaves the right one missing: the one that is there tells more.
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = _nearest(key, list(_keys(model))) if model is not None else None
        return f"unknown key {key}" + (f" (the nearest is {near})" if near else "")
    if problem["type"] == "missing":
        return f"{key}: expected this key, found none"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    shown = "" if isinstance(found, Mapping) else f", found {found!r}"
    return f"{key}: {message}{shown}" if key else message


def _keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yield the keys of a model of sections, such as ``training.epochs``."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and hasattr(section, "model_fields"):
            yield from _keys(section, f"{before}{name}.")
        else:
            yield before + name


def _nearest(key: str, known: list[str]) -> str | None:
    """Return the known key that was meant: of the same name in a section, else spelt alike."""
    in_sections = [one for one in known if one.endswith(f".{key}")]
    return next(iter(in_sections or get_close_matches(key, known, n=1, cutoff=0.8)), None)


def one_clause(error: Exception) -> str:
    """Say in one clause what a library complained of, however many sentences it took."""
    words = " ".join(str(error).split())
    words = re.sub(r"[.!?]+ (?=[A-Z])", "; ", words).rstrip(".!? ")
    words = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    if len(words) > _MOST_LETTERS:
        words = f"{words[:_MOST_LETTERS]}…"
    return words or type(error).__name__

"""The errors the toolkit raises for mistakes its user can mend.

Every message is one sentence that names the file or case, what was expected
and what was found. The command line prints it and exits with 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def first_problem(error: ValidationError) -> str:
    """Say in one clause what pydantic found wrong first, with its key."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    shown = "" if isinstance(found, Mapping) else f", found {found!r}"
    return f"{key}: {message}{shown}" if key else message


def one_clause(error: Exception) -> str:
    """Say in one clause what a library complained of, however many sentences it took."""
    words = " ".join(str(error).split())
    words = re.sub(r"[.!?]+ (?=[A-Z])", "; ", words).rstrip(".!? ")
    words = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    if len(words) > _MOST_LETTERS:
        words = f"{words[:_MOST_LETTERS]}…"
    return words or type(error).__name__

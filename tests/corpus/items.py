"""What an item of the corpus is: the bytes of one file, and what a reader must make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Facts = Mapping[str, tuple[str, float | None]]
"""Case id to sex (``F`` or ``M``) and bone age in months."""


@dataclass(frozen=True)
class Picture:
    """The true radiograph.

    Args:
        pixels: (H, W) in [0, 1].
        most: the largest difference that a pixel may show.
        mean: the largest mean difference over the pixels.
    """

    pixels: Pixels = field(repr=False)
    most: float = 1e-5
    mean: float = 1e-5


@dataclass(frozen=True)
class Rows:
    """The true rows of a label table.

    Args:
        read: every row that can be read.
        lost: for every other row, what the sentence about it must contain.
    """

    read: Facts
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class EachRow:
    """Every line behind the header is read, or named by its number: a changed text is a text."""


@dataclass(frozen=True)
class Refused:
    """A sentence that contains ``why``."""

    why: str = ""


@dataclass(frozen=True)
class Plausible:
    """Any pixels in [0, 1]: the format has no means to notice that its bits were changed."""


@dataclass(frozen=True)
class Something:
    """Whatever it says: it must be read without harm, or refused."""


Truth = Picture | Rows | EachRow | Plausible | Something


@dataclass(frozen=True)
class Item:
    """One file and what is allowed to come of it.

    Args:
        family: what kind of input it is, for the summary.
        name: a unique file name.
        content: the bytes.
        truth: what it holds, None where nothing may be read.
        refusal: how it may be refused, None where it must be read.
    """

    family: str
    name: str
    content: bytes = field(repr=False)
    truth: Truth | None = None
    refusal: Refused | None = None

    @property
    def reader(self) -> Literal["table", "radiograph", "stored"]:
        """Who reads it."""
        if self.family.startswith(("stored", "run manifest")):
            return "stored"
        return "table" if self.family.startswith("table") else "radiograph"


def damaged(
    family: str,
    stem: str,
    suffix: str,
    content: bytes,
    truth: Truth,
    flipped_truth: Truth | None = None,
    n: int = 20,
) -> Iterator[Item]:
    """Cut and flip a sound file at many places.

    Args:
        family: of the items.
        stem: beginning of the items' names.
        suffix: end of the items' names.
        content: the sound file.
        truth: what the sound file holds; a cut one is read as that or refused.
        flipped_truth: what may be read after a flip, where the format has no checksums.
        n: cuts, and flips.
    """
    for length in sorted({*np.linspace(0, len(content) - 1, n - 4).astype(int), 4, 20, 140, 400}):
        if length < len(content):
            name = f"{stem}-cut-{length:06d}{suffix}"
            yield Item(f"{family}: truncated", name, content[:length], truth, Refused())
    rng = np.random.default_rng(len(content))
    # Half of the flips fall on the first bytes, where the headers are.
    places = {int(at) for at in rng.integers(8 * len(content), size=n // 2)}
    places |= {int(at) for at in rng.integers(8 * min(len(content), 300), size=n // 2)}
    for at in sorted(places):
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        name = f"{stem}-flip-{at:06d}{suffix}"
        kept = truth if flipped_truth is None else flipped_truth
        yield Item(f"{family}: bit-flipped", name, bytes(changed), kept, Refused())


@dataclass(frozen=True)
class Outcome:
    """What a reader made of an item.

    Args:
        error: name of the exception, None when it was read.
        is_refusal: whether the exception belongs to the toolkit's own tree.
        message: of the exception, or of the problems of a table, one a line.
        pixels: of a radiograph.
        facts: of a table.
        seconds: processor time.
        peak_mb: memory that reading added at its peak.
    """

    error: str | None = None
    is_refusal: bool = False
    message: str = ""
    pixels: Pixels | None = field(default=None, repr=False)
    facts: Facts | None = None
    seconds: float = 0.0
    peak_mb: float = 0.0


MAX_SECONDS = 5.0
MAX_PEAK_MB = 1000.0


def complaint(item: Item, outcome: Outcome) -> str | None:
    """Say what is wrong with an outcome, None when it is as it must be."""
    if outcome.seconds > MAX_SECONDS:
        return f"took {outcome.seconds:.1f} s"
    if outcome.peak_mb > MAX_PEAK_MB:
        return f"took {outcome.peak_mb:.0f} MB"
    if outcome.error is not None:
        return _about_refusal(item, outcome)
    match item.truth:
        case Picture():
            assert outcome.pixels is not None
            return _about_pixels(item.truth, outcome.pixels)
        case Plausible():
            pixels = outcome.pixels
            sound = pixels is not None and np.isfinite(pixels).all() and pixels.size
            return None if sound and 0 <= pixels.min() <= pixels.max() <= 1 else "odd pixels"
        case Rows(read=read, lost=lost):
            return _about_rows(read, lost, outcome)
        case EachRow():
            named = set(re.findall(r"(?<=line )\d+|(?<=lines )[\d, ]+", outcome.message))
            told = {number for numbers in named for number in numbers.replace(",", " ").split()}
            lines = [line for line in item.content.splitlines() if line.strip()]
            found = len(told) + len(outcome.facts or ())
            return None if found == len(lines) - 1 else f"{found} of {len(lines) - 1} rows"
        case Something():
            return None
        case _:
            return "was read"


def _about_refusal(item: Item, outcome: Outcome) -> str | None:
    if not outcome.is_refusal:
        return f"{outcome.error}: {outcome.message}"
    if item.refusal is None:
        return f"refused: {outcome.message}"
    if "\n" in outcome.message or not outcome.message.isprintable():
        return f"no sentence: {outcome.message!r}"
    if re.search(r"[.!?] [A-Z]", outcome.message.replace(item.name, "")):
        return f"several sentences: {outcome.message}"
    if item.name not in outcome.message or item.refusal.why not in outcome.message:
        return f"names not file and reason: {outcome.message}"
    return None


def _about_pixels(truth: Picture, pixels: Pixels) -> str | None:
    if pixels.shape != truth.pixels.shape:
        return f"is {pixels.shape}, expected {truth.pixels.shape}"
    away = np.abs(pixels - truth.pixels)
    if away.max() > truth.most or away.mean() > truth.mean:
        return f"is off by {away.max():.3g}, {away.mean():.3g} in the mean"
    return None


def _about_rows(read: Facts, lost: tuple[str, ...], outcome: Outcome) -> str | None:
    if outcome.facts != dict(read):
        return f"read {outcome.facts}, expected {read}"
    problems = outcome.message.splitlines()
    for wanted in lost:
        if not any(wanted in problem for problem in problems):
            return f"no word of {wanted!r} in {problems}"
    return None if lost or not problems else f"unexpected problems {problems}"

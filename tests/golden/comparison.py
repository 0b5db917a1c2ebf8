"""How far numbers may be from the stored ones, and which are too far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_name("numbers.json")

# Relative and absolute.
TOLERANCES: Mapping[str, tuple[float, float]] = {
    "phantoms": (0.0, 0.02),
    "prepared": (0.0, 0.1),
    "training": (1e-4, 1e-5),
    "predictions": (0.0, 0.01),
    "maps": (2e-2, 2e-3),
    "captum": (2e-2, 2e-3),
}


def stored() -> dict[str, Any]:
    """Return the stored numbers, with what made them."""
    content: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return content


def leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every text and number with where it stands."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from leaves(value, f"{place}/{key}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from leaves(value, f"{place}/{index}")
    else:
        yield place.removeprefix("/"), content


def too_far(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return what differs by more than the tolerance of its section, one line each."""
    one, other = dict(leaves(found)), dict(leaves(expected))
    lines = [f"{place}: in one of them alone" for place in sorted(one.keys() ^ other.keys())]
    for place in one.keys() & other.keys():
        a, b = one[place], other[place]
        relative, absolute = TOLERANCES.get(place.partition("/")[0], (0.0, 0.0))
        if a != b and (isinstance(b, str) or not abs(a - b) <= absolute + relative * abs(b)):
            lines.append(f"{place}: expected {b}, found {a}")
    return sorted(lines)


def largest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, float]:
    """Return by section the largest difference, as a share of what its tolerance allows."""
    other = dict(leaves(expected))
    shares: dict[str, float] = {}
    for place, value in leaves(found):
        section = place.partition("/")[0]
        if section in TOLERANCES:
            relative, absolute = TOLERANCES[section]
            share = abs(value - other[place]) / (absolute + relative * abs(other[place]))
            shares[section] = max(shares.get(section, 0.0), share)
    return shares

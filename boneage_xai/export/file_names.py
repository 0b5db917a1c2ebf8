"""File names from case ids, which may hold anything."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_LONGEST = 80
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# Devices on Windows, whatever suffix follows.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def safe_file_names(
    names: Iterable[str], endings: Sequence[str] = (), reserved: Sequence[str] = ()
) -> dict[str, str]:
    """Give each of several names a file name without suffix that no other of them has.

    Args:
        names: case ids or layers, unique.
        endings: what is also put behind them, with ``_`` between; no two of these names are alike.
        reserved: names that are taken.

    Returns:
        By name: itself where it is 1 to 80 ASCII letters, digits, ``_``, ``.`` and ``-`` with no
        ``.`` or ``-`` first, no device of Windows, and different from the others in more than
        case; else what is left of it, with a hash of the whole.
    """
    names = list(names)

    def forms(name: str) -> list[str]:
        return [name.casefold(), *(f"{name}_{ending}".casefold() for ending in endings)]

    taken = Counter(form for name in names for form in forms(name))
    taken.update(name.casefold() for name in reserved)
    return {
        name: name
        if _is_harmless(name) and all(taken[form] == 1 for form in forms(name))
        else _hashed(name)
        for name in names
    }


def _is_harmless(name: str) -> bool:
    return (
        len(name) <= _LONGEST
        and _HARMLESS.fullmatch(name) is not None
        and not name.endswith(".")
        and _RESERVED.fullmatch(name) is None
    )


def _hashed(name: str) -> str:
    left = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:32]
    # A lone surrogate may stand in a file name that became an id.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{left}_{digest}" if left else digest

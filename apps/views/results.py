"""What was computed on request, kept in memory for the session."""

from __future__ import annotations

import hashlib
from typing import Any

import streamlit as st

UPLOADS = "upload"
"""How the keys of all begin that comes from an uploaded radiograph."""

_RESULTS = "live-results"
_MOST_RESULTS = 24


def key_of(what: str, *parts: object) -> str:
    """Return the key of a result: what was computed, of what, with what."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    return f"{what}-{digest}"


def kept(key: str) -> Any:
    """Return a result of this session, None where there is none; it is kept the longer for it."""
    results = st.session_state.get(_RESULTS, {})
    if key in results:
        results[key] = results.pop(key)
    return results.get(key)


def keep(key: str, result: Any) -> None:
    """Keep a result for this session, in memory."""
    results = st.session_state.setdefault(_RESULTS, {})
    results[key] = result
    while len(results) > _MOST_RESULTS:
        results.pop(next(iter(results)))


def forget(*beginnings: str) -> None:
    """Forget the results whose keys begin with one of these."""
    results = st.session_state.get(_RESULTS, {})
    for key in [key for key in results if key.startswith(beginnings)]:
        del results[key]

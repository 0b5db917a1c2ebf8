"""Numbers to be read first, and what to say where there are none."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import streamlit as st

from apps.views.links import plain
from boneage_xai.store import AnalysisFolder

EVALUATE = "boneage-xai evaluate RUN --data SOURCE --out DIR"
ATTRIBUTE = "boneage-xai attribute RUN --data SOURCE --out DIR"


def cards(numbers: Sequence[tuple[str, str, str]]) -> None:
    """Show numbers side by side, on narrow pages over several rows, never cut short.

    Args:
        numbers: label, value, and what qualifies it (may be empty).
    """
    row = st.container(horizontal=True)
    for label, value, detail in numbers:
        with row.container(border=True, gap=None):
            st.caption(plain(label))
            st.markdown(f"#### {plain(value)}")
            if detail:
                st.caption(plain(detail))


def as_attributed(folder: AnalysisFolder) -> str:
    """Return the options with which `attribute` explains the same cases in the same way again."""
    step = folder.manifest["steps"].get("attribute", {})
    words = [f"--method {name}" for name in step.get("methods", ())]
    if step.get("limit") is not None:
        words.append(f"--limit {step['limit']}")
    settings = step.get("settings", {})
    if (baseline := settings.get("baseline", "black")) != "black":
        words.append(f"--baseline {baseline}")
    return "".join(f" {word}" for word in words)


def missing(folder: AnalysisFolder, what: str, command: str) -> None:
    """Say that something is not in the analysis, and which command adds it.

    Args:
        folder: of the analysis.
        what: is not there.
        command: in which RUN, SOURCE and DIR stand for those of the analysis.
    """
    st.info(f"{what} is not in this analysis yet. This command adds it:")
    st.code(filled(folder, command), language=None, wrap_lines=True)


def filled(folder: AnalysisFolder, command: str) -> str:
    """Return a command with the run, the data and the folder of an analysis, for a shell."""
    run, data = folder.manifest["run"], folder.manifest["data"]
    known = {"DIR": str(folder.path)}
    if run.get("path"):
        known["RUN"] = str(run["path"])
    if data.get("source"):
        known["SOURCE"] = str(data["source"])
    words: list[str] = []
    for word in command.split():
        first, slash, rest = word.partition("/")
        if first == "RUN" and run.get("card"):
            words.append("--card")
        words.append(shlex.quote(known[first] + slash + rest) if first in known else word)
        if first == "SOURCE" and data.get("split", "held-out") != "held-out":
            words += ["--split", shlex.quote(str(data["split"]))]
    return " ".join(words)

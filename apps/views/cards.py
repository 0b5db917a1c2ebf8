"""Numbers to be read first, and what to say where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from apps.views.links import plain
from boneage_xai.store import AnalysisFolder

EVALUATE = "boneage-xai evaluate RUN --data SOURCE --out DIR"
ATTRIBUTE = "boneage-xai attribute RUN --data SOURCE --out DIR"


def cards(numbers: Sequence[tuple[str, str, str]]) -> None:
    """Show numbers side by side, never cut short.

    Args:
        numbers: label, value, and what qualifies it (may be empty).
    """
    for column, (label, value, detail) in zip(st.columns(len(numbers)), numbers, strict=True):
        with column.container(border=True, gap=None):
            st.caption(plain(label))
            st.markdown(f"#### {plain(value)}")
            if detail:
                st.caption(plain(detail))


def missing(folder: AnalysisFolder, what: str, command: str) -> None:
    """Say that something is not in the analysis, and which command adds it."""
    st.info(f"{what} is not in this analysis yet. This command adds it:")
    st.code(command.replace("DIR", str(folder.path)), language=None)

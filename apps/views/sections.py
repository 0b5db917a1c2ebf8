"""Sections of the report as parts of a page: text, figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from apps.views import reading
from apps.views.cards import cards
from apps.views.links import plain
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Headline, Table, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_PX, _NARROW_PX = 940, 680
_ROWS_SHOWN = 12


@dataclass(frozen=True)
class Picture:
    """A drawing as the bytes of a PNG file, with its caption."""

    png: bytes
    caption: str
    narrow: bool


def figure_png(figure: Figure, width_px: int) -> bytes:
    """Return a figure in the size it is shown in; Streamlit would shrink it for each session."""
    from boneage_xai.figures.style import figure_bytes

    return figure_bytes(figure, dpi=width_px / float(figure.get_size_inches()[0]))


def section_there(folder: AnalysisFolder, name: str) -> bool:
    """Return whether a section of the report has what it needs in this analysis."""
    return _blocks(str(folder.path), name, False, reading.changes(folder)) is not None


def show_section(
    folder: AnalysisFolder,
    name: str,
    *,
    drawings: bool = True,
    skip: Callable[[Block | Picture], bool] | None = None,
) -> None:
    """Show a section of the report, its tables folded; nothing where its inputs are missing.

    Args:
        folder: of the analysis.
        name: of the section, as in ``SECTIONS``.
        drawings: whether its figures are shown, too.
        skip: says which blocks to leave out.
    """
    blocks = _blocks(str(folder.path), name, drawings, reading.changes(folder)) or ()
    kept = [block for block in blocks if skip is None or not skip(block)]
    for block in kept:
        if isinstance(block, Text):
            _text(block)
        elif isinstance(block, Headline):
            cards([(one.label, one.value, one.detail) for one in block.numbers])
        elif isinstance(block, Picture):
            st.image(block.png, width=_NARROW_PX if block.narrow else WIDTH_PX)
            st.caption(plain(block.caption))
    if tables := [block for block in kept if isinstance(block, Table)]:
        _tables(tables)


def _text(block: Text) -> None:
    words = "\n\n".join(plain(paragraph) for paragraph in block.paragraphs)
    if block.notice:
        st.warning(words)
    else:
        st.markdown(words)


def _tables(tables: Collection[Table]) -> None:
    with st.expander("The numbers"):
        for table in tables:
            st.caption(plain(table.caption))
            rows = [[_cell(cell) for cell in row] for row in table.rows]
            names = [name or "–" for name in table.columns]
            st.dataframe(
                {name: [row[place] for row in rows] for place, name in enumerate(names)},
                hide_index=True,
                height=35 * (min(len(rows), _ROWS_SHOWN) + 1) + 3,
            )


def _cell(text: str) -> str:
    """Return a cell on one line: what stood smaller below is put in brackets."""
    first, *rest = text.split("\n")
    return f"{first} ({' '.join(rest)})" if rest else first


# What changed is an argument only so that files written anew are read anew.


@st.cache_data(show_spinner="Summarising …", max_entries=32)
def _blocks(
    path: str, name: str, drawings: bool, changed: tuple[tuple[str, int], ...]
) -> tuple[Block | Picture, ...] | None:
    # Sections compute with all of the library, which takes seconds to import.
    from reports.sections import SECTIONS

    section = SECTIONS[name](AnalysisFolder.open(Path(path)))
    if section is None:
        return None
    return tuple(
        _kept(block) for block in section.blocks if drawings or not isinstance(block, Drawing)
    )


def _kept(block: Block) -> Block | Picture:
    if isinstance(block, Drawing):
        width_px = _NARROW_PX if block.narrow else WIDTH_PX
        return Picture(figure_png(block.draw(), width_px), block.caption, block.narrow)
    if isinstance(block, Table):
        return Table(block.caption, block.columns, block.rows, words=block.words)
    return block

"""What a report is made of: sections of text, headline numbers, tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text; a notice is set apart from the rest."""

    paragraphs: tuple[str, ...]
    notice: bool = False


@dataclass(frozen=True)
class HeadlineNumber:
    """One number to be read first: what it is, its value, and what qualifies it."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Headline:
    """The numbers to be read first."""

    numbers: tuple[HeadlineNumber, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of text as they are shown, and the data behind them.

    Args:
        caption: what the table shows.
        columns: headings.
        rows: cells; a line break within a cell sets what follows smaller.
        data: what the CSV beside the table holds, None for no CSV.
        words: positions of the columns that hold words, not numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: pd.DataFrame | None = None
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, what it shows in words, and the data behind it.

    Args:
        draw: draws the figure, when it is wanted.
        alternative: what stands for the figure where it cannot be seen.
        caption: what stands under it.
        data: what the CSV beside the figure holds, None for no CSV.
        vector: whether it is kept as SVG; radiographs are better as PNG.
        narrow: whether it is drawn at less than the full width.
    """

    draw: Callable[[], Figure]
    alternative: str
    caption: str
    data: pd.DataFrame | None = None
    vector: bool = True
    narrow: bool = False


Block: TypeAlias = Text | Headline | Table | Drawing


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report with a heading of its own.

    Args:
        id: anchor, unique in the report.
        title: heading.
        blocks: what it holds, in order.
    """

    id: str
    title: str
    blocks: tuple[Block, ...]

"""What the command line shows: progress bars, tables, one-sentence errors."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

out = Console()
err = Console(stderr=True)


def quiet_lightning() -> None:
    """Keep what Lightning says about itself out of the user's way; call it once imported."""
    for part in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(part).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    warnings.filterwarnings("ignore", message=r".*lr_scheduler.step\(\).*")
    # Recording a pass for a GPU needs a stream of its own.
    warnings.filterwarnings("ignore", message=r"The AccumulateGrad node's stream.*")


def quiet_optuna() -> None:
    """Keep what Optuna says about single trials out of the user's way; call it once imported."""
    logging.getLogger("optuna").setLevel(logging.ERROR)


def hush() -> None:
    """Print nothing more for people: another process of the same command does."""
    out.quiet = err.quiet = True


def say(text: str) -> None:
    """Print one line for people."""
    out.print(text, highlight=False, soft_wrap=True, markup=False)


def note(text: str) -> None:
    """Print one line for people on stderr, beside progress bars."""
    err.print(text, highlight=False, soft_wrap=True, markup=False)


def say_json(content: Any) -> None:
    """Print one JSON document for programs."""
    print(json.dumps(content, indent=2, ensure_ascii=False, default=str))


def say_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    right: Literal["left", "right"] = "right",
) -> None:
    """Print a table: the first column left aligned, the others as ``right`` says."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if index == 0 else right)
    for row in rows:
        table.add_row(*[escape(str(cell)) for cell in row])
    out.print(table)


class Bar:
    """One progress bar on stderr, shown when it begins or at once; call it with (done, total)."""

    def __init__(self, progress: Progress, description: str, *, at_once: bool) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None, visible=at_once, before=0)
        self._begun = False

    def __call__(self, done: float, total: float) -> None:
        """Move the bar; what the first call says was done before is not held to be fast."""
        if not self._begun:
            self._begun = True
            self._progress.reset(
                self._task, total=total, completed=int(done), visible=True, before=done
            )
        self._progress.update(self._task, completed=done, total=total)


class _TimeLeft(ProgressColumn):
    """Time left by the average speed since the first step, since steps may come in bursts."""

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds."""
        done = task.completed - task.fields["before"]
        if task.elapsed is None or task.total is None or done <= 0:
            return Text("-:--:--", style="progress.remaining")
        seconds = int(task.elapsed * (task.total - task.completed) / done)
        left = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return Text(left, style="progress.remaining")


@contextmanager
def bars(*descriptions: str, quiet: bool = False) -> Iterator[tuple[Bar, ...]]:
    """Show progress bars while the block runs: the first at once, others when they begin."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _TimeLeft(),
        console=err,
        disable=quiet,
    )
    with progress:
        yield tuple(
            Bar(progress, description, at_once=position == 0)
            for position, description in enumerate(descriptions)
        )


def with_interval(estimate: Mapping[str, float | None], *, percent: bool = False) -> str:
    """Write an estimate with its interval, e.g. ``9.1 (8.7 to 9.5)``."""
    scale, decimals = (100, 0) if percent else (1, 1)
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    text = f"{value * scale:.{decimals}f}"
    if low is not None and high is not None:
        text += f" ({low * scale:.{decimals}f} to {high * scale:.{decimals}f})"
    return text + (" %" if percent else "")


def records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the rows of a table, none for None, with None where a number is unknown."""
    if table is None:
        return []
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]

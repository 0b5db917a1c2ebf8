"""Learning curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    BLUE,
    GREY,
    SERIES_COLOURS,
    VERMILLION,
    new_figure,
    styled,
)

_TICKS_MONTHS = (
    *(0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70),
    *(100, 150, 200, 500, 1000, 2000),
)


def _best(history: pd.DataFrame, kept: int | None = None) -> tuple[float, float]:
    """Return epoch and MAE of the kept epoch, else of the first with the lowest validation MAE."""
    values = history["val_mae_months"].to_numpy(dtype=np.float64)
    rows = np.flatnonzero(history["epoch"].to_numpy() == kept)
    row = int(rows[0] if rows.size else np.nanargmin(values))
    return float(history["epoch"].to_numpy()[row]), float(values[row])


def _check(history: pd.DataFrame, name: str) -> None:
    if history.empty or history["val_mae_months"].isna().all():
        raise ReportError(f"{name}: expected at least one epoch with a validation MAE, found none")


def _finish(axes: Axes, highest: float, lowest: float) -> None:
    # The first epochs may be several times the rest; a log axis keeps the end readable.
    if lowest > 0 and highest > 6 * lowest:
        axes.set_yscale("log")
        axes.set_ylabel("mean absolute error (months, log scale)")
        shown = [tick for tick in _TICKS_MONTHS if 0.8 * lowest <= tick <= 1.25 * highest]
        axes.set_yticks(shown, [str(tick) for tick in shown])
        axes.yaxis.set_minor_locator(MaxNLocator(1))
        axes.tick_params(axis="y", which="minor", length=0, labelleft=False)
    else:
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel("mean absolute error (months)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


@styled
def learning_curve(history: pd.DataFrame, kept: int | None = None) -> Figure:
    """Draw training and validation MAE per epoch with the best epoch marked.

    Args:
        history: epoch, train_mae_months, val_mae_months.
        kept: the epoch whose weights were kept, where it is known; with inputs that grow it need
            not be the one with the lowest error.

    Returns:
        One axes; logarithmic when the first epochs are over six times the best.

    Raises:
        ReportError: no epoch with a validation MAE.
    """
    _check(history, "learning curve")
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    marker = "o" if len(history) <= 40 else None
    for column, name, colour, style in (
        ("train_mae_months", "training", GREY, "--"),
        ("val_mae_months", "validation", BLUE, "-"),
    ):
        axes.plot(
            history["epoch"],
            history[column],
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=4,
            label=name,
        )
    epoch, value = _best(history, kept)
    axes.axvline(epoch, color=VERMILLION, linewidth=1.0, linestyle=":")
    axes.plot(
        [epoch],
        [value],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=VERMILLION,
        markeredgewidth=2.0,
        label=f"{'best' if kept is None else 'kept'}: {value:.1f} months at epoch {epoch:g}",
    )
    both = history[["train_mae_months", "val_mae_months"]]
    _finish(axes, float(both.max().max()), float(both.min().min()))
    axes.set_title("Learning curve")
    figure.legend(loc="outside upper right", ncols=3)
    return figure


@styled
def learning_curves(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the validation MAE of several runs over one another.

    Args:
        runs: name to history (epoch, train_mae_months, val_mae_months); training MAE is drawn
            thin and dashed in the run's colour.

    Returns:
        One axes, runs ordered in the legend by their best validation MAE.

    Raises:
        ReportError: no runs, or a run without a validation MAE.
    """
    if not runs:
        raise ReportError("learning curves: expected at least one run, found none")
    for name, history in runs.items():
        _check(history, f"run {name}")
    figure = new_figure(4.2 + 0.22 * (len(runs) + 1))
    axes = figure.add_subplot()
    order = sorted(runs, key=lambda name: _best(runs[name])[1])
    for index, name in enumerate(order):
        history = runs[name]
        colour = SERIES_COLOURS[index % len(SERIES_COLOURS)]
        style = ("-", (0, (6, 2)), (0, (2, 1)))[index // len(SERIES_COLOURS) % 3]
        epoch, value = _best(history)
        axes.plot(
            history["epoch"],
            history["val_mae_months"],
            color=colour,
            linestyle=style,
            label=f"{name}: {value:.1f} months at epoch {epoch:g}",
        )
        axes.plot(
            history["epoch"],
            history["train_mae_months"],
            color=colour,
            linewidth=0.9,
            linestyle=":",
        )
        axes.plot([epoch], [value], "o", color=colour, markersize=7, markeredgecolor="white")
    axes.plot([], [], color=BLACK, linewidth=0.9, linestyle=":", label="training (thin dots)")
    values = pd.concat([run[["train_mae_months", "val_mae_months"]] for run in runs.values()])
    _finish(axes, float(values.max().max()), float(values.min().min()))
    axes.set_title("Learning curves, best validation epoch marked")
    figure.legend(loc="outside lower left")
    return figure

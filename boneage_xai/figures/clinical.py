"""Figure of what errors mean for a diagnosis: delayed, normal or advanced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import new_figure, styled


@styled
def diagnosis_table(clinical: Mapping[str, Any]) -> Figure:
    """Draw the classes of the reference against those of the prediction.

    Args:
        clinical: ``clinical`` of metrics.json, with ``confusion``.

    Returns:
        One axes; every row is shaded by its own shares.

    Raises:
        ReportError: no chronological ages, so that there are no classes.
    """
    if "confusion" not in clinical:
        raise ReportError("figure: expected cases with a chronological age, found none")
    counts = np.array(clinical["confusion"], dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    figure = new_figure(3.9, width_inches=6.6)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    names = clinical["classes"]
    for row, column in np.ndindex(*counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,.0f}\n{shares[row, column]:.0%}" if totals[row, 0] else "0",
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold" if row == column else "normal",
            color="white" if shares[row, column] > 0.55 else "black",
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(
        range(len(names)),
        [f"{name}\nn = {total:,.0f}" for name, total in zip(names, totals[:, 0], strict=True)],
    )
    axes.grid(visible=False)
    axes.set_xlabel("by the predicted bone age")
    axes.set_ylabel("by the reference bone age")
    axes.set_title(f"Skeletal maturity, n = {clinical['n']:,}; percent of each row")
    return figure

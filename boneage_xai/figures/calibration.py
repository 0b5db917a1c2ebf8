"""Figure of calibration: mean reference bone age at each prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    BLUE,
    VERMILLION,
    age_axis,
    age_limits,
    interval_bars,
    new_figure,
    styled,
)


def _bars(
    curve: Sequence[Mapping[str, Any]], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (n,) values and (2, n) error bars of an estimate over the bins."""
    estimates = [interval_bars(row[key]) for row in curve]
    bars = np.array([[bar[0] for bar in sides] for _, sides in estimates]).T
    return np.array([value for value, _ in estimates]), bars


@styled
def calibration_figure(calibration: Mapping[str, Any]) -> Figure:
    """Draw mean reference against mean predicted bone age, and the mean error.

    Args:
        calibration: ``calibration`` of metrics.json.

    Returns:
        Two axes: the curve with the line of equal ages and the fitted line; the mean error.

    Raises:
        ReportError: no bins.
    """
    curve = calibration["curve"]
    if not curve:
        raise ReportError("figure: expected bins of predictions, found none")
    x = np.array([row["predicted_months"] for row in curve])
    y, bars = _bars(curve, "reference_months")
    errors, error_bars = _bars(curve, "error_months")
    line = calibration["line"]
    figure = new_figure(4.2)
    left, right = figure.subplots(1, 2)
    low, high = age_limits([*x, *(y - bars[0]), *(y + bars[1])])
    left.plot([low, high], [low, high], color=BLACK, linewidth=1.2, label="reference = predicted")
    slope = line["slope"]["value"]
    if slope is not None:
        ends = np.array([x.min(), x.max()])
        label = "fitted line"
        if line["slope"]["low"] is not None:
            label = (
                f"slope {slope:.2f} (95% CI {line['slope']['low']:.2f} to "
                f"{line['slope']['high']:.2f})"
            )
        left.plot(
            ends, line["intercept_months"] + slope * ends, color=VERMILLION, ls="--", label=label
        )
    tenths = max(int(row["n"]) for row in curve) > 1
    label = "mean of a tenth of the cases" if tenths else "a case"
    left.errorbar(x, y, yerr=bars, fmt="o", color=BLUE, capsize=3, label=label)
    age_axis(left, "x", low, high)
    age_axis(left, "y", low, high)
    left.set_aspect("equal")
    left.set_ylabel("mean reference bone age (months)")
    left.set_title(f"Calibration, n = {sum(int(row['n']) for row in curve):,}")
    left.legend(loc="upper left")
    right.axhline(0.0, color=BLACK, linewidth=1.2)
    right.errorbar(x, errors, yerr=error_bars, fmt="o", color=BLUE, capsize=3)
    age_axis(right, "x", low, high)
    right.set_ylabel("mean predicted minus reference (months)")
    right.set_title("Mean error, with 95% intervals" if tenths else "Error")
    for axes in (left, right):
        axes.set_xlabel("predicted bone age (months)")
    return figure

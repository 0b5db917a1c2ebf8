"""Figures of how far predictions lie from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boneage_xai.analysis.agreement import agreement
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    GREY,
    SEX_COLOURS,
    SEX_NAMES,
    VERMILLION,
    age_axis,
    age_limits,
    interval_bars,
    month_ticks,
    new_figure,
    signed_text,
    spread_apart,
    styled,
)


def _errors_months(predictions: pd.DataFrame) -> pd.Series[float]:
    if predictions.empty:
        raise ReportError("figure: expected at least one prediction, found none")
    errors = predictions["predicted_months"] - predictions["reference_months"]
    if not np.isfinite(errors).all():
        raise ReportError("figure: expected finite ages, found some that are not")
    return errors


def _scatter_by_sex(
    axes: Axes, sex: pd.Series[str], x: pd.Series[float], y: pd.Series[float]
) -> None:
    """Draw both sexes in one shuffled layer, so that neither hides the other."""
    size = float(np.clip(18_000 / max(len(sex), 1), 5.0, 26.0))
    alpha = float(np.clip(500 / max(len(sex), 1), 0.25, 0.8))
    order = np.random.default_rng(0).permutation(len(sex))
    present = [code for code in SEX_NAMES if (sex == code).any()]
    colours = sex.map(SEX_COLOURS).to_numpy()[order]
    axes.scatter(
        x.to_numpy()[order],
        y.to_numpy()[order],
        s=size,
        c=list(colours),
        alpha=alpha,
        linewidths=0,
        rasterized=True,
    )
    for code in present:
        axes.scatter(
            [],
            [],
            s=30,
            color=SEX_COLOURS[code],
            label=f"{SEX_NAMES[code]} (n = {int((sex == code).sum()):,})",
        )


@styled
def predicted_against_reference(predictions: pd.DataFrame) -> Figure:
    """Draw predicted against reference bone age with the line where both are equal.

    Args:
        predictions: sex ('F' or 'M'), reference_months, predicted_months.

    Returns:
        One square axes.

    Raises:
        ReportError: no predictions, or an age that is not finite.
    """
    errors = _errors_months(predictions)
    reference, predicted = predictions["reference_months"], predictions["predicted_months"]
    figure = new_figure(6.6, width_inches=7.0)
    axes = figure.add_subplot()
    low, high = age_limits([*reference, *predicted])
    band = [low, high]
    axes.fill_between(
        band,
        [low - 12, high - 12],
        [low + 12, high + 12],
        color="#000000",
        alpha=0.07,
        linewidth=0,
        label="within 12 months",
    )
    axes.plot(band, band, color=BLACK, linewidth=1.2, label="predicted = reference")
    _scatter_by_sex(axes, predictions["sex"], reference, predicted)
    age_axis(axes, "x", low, high)
    age_axis(axes, "y", low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("reference bone age (months)")
    axes.set_ylabel("predicted bone age (months)")
    axes.set_title(f"Mean absolute error {errors.abs().mean():.1f} months, n = {len(errors):,}")
    axes.legend(loc="upper left")
    return figure


@styled
def bland_altman(predictions: pd.DataFrame) -> Figure:
    """Draw the Bland-Altman plot with bias, limits of agreement and slope.

    Args:
        predictions: sex ('F' or 'M'), reference_months, predicted_months.

    Returns:
        One axes: difference against the mean of predicted and reference.

    Raises:
        ReportError: no predictions, or an age that is not finite.

    Source:
        Bland and Altman, Lancet, 1986.
    """
    difference = _errors_months(predictions)
    reference, predicted = predictions["reference_months"], predictions["predicted_months"]
    mean = (reference + predicted) / 2.0
    result = agreement(reference.to_numpy(), predicted.to_numpy())
    figure = new_figure(5.2)
    axes = figure.add_subplot()
    _scatter_by_sex(axes, predictions["sex"], mean, difference)
    low, high = age_limits(mean)
    known = [
        abs(value)
        for key in ("lower_months", "upper_months")
        for value in result["intervals"][key].values()
        if value is not None
    ]
    reach = 1.12 * max(5.0, float(difference.abs().max()), *known)
    _agreement_lines(axes, result["intervals"], reach)
    slope = result["slope"]
    if slope["value"] is not None:
        ends = np.array([mean.min(), mean.max()])
        axes.plot(
            ends,
            slope["intercept_months"] + slope["value"] * ends,
            color=VERMILLION,
            linewidth=2.2,
            label=(
                f"slope {signed_text(slope['value'], '.3f')} months per month\n(95% interval "
                f"{signed_text(slope['low'], '.3f')} to {signed_text(slope['high'], '.3f')})"
            ),
        )
    age_axis(axes, "x", low, high)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("mean of predicted and reference bone age (months)")
    axes.set_ylabel("predicted minus reference (months)")
    axes.set_title("Agreement with the reference: bias and limits (±1.96 SD) with 95% intervals")
    axes.legend(loc="lower left", ncols=3)
    return figure


def _agreement_lines(axes: Axes, intervals: Mapping[str, Any], reach: float) -> None:
    """Draw bias and limits, with their values beside the axes, apart where lines lie close."""
    lines = [
        (name, dashes, intervals[key])
        for key, name, dashes in (
            ("upper_months", "upper limit", (5, 3)),
            ("bias_months", "bias", (None, None)),
            ("lower_months", "lower limit", (5, 3)),
        )
        if intervals[key]["value"] is not None
    ]
    least = 0.2 * reach
    heights = spread_apart([estimate["value"] for _, _, estimate in lines], least)
    # Half of what labels had to move down they move up together.
    up = (lines[-1][2]["value"] - heights[-1]) / 2 if lines else 0.0
    for (name, dashes, estimate), height in zip(lines, heights, strict=True):
        axes.axhline(estimate["value"], color=BLACK, linewidth=1.3, dashes=dashes)
        if estimate["low"] is not None:
            axes.axhspan(estimate["low"], estimate["high"], color=BLACK, alpha=0.10, linewidth=0)
        axes.annotate(
            f"{name}\n{signed_text(estimate['value'])} months",
            xy=(1.0, height + up),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


@styled
def error_distribution(predictions: pd.DataFrame) -> Figure:
    """Draw the signed errors as a histogram and the absolute errors as cumulative shares.

    Args:
        predictions: sex ('F' or 'M'), reference_months, predicted_months.

    Returns:
        Two axes.

    Raises:
        ReportError: no predictions, or an age that is not finite.
    """
    errors = _errors_months(predictions)
    frame = pd.DataFrame({"sex": predictions["sex"], "error": errors, "size": errors.abs()})
    present = [code for code in SEX_NAMES if (frame["sex"] == code).any()]
    palette = {code: SEX_COLOURS[code] for code in present}
    figure = new_figure(4.0)
    left, right = figure.subplots(1, 2)
    reach = max(6.0, float(np.ceil(errors.abs().max() / 6.0) * 6.0))
    width = 3.0 if reach <= 90 else 6.0
    sns.histplot(
        data=frame,
        x="error",
        hue="sex",
        hue_order=present,
        palette=palette,
        binrange=(-reach, reach),
        binwidth=width,
        multiple="stack",
        alpha=0.85,
        edgecolor="white",
        linewidth=0.4,
        legend=False,
        ax=left,
    )
    for code in present:
        n = int((frame["sex"] == code).sum())
        label = f"{SEX_NAMES[code]} (n = {n:,})"
        left.bar([0], [0], color=SEX_COLOURS[code], alpha=0.85, label=label)
    left.axvline(0.0, color=BLACK, linewidth=1.0)
    left.axvline(
        float(errors.mean()),
        color=VERMILLION,
        linestyle="--",
        label=f"bias {signed_text(float(errors.mean()))} months",
    )
    left.set_xlim(-reach, reach)
    left.set_xlabel("predicted minus reference (months)")
    left.set_ylabel(f"cases per {width:g} months")
    left.set_title("Signed error")
    left.legend(loc="upper left")
    left.set_ylim(top=left.get_ylim()[1] * 1.3)
    sns.ecdfplot(
        data=frame,
        x="size",
        hue="sex",
        hue_order=present,
        palette=palette,
        legend=False,
        ax=right,
    )
    shares = []
    for limit in (6.0, 12.0, 24.0):
        share = float((frame["size"] <= limit).mean())
        right.axvline(limit, color=GREY, linewidth=1.0, linestyle=":")
        shares.append(f"{100 * share:.0f}% within {limit:g} months")
    right.text(
        0.97,
        0.06,
        "\n".join(["all cases", *shares]),
        transform=right.transAxes,
        ha="right",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "#D0D0D0", "pad": 4},
    )
    widest = max(reach, 42.0)
    right.set_xlim(0.0, widest)
    right.set_xticks(
        [0.0, 6.0, 12.0, *np.arange(24.0, widest + 1.0, 12.0)]
        if widest <= 84
        else month_ticks(0.0, widest, most=7)
    )
    right.set_ylim(0.0, 1.02)
    right.yaxis.set_major_formatter("{x:.0%}")
    right.set_xlabel("absolute error (months)")
    right.set_ylabel("share of cases at or below")
    right.set_title("Absolute error")
    return figure


@styled
def mae_against_baselines(metrics: Mapping[str, Any], model_name: str = "model") -> Figure:
    """Draw the MAE of the model beside baselines and quoted values.

    Args:
        metrics: metrics.json, with ``overall``, ``baselines`` and ``reference_values``.
        model_name: how the model is named in the figure.

    Returns:
        One axes with a row per line; quoted values are hollow diamonds without interval.
    """
    names = {
        "mean": "baseline: mean age",
        "sex_mean": "baseline: mean age per sex",
        "intensity_ridge": "baseline: image brightness only",
    }
    overall = metrics["overall"]
    measured = [(model_name, overall)]
    baselines = metrics.get("baselines", {})
    measured += sorted(
        ((names.get(key, f"baseline: {key}"), entry) for key, entry in baselines.items()),
        key=lambda item: float(item[1]["mae_months"]["value"]),
    )
    quoted = list(metrics.get("reference_values", []))
    figure = new_figure(1.5 + 0.42 * (len(measured) + len(quoted)))
    axes = figure.add_subplot()
    labels: list[str] = []
    for row, (name, entry) in enumerate(measured):
        value, bars = interval_bars(entry["mae_months"])
        colour, size = (VERMILLION, 9) if row == 0 else (GREY, 7)
        axes.errorbar([value], [row], xerr=bars, fmt="o", color=colour, markersize=size, capsize=3)
        estimate = entry["mae_months"]
        text = f"{value:.1f}"
        if estimate["low"] is not None:
            text += f"  ({estimate['low']:.1f} to {estimate['high']:.1f})"
        axes.annotate(
            text,
            (value + bars[1][0], row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        labels.append(name)
    for row, entry in enumerate(quoted, start=len(measured)):
        value = float(entry["mae_months"])
        axes.plot([value], [row], "D", color=BLACK, markerfacecolor="white", markersize=7)
        axes.annotate(
            f"{value:.1f}  quoted, other test set,\nnot comparable",
            (value, row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=GREY,
        )
        labels.append(str(entry["name"]))
    rows = len(measured) + len(quoted)
    # A name is text, also with dollar signs.
    axes.set_yticks(range(rows), [fill(label, 30) for label in labels])
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    largest = max(
        [
            value + bars[1][0]
            for value, bars in (interval_bars(e["mae_months"]) for _, e in measured)
        ]
    )
    axes.set_xlim(0.0, 1.4 * max([largest, *(float(e["mae_months"]) for e in quoted)]))
    axes.set_xlabel("mean absolute error (months), 95% bootstrap interval")
    axes.set_title(f"Model against baselines on the same cases, n = {overall['n']:,}")
    return figure

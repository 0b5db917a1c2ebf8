"""Errors by age bin and sex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    BLACK,
    GREY,
    SEX_COLOURS,
    SEX_MARKERS,
    SEX_NAMES,
    interval_bars,
    new_figure,
    styled,
)

_METRIC_LABELS = {
    "mae_months": "mean absolute error (months)",
    "rmse_months": "root mean square error (months)",
    "bias_months": "bias: predicted minus reference (months)",
    "median_absolute_error_months": "median absolute error (months)",
    "within_6_months": "share within 6 months",
    "within_12_months": "share within 12 months",
    "within_24_months": "share within 24 months",
    "coverage": "share of references inside the interval",
    "significant_errors": "share of errors above 2 SD",
}
_SHARES = ("within_6_months", "within_12_months", "within_24_months", "coverage")


def _bin_name(span: Sequence[float]) -> str:
    return f"{span[0]:g}-{span[1]:g}"


@styled
def error_by_subgroup(
    subgroups: Sequence[Mapping[str, Any]],
    metric: str = "mae_months",
    *,
    title: str = "By age and sex, with 95% bootstrap intervals",
    ages: str = "reference bone age",
    expected: float | None = None,
) -> Figure:
    """Draw a metric with its interval per age bin, for girls, boys and both.

    Args:
        subgroups: the ``subgroups`` of metrics.json, or rows like them.
        metric: one of the metric names.
        title: of the figure.
        ages: what the bins are bins of.
        expected: value that is hoped for, drawn as a line.

    Returns:
        One axes; under every bin the number of girls and boys. Hollow markers stand for
        fewer than 20 cases, whose intervals are too narrow.

    Raises:
        ReportError: no age bin among the subgroups, or an unknown metric.
    """
    both = [group for group in subgroups if group["by"] == "age"]
    if not both:
        raise ReportError("figure: expected subgroups by age, found none")
    if metric not in _METRIC_LABELS:
        raise ReportError(
            f"figure: expected a metric of {', '.join(_METRIC_LABELS)}, found {metric!r}"
        )
    spans = [tuple(group["age_months"]) for group in both]
    by_sex = {
        code: {
            tuple(group["age_months"]): group
            for group in subgroups
            if "age_months" in group and group.get("sex") == code
        }
        for code in SEX_NAMES
    }
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    rows: list[tuple[str, dict[tuple[float, ...], Mapping[str, Any]], str, str, float]] = [
        (SEX_NAMES["F"], by_sex["F"], SEX_COLOURS["F"], SEX_MARKERS["F"], -0.22),
        ("both", dict(zip(spans, both, strict=True)), GREY, "D", 0.0),
        (SEX_NAMES["M"], by_sex["M"], SEX_COLOURS["M"], SEX_MARKERS["M"], 0.22),
    ]
    for index in range(0, len(spans), 2):
        axes.axvspan(index - 0.5, index + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
    any_few = False
    for name, groups, colour, marker, shift in rows:
        if not groups:
            continue
        total = sum(group["n"] for group in groups.values())
        label: str | None = f"{name} (n = {total:,})"
        for index, span in enumerate(spans):
            if span not in groups:
                continue
            group = groups[span]
            few = bool(group.get("few_cases", False))
            any_few |= few
            value, bars = interval_bars(group[metric])
            axes.errorbar(
                [index + shift],
                [value],
                yerr=bars,
                fmt=marker,
                color=colour,
                markerfacecolor="white" if few else colour,
                markersize=7 if name != "both" else 5.5,
                elinewidth=1.8,
                capsize=3,
            )
        axes.plot([], [], marker, color=colour, markersize=6, label=label)
    if any_few:
        axes.plot(
            [], [], "o", color=GREY, markerfacecolor="white", label="hollow: fewer than 20 cases"
        )
    counts = [
        f"{_bin_name(span)}\n{by_sex['F'].get(span, {'n': 0})['n']:,} / "
        f"{by_sex['M'].get(span, {'n': 0})['n']:,}"
        for span in spans
    ]
    axes.set_xticks(range(len(spans)), counts)
    axes.set_xlim(-0.5, len(spans) - 0.5)
    axes.grid(visible=False, axis="x")
    if metric == "bias_months":
        axes.axhline(0.0, color=BLACK, linewidth=1.0)
    else:
        axes.set_ylim(bottom=0.0)
    axes.set_xlabel(f"{ages} (months); below: number of girls / boys")
    axes.set_ylabel(_METRIC_LABELS[metric])
    axes.set_title(title)
    if expected is not None:
        axes.axhline(expected, color=BLACK, linewidth=1.2, label=f"expected: {expected:.0%}")
    figure.legend(loc="outside upper center", ncols=5)
    if metric in _SHARES:
        axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.set_ylim(-0.03, 1.03)
    if metric == "coverage":
        lows = [float(group["coverage"]["low"]) for group in subgroups if "age_months" in group]
        axes.set_ylim(min(0.8, *lows) - 0.03, 1.02)
    if metric == "significant_errors":
        axes.set_yticks([tick for tick in axes.get_yticks() if 0.0 <= tick <= 1.0])
    if metric in (*_SHARES, "significant_errors"):
        axes.yaxis.set_major_formatter("{x:.0%}")
    return figure

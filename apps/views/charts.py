"""Interactive charts of the dashboard, in the colours of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from boneage_xai.figures.style import (
    SEX_COLOURS,
    SEX_NAMES,
    VERMILLION,
    YOUNGER_COLOUR,
    age_limits,
    month_ticks,
)

SEX_SCALE = alt.Scale(
    domain=list(SEX_NAMES.values()), range=[SEX_COLOURS[code] for code in SEX_NAMES]
)
SEX_SHAPE = alt.Shape(
    "sex_name:N",
    scale=alt.Scale(domain=list(SEX_NAMES.values()), range=["circle", "square"]),
    legend=alt.Legend(title=None, orient="top", symbolSize=90),
)
CASE_TOOLTIP = [
    alt.Tooltip("case_id:N", title="case"),
    alt.Tooltip("sex_name:N", title="sex"),
    alt.Tooltip("reference_months:Q", title="reference, months", format=".1f"),
    alt.Tooltip("predicted_months:Q", title="predicted, months", format=".1f"),
    alt.Tooltip("error_months:Q", title="error, months", format="+.1f"),
]
PICKED = "picked"
# Readable on the light and on the dark page.
NEUTRAL = "#7D7D7D"
_BIN_MONTHS = 6
MOST_POINTS = 2_000
_LARGEST = 500


def sex_colour() -> alt.Color:
    """Encode girls and boys by the colours of the figures."""
    return alt.Color(
        "sex_name:N", scale=SEX_SCALE, legend=alt.Legend(title=None, orient="top", symbolSize=90)
    )


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the words for the sex."""
    return frame.assign(sex_name=frame["sex"].map(SEX_NAMES))


def age_scale(values: Sequence[float]) -> tuple[alt.Scale, list[float]]:
    """Return scale and ticks in months at whole years."""
    low, high = age_limits(values)
    return alt.Scale(domain=[low, high], nice=False), month_ticks(low, high)


def case_points(
    frame: pd.DataFrame, x: alt.X, y: alt.Y, tooltip: Sequence[alt.Tooltip] = CASE_TOOLTIP
) -> alt.Chart:
    """Draw a point per case, its sex by colour and shape; a click picks the case."""
    picked = alt.selection_point(name=PICKED, fields=["case_id"])
    # Every column is sent to the page, and becomes part of each point there.
    shown = dict.fromkeys(_field(one) for one in (x, y, *tooltip))
    chart: alt.Chart = (
        alt.Chart(named(frame)[list({"case_id": None, "sex_name": None} | shown)])
        .mark_point(
            filled=True, strokeWidth=0, size=float(np.clip(60_000 / max(len(frame), 1), 14, 64))
        )
        .encode(
            x=x,
            y=y,
            color=sex_colour(),
            shape=SEX_SHAPE,
            opacity=alt.condition(picked, alt.value(0.75), alt.value(0.15)),
            tooltip=list(tooltip),
        )
        .add_params(picked)
    )
    return chart


def _field(encoding: Any) -> str:
    return str(encoding.shorthand).rpartition(":")[0]


def fewer_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the cases that a chart has a point for: all of them, or what a browser draws in time.

    Of more than 2,000 the 500 with the largest errors are kept, and others evenly spaced.
    """
    if len(frame) <= MOST_POINTS:
        return frame
    order = frame["error_months"].abs().argsort(kind="stable").to_numpy()
    others, largest = np.sort(order[:-_LARGEST]), order[-_LARGEST:]
    spaced = np.linspace(0, len(others) - 1, MOST_POINTS - _LARGEST).round().astype(int)
    return frame.iloc[np.sort(np.concatenate([others[spaced], largest]))]


def fewer_words(n: int) -> str:
    """Say which of n cases ``fewer_points`` keeps; nothing where it keeps all."""
    if n <= MOST_POINTS:
        return ""
    return (
        f" Drawn are {MOST_POINTS:,} of {n:,} cases: the {_LARGEST:,} with the largest errors, "
        "which are rarer than they seem here, and others evenly spaced in the table."
    )


def predicted_chart(predictions: pd.DataFrame) -> alt.LayerChart:
    """Draw predicted against reference bone age; a click picks a case."""
    values = [*predictions["reference_months"], *predictions["predicted_months"]]
    scale, ticks = age_scale(values)
    ends = pd.DataFrame({"months": scale.domain})
    line = ends.assign(low=ends["months"] - 12, high=ends["months"] + 12)
    band = (
        alt.Chart(line)
        .mark_area(opacity=0.13, color=NEUTRAL, clip=True)
        .encode(x=alt.X("months:Q", scale=scale), y=alt.Y("low:Q", scale=scale), y2="high:Q")
    )
    equal = (
        alt.Chart(line).mark_line(color=NEUTRAL, strokeWidth=1.5).encode(x="months:Q", y="months:Q")
    )
    points = case_points(
        fewer_points(predictions),
        alt.X(
            "reference_months:Q",
            title="reference bone age (months)",
            scale=scale,
            axis=alt.Axis(values=ticks),
        ),
        alt.Y(
            "predicted_months:Q",
            title="predicted bone age (months)",
            scale=scale,
            axis=alt.Axis(values=ticks),
        ),
    )
    chart: alt.LayerChart = (band + equal + points).properties(height=480)
    return chart


def bland_altman_chart(predictions: pd.DataFrame, agreement: Mapping[str, Any]) -> alt.LayerChart:
    """Draw the difference against the mean of both, with bias and limits; a click picks a case."""
    mean = (predictions["reference_months"] + predictions["predicted_months"]) / 2
    frame = predictions.assign(mean_months=mean)
    scale, ticks = age_scale(list(mean))
    names = {"upper_months": "upper limit", "bias_months": "bias", "lower_months": "lower limit"}
    lines = pd.DataFrame(
        [
            {"name": f"{name} {agreement[key]:+.1f}".replace("-", "−"), "months": agreement[key]}
            for key, name in names.items()
            if agreement.get(key) is not None
        ]
    )
    x = alt.X(
        "mean_months:Q",
        title="mean of predicted and reference (months)",
        scale=scale,
        axis=alt.Axis(values=ticks),
    )
    y = alt.Y("error_months:Q", title="predicted minus reference (months)")
    rules = (
        alt.Chart(lines)
        .mark_rule(color=NEUTRAL, strokeDash=[6, 4], strokeWidth=1.5)
        .encode(y="months:Q")
    )
    labels = (
        alt.Chart(lines)
        .mark_text(align="right", dy=-8, dx=-4, color=NEUTRAL, fontWeight="bold")
        .encode(y="months:Q", x=alt.value("width"), text="name:N")
    )
    layers = rules + case_points(fewer_points(frame), x, y) + labels
    slope = agreement["slope"]
    if slope["value"] is not None:
        ends = np.array([float(mean.min()), float(mean.max())])
        trend = pd.DataFrame(
            {
                "mean_months": ends,
                "error_months": slope["intercept_months"] + slope["value"] * ends,
            }
        )
        layers += alt.Chart(trend).mark_line(color=VERMILLION, strokeWidth=2.5).encode(x=x, y=y)
    chart: alt.LayerChart = layers.properties(height=380)
    return chart


def group_key(group: Mapping[str, Any]) -> str:
    """Return the name that a subgroup by sex and age has in the address."""
    return f"{group['sex']}-{group['age_months'][0]:g}-{group['age_months'][1]:g}"


def subgroup_chart(
    subgroups: Sequence[Mapping[str, Any]],
    metric: str,
    title: str,
    *,
    ages: str = "reference bone age",
    expected: float | None = None,
) -> alt.LayerChart | None:
    """Draw a metric with its interval per age bin and sex; a click picks a group by its key.

    Args:
        subgroups: as in metrics.json.
        metric: its name; shares are drawn in percent.
        title: of the axis, with the unit.
        ages: what the bins are of.
        expected: the value that should be, drawn as a line.

    Returns:
        The chart, None without subgroups by sex and age.
    """
    rows = [
        {
            "group": group_key(group),
            "ages": f"{group['age_months'][0]:g}–{group['age_months'][1]:g}",
            "from": group["age_months"][0],
            "sex_name": SEX_NAMES[group["sex"]],
            "n": group["n"],
            "few": "fewer than 20 cases" if group["few_cases"] else "20 cases or more",
            **{end: group[metric][end] for end in ("value", "low", "high")},
        }
        for group in subgroups
        if "sex" in group and "age_months" in group
    ]
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    order = list(dict.fromkeys(frame.sort_values("from")["ages"]))
    share = metric.startswith(("within_", "coverage", "significant"))
    picked = alt.selection_point(name=PICKED, fields=["group"])
    base = alt.Chart(frame).encode(
        x=alt.X(
            "ages:N",
            sort=order,
            title=f"{ages} (months)",
            axis=alt.Axis(labelAngle=-35, labelOverlap=False),
        ),
        xOffset=alt.XOffset("sex_name:N", sort=list(SEX_NAMES.values())),
        color=sex_colour(),
        tooltip=[
            alt.Tooltip("sex_name:N", title="sex"),
            alt.Tooltip("ages:N", title="months"),
            alt.Tooltip("n:Q", title="cases"),
            alt.Tooltip("value:Q", title=title, format=".0%" if share else ".1f"),
            alt.Tooltip("low:Q", title="95% from", format=".0%" if share else ".1f"),
            alt.Tooltip("high:Q", title="95% to", format=".0%" if share else ".1f"),
        ],
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title=title, axis=alt.Axis(format="%" if share else ".0f")), y2="high:Q"
    )
    points = base.mark_point(size=110, strokeWidth=2, filled=False).encode(
        y="value:Q",
        shape=SEX_SHAPE,
        opacity=alt.condition(picked, alt.value(1.0), alt.value(0.35)),
        fill=alt.Fill("sex_name:N", scale=SEX_SCALE, legend=None),
        fillOpacity=alt.FillOpacity(
            "few:N",
            scale=alt.Scale(domain=["20 cases or more", "fewer than 20 cases"], range=[1.0, 0.0]),
            legend=None,
        ),
    )
    layers = bars + points.add_params(picked)
    if expected is not None:
        layers += (
            alt.Chart(pd.DataFrame({"expected": [expected]}))
            .mark_rule(color=NEUTRAL, strokeDash=[6, 4], strokeWidth=1.5)
            .encode(y="expected:Q")
        )
    chart: alt.LayerChart = layers.properties(height=340)
    return chart


def age_charts(predictions: pd.DataFrame) -> list[alt.Chart]:
    """Draw how many girls and boys have which reference bone age, on the same scales."""
    low, high = age_limits(predictions["reference_months"])
    edges = np.arange(low, high + _BIN_MONTHS, _BIN_MONTHS)
    counts = {
        code: np.histogram(predictions.loc[predictions["sex"] == code, "reference_months"], edges)[
            0
        ]
        for code in SEX_NAMES
    }
    most = max(int(count.max()) for count in counts.values())
    charts: list[alt.Chart] = []
    for code, count in counts.items():
        frame = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "cases": count})
        charts.append(
            alt.Chart(frame)
            .mark_bar(color=SEX_COLOURS[code], opacity=0.9)
            .encode(
                x=alt.X(
                    "from:Q",
                    bin="binned",
                    scale=alt.Scale(domain=[low, high], nice=False),
                    axis=alt.Axis(values=month_ticks(low, high)),
                    title=f"{SEX_NAMES[code]}: reference bone age (months)",
                ),
                x2="to:Q",
                y=alt.Y(
                    "cases:Q",
                    title=f"cases per {_BIN_MONTHS} months",
                    scale=alt.Scale(domain=[0, most]),
                    axis=alt.Axis(tickMinStep=1),
                ),
                tooltip=["from:Q", "to:Q", "cases:Q"],
            )
            .properties(height=190)
        )
    return charts


def learning_chart(history: pd.DataFrame) -> alt.LayerChart:
    """Draw training and validation MAE per epoch with the kept epoch ringed."""
    long = history.melt(
        id_vars="epoch",
        value_vars=["train_mae_months", "val_mae_months"],
        var_name="part",
        value_name="mae_months",
    ).dropna()
    long = long.assign(
        part=long["part"].map({"train_mae_months": "training", "val_mae_months": "validation"})
    )
    best = history[history["kept"]]
    lines = (
        alt.Chart(long)
        .mark_line(point=len(history) <= 60, strokeWidth=2)
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("mae_months:Q", title="mean absolute error (months)"),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=["training", "validation"], range=[NEUTRAL, YOUNGER_COLOUR]),
                legend=alt.Legend(title=None, orient="top", symbolType="stroke"),
            ),
            strokeDash=alt.StrokeDash(
                "part:N",
                scale=alt.Scale(domain=["training", "validation"], range=[[5, 4], [1, 0]]),
                legend=alt.Legend(title=None, orient="top", symbolType="stroke"),
            ),
            tooltip=[
                alt.Tooltip("part:N", title="cases"),
                alt.Tooltip("epoch:Q", format="d"),
                alt.Tooltip("mae_months:Q", title="MAE, months", format=".2f"),
            ],
        )
    )
    ring = (
        alt.Chart(best)
        .mark_point(size=260, color=VERMILLION, strokeWidth=2.5)
        .encode(x="epoch:Q", y="val_mae_months:Q")
    )
    chart: alt.LayerChart = (lines + ring).properties(height=380)
    return chart

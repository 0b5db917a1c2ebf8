"""Interactive charts of how far attribution maps can be trusted."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from apps.views.charts import NEUTRAL, PICKED
from boneage_xai.figures.style import BLUE, VERMILLION
from reports.wording import method_name

MEASURES = {
    "absolute_gap_months": "completeness gap (months)",
    "map_error_fraction": "estimated error of integration, share of the map's magnitude",
    "nodes": "gradients computed along the path",
}
# Short, so that they fit on a telephone.
_AXIS_TITLES = {
    "absolute_gap_months": "gap (months)",
    "map_error_fraction": "error of integration",
    "nodes": "gradients",
}
_WITHIN, _BEYOND = "within tolerance", "beyond tolerance"
_ROW_PX = 90


def _scattered(frame: pd.DataFrame) -> pd.DataFrame:
    """Spread the points of a row evenly, the same way every time."""
    place = frame.groupby("method", sort=False).cumcount()
    return frame.assign(
        spread=(place * 0.618034) % 1.0, name=[method_name(one) for one in frame["method"]]
    )


def _rows(frame: pd.DataFrame) -> tuple[alt.Y, alt.YOffset, int]:
    names = list(dict.fromkeys(frame["name"]))
    return (
        alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=150, labelOverlap=False)),
        alt.YOffset("spread:Q", scale=alt.Scale(domain=[-0.35, 1.35])),
        _ROW_PX * len(names) + 110,
    )


def completeness_chart(table: pd.DataFrame, measure: str) -> alt.LayerChart | None:
    """Draw a point per map by method, those beyond tolerance apart; a click picks a case.

    Args:
        table: as from ``with_tolerance``.
        measure: a key of ``MEASURES``.

    Returns:
        The chart with medians as ticks; None where no map has the measure.
    """
    if measure not in table or table[measure].isna().all():
        return None
    shown = _scattered(table.dropna(subset=[measure]))
    shown = shown.assign(
        value=shown[measure].astype("float64"),
        verdict=np.where(shown["within_tolerance"].fillna(True).astype(bool), _WITHIN, _BEYOND),
    )
    y, offset, height = _rows(shown)
    # Gaps of methods may differ by powers of ten.
    wide = measure == "absolute_gap_months" and shown["value"].max() > 10 * max(
        float(shown["value"].median()), 0.01
    )
    x = alt.X(
        "value:Q",
        title=_AXIS_TITLES[measure] + (", log beyond 0.1" if wide else ""),
        scale=alt.Scale(type="symlog", constant=0.1, zero=True) if wide else alt.Scale(zero=True),
        axis=alt.Axis(
            values=[0, 0.1, 0.3, 1, 3, 10, 30, 100] if wide else alt.Undefined,
            format=".1%" if measure == "map_error_fraction" else ".3~g",
        ),
    )
    picked = alt.selection_point(name=PICKED, fields=["case_id"])
    tooltip = [
        alt.Tooltip("case_id:N", title="case"),
        alt.Tooltip("name:N", title="method"),
        alt.Tooltip("absolute_gap_months:Q", title="gap, months", format=".3f"),
        alt.Tooltip("tolerance_months:Q", title="allowed, months", format=".2f"),
        *[
            alt.Tooltip(f"{name}:Q", title=title, format=form)
            for name, title, form in (
                ("map_error_fraction", "error of integration", ".2%"),
                ("nodes", "gradients", ".0f"),
            )
            if name in shown
        ],
    ]
    points = (
        alt.Chart(shown)
        .mark_point(filled=True, size=60, strokeWidth=0)
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=[_WITHIN, _BEYOND], range=[BLUE, VERMILLION]),
                legend=alt.Legend(title=None, orient="top", symbolSize=90, columns=1),
            ),
            shape=alt.Shape(
                "verdict:N",
                scale=alt.Scale(domain=[_WITHIN, _BEYOND], range=["circle", "diamond"]),
                legend=alt.Legend(title=None, orient="top", symbolSize=90, columns=1),
            ),
            opacity=alt.condition(picked, alt.value(0.75), alt.value(0.15)),
            tooltip=tooltip,
        )
        .add_params(picked)
    )
    return _with_middle(shown, points, x, y, offset, height, "median")


def _with_middle(
    shown: pd.DataFrame,
    points: alt.Chart,
    x: alt.X,
    y: alt.Y,
    offset: alt.YOffset,
    height: int,
    statistic: str,
) -> alt.LayerChart:
    """Add the middle of each row as a grey mark."""
    middles = (
        shown.groupby("name", sort=False)["value"].agg(statistic).reset_index().assign(spread=0.5)
    )
    ticks = (
        alt.Chart(middles)
        .mark_point(shape="stroke", angle=90, size=1800, strokeWidth=4, color=NEUTRAL)
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            tooltip=[alt.Tooltip("value:Q", title=statistic, format=".3f")],
        )
    )
    chart: alt.LayerChart = (ticks + points).properties(height=height)
    return chart


def similarity_chart(
    table: pd.DataFrame, title: str, *, too_similar: float | None = None
) -> alt.LayerChart:
    """Draw the correlation of every map with its counterpart, by method; a click picks a case.

    Args:
        table: method, case_id, rank_correlation and chance, as from ``compare_maps``, or their
            sizes as from ``similarity_to_control``.
        title: of the axis.
        too_similar: of sizes, drawn as a line; None for signed correlations.

    Returns:
        A point per case, the mean as a grey tick and the mean of chance as a dashed one.
    """
    shown = _scattered(table.dropna(subset=["rank_correlation"]))
    shown = shown.assign(value=shown["rank_correlation"])
    y, offset, height = _rows(shown)
    x = alt.X("value:Q", title=title, scale=alt.Scale(domain=[-1 if too_similar is None else 0, 1]))
    picked = alt.selection_point(name=PICKED, fields=["case_id"])
    points = (
        alt.Chart(shown)
        .mark_point(filled=True, size=60, strokeWidth=0, color=BLUE)
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            opacity=alt.condition(picked, alt.value(0.75), alt.value(0.15)),
            tooltip=[
                alt.Tooltip("case_id:N", title="case"),
                alt.Tooltip("name:N", title="method"),
                alt.Tooltip("rank_correlation:Q", title="rank correlation", format="+.2f"),
                alt.Tooltip("chance:Q", title="with another case's map", format="+.2f"),
            ],
        )
        .add_params(picked)
    )
    chart = _with_middle(shown, points, x, y, offset, height, "mean")
    chance = (
        shown.groupby("name", sort=False)["chance"].mean().dropna().reset_index().assign(spread=0.5)
    )
    if len(chance):
        chart += (
            alt.Chart(chance)
            .mark_point(shape="stroke", angle=90, size=1000, strokeWidth=4, color=VERMILLION)
            .encode(
                x=alt.X("chance:Q", title=title),
                y=y,
                yOffset=offset,
                tooltip=[alt.Tooltip("chance:Q", title="mean chance", format="+.2f")],
            )
        )
    if too_similar is not None:
        chart += (
            alt.Chart(pd.DataFrame({"value": [too_similar]}))
            .mark_rule(color=NEUTRAL, strokeDash=[6, 4], strokeWidth=1.5)
            .encode(x=x)
        )
    return chart

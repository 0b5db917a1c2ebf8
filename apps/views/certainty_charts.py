"""Interactive charts of how far a single prediction can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from apps.views.charts import CASE_TOOLTIP, NEUTRAL, PICKED, age_scale, case_points, fewer_points
from boneage_xai.figures.style import BLUE, SEX_COLOURS, SEX_NAMES, VERMILLION


def calibration_chart(calibration: Mapping[str, Any]) -> alt.LayerChart:
    """Draw mean reference against mean predicted bone age of each tenth of the predictions.

    Args:
        calibration: of metrics.json.

    Returns:
        Points with intervals over the line of equal ages and the fitted line; a click picks a
        tenth by its number.
    """
    curve = pd.DataFrame(
        [
            {
                "tenth": str(number),
                "predicted_months": row["predicted_months"],
                "from_months": row["from_months"],
                "to_months": row["to_months"],
                "n": row["n"],
                **{end: row["reference_months"][end] for end in ("value", "low", "high")},
            }
            for number, row in enumerate(calibration["curve"], start=1)
        ]
    )
    ends = [curve[name].dropna() for name in ("predicted_months", "value", "low", "high")]
    scale, ticks = age_scale(pd.concat(ends).to_list())
    axis = alt.Axis(values=ticks)
    x = alt.X("predicted_months:Q", title="predicted bone age (months)", scale=scale, axis=axis)
    y_title = "mean reference bone age (months)"
    picked = alt.selection_point(name=PICKED, fields=["tenth"])
    corners = pd.DataFrame({"predicted_months": scale.domain, "equal": scale.domain})
    layers = alt.layer(
        alt.Chart(corners)
        .mark_line(color=NEUTRAL, strokeWidth=1.5)
        .encode(x=x, y=alt.Y("equal:Q", title=y_title, scale=scale, axis=axis))
    )
    line = calibration["line"]
    if line["slope"]["value"] is not None:
        at = pd.Series([curve["predicted_months"].min(), curve["predicted_months"].max()])
        fitted = pd.DataFrame(
            {
                "predicted_months": at,
                "fitted": line["intercept_months"] + line["slope"]["value"] * at,
            }
        )
        layers += (
            alt.Chart(fitted)
            .mark_line(color=VERMILLION, strokeDash=[6, 4], strokeWidth=2)
            .encode(x=x, y=alt.Y("fitted:Q", title=y_title))
        )
    bars = (
        alt.Chart(curve)
        .mark_rule(color=BLUE, strokeWidth=2)
        .encode(x=x, y=alt.Y("low:Q", title=y_title), y2="high:Q")
    )
    points = (
        alt.Chart(curve)
        .mark_point(filled=True, color=BLUE, size=110, strokeWidth=0)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=y_title),
            opacity=alt.condition(picked, alt.value(1.0), alt.value(0.35)),
            tooltip=[
                alt.Tooltip("n:Q", title="cases"),
                alt.Tooltip("from_months:Q", title="predicted from", format=".1f"),
                alt.Tooltip("to_months:Q", title="predicted to", format=".1f"),
                alt.Tooltip("value:Q", title="mean reference, months", format=".1f"),
                alt.Tooltip("low:Q", title="95% from", format=".1f"),
                alt.Tooltip("high:Q", title="95% to", format=".1f"),
            ],
        )
        .add_params(picked)
    )
    chart: alt.LayerChart = (layers + bars + points).properties(height=420)
    return chart


def _corners(band: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in which an edge of a band turns: between them it is straight."""
    edges = band[["predicted_months", "below", "above"]]
    flat = edges[["below", "above"]].diff().abs().max(axis=1) < 1e-6
    inside = flat & flat.shift(-1, fill_value=False)
    return edges[~inside]


def interval_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Draw the interval at every prediction, and where references lie; a click picks a case.

    Args:
        table: case_id, sex, reference_months, predicted_months, error_months, low_months,
            high_months and covered per case of the checked half.

    Returns:
        Prediction minus reference against the prediction; cases outside are ringed, and the
        edges of the boys' band are dashed.
    """
    scale, ticks = age_scale(table["predicted_months"].to_list())
    frame = table.assign(
        beyond_months=table["predicted_months"] - table["reference_months"],
        below=table["predicted_months"] - table["high_months"],
        above=table["predicted_months"] - table["low_months"],
    )
    x = alt.X(
        "predicted_months:Q",
        title="predicted bone age (months)",
        scale=scale,
        axis=alt.Axis(values=ticks),
    )
    title = "predicted minus reference (months)"
    bands = []
    for code, dash in zip(SEX_NAMES, ([1, 0], [5, 3]), strict=True):
        part = _corners(frame[frame["sex"] == code].sort_values("predicted_months"))
        band = alt.Chart(part).encode(x=x)
        bands.append(
            band.mark_area(color=SEX_COLOURS[code], opacity=0.13).encode(
                y=alt.Y("below:Q", title=title), y2="above:Q"
            )
        )
        edge = band.mark_line(color=SEX_COLOURS[code], strokeWidth=1.5, strokeDash=dash)
        bands += [edge.encode(y=alt.Y(f"{end}:Q", title=title)) for end in ("below", "above")]
    y = alt.Y("beyond_months:Q", title=title)
    missed = ~frame["covered"].astype(bool)
    outside = (
        alt.Chart(frame.loc[missed, ["predicted_months", "beyond_months"]])
        .mark_point(color=VERMILLION, size=150, strokeWidth=2)
        .encode(x=x, y=y)
    )
    tooltip = [
        *CASE_TOOLTIP[:4],
        alt.Tooltip("low_months:Q", title="interval from", format=".1f"),
        alt.Tooltip("high_months:Q", title="interval to", format=".1f"),
    ]
    points = case_points(fewer_points(frame), x, y, tooltip)
    return alt.LayerChart(layer=[*bands, outside, points]).properties(height=420)

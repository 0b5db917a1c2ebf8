"""Interactive charts of what changes of appearance, and the sex, do to predictions."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from apps.views.charts import CASE_TOOLTIP, NEUTRAL, PICKED, age_scale, case_points
from boneage_xai.analysis.multiplicity import difference_shown
from boneage_xai.figures.style import BLUE, GREEN, VERMILLION, month_ticks

MEASURES = {
    "mae_change_months": "change of the mean absolute error (months)",
    "mean_absolute_delta_months": "mean size of the movement (months)",
    "moved_over_12_months": "share of cases that move by more than 12 months",
}
# Short, so that they fit beside long labels on a telephone.
_AXIS_TITLES = {
    "mae_change_months": "change of MAE (months)",
    "mean_absolute_delta_months": "movement (months)",
    "moved_over_12_months": "share of cases",
}
_VERDICTS = {"larger error": VERMILLION, "smaller error": BLUE, "no change shown": NEUTRAL}
_TICKS = [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100]
_ROW_PX = 22


def transform_label(family: str, parameter: str) -> str:
    """Return how a transform is called where its family is not named beside it."""
    return f"{family}: {parameter}"


def effects_chart(summary: pd.DataFrame, measure: str) -> alt.LayerChart:
    """Draw what each transform does, in the table's order; a click picks a transform.

    Args:
        summary: as from ``summarise_stress``.
        measure: a key of ``MEASURES``.

    Returns:
        A point per transform; for the change of the error with its interval, hollow where
        interval and corrected test do not show one.
    """
    is_error = measure == "mae_change_months"
    shown = summary.assign(
        label=[
            transform_label(family, parameter)
            for family, parameter in zip(summary["family"], summary["parameter"], strict=True)
        ],
        value=summary[measure],
        verdict=np.select(
            [
                ~difference_shown(summary["p_holm"], summary["low"], summary["high"]),
                summary["mae_change_months"] > 0,
            ],
            ["no change shown", "larger error"],
            "smaller error",
        ),
    ).dropna(subset=["value"])
    order = list(shown["label"])
    sizes = shown["value"].abs()
    # A few disastrous changes would press all others onto the line.
    bent = is_error and float(sizes.max()) > 20 * float(sizes.median()) > 0
    ends = shown[["low", "high"]].stack() if is_error else shown["value"]
    inside = [one for one in _TICKS if ends.min() - 1 <= one <= ends.max() + 1]
    x = alt.X(
        "value:Q",
        title=_AXIS_TITLES[measure] + (", log beyond ±1" if bent else ""),
        scale=alt.Scale(type="symlog", constant=1) if bent else alt.Scale(),
        axis=alt.Axis(
            format=".0%" if measure.startswith("moved") else ".3~g",
            values=inside if bent else alt.Undefined,
        ),
    )
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False))
    colours = alt.Scale(domain=list(_VERDICTS), range=list(_VERDICTS.values()))
    colour = alt.Color(
        "verdict:N",
        scale=colours,
        legend=alt.Legend(title=None, orient="top", columns=1) if is_error else None,
    )
    picked = alt.selection_point(name=PICKED, fields=["transform"])
    tooltip = [
        alt.Tooltip("label:N", title="change"),
        alt.Tooltip("n:Q", title="cases"),
        alt.Tooltip("mae_change_months:Q", title="change of MAE, months", format="+.2f"),
        alt.Tooltip("low:Q", title="95% from", format="+.2f"),
        alt.Tooltip("high:Q", title="95% to", format="+.2f"),
        alt.Tooltip("p_holm:Q", title="p (Holm)", format=".2g"),
        alt.Tooltip("mean_absolute_delta_months:Q", title="mean movement, months", format=".1f"),
        alt.Tooltip("moved_over_12_months:Q", title="moved over 12 months", format=".0%"),
    ]
    base = alt.Chart(shown).encode(y=y)
    layers = [alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color=NEUTRAL).encode(x=x)]
    if is_error:
        layers.append(
            base.mark_rule(strokeWidth=2).encode(
                x=alt.X("low:Q", title=_AXIS_TITLES[measure]), x2="high:Q", color=colour
            )
        )
    points = base.mark_point(size=100, strokeWidth=2).encode(
        x=x,
        color=colour if is_error else alt.value(BLUE),
        fill=alt.Fill("verdict:N", scale=colours, legend=None) if is_error else alt.value(BLUE),
        fillOpacity=alt.condition(
            "datum.verdict == 'no change shown'", alt.value(0.0), alt.value(1.0)
        )
        if is_error
        else alt.value(1.0),
        opacity=alt.condition(picked, alt.value(1.0), alt.value(0.3)),
        tooltip=tooltip,
    )
    layers.append(points.add_params(picked))
    return alt.LayerChart(layer=layers).properties(height=_ROW_PX * len(shown) + 170)


def movement_chart(cases: pd.DataFrame) -> alt.LayerChart:
    """Draw how far a transform moves each case, by reference age; a click picks a case.

    Args:
        cases: of one transform, with case_id, sex, reference_months, original_months,
            predicted_months and delta_months. Cases without a reference stand at their prediction.
    """
    known = cases["reference_months"].notna().all()
    at = "reference_months" if known else "original_months"
    scale, ticks = age_scale(cases[at].to_list())
    x = alt.X(
        f"{at}:Q",
        title="reference bone age (months)" if known else "predicted bone age as it is (months)",
        scale=scale,
        axis=alt.Axis(values=ticks),
    )
    y = alt.Y("delta_months:Q", title="change of the prediction (months)")
    tooltip = [
        *CASE_TOOLTIP[:3],
        alt.Tooltip("original_months:Q", title="predicted as it is, months", format=".1f"),
        alt.Tooltip("predicted_months:Q", title="predicted changed, months", format=".1f"),
        alt.Tooltip("delta_months:Q", title="change, months", format="+.1f"),
    ]
    zero = alt.Chart(pd.DataFrame({"delta_months": [0.0]})).mark_rule(color=NEUTRAL).encode(y=y)
    chart: alt.LayerChart = (zero + case_points(cases, x, y, tooltip)).properties(height=330)
    return chart


def sex_chart(
    table: pd.DataFrame, summary: pd.DataFrame, milestones: pd.DataFrame
) -> alt.LayerChart:
    """Draw the effect of the sex on each prediction, its mean by age, and milestones.

    Args:
        table: as from ``predict_both``.
        summary: as from ``summarise_sex_effect``.
        milestones: as from ``milestones``.

    Returns:
        Points per case (a click picks one), means with intervals over their ages, and crosses.
    """
    scale, _ = age_scale([*table["as_girl_months"], *milestones["girls_months"]])
    low, high = scale.domain
    age_title = "answer as a girl's (months)"
    x = alt.X(
        "as_girl_months:Q",
        title=age_title,
        scale=scale,
        axis=alt.Axis(values=month_ticks(low, high)),
    )
    title = "boy's minus girl's (months)"
    y = alt.Y("effect_months:Q", title=title)
    tooltip = [
        *CASE_TOOLTIP[:3],
        alt.Tooltip("as_girl_months:Q", title="as a girl, months", format=".1f"),
        alt.Tooltip("as_boy_months:Q", title="as a boy, months", format=".1f"),
        alt.Tooltip("effect_months:Q", title="difference, months", format="+.1f"),
    ]
    crosses = (
        alt.Chart(milestones.rename(columns={"girls_months": "as_girl_months"}))
        .mark_point(shape="cross", filled=True, color=GREEN, size=70, angle=45)
        .encode(
            x=x,
            y=alt.Y("difference_months:Q", title=title),
            tooltip=[
                alt.Tooltip("centre:N"),
                alt.Tooltip("event:N"),
                alt.Tooltip("as_girl_months:Q", title="girls, months", format=".0f"),
                alt.Tooltip("boys_months:Q", title="boys, months", format=".0f"),
            ],
        )
    )
    means = alt.Chart(summary).encode(
        x=alt.X("age_from_months:Q", title=age_title, scale=scale), x2="age_to_months:Q"
    )
    layers = [
        alt.Chart(pd.DataFrame({"effect_months": [0.0]})).mark_rule(color=NEUTRAL).encode(y=y),
        case_points(table, x, y, tooltip),
        crosses,
        means.mark_rect(color=VERMILLION, opacity=0.2, clip=True).encode(
            y=alt.Y("low:Q", title=title), y2="high:Q"
        ),
        means.mark_rule(color=VERMILLION, strokeWidth=2.5, clip=True).encode(y=y),
    ]
    return alt.LayerChart(layer=layers).properties(height=380)

"""Interactive charts of analyses side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from apps.views.charts import (
    CASE_TOOLTIP,
    NEUTRAL,
    PICKED,
    SEX_SCALE,
    case_points,
)
from boneage_xai.analysis.multiplicity import LEVEL, difference_shown
from boneage_xai.analysis.subgroups import SEX_BY_AGE
from boneage_xai.figures.style import SERIES_COLOURS, SEX_NAMES

ALL_SEXES = "girls and boys"
_FOUND, _NOT_FOUND = f"p < {LEVEL:g} after Holm", "no difference shown"
_ROW_PX, _REGION_PX = 24, 32
# Black is the last of the colours and cannot be seen on the dark page.
_RUN_COLOURS = SERIES_COLOURS[:-1]
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


def comparison_key(row: Mapping[Any, Any]) -> str:
    """Return the name that a group of a comparison has in the address."""
    sex = row["sex"] if row["sex"] in SEX_NAMES else "all"
    age = row["age_from_months"]
    return str(sex) if pd.isna(age) else f"{sex}-{age:g}"


def paired_chart(groups: pd.DataFrame, names: tuple[str, str]) -> alt.LayerChart:
    """Draw by how much one model is closer than another, in groups; a click picks a group.

    Args:
        groups: of one pair of models, as from ``compare_errors``.
        names: of model A and model B.

    Returns:
        A point with interval per group; filled where interval and corrected test show one.
    """
    kinds = {"all": 0, "sex": 1, "age": 2, SEX_BY_AGE: 2}
    shown = groups.assign(
        group=[comparison_key(row) for row in groups.to_dict("records")],
        label=[group_label(row) for row in groups.to_dict("records")],
        sex_name=[SEX_NAMES.get(str(sex), ALL_SEXES) for sex in groups["sex"]],
        verdict=np.where(
            difference_shown(groups["p_holm"], groups["low"], groups["high"]), _FOUND, _NOT_FOUND
        ),
        kind=groups["by"].map(kinds),
    ).sort_values(["kind", "age_from_months", "sex"], kind="stable", na_position="first")
    title = f"← {names[0]} closer, months, {names[1]} closer →"
    y = alt.Y(
        "label:N",
        sort=list(shown["label"]),
        title=None,
        axis=alt.Axis(labelLimit=200, labelOverlap=False),
    )
    colours = alt.Scale(domain=[ALL_SEXES, *SEX_SCALE.domain], range=[NEUTRAL, *SEX_SCALE.range])
    colour = alt.Color(
        "sex_name:N",
        scale=colours,
        legend=alt.Legend(title=None, orient="top", symbolSize=90, columns=1),
    )
    picked = alt.selection_point(name=PICKED, fields=["group"])
    zero = (
        alt.Chart(pd.DataFrame({"mae_difference_months": [0.0]}))
        .mark_rule(color=NEUTRAL)
        .encode(x=alt.X("mae_difference_months:Q", title=title))
    )
    base = alt.Chart(shown).encode(y=y, color=colour)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = (
        base.mark_point(size=100, strokeWidth=2)
        .encode(
            x=alt.X("mae_difference_months:Q", title=title),
            fill=alt.Fill("sex_name:N", scale=colours, legend=None),
            fillOpacity=alt.condition(
                f"datum.verdict == '{_FOUND}'", alt.value(1.0), alt.value(0.0)
            ),
            shape=alt.Shape(
                "sex_name:N",
                scale=alt.Scale(domain=colours.domain, range=["diamond", "circle", "square"]),
                legend=alt.Legend(title=None, orient="top", symbolSize=90, columns=1),
            ),
            opacity=alt.condition(picked, alt.value(1.0), alt.value(0.3)),
            tooltip=[
                alt.Tooltip("label:N", title="group"),
                alt.Tooltip("n:Q", title="cases"),
                alt.Tooltip("mae_a_months:Q", title="MAE of A, months", format=".2f"),
                alt.Tooltip("mae_b_months:Q", title="MAE of B, months", format=".2f"),
                alt.Tooltip("mae_difference_months:Q", title="A minus B, months", format="+.2f"),
                alt.Tooltip("low:Q", title="95% from", format="+.2f"),
                alt.Tooltip("high:Q", title="95% to", format="+.2f"),
                alt.Tooltip("p_holm:Q", title="p (Holm)", format=".2g"),
            ],
        )
        .add_params(picked)
    )
    chart: alt.LayerChart = (zero + bars + points).properties(height=_ROW_PX * len(shown) + 190)
    return chart


def group_label(row: Mapping[Any, Any]) -> str:
    """Return what the cases of a group have in common, and their number."""
    sex = SEX_NAMES.get(str(row["sex"]), "")
    low, high = row["age_from_months"], row["age_to_months"]
    if pd.isna(low):
        return f"{sex or 'all'} ({row['n']:,})"
    return f"{low:g}–{high:g} months{', ' + sex if sex else ''} ({row['n']:,})"


def errors_chart(both: pd.DataFrame, names: tuple[str, str]) -> alt.LayerChart:
    """Draw the size of the error of one model against that of another; a click picks a case.

    Args:
        both: case_id, sex, reference_months, a_months and b_months (errors) per case.
        names: of model A and model B.
    """
    frame = both.assign(size_a=both["a_months"].abs(), size_b=both["b_months"].abs())
    most = float(max(frame["size_a"].max(), frame["size_b"].max(), 1.0)) * 1.03
    scale = alt.Scale(domain=[0, most], nice=False)
    x = alt.X("size_a:Q", title=f"|error| of {names[0]} (months)", scale=scale)
    y = alt.Y("size_b:Q", title=f"|error| of {names[1]} (months)", scale=scale)
    equal = (
        alt.Chart(pd.DataFrame({"size_a": [0.0, most], "size_b": [0.0, most]}))
        .mark_line(color=NEUTRAL, strokeWidth=1.5)
        .encode(x=x, y=y)
    )
    tooltip = [
        *CASE_TOOLTIP[:3],
        alt.Tooltip("a_months:Q", title="error of A, months", format="+.1f"),
        alt.Tooltip("b_months:Q", title="error of B, months", format="+.1f"),
    ]
    chart: alt.LayerChart = (equal + case_points(frame, x, y, tooltip)).properties(height=420)
    return chart


def shares_chart(regions: pd.DataFrame, names: tuple[str, str]) -> alt.LayerChart:
    """Draw which share of its attribution each model gives to the regions of the hand.

    Args:
        regions: of one method, as from ``compare_regions``.
        names: of model A and model B.
    """
    order = list(regions.sort_values("share_a", ascending=False)["region"].str.replace("_", " "))
    long = pd.concat(
        [
            pd.DataFrame(
                {
                    "region": regions["region"].str.replace("_", " "),
                    "model": name,
                    "share": regions[f"share_{side}"],
                    "signed_months": regions[f"signed_{side}_months"],
                }
            )
            for side, name in zip("ab", names, strict=True)
        ],
        ignore_index=True,
    )
    y = alt.Y("region:N", sort=order, title=None, axis=alt.Axis(labelLimit=200, labelOverlap=False))
    between = alt.Chart(regions.assign(region=regions["region"].str.replace("_", " "))).mark_rule(
        color=NEUTRAL, strokeWidth=2
    )
    title = "share of the summed magnitudes"
    points = (
        alt.Chart(long)
        .mark_point(filled=True, size=110, strokeWidth=0)
        .encode(
            x=alt.X("share:Q", title=title, axis=alt.Axis(format=".0%")),
            y=y,
            color=alt.Color(
                "model:N",
                scale=alt.Scale(domain=list(names), range=list(_RUN_COLOURS[:2])),
                legend=alt.Legend(title=None, orient="top", symbolSize=90, labelLimit=300),
            ),
            shape=alt.Shape(
                "model:N",
                scale=alt.Scale(domain=list(names), range=["circle", "square"]),
                legend=alt.Legend(title=None, orient="top", symbolSize=90, labelLimit=300),
            ),
            tooltip=[
                alt.Tooltip("model:N", title="analysis"),
                alt.Tooltip("region:N"),
                alt.Tooltip("share:Q", format=".1%"),
                alt.Tooltip("signed_months:Q", title="signed, months", format="+.2f"),
            ],
        )
    )
    rules = between.encode(x=alt.X("share_a:Q", title=title), x2="share_b:Q", y=y)
    chart: alt.LayerChart = (rules + points).properties(height=_REGION_PX * len(order) + 130)
    return chart


def runs_chart(histories: Mapping[str, pd.DataFrame], column: str, title: str) -> alt.LayerChart:
    """Draw one curve of several trainings, the kept epoch of each ringed.

    Args:
        histories: name of the analysis to its history, epochs counted from 1.
        column: what is drawn.
        title: of the axis, with the unit.
    """
    names = list(histories)
    long = pd.concat(
        [
            history[["epoch"]].assign(value=history[column], run=name)
            for name, history in histories.items()
            if column in history
        ],
        ignore_index=True,
    ).dropna()
    best = pd.DataFrame(
        [
            {"run": name, "epoch": row["epoch"], "value": row[column]}
            for name, history in histories.items()
            if column in history
            for row in [history[history["kept"]].iloc[0]]
        ]
    )
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", labelLimit=300, columns=3)
    colours = alt.Scale(domain=names, range=_cycled(_RUN_COLOURS, len(names)))
    colour = alt.Color("run:N", scale=colours, legend=legend)
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=column.endswith("mae_months")))
    lines = (
        alt.Chart(long)
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=colour,
            strokeDash=alt.StrokeDash(
                "run:N",
                scale=alt.Scale(domain=names, range=_cycled(_DASHES, len(names))),
                legend=legend,
            ),
            tooltip=[
                alt.Tooltip("run:N", title="analysis"),
                alt.Tooltip("epoch:Q", format="d"),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
    )
    rings = (
        alt.Chart(best)
        .mark_point(size=180, strokeWidth=2.5)
        .encode(x=x, y=y, color=alt.Color("run:N", scale=colours, legend=None))
    )
    chart: alt.LayerChart = (lines + rings).properties(height=380)
    return chart


def _cycled(values: Sequence[Any], n: int) -> list[Any]:
    return [values[place % len(values)] for place in range(n)]

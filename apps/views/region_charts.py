"""Charts of one case's regions: what each adds, and what taking it out does."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd

from apps.views.charts import NEUTRAL
from apps.views.drawn import show_kept_chart
from boneage_xai.figures.style import OLDER_COLOUR, YOUNGER_COLOUR
from boneage_xai.regions.removable import control_of

_REGION_COLUMNS = ["region", "signed_months", "absolute_months", "area_fraction", "text"]
_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def region_table(regions: pd.DataFrame) -> pd.DataFrame:
    """Return one case's regions, or their means, as they are drawn: largest on top."""
    frame = regions.assign(
        region=regions["region"].str.replace("_", " "),
        magnitude=regions["signed_months"].abs(),
        text=[f"{value:+.1f}".replace("-", "−") for value in regions["signed_months"]],
    )
    return frame.sort_values("magnitude", ascending=False)[_REGION_COLUMNS]


def region_reach(table: pd.DataFrame) -> float:
    """Return where the scale for a region table ends, in months, with room for the numbers.

    The same few ends for all cases: bars can be compared from one to the next, and a page that
    goes to the next case has no chart to set up anew.
    """
    least = 1.35 * float(table["signed_months"].abs().max() or 1.0)
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least)


def region_chart(table: pd.DataFrame, title: str) -> alt.LayerChart:
    """Draw the signed months of each region of a region table; length and scale alone shape it."""
    reach, frame = region_reach(table), table
    # In the order of the table.
    y = alt.Y("region:N", sort=None, title=None, axis=alt.Axis(labelLimit=220))
    x = alt.X(
        "signed_months:Q",
        title=title,
        scale=alt.Scale(domain=[-reach, reach], nice=False),
        # Else half of the last number is beyond the edge.
        axis=alt.Axis(labelFlush=True),
    )
    bars = (
        alt.Chart(frame)
        .mark_bar(height={"band": 0.75})
        .encode(
            x=x,
            y=y,
            color=alt.condition(
                "datum.signed_months >= 0", alt.value(OLDER_COLOUR), alt.value(YOUNGER_COLOUR)
            ),
            tooltip=[
                alt.Tooltip("region:N"),
                alt.Tooltip("signed_months:Q", title="signed, months", format="+.2f"),
                alt.Tooltip("absolute_months:Q", title="magnitude, months", format=".2f"),
                alt.Tooltip("area_fraction:Q", title="share of the image", format=".1%"),
            ],
        )
    )
    text = alt.Chart(frame).encode(x=x, y=y, text="text:N")
    older = text.transform_filter("datum.signed_months >= 0")
    younger = text.transform_filter("datum.signed_months < 0")
    chart: alt.LayerChart = (
        bars
        + older.mark_text(align="left", dx=4, color=NEUTRAL)
        + younger.mark_text(align="right", dx=-4, color=NEUTRAL)
    ).properties(height=26 * len(frame) + 50)
    return chart


def show_regions(table: pd.DataFrame) -> None:
    """Show what each region of a region table adds to the prediction of one case."""
    title = "younger  ←  months  →  older"
    show_kept_chart(
        lambda: region_chart(table, title),
        "regions",
        title,
        len(table),
        region_reach(table),
        table=table,
    )


def erased_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Draw what the prediction does without each region, and a ring for its moved shape.

    Args:
        table: of ``erase_in_turn``; controls are matched to their regions by name.
    """
    deltas = dict(zip(table["region"], table["delta_months"], strict=True))
    regions = table[table["kind"] == "region"]
    frame = pd.DataFrame(
        {
            "region": regions["region"].str.replace("_", " "),
            "delta_months": regions["delta_months"],
            "moved_months": [deltas.get(control_of(name), np.nan) for name in regions["region"]],
            "area_fraction": regions["area_fraction"],
        }
    )
    frame["magnitude"] = frame["delta_months"].abs()
    order = list(frame.sort_values("magnitude", ascending=False)["region"])
    largest = frame[["delta_months", "moved_months"]].abs().max().max()
    reach = 1.15 * float(largest or 1.0)
    x = alt.X(
        "delta_months:Q",
        title="younger  ←  change of the prediction, months  →  older",
        scale=alt.Scale(domain=[-reach, reach], nice=False),
    )
    y = alt.Y("region:N", sort=order, title=None, axis=alt.Axis(labelLimit=220))
    tooltip = [
        alt.Tooltip("region:N"),
        alt.Tooltip("delta_months:Q", title="without it, months", format="+.2f"),
        alt.Tooltip("moved_months:Q", title="without the moved shape, months", format="+.2f"),
        alt.Tooltip("area_fraction:Q", title="share of the image", format=".1%"),
    ]
    bars = (
        alt.Chart(frame)
        .mark_bar(height={"band": 0.75})
        .encode(
            x=x,
            y=y,
            color=alt.condition(
                "datum.delta_months >= 0", alt.value(OLDER_COLOUR), alt.value(YOUNGER_COLOUR)
            ),
            tooltip=tooltip,
        )
    )
    rings = (
        alt.Chart(frame.dropna(subset=["moved_months"]))
        .mark_point(
            size=90, filled=True, fill="#FFFFFF", stroke="#333333", strokeWidth=1.5, opacity=1
        )
        .encode(x="moved_months:Q", y=y, tooltip=tooltip)
    )
    chart: alt.LayerChart = (bars + rings).properties(height=26 * len(frame) + 50)
    return chart

"""Chart of a region profile: the share of each region over stages, beside control and area."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boneage_xai import anatomy
from boneage_xai.analysis.region_profile import ALL
from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import GREY, SEX_COLOURS, SEX_MARKERS, SEX_NAMES, new_figure, styled

_COLUMNS = 3
_AREA_COLOUR, _CONTROL_COLOUR = "#D9D9D9", GREY
_ORDER = (
    *(anatomy.DIP, anatomy.PIP, anatomy.MCP, anatomy.PHALANGEAL_SHAFTS),
    *(anatomy.METACARPAL_SHAFTS, anatomy.CARPALS, anatomy.RADIUS, anatomy.ULNA),
    anatomy.SOFT_TISSUE,
)
_SHORT = {
    "infancy": "infancy",
    "toddler": "toddler",
    "pre_puberty": "before",
    "early_mid_puberty": "early, mid",
    "late_puberty": "late",
    "after_puberty": "after",
}


@styled
def share_by_stage(table: pd.DataFrame, control: pd.DataFrame | None = None) -> Figure:
    """Draw the share of the magnitude inside the hand that each region holds, stage by stage.

    Args:
        table: of a ``RegionProfile``.
        control: table of the control's profile on the same cases, None without one.

    Returns:
        An axes per region of the hand, all on one scale. Points with bootstrap 95% intervals for
        girls and boys, hollow where there are few cases; the control, both sexes together, as
        grey diamonds; grey bars are the shares of the hand's area.

    Raises:
        ReportError: no cell by stage and sex.
    """
    cells = table[(table["stage"] != ALL) & ~table["region"].isin(OUTSIDE_HAND)]
    if cells.empty:
        raise ReportError("figure: expected cells by stage and sex, found none")
    found = list(dict.fromkeys(cells["region"]))
    names = [name for name in _ORDER if name in found]
    names += [name for name in found if name not in _ORDER]
    rows = math.ceil(len(names) / _COLUMNS)
    figure = new_figure(0.9 + 1.85 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
    for axes, name in zip(grid.ravel(), names, strict=False):
        ours = cells[cells["region"] == name]
        _draw_area(axes, ours)
        if control is not None:
            _draw_control(axes, control[control["region"] == name])
        for offset, sex in ((-0.15, "F"), (0.15, "M")):
            _draw_sex(axes, ours[ours["sex"] == sex], sex, offset)
        axes.set_title(name.replace("_", " "))
        axes.set_xticks(
            range(len(STAGES)),
            [_SHORT[stage] for stage in STAGES],
            fontsize=8,
            rotation=35,
            ha="right",
            rotation_mode="anchor",
        )
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    # Intervals of a few cases may be cut, so that they do not flatten the rest.
    ends = cells.loc[~cells["few_cases"].astype(bool), "share_of_hand_high"]
    shown = [cells["share_of_hand"], cells["area_of_hand"], ends]
    if control is not None:
        shown.append(control.loc[control["region"].isin(names), "share_of_hand"])
    highest = pd.concat(shown).max()
    figure.axes[0].set_ylim(0.0, 1.06 * float(highest))
    figure.axes[0].set_xlim(-0.6, len(STAGES) - 0.4)
    for axes in grid.ravel()[len(names) :]:
        axes.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.supylabel("share of the magnitude inside the hand", fontsize=9.5)
    return figure


def _positions(rows: pd.DataFrame) -> list[int]:
    order = list(STAGES)
    return [order.index(stage) for stage in rows["stage"]]


def _draw_area(axes: Axes, rows: pd.DataFrame) -> None:
    both = rows[rows["sex"] == ALL]
    axes.bar(
        _positions(both),
        both["area_of_hand"],
        width=0.8,
        color=_AREA_COLOUR,
        label="share of the hand's area",
    )


def _draw_control(axes: Axes, rows: pd.DataFrame) -> None:
    both = rows[(rows["sex"] == ALL) & (rows["stage"] != ALL)]
    axes.plot(
        _positions(both),
        both["share_of_hand"],
        color=_CONTROL_COLOUR,
        marker="D",
        markersize=4,
        markerfacecolor="white",
        linestyle="dotted",
        linewidth=1.2,
        label="random weights",
    )


def _draw_sex(axes: Axes, rows: pd.DataFrame, sex: str, offset: float) -> None:
    x = np.array(_positions(rows)) + offset
    share = rows["share_of_hand"].to_numpy(dtype=np.float64)
    low, high = (
        rows[f"share_of_hand_{end}"].fillna(rows["share_of_hand"]).to_numpy(dtype=np.float64)
        for end in ("low", "high")
    )
    colour = SEX_COLOURS[sex]
    few = rows["few_cases"].to_numpy(dtype=bool)
    axes.plot(x[~few], share[~few], color=colour, linewidth=1.2)
    axes.errorbar(
        x,
        share,
        yerr=np.clip([share - low, high - share], 0.0, None),
        ecolor=colour,
        elinewidth=1.1,
        capsize=2,
        fmt="none",
    )
    for hollow in (False, True):
        at = few if hollow else ~few
        axes.plot(
            x[at],
            share[at],
            color=colour,
            marker=SEX_MARKERS[sex],
            markersize=5,
            markerfacecolor="white" if hollow else colour,
            linestyle="none",
            label=None if hollow else SEX_NAMES[sex],
        )

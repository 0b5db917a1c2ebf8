"""Schematic hands coloured by what each region contributes, by stage and sex."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from boneage_xai import anatomy
from boneage_xai.analysis.region_profile import ALL
from boneage_xai.analysis.stages import STAGES, Stage
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.errors import ReportError
from boneage_xai.figures.hand_outlines import HandOutlines, Points, hand_outlines
from boneage_xai.figures.style import (
    BLACK,
    GREY,
    OLDER_COLOUR,
    SEX_NAMES,
    YOUNGER_COLOUR,
    new_figure,
    signed_text,
    spread_apart,
    styled,
)
from boneage_xai.types import Sex

UNMEASURED = "#F1F1F1"
"""Colour of a region that the profile does not hold."""

_SKIN_LINE, _BONE_LINE = "#7A7A7A", "#222222"
_PANEL_INCHES = 2.25
_LARGEST_ENRICHMENT, _SMALLEST_ENRICHMENT = 4.0, 2.0
_KEY_STAGE = "early_mid_puberty"


@dataclass(frozen=True)
class Measure:
    """What the colour of a region stands for.

    Args:
        column: of the profile's table.
        label: what stands beside the colour scale.
        colours: colour map.
        scale: makes the scale from the values that it must hold.
        text: makes words of a value.
    """

    column: str
    label: str
    colours: Colormap
    scale: Callable[[npt.NDArray[np.float64]], Normalize]
    text: Callable[[float], str]


def _signed_scale(values: npt.NDArray[np.float64]) -> Normalize:
    limit = float(np.abs(values).max(initial=0.0)) or 1.0
    return Normalize(-limit, limit)


def _share_scale(values: npt.NDArray[np.float64]) -> Normalize:
    return Normalize(0.0, float(values.max(initial=0.0)) or 1.0)


def _enrichment_scale(values: npt.NDArray[np.float64]) -> Normalize:
    positive = values[values > 0]
    farthest = float(np.exp(np.abs(np.log(positive)).max(initial=0.0)))
    limit = _LARGEST_ENRICHMENT if farthest > _SMALLEST_ENRICHMENT else _SMALLEST_ENRICHMENT
    return LogNorm(1 / limit, limit)


MEASURES: Mapping[str, Measure] = {
    "enrichment": Measure(
        "enrichment",
        "times what its area would give",
        LinearSegmentedColormap.from_list(
            "enrichment", ["#5B3A8E", "#B7A6D3", "#FBFBFB", "#8FD0AE", "#00693E"]
        ),
        _enrichment_scale,
        lambda value: f"× {value:.2f}" if value < 1 else f"× {value:.1f}",
    ),
    "share": Measure(
        "share_of_hand",
        "share of the magnitude inside the hand",
        LinearSegmentedColormap.from_list(
            "share", ["#FFFDF4", "#F9E6AE", "#EFB763", "#DB7C3A", "#AB3D2C"]
        ),
        _share_scale,
        lambda value: f"{100 * value:.0f}%",
    ),
    "signed": Measure(
        "signed_months",
        "younger  ←  months  →  older",
        LinearSegmentedColormap.from_list(
            "signed_months_on_paper", [YOUNGER_COLOUR, "#FCFCFC", OLDER_COLOUR]
        ),
        _signed_scale,
        signed_text,
    ),
}
"""What can be shown, by name."""


def measure_named(name: str) -> Measure:
    """Return a measure.

    Raises:
        ReportError: no such measure.
    """
    if name not in MEASURES:
        raise ReportError(f"figure: expected a measure among {', '.join(MEASURES)}, found {name}")
    return MEASURES[name]


@styled
def schematic_hands(table: pd.DataFrame, measure: str = "enrichment") -> Figure:
    """Draw a hand for every stage and sex, its regions coloured on one scale.

    Args:
        table: of a ``RegionProfile``.
        measure: name in ``MEASURES``.

    Returns:
        An axes per sex (rows) and stage (columns) and one for the scale. Each hand is that of the
        stage's typical age, all drawn to one size. Cells of few cases are pale and say so, and
        do not set the scale; cells without cases stay empty.

    Raises:
        ReportError: no rows, or no such measure.
    """
    shown = measure_named(measure)
    cells = table[(table["stage"] != ALL) & (table["sex"] != ALL)]
    if cells.empty:
        raise ReportError("figure: expected cells by stage and sex, found none")
    scale = shown.scale(_scaled_values(cells, shown))
    figure = new_figure(2 * _PANEL_INCHES + 1.2)
    grid = figure.subplots(2, len(STAGES), squeeze=False)
    for row, sex in enumerate((Sex.FEMALE, Sex.MALE)):
        for column, stage in enumerate(STAGES.values()):
            axes = grid[row, column]
            cell = cells[(cells["stage"] == stage.stage_id) & (cells["sex"] == sex.value)]
            draw_hand(axes, cell, stage, sex, shown, scale)
            if row == 0:
                axes.set_title(_in_lines(stage.name), fontsize=9.5, loc="center")
            if column == 0:
                axes.set_ylabel(SEX_NAMES[sex.value].capitalize(), fontsize=10.5, weight="bold")
            axes.set_xlabel(f"{stage.ages_text(sex)}\n{_cases_text(cell)}", fontsize=7.8)
    _scale_bar(figure, list(grid.ravel()), shown, scale)
    return figure


@styled
def labelled_hand(
    cell: pd.DataFrame, measure: str = "enrichment", *, title: str | None = None
) -> Figure:
    """Draw one large hand whose regions bear their names and values.

    Args:
        cell: rows of one stage and sex, which may be ``all``.
        measure: name in ``MEASURES``.
        title: what stands over it; None says stage, sex and number of cases.

    Returns:
        One axes with the hand and one for the scale. For all stages the hand is that of early
        puberty, for both sexes a girl's.

    Raises:
        ReportError: rows of several cells or none, or no such measure.
    """
    shown = measure_named(measure)
    if len(cell[["stage", "sex"]].drop_duplicates()) != 1:
        raise ReportError("figure: expected the rows of one stage and sex, found others")
    stage_id, sex_id = str(cell["stage"].iloc[0]), str(cell["sex"].iloc[0])
    stage = STAGES[_KEY_STAGE if stage_id == ALL else stage_id]
    sex = Sex.FEMALE if sex_id == ALL else Sex(sex_id)
    scale = shown.scale(_scaled_values(cell, shown))
    figure = new_figure(5.4, width_inches=7.2)
    axes = figure.add_subplot()
    outlines = draw_hand(axes, cell, stage, sex, shown, scale)
    _names(axes, outlines, cell, shown)
    if title is None:
        name = "All stages" if stage_id == ALL else stage.name
        whose = "girls and boys" if sex_id == ALL else SEX_NAMES[sex_id]
        title = f"{name}, {whose}"
    axes.set_title(title, loc="center")
    axes.set_xlabel(_cases_text(cell), fontsize=9)
    _scale_bar(figure, [axes], shown, scale)
    return figure


def draw_hand(
    axes: Axes, cell: pd.DataFrame, stage: Stage, sex: Sex, measure: Measure, scale: Normalize
) -> HandOutlines:
    """Draw one schematic left hand into an axes.

    Args:
        axes: to draw in; the artists of a region have its name as their ``gid``.
        cell: rows of one stage and sex, none for a hand without cases.
        stage: at whose typical age the hand is drawn.
        sex: whose hand is drawn.
        measure: what the colours stand for.
        scale: from values to colours.

    Returns:
        The outlines drawn.
    """
    outlines = hand_outlines(sex, stage.typical_months.of(sex))
    values = dict(zip(cell["region"], cell[measure.column].astype(float), strict=True))
    few = cell.empty or bool(cell["few_cases"].iloc[0])

    def colour(region: str) -> tuple[float, float, float] | str:
        value = values.get(region, math.nan)
        if math.isnan(value):
            return UNMEASURED
        # A logarithmic scale knows no 0, and colours what it does not know black.
        red, green, blue, _ = measure.colours(scale(float(np.clip(value, scale.vmin, scale.vmax))))
        # Halfway to paper.
        return (
            (0.45 + 0.55 * red, 0.45 + 0.55 * green, 0.45 + 0.55 * blue)
            if few
            else (
                red,
                green,
                blue,
            )
        )

    skin = PathPatch(
        _path(outlines.skin),
        facecolor=colour(anatomy.SOFT_TISSUE) if not cell.empty else "white",
        edgecolor=_SKIN_LINE,
        linewidth=0.9,
        linestyle="dashed" if few else "solid",
        joinstyle="round",
        gid=anatomy.SOFT_TISSUE,
    )
    axes.add_patch(skin)
    lines = "#BBBBBB" if cell.empty else _BONE_LINE
    for shape in outlines.areas if not cell.empty else ():
        area = PathPatch(
            _path([shape.points]),
            facecolor=colour(shape.region),
            edgecolor=colour(shape.region) if shape.is_bone else "white",
            linewidth=0.0 if shape.is_bone else 0.5,
            gid=shape.region,
        )
        axes.add_patch(area)
        area.set_clip_path(skin)
    for shape in outlines.bones:
        line = PathPatch(
            _path([shape.points]), fill=False, edgecolor=lines, linewidth=0.45, alpha=0.75
        )
        axes.add_patch(line)
        line.set_clip_path(skin)
    left, right, bottom, top = outlines.box_mm
    room = 0.02 * (top - bottom)
    axes.set_xlim(left - room, right + room)
    axes.set_ylim(bottom - 0.2 * room, top + room)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return outlines


def _path(outlines: Sequence[Points]) -> Outline:
    return Outline.make_compound_path(
        *(Outline(np.vstack([points, points[:1]]), closed=True) for points in outlines)
    )


def _scaled_values(cells: pd.DataFrame, measure: Measure) -> npt.NDArray[np.float64]:
    """Return the values that set the scale: of the hand, in cells with enough cases if any."""
    inside = cells[~cells["region"].isin(OUTSIDE_HAND)]
    enough = inside[~inside["few_cases"].astype(bool)]
    values = (inside if enough.empty else enough)[measure.column].dropna()
    return values.to_numpy(dtype=np.float64)


def _cases_text(cell: pd.DataFrame) -> str:
    if cell.empty:
        return "no case"
    few = ", few" if bool(cell["few_cases"].iloc[0]) else ""
    outside = float(cell.loc[cell["region"].isin(OUTSIDE_HAND), "share_of_whole"].sum())
    return f"n = {int(cell['n'].iloc[0]):,}{few} · outside {100 * outside:.0f}%"


def _in_lines(name: str) -> str:
    """Return a name in two lines, so that neighbouring titles stand level."""
    words = name.split()
    half = math.ceil(len(words) / 2)
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _scale_bar(figure: Figure, axes: Sequence[Axes], measure: Measure, scale: Normalize) -> None:
    bar = figure.colorbar(
        ScalarMappable(scale, measure.colours),
        ax=list(axes),
        location="bottom",
        fraction=0.035,
        aspect=45,
        pad=0.02,
        extend="both" if isinstance(scale, LogNorm) else "neither",
    )
    bar.set_label(measure.label)
    low, high = float(scale.vmin or 0.0), float(scale.vmax or 1.0)
    if isinstance(scale, LogNorm):
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4) if low <= tick <= high]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
    elif measure.column.startswith("share"):
        bar.set_ticks(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high))
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        bar.ax.set_xlim(low, high)


# Which outline of a region bears its name: on the little finger's side, or on the thumb's.
_NAMED_LEFT = (anatomy.DIP, anatomy.PIP, anatomy.MCP, anatomy.CARPALS, anatomy.ULNA)
_NAMED_RIGHT = (
    anatomy.PHALANGEAL_SHAFTS,
    anatomy.SOFT_TISSUE,
    anatomy.METACARPAL_SHAFTS,
    anatomy.RADIUS,
)


def _names(axes: Axes, outlines: HandOutlines, cell: pd.DataFrame, measure: Measure) -> None:
    """Write the name and value of every region beside the hand, with a line to it."""
    values = dict(zip(cell["region"], cell[measure.column].astype(float), strict=True))
    left, right, bottom, top = outlines.box_mm
    width = right - left
    for side, names in ((-1, _NAMED_LEFT), (1, _NAMED_RIGHT)):
        anchors = {name: _anchor(outlines, name, side) for name in names if name in values}
        order = sorted(anchors, key=lambda name: -anchors[name][1])
        heights = spread_apart([anchors[name][1] for name in order], 0.11 * (top - bottom))
        for name, height in zip(order, heights, strict=True):
            value = values[name]
            shown = "–" if math.isnan(value) else measure.text(value)
            axes.annotate(
                f"{name.replace('_', ' ')}\n{shown}",
                xy=anchors[name],
                xytext=(left - 0.1 * width if side < 0 else right + 0.1 * width, height),
                ha="right" if side < 0 else "left",
                va="center",
                fontsize=9.5,
                linespacing=1.25,
                arrowprops={
                    "arrowstyle": "-",
                    "color": GREY,
                    "linewidth": 0.8,
                    "shrinkA": 2,
                    "shrinkB": 0,
                },
                color=BLACK,
            )
    axes.set_xlim(left - 0.62 * width, right + 0.72 * width)


def _anchor(outlines: HandOutlines, region: str, side: int) -> tuple[float, float]:
    """Return the point of a region that its name's line leads to."""
    if region == anatomy.SOFT_TISSUE:
        # The web between the knuckles of thumb and index finger, which no bone reaches.
        knuckles = [
            shape.points.mean(axis=0)
            for shape in outlines.areas
            if shape.region == anatomy.MCP and not shape.is_bone
        ]
        thumb, index = sorted(knuckles, key=lambda point: -float(point[0]))[:2]
        x, y = 0.45 * thumb + 0.55 * index
        return float(x), float(y) - 0.03 * (outlines.box_mm[3] - outlines.box_mm[2])
    shapes = [shape for shape in outlines.areas if shape.region == region]
    outermost = max(shapes, key=lambda shape: side * float(shape.points[:, 0].mean()))
    x, y = outermost.points.mean(axis=0)
    return float(x), float(y)

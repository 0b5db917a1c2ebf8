"""Figures of the failure atlas: traits of the worst cases, where they lie, and their cards."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from boneage_xai.analysis.failure_cards import FailureCard
from boneage_xai.errors import ReportError
from boneage_xai.figures.attribution import (
    SMOOTHING_PX,
    colour_bar,
    shared_limit_months,
    smoothed_months,
)
from boneage_xai.figures.style import (
    BLACK,
    OLDER_COLOUR,
    SERIES_COLOURS,
    SEX_NAMES,
    WIDTH_INCHES,
    YOUNGER_COLOUR,
    age_axis,
    age_limits,
    draw_radiograph,
    fitted_font_size,
    new_figure,
    signed_colormap,
    styled,
)

GROUP_NAMES = {"all": "all worst cases", "over": "read too old", "under": "read too young"}
_GROUP_COLOURS = {"all": BLACK, "over": OLDER_COLOUR, "under": YOUNGER_COLOUR}
_GROUP_SHIFT = {"all": -0.24, "over": 0.0, "under": 0.24}
_ROW_INCHES = 0.36
_MOST_PATTERNS = len(SERIES_COLOURS)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SMALLEST_RISK, _LARGEST_RISK = 1 / 64, 64.0


@styled
def trait_forest(traits: pd.DataFrame, labels: Mapping[str, str], level: float) -> Figure:
    """Draw how worst cases differ from the rest in every trait, with intervals.

    Args:
        traits: rows of ``compare_traits`` that were tested.
        labels: name of each trait.
        level: below it a corrected p-value is drawn filled.

    Returns:
        Above measured traits by rank-biserial correlation, below yes-or-no traits by risk ratio;
        what has no row is left out.

    Raises:
        ReportError: no rows.
    """
    if traits.empty:
        raise ReportError("figure: expected at least one compared trait, found none")
    parts = [traits[traits["measure"] == one] for one in ("rank", "risk")]
    parts = [one for one in parts if not one.empty]
    heights = [one["descriptor"].nunique() for one in parts]
    figure = new_figure(_ROW_INCHES * sum(heights) + 1.0 * len(parts) + 0.45)
    grid = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)
    for axes, part in zip(grid[:, 0], parts, strict=True):
        _forest(axes, part, labels, level)
    for group, name in GROUP_NAMES.items():
        grid[0, 0].plot([], [], "o", color=_GROUP_COLOURS[group], markersize=5, label=name)
    figure.legend(loc="outside upper right", ncols=3, fontsize=9)
    return figure


def _forest(axes: Axes, part: pd.DataFrame, labels: Mapping[str, str], level: float) -> None:
    names = list(dict.fromkeys(part["descriptor"]))
    risk = bool((part["measure"] == "risk").all())
    for row in part.to_dict("records"):
        y = names.index(row["descriptor"]) + _GROUP_SHIFT[row["group"]]
        colour, sure = _GROUP_COLOURS[row["group"]], row["p_holm"] < level
        ends = np.array([row["low"], row["high"]], dtype=np.float64)
        value = float(row["effect"])
        if risk:
            ends, value = (
                np.clip(ends, _SMALLEST_RISK, _LARGEST_RISK),
                float(np.clip(value, _SMALLEST_RISK, _LARGEST_RISK)),
            )
        axes.plot(
            ends, [y, y], color=colour, linewidth=1.6 if sure else 1.1, alpha=1 if sure else 0.7
        )
        # Beyond the scale: an arrow in place of a point that would seem to be certain.
        beyond = risk and value != float(row["effect"])
        axes.plot(
            value,
            y,
            (">" if value > 1 else "<") if beyond else "o",
            color=colour,
            markerfacecolor=colour if sure else "white",
            markersize=6 if sure else 5,
        )
    for at in range(0, len(names), 2):
        axes.axhspan(at - 0.5, at + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
    axes.set_yticks(range(len(names)), [labels.get(one, one) for one in names], fontsize=9.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    if risk:
        axes.set_xscale("log", base=2)
        axes.axvline(1.0, color=BLACK, linewidth=1.0)
        low, high = axes.get_xlim()
        widest = max(4.0, 1 / low, high)
        axes.set_xlim(1 / widest, widest)
        axes.xaxis.set_major_formatter(
            lambda tick, _: f"{tick:g}×" if tick >= 1 else f"1/{1 / tick:g}"
        )
        axes.set_xlabel("how many times as often among the worst as cases without it")
        axes.set_title("Yes or no: risk ratio")
    else:
        axes.axvline(0.0, color=BLACK, linewidth=1.0)
        axes.set_xlim(-1.02, 1.02)
        axes.xaxis.set_major_formatter(
            lambda tick, _: f"{tick:+.2g}".replace("-", "−") if tick else "0"
        )
        axes.set_xlabel(
            "← lower among the worst cases      rank-biserial correlation      higher →"
        )
        axes.set_title("Measured: difference between worst cases and the rest")


@styled
def failure_map(table: pd.DataFrame, clusters: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the error of every case against its age, the worst ones marked by their pattern.

    Args:
        table: of ``build_atlas``.
        clusters: the groups; patterns are marked in their colour, all others in grey.

    Raises:
        ReportError: no cases.
    """
    if table.empty:
        raise ReportError("figure: expected cases, found none")
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    rest = table[~table["worst"]]
    axes.scatter(
        rest["reference_months"],
        rest["error_months"],
        s=9,
        color="#BBBBBB",
        linewidth=0,
        label=f"all others (n = {len(rest):,})",
        rasterized=len(rest) > 4000,
    )
    patterns = [at for at, one in enumerate(clusters) if one["pattern"]][:_MOST_PATTERNS]
    worst = table[table["worst"]]
    free = worst[~worst["cluster"].isin(patterns)]
    if len(free):
        axes.scatter(
            free["reference_months"],
            free["error_months"],
            s=30,
            facecolor="white",
            edgecolor="#444444",
            linewidth=1.1,
            label=f"worst, of no pattern (n = {len(free):,})",
        )
    for number, at in enumerate(patterns):
        own = worst[worst["cluster"] == at]
        axes.scatter(
            own["reference_months"],
            own["error_months"],
            s=34,
            color=SERIES_COLOURS[number],
            marker=_MARKERS[number % len(_MARKERS)],
            label=textwrap.fill(f"{clusters[at]['name']} (n = {len(own):,})", 60),
        )
    axes.axhline(0.0, color=BLACK, linewidth=1.0)
    age_axis(axes, "x", *age_limits(table["reference_months"]))
    axes.set_xlabel("reference bone age (months)")
    axes.set_ylabel("error (months): read too young ← → too old", fontsize=9.5)
    axes.set_title("Where the worst cases lie")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


@styled
def failure_cards(
    cards: Sequence[FailureCard],
    headings: Sequence[str],
    *,
    limit_months: float | None = None,
    smoothing_px: float = SMOOTHING_PX,
) -> Figure:
    """Draw a row per case: radiograph, signed attribution on one scale, nearest training cases.

    Args:
        cards: the cases.
        headings: (n,) what stands above each row; ids must be plain text for matplotlib.
        limit_months: end of the colour scale in months per pixel; None takes that of these maps.
        smoothing_px: Gaussian smoothing of the maps for the eye, stated at the colour bar.

    Raises:
        ReportError: no cards, or another number of headings.
    """
    if not cards or len(cards) != len(headings):
        raise ReportError(
            f"figure: expected cards and a heading each, found {len(cards)} and {len(headings)}"
        )
    maps = any(one.map_months is not None for one in cards)
    limit = card_limit_months(cards, smoothing_px) if limit_months is None else limit_months
    near = max(len(one.neighbours) for one in cards)
    columns = 1 + maps + near
    side = WIDTH_INCHES / max(columns, 4)
    aspect = cards[0].pixels.shape[0] / cards[0].pixels.shape[1]
    figure = new_figure(len(cards) * (side * aspect + 0.55) + (0.75 if maps else 0.1))
    rows = figure.subplots(len(cards), columns, squeeze=False)
    # Bold text is a little wider than what is allowed for.
    font_size = fitted_font_size(headings, 0.95 * side, 8.5)
    drawn: AxesImage | None = None
    used: list[Axes] = []
    for row, card, heading in zip(rows, cards, headings, strict=True):
        picture = iter(row)
        axes = next(picture)
        draw_radiograph(axes, card.pixels)
        axes.set_title(heading, fontsize=font_size, fontweight="bold", loc="left")
        used.append(axes)
        if maps:
            axes = next(picture)
            used.append(axes)
            draw_radiograph(axes, card.pixels)
            if card.map_months is not None:
                drawn = _overlay(
                    axes, smoothed_months(card.map_months[None], smoothing_px)[0], limit
                )
                axes.set_title(
                    f"attribution\n{_signed(float(card.map_months.sum()))} months against black",
                    fontsize=8.0, fontweight="normal", loc="left",
                )  # fmt: skip
        for place in range(near):
            axes = next(picture)
            if place >= len(card.neighbours):
                axes.remove()
                continue
            draw_radiograph(axes, card.neighbour_pixels[place])
            used.append(axes)
            one = card.neighbours[place]
            age = "age unknown" if np.isnan(one.months) else f"{one.months:.0f} months"
            first = "nearest in training" if place == 0 else f"neighbour {place + 1}"
            axes.set_title(f"{first}\n{age}", fontsize=8.0, fontweight="normal", loc="left")
    if drawn is not None:
        note = f"smoothed over {smoothing_px:g} px; one scale for all cases"
        colour_bar(figure, drawn, used, limit, note)
    return figure


def card_limit_months(cards: Sequence[FailureCard], smoothing_px: float = SMOOTHING_PX) -> float:
    """Return the one limit, in months per pixel, of the scale that all these cards share."""
    maps = [one.map_months for one in cards if one.map_months is not None]
    return shared_limit_months(smoothed_months(np.stack(maps), smoothing_px)) if maps else 1.0


def card_heading(card: FailureCard, shown_id: str) -> str:
    """Return what stands above a card: case, sex and error, reference and prediction."""
    return (
        f"{shown_id}, {SEX_NAMES[card.sex].removesuffix('s')}: {_signed(card.error_months)}\n"
        f"reference {card.reference_months:.0f}, read {card.predicted_months:.0f}"
    )


def _overlay(axes: Axes, shown: npt.NDArray[np.float64], limit: float) -> AxesImage:
    return axes.imshow(
        shown,
        cmap=signed_colormap(),
        norm=Normalize(-limit, limit, clip=True),
        interpolation="bilinear",
        interpolation_stage="data",
    )


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−")

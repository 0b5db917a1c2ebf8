"""Report sections on what the network looks at: overlays, activations, hand regions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.figures.attribution import activation_grid, attribution_grid
from boneage_xai.figures.overlay import analysis_limit_months
from boneage_xai.figures.regions import region_bars
from boneage_xai.regions.aggregation import summarise
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.examples import attributed_cases, examples
from reports.summary import region_sentence
from reports.wording import (
    SEX_WORDS,
    baseline_sentences,
    layer_name,
    method_name,
    months,
    preferred_method,
)

_LONGEST_ID = 24
_ACTIVATION_CASES = 3
_COARSE_FROM_MONTHS = 20.0


def figure_text(text: str) -> str:
    """Return a text as a figure shows it: shortened, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ID else f"{line[: _LONGEST_ID - 1]}…"


def attributions(folder: AnalysisFolder) -> Section | None:
    """Show overlays of chosen cases on one signed scale."""
    cases, found, maps = attributed_cases(folder), folder.attributions(), folder.maps()
    if cases is None or found is None or maps is None or cases.empty:
        return None
    methods = list(dict.fromkeys(found["method"]))
    method = preferred_method(methods)
    gaps = found[found["method"] == method].set_index("case_id")["completeness_gap_months"]
    chosen = examples(cases)
    chosen = chosen.assign(
        completeness_gap_months=[_number(gaps.get(case_id)) for case_id in chosen["case_id"]]
    )
    draw = partial(
        attribution_grid,
        _rows(maps["inputs"], chosen["row"]),
        _rows(maps[method], chosen["row"]),
        [_title(row) for row in chosen.to_dict("records")],
        limit_months=analysis_limit_months(maps, method),
    )
    shown = chosen.drop(columns="row")
    blocks: list[Block] = [
        Text(
            (
                f"{method_name(method)}: where the network's answer comes from. Orange marks "
                "pixels that make the hand look older, blue those that make it look younger; "
                "where nothing lies over the radiograph, nothing is attributed. All cases of this "
                "analysis share one scale, so that colours can be compared between hands.",
                "A map tells what this network used, not what it should have used, and not that "
                "what it used caused the bone age.",
            )
        ),
        Drawing(
            draw,
            "Radiographs with signed attribution maps laid over them",
            f"{len(chosen)} of {len(cases):,} attributed cases: chosen evenly over sex and age, "
            "then those with the largest errors. The gap is what the map does not account for.",
            shown,
            vector=False,
        ),
        Table(
            "The cases shown; months.",
            ("Case", "Sex", "Reference", "Predicted", "Error", "Completeness gap", "Chosen for"),
            tuple(_cells(row) for row in chosen.to_dict("records")),
            shown,
            words=(0, 1, 6),
        ),
    ]
    ours = found[found["method"] == method]
    if sentences := _baseline_and_sex(ours):
        blocks.append(Text(tuple(sentences)))
    if len(methods) > 1:
        others = ", ".join(method_name(name).lower() for name in methods if name != method)
        blocks.append(Text((f"Also computed, to be seen in the dashboard: {others}.",)))
    return Section("attributions", "What the network looks at", tuple(blocks))


def _baseline_and_sex(found: pd.DataFrame) -> list[str]:
    """Return how to read the maps of one method, from its rows of the attribution table."""
    sentences = []
    if baseline := next(iter(found["baseline"].dropna()), None):
        sentences.append(baseline_sentences(str(baseline)))
    # Folders written by earlier versions have neither of these columns.
    if "converged" in found and (left := int((~found["converged"].dropna().astype(bool)).sum())):
        sentences.append(
            f"In {left:,} of {len(found):,} cases the gap or the error of integration stayed "
            "larger than allowed; read their maps with care."
        )
    errors = found["map_error_fraction"].dropna() if "map_error_fraction" in found else None
    if errors is not None and len(errors):
        sentences.append(
            "Integrating along the path in steps leaves an error in single pixels: summed over "
            f"a map, an estimated {100 * float(errors.median()):.1f}% of its magnitude in the "
            f"median case and {100 * float(errors.max()):.1f}% at most."
        )
    effects = found["sex_effect_months"].dropna() if "sex_effect_months" in found else None
    if effects is not None and len(effects):
        sentences.append(
            "Sex is held fixed and no part of the maps. Telling the network the other sex, with "
            f"the same image, changes its answer by {months(float(effects.abs().median()))} months "
            f"in the median case and by {months(float(effects.abs().max()))} at most."
        )
    return sentences


def _rows(array: Any, rows: pd.Series[int]) -> npt.NDArray[Any]:
    """Return some rows of a Zarr array, read chunk by chunk."""
    return np.stack([np.asarray(array[int(row)]) for row in rows])


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)


def _known(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _sex(row: Mapping[Hashable, Any]) -> str:
    return SEX_WORDS.get(str(row["sex"]), "sex not evaluated")


def _age(row: Mapping[Hashable, Any]) -> str:
    reference = _known(row["reference_months"])
    if reference is None:
        return f"predicted {months(_known(row['predicted_months']), digits=0)}"
    return f"reference {months(reference, digits=0)}"


def _title(row: Mapping[Hashable, Any]) -> str:
    lines = [f"{figure_text(str(row['case_id']))} · {_sex(row)}"]
    reference = _known(row["reference_months"])
    predicted = f"predicted {months(_known(row['predicted_months']))}"
    known = reference is not None
    lines.append(f"reference {months(reference)}, {predicted}" if known else predicted)
    gap = _known(row["completeness_gap_months"])
    if gap is not None:
        lines.append(f"gap {months(gap, signed=True, digits=2)} months")
    return "\n".join(lines)


def _cells(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    return (
        str(row["case_id"]),
        _sex(row),
        months(_known(row["reference_months"])),
        months(_known(row["predicted_months"])),
        months(_known(row["error_months"]), signed=True),
        months(_known(row["completeness_gap_months"]), signed=True, digits=2),
        str(row["why"]),
    )


def activations(folder: AnalysisFolder) -> Section | None:
    """Show what the layers of the network respond to, shallow to deep."""
    cases, maps = attributed_cases(folder), folder.maps()
    if cases is None or maps is None or cases.empty:
        return None
    recorded: Any = maps.attrs.get("layers", [])
    layers = [str(name) for name in recorded]
    if not layers:
        return None
    chosen = examples(cases, typical=_ACTIVATION_CASES, worst=0)
    titles = [
        f"{figure_text(str(row['case_id']))} · {_sex(row)}\n{_age(row)} months"
        for row in chosen.to_dict("records")
    ]
    draw = partial(
        activation_grid,
        _rows(maps["inputs"], chosen["row"]),
        {
            figure_text(layer_name(layer)): _rows(maps[f"activations/{layer}"], chosen["row"])
            for layer in layers
        },
        titles,
    )
    blocks = (
        Text(
            (
                "Mean activation over the channels of a layer, from the first layers on the left "
                "to the last on the right. Activations show where a layer responds; unlike "
                "attributions they have no unit of months, and say nothing on older or younger.",
            )
        ),
        Drawing(
            draw,
            "Radiographs and the mean activation of each layer beside them",
            "A girl or boy per row, ordered by age; layers from shallow to deep.",
            vector=False,
        ),
    )
    return Section("activations", "Activation maps by layer", blocks)


def regions(folder: AnalysisFolder) -> Section | None:
    """Give the months that each region of the hand adds."""
    found = folder.regions()
    if found is None or found.empty:
        return None
    method = preferred_method(list(dict.fromkeys(found["method"])))
    ours = found[found["method"] == method]
    table = summarise(ours)
    total = float(table["absolute_months"].sum()) or 1.0
    digits = 1 if total >= _COARSE_FROM_MONTHS else 2
    ordered = table.sort_values("absolute_months", ascending=False)
    rows = tuple(
        (
            str(row["region"]).replace("_", " "),
            months(row["signed_months"], signed=True, digits=digits),
            _span(row["signed_low_months"], row["signed_high_months"], digits),
            months(row["absolute_months"], digits=digits),
            f"{100 * row['absolute_months'] / total:.0f}%",
            f"{100 * row['area_fraction']:.1f}%",
        )
        for row in ordered.to_dict("records")
    )
    named = ours.assign(region=[figure_text(str(name)) for name in ours["region"]])
    blocks = (
        Text(
            (
                f"{method_name(method)} summed over each region of the hand. For a case the "
                "regions add up to the sum of its map. " + region_sentence(ours),
            )
        ),
        Drawing(
            partial(region_bars, named, title="Months per region"),
            "Bars of the mean signed attribution in months for each hand region",
            "Mean over cases of the months that a region adds (orange, older) or takes (blue, "
            "younger), with 95% bootstrap intervals.",
            table,
        ),
        Table(
            "Mean over cases: signed months with 95% interval, sum of magnitudes and its share of "
            "the whole, and the share of the image that the region covers.",
            ("Region", "Signed, months", "95% interval", "Magnitude, months", "Share", "Area"),
            rows,
            ours.reset_index(drop=True),
        ),
    )
    return Section("regions", "Months per hand region", blocks)


def _span(low: Any, high: Any, digits: int) -> str:
    if pd.isna(low) or pd.isna(high):
        return ""
    low, high = (months(end, signed=True, digits=digits) for end in (low, high))
    return f"{low} to {high}"

"""Report section on region occlusion: whether a region matters, and which maps know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.occlusion_agreement import (
    AGREES_FROM,
    AREA_ALONE,
    BOTH,
    NEITHER,
    NOT_OCCLUSION,
    OCCLUSION,
    OCCLUSION_BY,
    ONLY_INTERVENTIONS,
    ONLY_OCCLUSION,
    UNKNOWN,
    Comparison,
    compared,
)
from boneage_xai.analysis.occlusion_summary import (
    bone_regions,
    by_group,
    preferred_fill,
    shown_above_zero,
    summarise_occlusion,
)
from boneage_xai.analysis.region_occlusion import EXAMPLE_FILE, read_example
from boneage_xai.anatomy import NOT_BONE
from boneage_xai.errors import ReportError
from boneage_xai.figures.occlusion import FILL_WORDS, occlusion_bars, removal_examples
from boneage_xai.regions.aggregation import summarise
from boneage_xai.regions.removable import BACKGROUND_AND_MARKER, WHOLE_HAND
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import SEX_PLURALS, method_name, months, preferred_method

TITLE = "Does each region matter?"
CAVEAT = (
    "A radiograph without a region is unlike any that the network has learnt from, and every "
    "filling is unlike in its own way: the blurred one keeps the brightness of what it hides, the "
    "inpainted one may draw bone through a joint, the mean of the rim leaves a visible patch. "
    "Trust what holds under all of them. That a region matters to this network does not mean that "
    "age is to be read there, nor that a region without effect says nothing: others may stand in "
    "for it."
)
_FEW = 3
# In the order in which methods are told of.
_VERDICTS = (
    BOTH,
    OCCLUSION,
    ONLY_OCCLUSION,
    ONLY_INTERVENTIONS,
    NOT_OCCLUSION,
    NEITHER,
    UNKNOWN,
)


def occlusion(folder: AnalysisFolder) -> Section | None:
    """Say which regions matter when removed, and which attribution methods agree."""
    table = folder.occlusion()
    if table is None or table.empty:
        return None
    fill = preferred_fill(table["fill"])
    summary = summarise_occlusion(table)
    shown = summary[summary["fill"] == fill]
    comparison = compared(folder)
    method, attribution = _attribution(folder, table)
    blocks: list[Block] = [Text(tuple(_answers(shown, fill)))]
    if verdicts := _verdict_sentences(comparison):
        blocks.append(Text(tuple(verdicts)))
    blocks.append(Text((CAVEAT,), notice=True))
    if not bone_regions(shown).empty:
        beside = " On the right, what the attribution gives to each region." * bool(method)
        blocks.append(
            Drawing(
                partial(
                    occlusion_bars, summary, attribution, method_name(method) if method else ""
                ),
                "Points with intervals: change of the prediction without each region, by filling",
                "Left: the mean of |change|, and as grey ticks that of the same shape moved to "
                f"elsewhere on the hand where there was room.{beside}",
                summary,
            )
        )
    blocks.append(_table(shown, fill, table))
    if (folder.path / EXAMPLE_FILE).is_file():
        example = read_example(folder.path / EXAMPLE_FILE)
        blocks.append(
            Drawing(
                partial(removal_examples, example),
                "A radiograph with an area outlined, and the same without it by each filling",
                f"Case {example.case_id}, the middle one by age: the region of bone that matters "
                "most, the same shape moved elsewhere, and the whole hand; with what each removal "
                "does to the prediction. The network saw these pictures.",
                vector=False,
            )
        )
    if comparison.with_occlusion is not None and comparison.verdicts is not None:
        blocks.append(_agreement(comparison, fill))
    known = table[table["reference_months"].notna()]
    if not bone_regions(known).empty:
        blocks.append(_groups(by_group(known, fill)))
    return Section("occlusion", TITLE, tuple(blocks))


def _attribution(
    folder: AnalysisFolder, table: pd.DataFrame
) -> tuple[str | None, pd.DataFrame | None]:
    """Return a method and its mean months per region over the cases that were occluded too."""
    regions = folder.regions()
    if regions is None:
        return None, None
    shared = regions[regions["case_id"].isin(set(table["case_id"]))]
    if shared.empty:
        return None, None
    method = preferred_method(list(dict.fromkeys(shared["method"])))
    return method, summarise(shared[shared["method"] == method])


def _answers(shown: pd.DataFrame, fill: str) -> list[str]:
    bones = bone_regions(shown).sort_values("absolute_delta_months", ascending=False)
    by_name = shown.set_index("region")
    sentences = []
    if not bones.empty:
        first, *others = bones.to_dict("records")
        sentence = (
            f"Of the regions of bone, removing {_name(first['region'])} matters most: without that "
            f"region ({FILL_WORDS.get(fill, fill)}) the prediction moves by "
            f"{_estimate(first, 'absolute_delta', signed=False)} months in the mean over "
            f"{first['n']:,} cases"
        )
        if others:
            named = ", ".join(
                f"{_name(row['region'])} ({months(row['absolute_delta_months'])})"
                for row in others[:_FEW]
            )
            sentence += f"; then {named}"
        sentences.append(sentence + ".")
        sentences += _beyond(bones)
        worse = bones[shown_above_zero(bones, "error_change")]
        sentences.append(
            "The mean absolute error rises without "
            + ", ".join(
                f"{_name(row['region'])}, by {_estimate(row, 'error_change')}"
                for row in worse.to_dict("records")
            )
            + "."
            if not worse.empty
            else "No single region of bone could be shown to raise the mean absolute error by "
            "its absence."
        )
        if len(bones) > 1:
            sentences.append(
                f"What is said of single regions holds after correction over all {len(bones)} "
                "(Wilcoxon's signed ranks, Holm) and by the interval; each interval is for one."
            )
    compared_with = [
        f"{words} {_estimate(by_name.loc[name].to_dict(), 'absolute_delta', signed=False)} months"
        for name, words in (
            (WHOLE_HAND, "without the whole hand it is"),
            (BACKGROUND_AND_MARKER, "without background and marker"),
        )
        if name in by_name.index
    ]
    if compared_with:
        sentences.append(f"For comparison, {'; '.join(compared_with)}.")
    return sentences


def _beyond(bones: pd.DataFrame) -> list[str]:
    """Say which regions matter more than a patch of their shape elsewhere."""
    controlled = bones[bones["beyond_control_months"].notna()]
    if controlled.empty:
        return []
    shown = shown_above_zero(controlled, "beyond_control")
    more, rest = controlled[shown], controlled[~shown]
    sentences = []
    if not more.empty:
        named = ", ".join(
            f"{_name(row['region'])}, by {_estimate(row, 'beyond_control')}"
            for row in more.to_dict("records")
        )
        sentences.append(
            "More than the same shape moved to elsewhere in the same radiograph, which shows that "
            f"it is not the patch alone: {named}."
        )
    if not rest.empty:
        sentences.append(f"Not shown to matter more than such a patch: {_names(rest['region'])}.")
    if weak := [
        _name(row["region"])
        for row in controlled.to_dict("records")
        if row["control_hand_fraction"] < 0.5
    ]:
        sentences.append(
            f"The moved patch of {', '.join(weak)} lies mostly beside the hand, for want of room "
            "on it, and is a weak control."
        )
    return sentences


def _verdict_sentences(comparison: Comparison) -> list[str]:
    if comparison.verdicts is None or comparison.with_occlusion is None:
        return []
    found = comparison.verdicts
    sentences = []
    for verdict in _VERDICTS:
        methods = found.loc[found["verdict"] == verdict, "method"].tolist()
        if methods:
            sentences.append(f"{verdict.capitalize()}: {_methods(methods)}.")
    rows = comparison.with_occlusion
    ours = rows[rows["method"] != AREA_ALONE].groupby("method", sort=False)["beyond_area_low"]
    behind = [str(method) for method, low in ours if not (low > 0).all()]
    if behind:
        sentences.append(
            "Not shown to tell more than the size of the regions does, under every filling: "
            f"{_methods(behind)}."
        )
    truth = comparison.with_interventions
    against = "" if truth is None else ", and likewise with what interventions on phantoms show"
    sentences.append(
        "A method agrees if, over the regions of bone of a case, the rank correlation of its "
        "months per region with how far the prediction moves without the region is at least "
        f"{AGREES_FROM:g} in the mean over cases and its 95% interval lies above 0, under every "
        f"filling{against}."
    )
    return sentences


def _table(shown: pd.DataFrame, fill: str, table: pd.DataFrame) -> Table:
    areas = shown[shown["kind"] != "control"]
    rows = pd.concat(
        [
            bone_regions(areas).sort_values("absolute_delta_months", ascending=False),
            areas[(areas["kind"] == "composite") | areas["region"].isin(NOT_BONE)],
        ]
    )
    return Table(
        f"Without each region ({FILL_WORDS.get(fill, fill)}), mean over cases in months with 95% "
        "intervals: change of the prediction (above 0: older), its size, by how much the size "
        "exceeds that for the same shape moved elsewhere, and change of the mean absolute error; "
        "share of the image removed. The file has every case and filling.",
        ("Region", "Cases", "Change", "Size", "Beyond moved", "MAE", "Area"),
        tuple(
            (
                _name(row["region"]),
                f"{row['n']:,}",
                _cell(row, "delta"),
                _cell(row, "absolute_delta", signed=False),
                _cell(row, "beyond_control"),
                _cell(row, "error_change"),
                f"{100 * row['area_fraction']:.1f}%",
            )
            for row in rows.to_dict("records")
        ),
        table,
    )


def _agreement(comparison: Comparison, fill: str) -> Table:
    rows, truth = comparison.with_occlusion, comparison.with_interventions
    if rows is None or comparison.verdicts is None:
        raise ReportError("occlusion: expected a comparison, found none")
    fills = list(dict.fromkeys(rows["fill"]))
    verdict = comparison.verdicts.set_index("method")["verdict"].to_dict()
    against = {} if truth is None else {row["method"]: row for row in truth.to_dict("records")}
    by_key = {(row["method"], row["fill"]): row for row in rows.to_dict("records")}
    cells: list[tuple[str, ...]] = []
    for method in dict.fromkeys(rows["method"]):
        main = by_key[method, fill]
        cells.append(
            (
                "Size of the regions" if method == AREA_ALONE else method_name(method),
                *(_rank(by_key[method, one], "magnitude") for one in fills),
                "–" if method == AREA_ALONE else _rank(main, "signed"),
                _rank(main, "means"),
                *([_rank(against.get(method, {}), "magnitude")] if against else []),
                verdict.get(method, "–"),
            )
        )
    for one in fills if against else []:
        row = against.get(f"{OCCLUSION_BY}{one}", {})
        empty = ("",) * (len(fills) + 2)
        cells.append(
            (f"Occlusion, {FILL_WORDS.get(one, one)}", *empty, _rank(row, "magnitude"), "")
        )
    columns = (
        "Method",
        *(FILL_WORDS.get(one, one).capitalize() for one in fills),
        "Signed",
        "Of means",
        *(["Interventions"] if against else []),
        "Verdict",
    )
    last = ""
    if truth is not None and against:
        last = (
            " Interventions: the same with the true effects of regions, over the "
            f"{truth['n'].max():,} cases that have both."
        )
    return Table(
        "Rank correlation over regions of bone between months per region and what removal does "
        "(−1 to 1), mean over cases with 95% interval. By filling: magnitudes. Signed "
        f"({FILL_WORDS.get(fill, fill)}): signed months with minus the signed change. Of means: "
        f"the means of the cohort.{last}",
        columns,
        tuple(cells),
        rows if truth is None else pd.concat([rows, truth.assign(fill="interventions")]),
        words=(0, len(columns) - 1),
    )


def _groups(groups: pd.DataFrame) -> Table:
    bones = bone_regions(groups)
    keys = ["sex", "age_from_months", "age_to_months"]
    rows = []
    for (sex, low, high), group in bones.groupby(keys, sort=False):
        first = group.sort_values("absolute_delta_months", ascending=False).head(2)
        rows.append(
            (
                f"{SEX_PLURALS.get(str(sex), str(sex)).capitalize()}, {low:.0f} to {high:.0f} "
                "months",
                f"{group['n'].max():,}",
                *(
                    f"{_name(row['region'])} {months(row['absolute_delta_months'])}"
                    + (
                        ""
                        if pd.isna(row["absolute_delta_low"])
                        else f"\n{_interval(row, 'absolute_delta', signed=False)}"
                    )
                    for row in first.to_dict("records")
                ),
                *("–" for _ in range(2 - len(first))),
            )
        )
    return Table(
        "By sex and age: the two regions of bone whose removal moves the prediction farthest, mean "
        "months with 95% interval.",
        ("Group", "Cases", "First", "Second"),
        tuple(rows),
        groups,
        words=(0, 2, 3),
    )


def _name(region: Any) -> str:
    return str(region).replace("_", " ")


def _names(regions: Iterable[Any]) -> str:
    return ", ".join(_name(region) for region in regions)


def _methods(methods: Iterable[str]) -> str:
    return ", ".join(method_name(method).lower() for method in methods)


def _interval(row: Mapping[Any, Any], name: str, *, signed: bool) -> str:
    low, high = (months(row[f"{name}_{end}"], signed=signed) for end in ("low", "high"))
    return f"{low} to {high}"


def _estimate(row: Mapping[Any, Any], name: str, *, signed: bool = True) -> str:
    value = months(row[f"{name}_months"], signed=signed)
    if pd.isna(row[f"{name}_low"]):
        return value
    return f"{value} (95% interval {_interval(row, name, signed=signed)})"


def _cell(row: Mapping[Any, Any], name: str, *, signed: bool = True) -> str:
    value = row[f"{name}_months"]
    if pd.isna(value):
        return "–"
    text = months(value, signed=signed)
    return text if pd.isna(row[f"{name}_low"]) else f"{text}\n{_interval(row, name, signed=signed)}"


def _rank(row: Mapping[Any, Any], name: str) -> str:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    text = months(value, signed=True, digits=2)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low):
        return text
    ends = (months(end, signed=True, digits=2) for end in (low, high))
    return f"{text}\n{' to '.join(ends)}"

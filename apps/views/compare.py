"""Analyses of the same cases side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from apps.views import comparison_charts, reading, trust_charts
from apps.views.cards import cards
from apps.views.folders import open_each
from apps.views.links import linked_choice, plain
from apps.views.overlays import show_side_by_side
from apps.views.picked import follow_pick, offer_case, offer_cases, picked
from boneage_xai.analysis.comparison import (
    Comparison,
    common_cases,
    compare,
    differences_from_first,
)
from boneage_xai.analysis.metrics import bootstrap_mean
from boneage_xai.analysis.multiplicity import LEVEL
from boneage_xai.analysis.subgroups import age_bin_indices
from boneage_xai.errors import BoneAgeError
from boneage_xai.store import AnalysisFolder
from reports.comparison import comparison_sentences
from reports.wording import method_name, months, preferred_method

_HOW = """
Two or more analyses of the same cases can be set side by side: put them into one folder, and open
the dashboard on it.

```
boneage-xai evaluate RUN --data SOURCE --out analyses/one
boneage-xai evaluate OTHER --data SOURCE --out analyses/other
boneage-xai dashboard analyses
```
"""
_KINDS = {"overall": ("all", "sex"), "age": ("all", "age"), "both": ("sex×age",)}
_KIND_WORDS = {"overall": "all, girls and boys", "age": "by age", "both": "by sex and age"}
_CASES = {
    "case_id": st.column_config.TextColumn("case"),
    "sex": st.column_config.TextColumn("sex"),
    "reference_months": st.column_config.NumberColumn("reference, months", format="%.1f"),
    "a_months": st.column_config.NumberColumn("error of A, months", format="%+.1f"),
    "b_months": st.column_config.NumberColumn("error of B, months", format="%+.1f"),
    "closer_months": st.column_config.NumberColumn("A closer by, months", format="%+.1f"),
}


def show(folder: AnalysisFolder, analyses: Mapping[str, Path]) -> None:
    """Show where which of two analyses is closer, and whether they look at the same places.

    Args:
        folder: the analysis that is looked at.
        analyses: all that were found, by name.
    """
    st.header("Compare")
    folders, problems = open_each(analyses)
    for problem in problems:
        st.caption(f"Left out: {plain(problem)}.")
    own = next(name for name, path in analyses.items() if path == folder.path)
    fit = {name: one for name, one in folders.items() if _fits(one, folder)}
    if own not in fit or len(fit) < 2:
        st.info(
            "There is no second analysis here that has predictions for the same data as this one."
        )
        st.markdown(_HOW)
        return
    if left := [name for name in folders if name not in fit]:
        st.caption(
            "Not of the same data, or without predictions: "
            f"{', '.join(plain(name) for name in left)}."
        )
    first, second = st.columns(2)
    with first:
        names = [own, *(name for name in fit if name != own)]
        a = linked_choice(st.selectbox, "Analysis A", names, "a")
    with second:
        b = linked_choice(st.selectbox, "Analysis B", [n for n in names if n != a], "b")
    try:
        if len(fit) > 2:
            _overview([a, *(name for name in names if name != a)], fit)
        found = _compared(_key(fit[a]), _key(fit[b]))
    except BoneAgeError as error:
        st.error(plain(str(error)))
        return
    both = _both(found)
    _errors(fit[a], found, both, (a, b))
    _maps(found, (a, b), (fit[a], fit[b]))
    _regions(found, (a, b))


def _fits(one: AnalysisFolder, folder: AnalysisFolder) -> bool:
    fingerprint = folder.manifest["data"].get("fingerprint")
    return (
        fingerprint is not None
        and one.manifest["data"].get("fingerprint") == fingerprint
        and reading.has(one, "predictions.parquet")
    )


def _key(folder: AnalysisFolder) -> tuple[str, tuple[tuple[str, int], ...]]:
    return str(folder.path), reading.changes(folder)


def _overview(names: Sequence[str], fit: Mapping[str, AnalysisFolder]) -> None:
    table = _differences(tuple((name, *_key(fit[name])) for name in names))
    st.subheader(f"All analyses on their {int(table['n'].iloc[0]):,} common cases")
    st.dataframe(
        table[
            ["model", "mae_months", "bias_months", "mae_difference_months", "low", "high", "p_holm"]
        ],
        hide_index=True,
        column_config={
            "model": "analysis",
            "mae_months": st.column_config.NumberColumn("MAE, months", format="%.2f"),
            "bias_months": st.column_config.NumberColumn("bias, months", format="%+.2f"),
            "mae_difference_months": st.column_config.NumberColumn(
                "MAE minus that of A, months", format="%+.2f"
            ),
            "low": st.column_config.NumberColumn("95% from", format="%+.2f"),
            "high": st.column_config.NumberColumn("to", format="%+.2f"),
            "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.3g"),
        },
    )


def _both(found: Comparison) -> pd.DataFrame:
    """Return a row per common case with both errors."""
    first, second = (
        found.cases[found.cases["model"] == name].set_index("case_id") for name in found.names
    )
    both = first[["sex", "reference_months"]].assign(
        a_months=first["error_months"], b_months=second["error_months"]
    )
    closer = both["b_months"].abs() - both["a_months"].abs()
    return both.assign(closer_months=closer).reset_index()


def _errors(
    folder: AnalysisFolder, found: Comparison, both: pd.DataFrame, names: tuple[str, str]
) -> None:
    overall = found.groups[found.groups["by"] == "all"].iloc[0]
    difference = months(overall["mae_difference_months"], signed=True, digits=2)
    span = (
        "too few cases"
        if pd.isna(overall["low"])
        else f"95% interval {months(overall['low'], signed=True, digits=2)} to "
        f"{months(overall['high'], signed=True, digits=2)}"
    )
    closer = int((both["closer_months"] > 0).sum())
    cards(
        [
            (f"MAE of A: {names[0]}", months(overall["mae_a_months"], digits=2), "months"),
            (f"MAE of B: {names[1]}", months(overall["mae_b_months"], digits=2), "months"),
            ("A minus B, months", difference, span),
            ("Cases in which A is closer", f"{closer:,} of {len(both):,}", ""),
        ]
    )
    if lost := sum(found.left_out):
        st.caption(f"{lost:,} predictions of cases that only one of the two holds are left out.")
    for sentence in comparison_sentences(found):
        st.markdown(plain(sentence))
    st.subheader("Where each wins")
    kind = linked_choice(
        st.radio,
        "Groups",
        list(_KINDS),
        "groups",
        format_func=lambda name: _KIND_WORDS[name],
        horizontal=True,
    )
    groups = found.groups[found.groups["by"].isin(_KINDS[kind])]
    st.altair_chart(
        comparison_charts.paired_chart(groups, ("A", "B")),
        on_select=lambda: follow_pick("paired-chart", "group", "group"),
        key="paired-chart",
    )
    st.caption(
        f"Left of 0, A is closer to the reference on the same cases. Filled: p < {LEVEL:g} "
        "(Wilcoxon, after Holm's correction within groups of a kind) and a paired bootstrap 95% "
        "interval that leaves out 0. Click a point to see its cases."
    )
    _cases(folder, both, groups, names)


def _cases(
    folder: AnalysisFolder, both: pd.DataFrame, groups: pd.DataFrame, names: tuple[str, str]
) -> None:
    rows = {comparison_charts.comparison_key(row): row for row in groups.to_dict("records")}
    st.subheader("Case by case")
    name = linked_choice(
        st.selectbox,
        "Cases of",
        list(rows),
        "group",
        format_func=lambda key: comparison_charts.group_label(rows[key]),
    )
    row = rows[name]
    if row["sex"] in ("F", "M"):
        both = both[both["sex"] == row["sex"]]
    if not pd.isna(row["age_from_months"]):
        bins = age_bin_indices(both["reference_months"])
        both = both[bins == age_bin_indices([row["age_from_months"]])[0]]
    event = st.altair_chart(
        comparison_charts.errors_chart(both, ("A", "B")), on_select="rerun", key="errors-chart"
    )
    st.caption(
        f"Above the line A ({plain(names[0])}) is closer, below it B ({plain(names[1])}). Click a "
        "point to pick its case."
    )
    offer_case(folder, picked(event), "errors", analysis=names[0])
    ordered = both.sort_values("closer_months", key=abs, ascending=False)
    st.markdown("**Where the two differ most**")
    offer_cases(folder, ordered, "compared", _CASES, analysis=names[0])


def _maps(
    found: Comparison, names: tuple[str, str], folders: tuple[AnalysisFolder, AnalysisFolder]
) -> None:
    st.subheader("Do they look at the same places?")
    known = found.maps.dropna(subset=["rank_correlation"])
    if known.empty:
        st.caption(
            "Both need `boneage-xai attribute` with the same method, baseline and size of input, "
            "on some of the same cases."
        )
        return
    for method, group in known.groupby("method", sort=False):
        mean = bootstrap_mean(group["rank_correlation"])
        span = (
            ""
            if mean["low"] is None
            else f" (95% interval {months(mean['low'], signed=True, digits=2)} to "
            f"{months(mean['high'], signed=True, digits=2)})"
        )
        st.markdown(
            plain(
                f"{method_name(str(method))}: maps of {len(group):,} cases correlate at "
                f"{months(mean['value'], signed=True, digits=2)}{span}; by chance "
                f"{months(group['chance'].mean(), signed=True, digits=2)}."
            )
        )
    st.altair_chart(
        trust_charts.similarity_chart(found.maps, "rank correlation of both maps"),
        on_select=lambda: follow_pick("maps-chart", "case_id", "mapped"),
        key="maps-chart",
    )
    st.caption(
        "1: the same places in the same order, 0: nothing in common. Grey mark: mean; orange mark: "
        "mean of chance, the other network's map of another case. Click a point to see both maps."
    )
    methods = list(dict.fromkeys(known["method"]))
    first = preferred_method(methods)
    left, right = st.columns(2)
    with left:
        method = linked_choice(
            st.selectbox,
            "Method",
            [first, *(name for name in methods if name != first)],
            "method",
            format_func=method_name,
        )
    ours = known[known["method"] == method].sort_values("rank_correlation")
    values = dict(zip(ours["case_id"].astype(str), ours["rank_correlation"], strict=True))
    with right:
        case_id = linked_choice(
            st.selectbox,
            "Case (the least alike first)",
            list(values),
            "mapped",
            format_func=lambda one: (
                f"{one}: correlation {months(values[one], signed=True, digits=2)}"
            ),
        )
    show_side_by_side(
        [
            (f"{letter}: {name}", one)
            for letter, name, one in zip("AB", names, folders, strict=True)
        ],
        method,
        case_id,
    )
    offer_case(folders[0], case_id, "mapped", analysis=names[0])


def _regions(found: Comparison, names: tuple[str, str]) -> None:
    st.subheader("Where each finds its months")
    if found.regions.empty:
        st.caption("Both need `boneage-xai attribute` on a source with region maps.")
        return
    methods = list(dict.fromkeys(found.regions["method"]))
    method = preferred_method(methods)
    ours = found.regions[found.regions["method"] == method]
    st.altair_chart(comparison_charts.shares_chart(ours, (f"A: {names[0]}", f"B: {names[1]}")))
    st.caption(
        f"{method_name(method)} over {int(ours['n'].max()):,} cases that both explain: each "
        "region's share of the summed magnitudes."
    )


# What changed is an argument only so that files written anew are read anew.
_Key = tuple[str, tuple[tuple[str, int], ...]]


@st.cache_data(show_spinner="Comparing …", max_entries=8)
def _compared(a: _Key, b: _Key) -> Comparison:
    return compare([AnalysisFolder.open(Path(path)) for path, _ in (a, b)])


@st.cache_data(show_spinner="Comparing …", max_entries=8)
def _differences(
    analyses: tuple[tuple[str, str, tuple[tuple[str, int], ...]], ...],
) -> pd.DataFrame:
    folders = [AnalysisFolder.open(Path(path)) for _, path, _ in analyses]
    cases, _ = common_cases(folders, [name for name, _, _ in analyses])
    return differences_from_first(cases)

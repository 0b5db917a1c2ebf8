"""Can these maps be trusted? What the checks in an analysis say."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from apps.views import summaries, trust_charts
from apps.views.cards import ATTRIBUTE, as_attributed, cards, missing
from apps.views.links import linked_choice, plain
from apps.views.overlays import show_side_by_side
from apps.views.picked import follow_pick, offer_case, picked
from apps.views.sections import section_there, show_section
from boneage_xai.analysis.completeness import summarise_completeness
from boneage_xai.analysis.metrics import Estimate, bootstrap_mean
from boneage_xai.analysis.random_control import control_of
from boneage_xai.attribution.randomisation import TOO_SIMILAR
from boneage_xai.errors import ReportError
from boneage_xai.store import CONTROL_FOLDER, AnalysisFolder
from reports.wording import method_name, months, percent, preferred_method

OCCLUDE = "boneage-xai occlude RUN --data SOURCE --out DIR"
SHORTCUTS = "boneage-xai shortcuts RUN --data SOURCE --out DIR"
BENCHMARK = "boneage-xai benchmark-methods RUN --data PHANTOMS --out DIR"
INTERVENE = "boneage-xai intervene RUN --data PHANTOMS --out DIR"
_NOT_MEASURED = "not measured"
_TABLE = {
    "method": st.column_config.TextColumn("method"),
    "n": st.column_config.NumberColumn("cases", format="%d"),
    "within": st.column_config.NumberColumn("within tolerance", format="percent"),
    "median_gap_months": st.column_config.NumberColumn("median gap, months", format="%.3f"),
    "p95_gap_months": st.column_config.NumberColumn("95th percentile", format="%.3f"),
    "largest_gap_months": st.column_config.NumberColumn("largest", format="%.3f"),
    "median_map_error_fraction": st.column_config.NumberColumn("median error", format="%.4f"),
    "largest_map_error_fraction": st.column_config.NumberColumn("largest error", format="%.4f"),
    "median_nodes": st.column_config.NumberColumn("median gradients", format="%d"),
    "largest_nodes": st.column_config.NumberColumn("most", format="%d"),
    "n_not_converged": st.column_config.NumberColumn("not converged", format="%d"),
    "median_seconds": st.column_config.NumberColumn("seconds a case", format="%.2f"),
}


def show(folder: AnalysisFolder) -> None:
    """Show at a glance what each check says, then each check."""
    st.header("Can these maps be trusted?")
    table = summaries.completeness(folder)
    similarity, problem = _similarity(folder)
    cards(
        [
            _adds_up(table),
            _learnt(similarity),
            _removal(folder),
            _hand(folder),
        ]
    )
    st.caption(
        "None of these checks proves a map right; each can prove one wrong. A map tells what this "
        "network used, not what it should have used."
    )
    _completeness(folder, table)
    _control(folder, table, similarity, problem)
    for title, name, what, command in (
        (
            "Do maps agree with what removing a region does?",
            "occlusion",
            "The removal of one region after the other",
            OCCLUDE,
        ),
        ("Is it the hand? Shortcuts", "shortcuts", "The audit for shortcuts", SHORTCUTS),
        (
            "Against the truth of phantoms: the scoreboard of methods",
            "scoreboard",
            "The scoreboard of methods (on phantoms)",
            BENCHMARK,
        ),
        (
            "What each region causes: interventions on phantoms",
            "interventions",
            "Interventions (on phantoms)",
            INTERVENE,
        ),
    ):
        st.divider()
        st.subheader(title)
        if section_there(folder, name):
            show_section(folder, name)
        else:
            missing(folder, what, command)


def _similarity(folder: AnalysisFolder) -> tuple[pd.DataFrame | None, str | None]:
    """Return how alike maps are to the control's, or why the control was not used."""
    try:
        return summaries.similarity_to_control(folder), None
    except ReportError as error:
        return None, str(error)


def _adds_up(table: pd.DataFrame | None) -> tuple[str, str, str]:
    question = "Do they add up to the prediction?"
    if table is None:
        return question, _NOT_MEASURED, "needs an attribution"
    method = preferred_method(list(dict.fromkeys(table["method"])))
    row = summarise_completeness(table[table["method"] == method]).iloc[0]
    if not row["n_with_gap"]:
        return question, "not promised", method_name(method)
    return (
        question,
        f"{percent(row['within'])} within tolerance",
        f"{method_name(method)}, {row['n_with_gap']:.0f} cases; median gap "
        f"{months(row['median_gap_months'], digits=2)} months",
    )


def _learnt(similarity: pd.DataFrame | None) -> tuple[str, str, str]:
    question = "Do they show what was learnt?"
    if similarity is None:
        return question, _NOT_MEASURED, "needs a control with random weights"
    method = preferred_method(list(dict.fromkeys(similarity["method"])))
    values = similarity.loc[similarity["method"] == method, "rank_correlation"].dropna()
    if values.empty:
        return question, "cannot be told", "maps without any variation"
    mean = bootstrap_mean(values)
    return (
        question,
        {True: "yes", False: "hardly", None: "unclear"}[_depend_on_learning(mean)],
        f"{method_name(method)}: rank correlation of size {_correlation(mean)} with a network of "
        f"random weights; {TOO_SIMILAR:g} or more is bad",
    )


def _depend_on_learning(correlation: Estimate) -> bool | None:
    """Return whether maps depend on what was learnt, None where the interval leaves it open."""
    low, high = correlation["low"], correlation["high"]
    if low is None or high is None or low < TOO_SIMILAR <= high:
        return None
    return high < TOO_SIMILAR


def _correlation(mean: Estimate) -> str:
    value, low, high = (
        None if limit is None else months(limit, digits=2)
        for limit in (mean["value"], mean["low"], mean["high"])
    )
    return f"{value}" if low is None else f"{value} (95% interval {low} to {high})"


def _removal(folder: AnalysisFolder) -> tuple[str, str, str]:
    question = "Do they agree with removal?"
    verdicts = summaries.removal_verdicts(folder)
    if verdicts is None or verdicts.empty:
        return question, _NOT_MEASURED, "needs occlusion and region maps"
    by_method = dict(zip(verdicts["method"], verdicts["verdict"], strict=True))
    method = preferred_method(list(by_method))
    return question, str(by_method[method]), method_name(method)


def _hand(folder: AnalysisFolder) -> tuple[str, str, str]:
    question = "Is it the hand?"
    found = folder.shortcuts()
    if found is None:
        return question, _NOT_MEASURED, "needs the audit for shortcuts"
    alarms = len(found["alarms"])
    if not alarms:
        return question, "no alarm", "which is no proof that there is no shortcut"
    return question, "1 alarm" if alarms == 1 else f"{alarms} alarms", "see the audit below"


def _completeness(folder: AnalysisFolder, table: pd.DataFrame | None) -> None:
    st.divider()
    st.subheader("Do maps add up to the prediction?")
    if table is None:
        missing(folder, "An attribution", ATTRIBUTE)
        return
    summary = summarise_completeness(table)
    for row in summary.to_dict("records"):
        st.markdown(plain(_completeness_sentence(row)))
    measures = {
        name: title
        for name, title in trust_charts.MEASURES.items()
        if name in table and table[name].notna().any()
    }
    if measures:
        measure = linked_choice(
            st.radio,
            "What is shown",
            list(measures),
            "measure",
            format_func=lambda name: measures[name],
            horizontal=True,
        )
        chart = trust_charts.completeness_chart(table, measure)
        if chart is not None:
            event = st.altair_chart(chart, on_select="rerun", key="completeness-chart")
            st.caption(
                "A point per map; the grey mark is the median. A map that is complete sums to the "
                "difference between the answer for the radiograph and that for the baseline. A gap "
                "within tolerance says little on single pixels: for those look at the error of "
                "integration. Click a point to pick its case."
            )
            offer_case(folder, picked(event), "completeness")
    with st.expander("The numbers"):
        st.dataframe(
            summary.assign(method=[method_name(name) for name in summary["method"]])[list(_TABLE)],
            hide_index=True,
            column_config=_TABLE,
        )


def _completeness_sentence(row: dict[Any, Any]) -> str:
    name = method_name(str(row["method"]))
    if not row["n_with_gap"]:
        return (
            f"{name} promises no completeness: its values do not add up to months of the "
            f"prediction ({row['n']:.0f} cases)."
        )
    text = (
        f"{name}: {percent(row['within'])} of {row['n_with_gap']:.0f} maps within tolerance (95% "
        f"interval {percent(row['within_low'])} to {percent(row['within_high'])}); gap "
        f"{months(row['median_gap_months'], digits=2)} months in the median case and "
        f"{months(row['largest_gap_months'], digits=2)} at most"
    )
    if not pd.isna(row["median_map_error_fraction"]):
        text += (
            f"; error of integration {100 * row['median_map_error_fraction']:.1f}% of the map's "
            f"magnitude in the median case, {100 * row['largest_map_error_fraction']:.1f}% at most"
        )
    if not pd.isna(row["median_nodes"]):
        text += f"; {row['median_nodes']:.0f} gradients in the median case"
    return text + "."


def _control(
    folder: AnalysisFolder,
    table: pd.DataFrame | None,
    similarity: pd.DataFrame | None,
    problem: str | None,
) -> None:
    st.divider()
    st.subheader("Do maps show what was learnt? Random weights as a control")
    if problem is not None:
        st.warning(plain(f"The control was not used: {problem}."))
        return
    if similarity is None:
        missing(
            folder,
            "A control with random weights, on the same cases",
            f"{ATTRIBUTE}/{CONTROL_FOLDER} --random-weights{as_attributed(folder)}",
        )
        return
    known = similarity.dropna(subset=["rank_correlation"])
    for method, group in known.groupby("method", sort=False):
        st.markdown(plain(_control_sentence(str(method), group)))
    st.altair_chart(
        trust_charts.similarity_chart(
            similarity,
            "size of the rank correlation with the control",
            too_similar=TOO_SIMILAR,
        ),
        on_select=lambda: follow_pick("control-chart", "case_id", "control"),
        key="control-chart",
    )
    st.caption(
        "A point per map, correlated over squares of the image with the map of a copy whose "
        "weights are random. Its sign does not count: those weights decide it. Grey mark: mean; "
        "orange mark: mean of chance, the control's map of "
        f"another case; dashed: {TOO_SIMILAR:g}, from which maps hardly depend on what was "
        "learnt. Click a point to see both maps."
    )
    _both_maps(folder, known)


def _control_sentence(method: str, group: pd.DataFrame) -> str:
    mean = bootstrap_mean(group["rank_correlation"])
    verdict = {
        True: "they depend on what was learnt",
        False: "they hardly depend on what was learnt",
        None: "whether they depend on what was learnt is open",
    }[_depend_on_learning(mean)]
    chance = group["chance"].mean()
    beside = "" if pd.isna(chance) else f"; by chance {months(chance, digits=2)}"
    return (
        f"{method_name(method)}: maps of {len(group):,} cases correlate, whatever the sign, at "
        f"{_correlation(mean)} with those of random weights{beside}: {verdict}."
    )


def _both_maps(folder: AnalysisFolder, known: pd.DataFrame) -> None:
    control = control_of(folder)
    if control is None or known.empty:
        return
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
    ours = known[known["method"] == method].sort_values("rank_correlation", ascending=False)
    values = dict(zip(ours["case_id"].astype(str), ours["rank_correlation"], strict=True))
    with right:
        case_id = linked_choice(
            st.selectbox,
            "Case (the most similar first)",
            list(values),
            "control",
            format_func=lambda one: f"{one}: correlation {months(values[one], digits=2)}",
        )
    show_side_by_side(
        [("This network", folder), ("The same network with random weights", control)],
        method,
        case_id,
    )
    offer_case(folder, case_id, "control")

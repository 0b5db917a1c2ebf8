"""Which regions of the hand drive the prediction, by stage and sex."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from apps.views import reading
from apps.views.cards import ATTRIBUTE, EVALUATE, as_attributed, missing
from apps.views.links import linked_choice, plain
from boneage_xai.analysis.region_profile import ALL
from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.figures.schematic_hand import MEASURES, labelled_hand, schematic_hands
from boneage_xai.figures.style import figure_bytes
from boneage_xai.store import AnalysisFolder
from reports.profile_wording import (
    Profiled,
    control_sentence,
    how_it_reads,
    profiled,
    region_words,
    stage_sentences,
)
from reports.wording import SEX_PLURALS, method_name, preferred_method

_MEASURE_NAMES = {
    "enrichment": "enrichment: share over share of area",
    "share": "share of the magnitude",
    "signed": "signed months",
}
_SEX_NAMES = {ALL: "girls and boys", **SEX_PLURALS}
_GRID_DPI = 130
_COLUMNS = {
    "region": st.column_config.TextColumn("region"),
    "share_of_hand": st.column_config.NumberColumn("share", format="percent"),
    "enrichment": st.column_config.NumberColumn("× area", format="%.2f"),
    "enrichment_low": st.column_config.NumberColumn("from", format="%.2f"),
    "enrichment_high": st.column_config.NumberColumn("to", format="%.2f"),
    "signed_months": st.column_config.NumberColumn("signed, months", format="%.1f"),
    "control_share_of_hand": st.column_config.NumberColumn("random weights", format="percent"),
    "against_control": st.column_config.TextColumn("against random"),
}


def show(folder: AnalysisFolder) -> None:
    """Show schematic hands by stage and sex, one of them large, and its table."""
    st.header("Regions by age and sex")
    regions = reading.regions(folder)
    if regions is None or regions.empty:
        command = f"{ATTRIBUTE} --regions REGIONS"
        if folder.maps() is not None:
            # Maps are not summed up afterwards: they are computed again, as they were.
            command += f" --replace{as_attributed(folder)}"
        missing(folder, "Months per region", command)
        return
    methods = list(dict.fromkeys(regions["method"]))
    first = preferred_method(methods)
    methods = [first, *(name for name in methods if name != first)]
    asked, shown = st.columns(2)
    with asked:
        method = linked_choice(st.selectbox, "Method", methods, "method", format_func=method_name)
    with shown:
        measure = linked_choice(
            st.selectbox,
            "What colours show",
            list(MEASURES),
            "measure",
            format_func=lambda name: _MEASURE_NAMES[name],
        )
    found = _profiled(str(folder.path), method, reading.profile_changes(folder))
    if found is None:
        missing(folder, "The sex and bone age of attributed cases with a hand", EVALUATE)
        return
    table = found.profile.table
    st.image(_grid_png(table, measure))
    st.caption(
        "Hands at a typical age of each stage, all drawn to one size and on one scale. n: cases; "
        "outside: share of the magnitude beyond the hand. Pale and dashed: few cases."
    )
    st.subheader("One stage")
    chosen, said = st.columns([3, 2], gap="large")
    with said:
        stages = [ALL, *(stage for stage in STAGES if (table["stage"] == stage).any())]
        stage = linked_choice(
            st.selectbox,
            "Stage",
            stages,
            "stage",
            format_func=lambda name: "all stages" if name == ALL else STAGES[name].name,
        )
        sexes = [sex for sex in (ALL, "F", "M") if not found.profile.cell(stage, sex).empty]
        sex = linked_choice(
            st.radio,
            "Sex",
            sexes,
            "sex",
            format_func=lambda name: _SEX_NAMES[name],
            horizontal=True,
        )
    with chosen:
        st.image(_hand_png(found.profile.cell(stage, sex), measure))
    st.dataframe(_cell_table(found, stage, sex), hide_index=True, column_config=_COLUMNS)
    st.subheader("In words")
    for sentence in stage_sentences(found):
        st.markdown(plain(sentence))
    with st.expander("How it reads, and the control", expanded=True):
        st.markdown(plain(how_it_reads(found.profile)))
        if found.problem is not None:
            st.warning(plain(f"The control was not used: {found.problem}."))
        st.markdown(plain(control_sentence(found, folder)))


def _cell_table(found: Profiled, stage: str, sex: str) -> pd.DataFrame:
    cell = found.profile.cell(stage, sex)
    cell = cell[~cell["region"].isin(OUTSIDE_HAND)]
    if found.difference is not None:
        keys = ["stage", "sex", "region"]
        added = found.difference[[*keys, "control_share_of_hand", "against_control"]]
        cell = cell.merge(added, on=keys, how="left")
    cell = cell.sort_values("enrichment", ascending=False)
    shares = [name for name in ("share_of_hand", "control_share_of_hand") if name in cell]
    cell = cell.assign(
        region=[region_words(str(name)) for name in cell["region"]],
        # Shown in whole percent.
        **{name: cell[name].round(2) for name in shares},
    )
    return cell[[name for name in _COLUMNS if name in cell]]


# What changed is an argument only so that files written anew are read anew.


@st.cache_data(show_spinner="Profiling …", max_entries=8)
def _profiled(path: str, method: str, changed: tuple[int, ...]) -> Profiled | None:
    return profiled(AnalysisFolder.open(Path(path)), method)


@st.cache_data(show_spinner=False, max_entries=16)
def _grid_png(table: pd.DataFrame, measure: str) -> bytes:
    return figure_bytes(schematic_hands(table, measure), dpi=_GRID_DPI)


@st.cache_data(show_spinner=False, max_entries=32)
def _hand_png(cell: pd.DataFrame, measure: str) -> bytes:
    return figure_bytes(labelled_hand(cell, measure), dpi=_GRID_DPI)

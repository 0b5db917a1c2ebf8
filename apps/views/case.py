"""One case: what the network answers, where the answer comes from, and what moves it."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from itertools import islice
from typing import Any

import pandas as pd
import streamlit as st

from apps.views import explaining, live, pictures, reading, region_charts, results, summaries
from apps.views.cards import ATTRIBUTE, cards, missing
from apps.views.links import choice_key, linked_answer, linked_choice, linked_number, plain
from boneage_xai.analysis.single_reading import regions_seen
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import RegionMap, Sex
from reports.wording import (
    SEX_WORDS,
    baseline_words,
    method_name,
    months,
    preferred_method,
)

# Longer lists take the browser most of a second to draw.
_MOST_LISTED = 250
_FIND = "find-case"


def show(folder: AnalysisFolder) -> None:
    """Show a radiograph with its signed map, its numbers and regions, and what can be asked."""
    st.header("Case")
    cases, found = reading.cases(folder), reading.attributions(folder)
    if cases is None or found is None or cases.empty:
        missing(folder, "An attribution", ATTRIBUTE)
        return
    case, method, opacity = _asked(folder, cases, found)
    row, case_id = int(case["row"]), str(case["case_id"])
    image = reading.case_array(folder, "inputs", row)
    map_months = reading.case_array(folder, method, row)
    limit = summaries.limit_months(folder, method)
    picture, facts = st.columns([11, 10], gap="large")
    with picture:
        pictures.overlay(
            image, map_months, limit, opacity, "one scale for all cases of this analysis"
        )
    with facts:
        _facts(folder, case)
        _completeness(found, case_id, method)
        _regions(folder, case_id, method)
    subject = _subject(folder, case, image)
    reason = "the sex of the case is not known" if subject is None else live.why_not(folder)
    if reason is not None:
        subject = None
    neighbours = reading.neighbours(folder, case_id)
    if neighbours is not None or subject is not None:
        st.subheader("Nearest training radiographs")
    if neighbours is not None:
        explaining.stored_neighbours(folder, neighbours)
    elif subject is not None:
        explaining.nearest(folder, subject)
    if subject is not None:
        explaining.erasing(folder, subject)
    _activations(folder, row, image, subject)
    if reason is not None:
        st.caption(f"Nothing can be computed here with the network itself: {plain(reason)}.")


def _subject(
    folder: AnalysisFolder, case: Mapping[Hashable, Any], image: pictures.Grey
) -> explaining.Subject | None:
    """Return what can be asked about, None where the sex of the case is not known."""
    case_id, sex = str(case["case_id"]), str(case["sex"])
    if sex not in SEX_WORDS:
        return None

    def regions_of() -> RegionMap:
        stored = reading.case_regions(folder, case_id, int(case["row"]))
        return regions_seen(image) if stored is None else stored

    model_id = folder.manifest["run"].get("model_id")
    key = results.key_of("case", str(folder.path), model_id, reading.maps_changed(folder), case_id)
    return explaining.Subject(key, image, Sex(sex), regions_of, case_id)


def _asked(
    folder: AnalysisFolder, cases: pd.DataFrame, found: pd.DataFrame
) -> tuple[Mapping[Hashable, Any], str, float]:
    """Ask for case, method and opacity."""
    labels = reading.case_labels(folder)
    methods = [str(name) for name in found["method"].unique()]
    first = preferred_method(methods)
    methods = [first, *(name for name in methods if name != first)]
    matching = _matching(labels) if len(labels) > _MOST_LISTED else []
    choose, how, strength = st.columns([5, 4, 4], vertical_alignment="bottom")
    with choose:
        case_id = linked_choice(
            st.selectbox,
            f"Case ({len(labels):,} attributed)",
            labels,
            "case",
            listed=matching or _around(list(labels), linked_answer(labels, "case")),
            format_func=labels.__getitem__,
        )
    with how:
        method = linked_choice(
            st.selectbox, "Attribution method", methods, "method", format_func=method_name
        )
    with strength:
        opacity = linked_number(
            st.slider,
            "Opacity of the map",
            "opacity",
            low=0,
            high=100,
            default=90,
            step=5,
            format="%d%%",
        )
    back, forward, find = st.columns([2, 2, 9])
    if len(labels) > _MOST_LISTED:
        with find:
            _ask_what_to_find(matching)
    ids = matching or list(labels)
    position = ids.index(case_id)
    _step(back, "← Previous", ids, position - 1, "P")
    _step(forward, "Next →", ids, position + 1, "N")
    return cases.iloc[list(labels).index(case_id)].to_dict(), method, opacity / 100


def _matching(labels: Mapping[str, str]) -> list[str]:
    """Return the first cases whose lines have words that begin as all those that are looked for."""
    wanted = str(st.session_state.get(_FIND, "")).casefold().split()

    def holds(line: str) -> bool:
        words = line.casefold().split()
        return all(any(word.startswith(one) for word in words) for one in wanted)

    found = (case_id for case_id, line in labels.items() if wanted and holds(line))
    return list(islice(found, _MOST_LISTED))


def _around(ids: list[str], case_id: str) -> list[str]:
    """Return what one list can hold of all cases, this one among them."""
    first = ids.index(case_id) // _MOST_LISTED * _MOST_LISTED
    return ids[first : first + _MOST_LISTED]


def _ask_what_to_find(matching: list[str]) -> None:
    wanted = st.text_input(
        "Find cases",
        key=_FIND,
        placeholder="Find cases, such as: girl 96 months",
        label_visibility="collapsed",
    )
    if wanted.strip():
        most = "the first " * (len(matching) == _MOST_LISTED)
        st.caption(f"{most}{len(matching):,} found" if matching else "None found; all are listed.")


def _step(column: Any, label: str, ids: list[str], position: int, keys: str) -> None:
    def move() -> None:
        st.session_state[choice_key("case")] = ids[position]

    # Earlier versions of streamlit know no shortcuts.
    known = "shortcut" in inspect.signature(st.button).parameters
    column.button(
        label,
        on_click=move,
        disabled=not 0 <= position < len(ids),
        width="stretch",
        **({"shortcut": keys} if known else {}),
    )


def _facts(folder: AnalysisFolder, case: Mapping[Hashable, Any]) -> None:
    sex = SEX_WORDS.get(str(case["sex"]), "not evaluated")
    st.markdown(f"**Case {plain(str(case['case_id']))}** · {sex}")
    numbers = {
        "Predicted": (case["predicted_months"], False),
        "Reference": (case["reference_months"], False),
        "Error": (case["error_months"], True),
    }
    shown = []
    for label, (value, signed) in numbers.items():
        known = None if pd.isna(value) else float(value)
        years = "no reference" if known is None else f"{months(known / 12, signed=signed)} years"
        shown.append((label, months(known, signed=signed), years))
    cards(shown)
    st.caption("Months; below in years.")
    interval = reading.interval(folder, str(case["case_id"]))
    if interval is not None:
        low, high, coverage = interval
        st.caption(
            f"{100 * coverage:g}% interval {months(low)} to {months(high)} months, calibrated on "
            "the other half of the cases."
        )


def _completeness(found: pd.DataFrame, case_id: str, method: str) -> None:
    rows = found[(found["case_id"] == case_id) & (found["method"] == method)]
    if rows.empty:
        return
    one = rows.iloc[0]
    if pd.isna(one["completeness_gap_months"]):
        st.caption(
            f"{method_name(method)} promises no completeness: its values do not add up to months "
            "of the prediction."
        )
        return
    divided = float(one["prediction_months"] - one["baseline_prediction_months"])
    at_baseline = months(one["baseline_prediction_months"])
    st.caption(
        f"The map divides the {months(divided, signed=True)} months between the answer for "
        f"{baseline_words(str(one['baseline']))} ({at_baseline}) and for this one "
        f"({months(one['prediction_months'])}). Completeness gap: "
        f"{months(one['completeness_gap_months'], signed=True, digits=2)} months."
        + ("" if _is_converged(one) else " This map is less exact than was asked for.")
    )
    effect = one.get("sex_effect_months")
    if effect is not None and not pd.isna(effect):
        st.caption(
            "Told the other sex, the network's answer to the same image would change by "
            f"{months(effect, signed=True)} months; the map holds sex fixed."
        )


def _is_converged(row: pd.Series[Any]) -> bool:
    """Return what the table says; folders of earlier versions do not say."""
    converged = row.get("converged")
    return converged is None or pd.isna(converged) or bool(converged)


def _regions(folder: AnalysisFolder, case_id: str, method: str) -> None:
    table = reading.regions(folder)
    if table is None:
        return
    ours = table[(table["case_id"] == case_id) & (table["method"] == method)]
    if ours.empty:
        return
    st.markdown("**What each region of the hand adds**")
    region_charts.show_regions(region_charts.region_table(ours))


def _activations(
    folder: AnalysisFolder,
    row: int,
    image: pictures.Grey,
    subject: explaining.Subject | None,
) -> None:
    names = reading.layers(folder)
    if not names and subject is None:
        return
    st.subheader("Activation maps by layer")
    if names:
        maps = {name: reading.case_array(folder, f"activations/{name}", row) for name in names}
        pictures.activations(image, maps)
    elif subject is not None:
        explaining.activations(folder, subject)

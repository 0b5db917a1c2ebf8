"""One case: what the network answers, and where the answer comes from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from apps.views import charts, reading
from apps.views.cards import ATTRIBUTE, cards, missing
from apps.views.links import choice_key, linked_choice, plain
from boneage_xai.figures.attribution import SMOOTHING_PX, activation_grid
from boneage_xai.figures.overlay import overlay_pixels
from boneage_xai.figures.style import figure_bytes
from boneage_xai.store import AnalysisFolder
from reports.wording import (
    SEX_WORDS,
    baseline_words,
    layer_name,
    method_name,
    months,
    preferred_method,
)

_WIDTH_PX = 640
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def show(folder: AnalysisFolder) -> None:
    """Show a radiograph with its signed map, its numbers, regions and activations."""
    st.header("Case")
    cases, found = reading.cases(folder), reading.attributions(folder)
    if cases is None or found is None or cases.empty:
        missing(folder, "An attribution", ATTRIBUTE)
        return
    case, method, opacity = _asked(cases, found)
    row = int(case["row"])
    image = reading.case_array(folder, "inputs", row)
    map_months = reading.case_array(folder, method, row)
    limit = reading.limit_months(folder, method)
    picture, facts = st.columns([11, 10], gap="large")
    with picture:
        st.image(
            overlay_pixels(image, map_months, limit, opacity=opacity, size_px=_WIDTH_PX),
            width=_WIDTH_PX,
            output_format="PNG",
        )
        _colour_bar(limit, opacity)
    with facts:
        _facts(case)
        _completeness(found, str(case["case_id"]), method)
        _regions(folder, str(case["case_id"]), method)
    _activations(folder, row)


def _asked(cases: pd.DataFrame, found: pd.DataFrame) -> tuple[Mapping[Hashable, Any], str, float]:
    """Ask for case, method and opacity."""
    by_id = {str(one["case_id"]): one for one in cases.to_dict("records")}
    ids = [str(case_id) for case_id in cases["case_id"]]
    methods = list(dict.fromkeys(found["method"]))
    first = preferred_method(methods)
    methods = [first, *(name for name in methods if name != first)]

    def label(case_id: str) -> str:
        one = by_id[case_id]
        parts = [case_id, SEX_WORDS.get(str(one["sex"]), "")]
        if not pd.isna(one["reference_months"]):
            parts.append(f"{one['reference_months']:.0f} months")
            parts.append(f"error {months(one['error_months'], signed=True)}")
        return " · ".join(part for part in parts if part)

    choose, how, strength = st.columns([5, 4, 4], vertical_alignment="bottom")
    with choose:
        case_id = linked_choice(
            st.selectbox, f"Case ({len(ids):,} attributed)", ids, "case", format_func=label
        )
    with how:
        method = linked_choice(
            st.selectbox, "Attribution method", methods, "method", format_func=method_name
        )
    with strength:
        opacity = st.slider("Opacity of the map", 0, 100, 90, step=5, format="%d%%") / 100
    position = ids.index(case_id)
    back, forward, _ = st.columns([2, 2, 9])
    _step(back, "← Previous", ids, position - 1)
    _step(forward, "Next →", ids, position + 1)
    return by_id[case_id], method, opacity


def _step(column: Any, label: str, ids: list[str], position: int) -> None:
    def move() -> None:
        st.session_state[choice_key("case")] = ids[position]

    column.button(label, on_click=move, disabled=not 0 <= position < len(ids), width="stretch")


def _facts(case: Mapping[Hashable, Any]) -> None:
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
    st.altair_chart(charts.region_chart(ours, "younger  ←  months  →  older"))


def _colour_bar(limit: float, opacity: float) -> None:
    """Draw the scale on the grey of soft tissue: opacity is part of it."""
    grey = np.full((14, _WIDTH_PX), 48, dtype=np.uint8)
    ramp = np.tile(np.linspace(-limit, limit, _WIDTH_PX, dtype=np.float32), (14, 1))
    bar = overlay_pixels(grey, ramp, limit, opacity=opacity, smoothing_px=0, size_px=_WIDTH_PX)
    st.image(bar, width=_WIDTH_PX, output_format="PNG")
    exponent = 0 if limit >= 0.1 else 3 * math.floor(math.log10(limit) / 3)
    power = "" if exponent == 0 else f" × 10{str(exponent).translate(_SUPERSCRIPTS)}"
    end = f"{limit / 10**exponent:.3g}"
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        for words in (f"← younger (−{end})", "0", f"(+{end}) older →"):
            st.caption(words, width="content")
    st.caption(
        f"Months per pixel{power}, smoothed over {SMOOTHING_PX:g} px; one scale for all cases of "
        "this analysis."
    )


def _activations(folder: AnalysisFolder, row: int) -> None:
    names = reading.layers(folder)
    if not names:
        return
    st.subheader("Activation maps by layer")
    st.image(_activations_png(folder, row, tuple(names)))
    st.caption(
        "Mean over the channels of a layer, shallow to deep. Bright: the layer responds there. "
        "Each layer has a scale of its own, for this case. "
        "Activations have no unit of months and say nothing on older or younger."
    )


def _activations_png(folder: AnalysisFolder, row: int, names: tuple[str, ...]) -> bytes:
    figure = activation_grid(
        reading.case_array(folder, "inputs", row)[None],
        {
            layer_name(name): reading.case_array(folder, f"activations/{name}", row)[None]
            for name in names
        },
        [""],
    )
    # Room for the names of the layers above a single row.
    figure.set_figheight(figure.get_figheight() + 0.3)
    return figure_bytes(figure, dpi=130)

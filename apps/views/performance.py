"""How well the network reads bone age."""

from __future__ import annotations

from typing import Any

import streamlit as st

from apps.views import charts, reading
from apps.views.cards import EVALUATE, cards, missing
from apps.views.links import go_to, linked_choice, plain
from boneage_xai.figures.performance import mae_against_baselines
from boneage_xai.figures.style import figure_bytes
from boneage_xai.store import AnalysisFolder
from reports.wording import (
    SEX_WORDS,
    estimate_text,
    months,
    optimism,
    performance_sentences,
    run_name,
)

_CARDS = {
    "mae_months": "Mean absolute error, months",
    "rmse_months": "RMSE, months",
    "bias_months": "Bias, months",
    "within_6_months": "Within 6 months",
    "within_12_months": "Within 12 months",
    "within_24_months": "Within 24 months",
}
_BY_AGE = {
    "mae_months": "mean absolute error (months)",
    "bias_months": "bias: predicted minus reference (months)",
    "within_12_months": "share within 12 months",
}


def show(folder: AnalysisFolder) -> None:
    """Show errors with intervals, predicted against reference, agreement, and subgroups."""
    st.header("Performance")
    if not reading.has(folder, "metrics.json", "predictions.parquet"):
        missing(folder, "The table of errors", EVALUATE)
        return
    metrics, predictions = reading.metrics(folder), reading.predictions(folder)
    if warning := optimism(folder):
        st.warning(warning)
    for row in (list(_CARDS)[:3], list(_CARDS)[3:]):
        estimates = [(name, *estimate_text(name, metrics["overall"][name])) for name in row]
        cards(
            [
                (_CARDS[name], value, f"95% interval {interval}" if interval else "too few cases")
                for name, value, interval in estimates
            ]
        )

    st.subheader("Predicted against reference")
    drawn, said = st.columns([5, 3], gap="large")
    with drawn:
        event = st.altair_chart(
            charts.predicted_chart(predictions), on_select="rerun", key="predicted-chart"
        )
        st.caption("Grey band: within 12 months. Click a point to pick its case.")
    with said:
        for sentence in performance_sentences(metrics, run_name(folder)):
            st.markdown(plain(sentence))
    _offer_case(folder, event)

    st.subheader("Agreement (Bland–Altman)")
    st.caption(
        "Dashed: bias and limits of agreement (±1.96 SD). A falling line means that the network "
        "reads towards the middle age."
    )
    event = st.altair_chart(
        charts.bland_altman_chart(predictions, metrics["agreement"]),
        on_select="rerun",
        key="agreement-chart",
    )
    _offer_case(folder, event)

    st.subheader("By sex and age")
    metric = linked_choice(
        st.radio,
        "What is shown",
        list(_BY_AGE),
        "metric",
        format_func=lambda name: str(_BY_AGE[name]),
        horizontal=True,
    )
    chart = charts.subgroup_chart(metrics["subgroups"], metric, _BY_AGE[metric])
    if chart is not None:
        st.altair_chart(chart)
        st.caption(
            "With 95% bootstrap intervals. Hollow: fewer than 20 cases, whose intervals are too "
            "narrow."
        )

    st.subheader("Beside baselines and quoted values")
    st.image(_baselines_png(metrics, run_name(folder)))


@st.cache_data(show_spinner=False, max_entries=8)
def _baselines_png(metrics: dict[str, Any], name: str) -> bytes:
    return figure_bytes(mae_against_baselines(metrics, name))


def _offer_case(folder: AnalysisFolder, event: Any) -> None:
    """Lead from a picked point to the page of its case."""
    picked = event["selection"].get(charts.PICKED) or []
    if not picked or "case_id" not in picked[0]:
        return
    case_id = str(picked[0]["case_id"])
    predictions = reading.predictions(folder)
    found = predictions[predictions["case_id"] == case_id]
    if found.empty:
        return
    row = found.iloc[0]
    with st.container(border=True):
        st.markdown(
            f"**Case {plain(case_id)}** · {SEX_WORDS.get(row['sex'], '')} · reference "
            f"{months(row['reference_months'])}, predicted {months(row['predicted_months'])}, "
            f"error {months(row['error_months'], signed=True)} months"
        )
        cases = reading.cases(folder)
        if cases is None or not (cases["case_id"] == case_id).any():
            st.caption("This case was not attributed: there is no map to look at.")
        elif st.button("Look at this case", key=f"open-{case_id}", type="primary"):
            go_to(page="case", case=case_id)

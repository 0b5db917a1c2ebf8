"""How well the network reads bone age."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from apps.views import certainty_charts, charts, reading
from apps.views.cards import EVALUATE, cards, missing
from apps.views.drawn import show_kept_chart
from apps.views.links import linked_choice, plain
from apps.views.picked import CASE_COLUMNS, follow_pick, offer_case, offer_cases, ordered, picked
from apps.views.sections import WIDTH_PX, figure_png, section_there, show_section
from boneage_xai.analysis.subgroups import age_bin_indices
from boneage_xai.store import AnalysisFolder
from reports.blocks import Table
from reports.wording import estimate_text, group_name, months, optimism, percent, run_name
from reports.wording import performance_sentences as sentences_on_errors

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
_ALL = "all"


def show(folder: AnalysisFolder) -> None:
    """Show errors with intervals, and one of several ways to look at them."""
    st.header("Performance")
    if not reading.has(folder, "metrics.json", "predictions.parquet"):
        missing(folder, "The table of errors", EVALUATE)
        return
    metrics = reading.metrics(folder)
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
    view = linked_choice(
        st.radio,
        "Look at",
        list(_VIEWS),
        "view",
        format_func=lambda name: _VIEWS[name][0],
        horizontal=True,
    )
    _VIEWS[view][1](folder, metrics)


def _errors(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("Predicted against reference")
    drawn, said = st.columns([5, 3], gap="large")
    with drawn:
        event = show_kept_chart(
            lambda: charts.predicted_chart(reading.predictions(folder)),
            "predicted",
            *_changed(folder),
            on_select="rerun",
            key="predicted-chart",
        )
        st.caption(
            "Grey band: within 12 months. Click a point to pick its case."
            + charts.fewer_words(len(reading.predictions(folder)))
        )
        offer_case(folder, picked(event), "predicted")
    with said:
        for sentence in sentences_on_errors(metrics, run_name(folder)):
            st.markdown(plain(sentence))
    st.subheader("Beside baselines and quoted values")
    st.image(_baselines_png(metrics, run_name(folder), _changed(folder)), width=WIDTH_PX)
    st.subheader("The largest errors")
    offer_cases(folder, ordered(reading.predictions(folder), "error_months"), "largest")


def _agreement(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("Agreement (Bland–Altman)")
    found = metrics["agreement"]
    names = {
        "lower_months": "Lower limit of agreement, months",
        "bias_months": "Bias, months",
        "upper_months": "Upper limit of agreement, months",
    }
    shown = [
        (label, *estimate_text("bias_months", found["intervals"][key]))
        for key, label in names.items()
    ]
    cards([(label, value, f"95% interval {span}" if span else "") for label, value, span in shown])
    event = show_kept_chart(
        lambda: charts.bland_altman_chart(reading.predictions(folder), found),
        "agreement",
        *_changed(folder),
        on_select="rerun",
        key="agreement-chart",
    )
    st.caption(
        "Dashed: bias and limits of agreement (±1.96 SD), between which 95% of the differences "
        "are expected. A falling line means that the network reads towards the middle age. Click "
        "a point to pick its case." + charts.fewer_words(len(reading.predictions(folder)))
    )
    offer_case(folder, picked(event), "agreement")
    show_section(folder, "agreement", drawings=False)


def _calibration(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("Calibration")
    found = metrics.get("calibration")
    if not found or not found["curve"]:
        missing(folder, "Calibration", EVALUATE)
        return
    tenths = {str(number): row for number, row in enumerate(found["curve"], start=1)}
    drawn, said = st.columns([5, 3], gap="large")
    with drawn:
        show_kept_chart(
            lambda: certainty_charts.calibration_chart(found),
            "calibration",
            *_changed(folder),
            on_select=lambda: follow_pick("calibration-chart", "tenth", "tenth"),
            key="calibration-chart",
        )
    with said:
        show_section(folder, "calibration", drawings=False)
        st.caption(
            "Groups of as many cases each, by prediction, with 95% intervals. On the grey line "
            "children are as old as the network says, on average; the dashed line is fitted."
        )

    def label(name: str) -> str:
        row = tenths[name]
        return (
            f"predicted {months(row['from_months'])} to {months(row['to_months'])} months "
            f"({row['n']:,} cases)"
        )

    tenth = tenths[linked_choice(st.selectbox, "Group", list(tenths), "tenth", format_func=label)]
    cases = reading.predictions(folder)
    inside = cases["predicted_months"].between(tenth["from_months"], tenth["to_months"])
    offer_cases(folder, ordered(cases[inside], "error_months"), "tenth")


def _groups(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("By sex and age")
    metric = linked_choice(
        st.radio,
        "What is shown",
        list(_BY_AGE),
        "metric",
        format_func=lambda name: str(_BY_AGE[name]),
        horizontal=True,
    )
    drawn = show_kept_chart(
        lambda: charts.subgroup_chart(metrics["subgroups"], metric, _BY_AGE[metric]),
        "groups",
        metric,
        *_changed(folder),
        on_select=lambda: follow_pick("subgroup-chart", "group", "group"),
        key="subgroup-chart",
    )
    if drawn is not None:
        st.caption(
            "With 95% intervals. Hollow: fewer than 20 cases, whose intervals are too "
            "narrow. Click a point to see its cases below."
        )
        _cases_of_group(folder, metrics)
    if section_there(folder, "groups"):
        st.subheader("By stage and other groups")
        show_section(folder, "groups", drawings=False)
        st.caption(
            "Further columns of the label table are added by "
            "`boneage-xai evaluate RUN --data SOURCE --by COLUMN`."
        )


def _cases_of_group(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    groups = {
        charts.group_key(group): group
        for group in metrics["subgroups"]
        if "sex" in group and "age_months" in group
    }

    def label(name: str) -> str:
        if name == _ALL:
            return "all cases"
        return f"{group_name(groups[name])}: {groups[name]['n']:,} cases"

    name = linked_choice(st.selectbox, "Cases of", [_ALL, *groups], "group", format_func=label)
    cases = reading.predictions(folder)
    if name != _ALL:
        edges = metrics["settings"]["age_bins_months"]
        place = edges.index(groups[name]["age_months"][0])
        inside = age_bin_indices(cases["reference_months"], edges) == place
        cases = cases[inside & (cases["sex"] == groups[name]["sex"])]
    offer_cases(folder, ordered(cases, "error_months"), "group")


def _intervals(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("How sure a single prediction is")
    found = folder.intervals()
    stored = reading.table(folder, "intervals.parquet")
    if found is None or stored is None:
        missing(folder, "Prediction intervals (from 100 labelled cases on)", EVALUATE)
        return
    table = reading.predictions(folder).merge(stored, on="case_id")
    promised = float(found["settings"]["coverage"])
    event = show_kept_chart(
        lambda: certainty_charts.interval_chart(table),
        "intervals",
        *_changed(folder),
        on_select="rerun",
        key="interval-chart",
    )
    st.caption(
        f"Bands: where {percent(promised)} of the references were promised to lie, girls and "
        "boys. Ringed: cases outside. Click a point to pick its case."
        + charts.fewer_words(len(table))
    )
    offer_case(folder, picked(event), "interval")
    show_section(folder, "intervals", drawings=False)
    drawn = show_kept_chart(
        lambda: charts.subgroup_chart(
            found["groups"],
            "coverage",
            "share of references inside",
            ages="predicted bone age",
            expected=promised,
        ),
        "coverage",
        *_changed(folder),
    )
    if drawn is not None:
        st.caption(
            f"Dashed: the promise of {percent(promised)}. With 95% intervals (Wilson); hollow: "
            "fewer than 20 cases."
        )
    outside = table[~table["covered"].astype(bool)]
    st.markdown("**Cases outside of their interval**")
    offer_cases(
        folder,
        ordered(outside, "error_months"),
        "outside",
        CASE_COLUMNS
        | {
            "low_months": st.column_config.NumberColumn("from, months", format="%.1f"),
            "high_months": st.column_config.NumberColumn("to, months", format="%.1f"),
        },
    )


def _diagnosis(folder: AnalysisFolder, metrics: Mapping[str, Any]) -> None:
    st.subheader("Errors that matter to a diagnosis")
    if not section_there(folder, "clinical"):
        missing(folder, "What errors mean for a diagnosis", EVALUATE)
        return
    found = metrics["clinical"]
    show_section(folder, "clinical", drawings=False, skip=lambda block: isinstance(block, Table))
    drawn = show_kept_chart(
        lambda: charts.subgroup_chart(
            found["significant_by"], "significant_errors", "share of significant errors"
        ),
        "significant",
        *_changed(folder),
    )
    if drawn is not None:
        st.caption(
            "Share of errors above 2 standard deviations of skeletal age, with 95% intervals "
            "(Wilson); hollow: fewer than 20 cases."
        )
    if "confusion" in found:
        st.markdown("**Diagnosis by the reference (rows) and by the prediction (columns)**")
        st.dataframe(
            pd.DataFrame(
                found["confusion"],
                columns=[f"predicted {name}" for name in found["classes"]],
                index=pd.Index([f"reference {name}" for name in found["classes"]]),
            )
        )
        st.caption(
            "Delayed and advanced: more than 2 standard deviations below or above the "
            "chronological age. Off the diagonal the prediction changes the class."
        )
    show_section(
        folder, "clinical", drawings=False, skip=lambda block: not isinstance(block, Table)
    )


def _changed(folder: AnalysisFolder) -> tuple[str, int, int, int]:
    """Return what all charts of this page depend on."""
    names = ("metrics.json", "predictions.parquet", "intervals.parquet")
    metrics, predictions, intervals = (reading.changed_at(folder.path / name) for name in names)
    return str(folder.path), metrics, predictions, intervals


_VIEWS: dict[str, tuple[str, Callable[[AnalysisFolder, Mapping[str, Any]], None]]] = {
    "errors": ("Errors", _errors),
    "agreement": ("Agreement", _agreement),
    "calibration": ("Calibration", _calibration),
    "groups": ("By sex and age", _groups),
    "intervals": ("Single predictions", _intervals),
    "diagnosis": ("Diagnosis", _diagnosis),
}


@st.cache_data(show_spinner=False, max_entries=8)
def _baselines_png(_metrics: Mapping[str, Any], name: str, changed: tuple[Hashable, ...]) -> bytes:
    # What draws takes a second to import, which the numbers above need not wait for.
    from boneage_xai.figures.performance import mae_against_baselines

    return figure_png(mae_against_baselines(_metrics, name), WIDTH_PX)

"""What changes of appearance, and a wrong sex, do to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from apps.views import reading, stress_charts, summaries
from apps.views.cards import cards, missing
from apps.views.links import linked_choice, plain
from apps.views.picked import follow_pick, offer_case, offer_cases, ordered, picked
from boneage_xai.analysis.multiplicity import LEVEL
from boneage_xai.analysis.sex_effect import errors_without_sex, milestones, summarise_sex_effect
from boneage_xai.analysis.stress import StressExample
from boneage_xai.analysis.stress_transforms import STRESS_TRANSFORMS
from boneage_xai.store import AnalysisFolder
from reports.sex_section import sex_sentences, uses_sex
from reports.stress_section import made_larger, stress_sentences
from reports.wording import SEX_PLURALS, months, percent

STRESS = "boneage-xai stress RUN --data SOURCE --out DIR"
SEX_EFFECT = "boneage-xai sex-effect RUN --data SOURCE --out DIR"
_ALL = "all"
_PICTURE_PX = 300
_GAP_PX = 8
_A_ROW = 3
_TABLE = {
    "change": st.column_config.TextColumn("change"),
    "n": st.column_config.NumberColumn("cases", format="%d"),
    "mae_change_months": st.column_config.NumberColumn("change of MAE, months", format="%+.2f"),
    "low": st.column_config.NumberColumn("95% from", format="%+.2f"),
    "high": st.column_config.NumberColumn("to", format="%+.2f"),
    "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.3g"),
    "mean_delta_months": st.column_config.NumberColumn("mean change, months", format="%+.1f"),
    "mean_absolute_delta_months": st.column_config.NumberColumn("its size, months", format="%.1f"),
    "moved_over_6_months": st.column_config.NumberColumn("> 6 months", format="percent"),
    "moved_over_12_months": st.column_config.NumberColumn("> 12", format="percent"),
    "moved_over_24_months": st.column_config.NumberColumn("> 24", format="percent"),
    "worst_case_id": st.column_config.TextColumn("moved most"),
    "worst_delta_months": st.column_config.NumberColumn("by, months", format="%+.1f"),
}
_CASES = {
    "case_id": st.column_config.TextColumn("case"),
    "sex": st.column_config.TextColumn("sex"),
    "reference_months": st.column_config.NumberColumn("reference, months", format="%.1f"),
    "original_months": st.column_config.NumberColumn("as it is, months", format="%.1f"),
    "predicted_months": st.column_config.NumberColumn("changed, months", format="%.1f"),
    "delta_months": st.column_config.NumberColumn("moved by, months", format="%+.1f"),
}


def show(folder: AnalysisFolder) -> None:
    """Show which changes of appearance hurt, the cases they move, and what the sex does."""
    st.header("Stress")
    found = summaries.stress(folder)
    if found is None:
        missing(folder, "A stress test of changed radiographs", STRESS)
    else:
        _appearance(folder, *found)
    st.divider()
    st.subheader("If the sex is wrong or withheld")
    table = reading.table(folder, "sex_effect.parquet")
    if table is None or table.empty:
        missing(folder, "What the sex does to predictions", SEX_EFFECT)
    else:
        _sex(folder, table)


def _appearance(folder: AnalysisFolder, table: pd.DataFrame, summary: pd.DataFrame) -> None:
    cards(_headline(summary))
    for sentence in stress_sentences(summary):
        st.markdown(plain(sentence))
    families = list(dict.fromkeys(summary["family"]))
    labelled = bool(summary["n_labelled"].any())
    measures = [name for name in stress_charts.MEASURES if labelled or name != "mae_change_months"]
    first, second = st.columns(2)
    with first:
        family = linked_choice(
            st.selectbox,
            "Family of changes",
            [_ALL, *families],
            "family",
            format_func=lambda name: "all families" if name == _ALL else name,
        )
    with second:
        measure = linked_choice(
            st.selectbox,
            "What is shown",
            measures,
            "measure",
            format_func=lambda name: stress_charts.MEASURES[name],
        )
    shown = summary if family == _ALL else summary[summary["family"] == family]
    st.altair_chart(
        stress_charts.effects_chart(shown, measure),
        on_select=lambda: follow_pick("stress-chart", "transform", "transform"),
        key="stress-chart",
    )
    st.caption(
        "Errors after minus before the change on the same cases, with 95% intervals; filled: "
        f"p < {LEVEL:g} after Holm's correction, and an interval that leaves out 0. Click a point "
        "to see its cases below."
        if measure == "mae_change_months"
        else "Movement of predictions, whether the error grows or shrinks. Click a point to see "
        "its cases below."
    )
    with st.expander("The numbers"):
        st.dataframe(
            shown.assign(change=[_label(row) for row in shown.to_dict("records")])[list(_TABLE)],
            hide_index=True,
            column_config=_TABLE,
        )
    _worst(folder, None if family == _ALL else family)
    _one_transform(folder, table, shown, measure)


def _headline(summary: pd.DataFrame) -> list[tuple[str, str, str]]:
    hurt = made_larger(summary)
    far = summary.iloc[int(summary["worst_delta_months"].abs().argmax())]
    numbers = []
    if summary["n_labelled"].any():
        worst = summary.iloc[int(summary["mae_change_months"].argmax())]
        span = (
            ""
            if pd.isna(worst["low"])
            else f"95% interval {months(worst['low'], signed=True)} to "
            f"{months(worst['high'], signed=True)}: "
        )
        numbers = [
            (
                "Changes that make the error larger",
                f"{len(hurt)} of {len(summary)}",
                f"p < {LEVEL:g} after Holm's correction",
            ),
            (
                "The worst adds to the error, months",
                months(worst["mae_change_months"], signed=True),
                span + _label(worst.to_dict()),
            ),
        ]
    return [
        *numbers,
        (
            "Farthest that a case moves, months",
            months(far["worst_delta_months"], signed=True),
            f"case {far['worst_case_id']}; {_label(far.to_dict())}",
        ),
    ]


def _label(row: Mapping[Any, Any]) -> str:
    return stress_charts.transform_label(str(row["family"]), str(row["parameter"]))


def _worst(folder: AnalysisFolder, family: str | None) -> None:
    """Show what the network saw of the cases that were moved most."""
    examples = [
        one
        for one in summaries.stress_examples(folder)
        if one.transform in STRESS_TRANSFORMS and family in (None, one.family)
    ]
    if not examples:
        return
    st.subheader("The cases moved most")
    st.caption(
        "Of each family the case that it moves most: the network's input as it is and, to the "
        "right, changed, with the predicted bone age."
    )
    examples = sorted(examples, key=lambda one: abs(one.delta_months), reverse=True)
    for start in range(0, len(examples), _A_ROW):
        for column, one in zip(
            st.columns(_A_ROW, gap="medium"), examples[start : start + _A_ROW], strict=False
        ):
            with column:
                st.image(_pair(one), width="stretch", output_format="PNG")
                parameter = STRESS_TRANSFORMS[one.transform].parameter
                st.markdown(
                    f"**{plain(stress_charts.transform_label(one.family, parameter))}**  \n"
                    f"{months(one.original_months)} → {months(one.predicted_months)} months "
                    f"({months(one.delta_months, signed=True)}) · case {plain(one.case_id)}"
                )


def _pair(example: StressExample) -> npt.NDArray[np.uint8]:
    gap = np.full((example.original.shape[0], _GAP_PX // 2), 128, dtype=np.uint8)
    both = np.concatenate([example.original, gap, example.changed], axis=1)
    times = max(1, round(_PICTURE_PX / example.original.shape[0]))
    return np.repeat(np.repeat(both, times, axis=0), times, axis=1)


def _one_transform(
    folder: AnalysisFolder, table: pd.DataFrame, shown: pd.DataFrame, measure: str
) -> None:
    st.subheader("One change, case by case")
    rows = {
        str(row["transform"]): row
        for row in shown.sort_values(measure, ascending=False, kind="stable").to_dict("records")
    }
    name = linked_choice(
        st.selectbox,
        "Change (the worst first)",
        list(rows),
        "transform",
        format_func=lambda one: _label(rows[one]),
    )
    row = rows[name]
    cases = table[table["transform"] == name]
    over = "; ".join(
        f"{percent(row[f'moved_over_{limit}_months'])} by more than {limit}"
        for limit in (6, 12, 24)
    )
    st.markdown(
        f"Predictions move by {months(row['mean_absolute_delta_months'])} months in the mean "
        f"({months(row['mean_delta_months'], signed=True)} with the sign); {over}."
    )
    event = st.altair_chart(
        stress_charts.movement_chart(cases), on_select="rerun", key="movement-chart"
    )
    offer_case(folder, picked(event), "movement")
    offer_cases(folder, ordered(cases, "delta_months"), "transform", _CASES)


def _sex(folder: AnalysisFolder, table: pd.DataFrame) -> None:
    summary, errors = _sex_summary(str(folder.path), reading.changes(folder))
    for sentence in sex_sentences(table, errors):
        st.markdown(plain(sentence))
    if not uses_sex(table):
        return
    event = st.altair_chart(
        stress_charts.sex_chart(table, summary, milestones()), on_select="rerun", key="sex-chart"
    )
    st.caption(
        "Points: each radiograph, read as a boy's minus as a girl's. Bars: means by age with 95% "
        "intervals. Green crosses: milestones of a centre of the hand at the girls' age, and how "
        "many months later boys pass them – approximate medians of other children, so that only "
        "the order of size and the course over age can be compared. Click a point to pick its case."
    )
    offer_case(folder, picked(event), "sex")
    if not errors.empty:
        with st.expander("The numbers"):
            st.dataframe(
                errors.assign(group=[SEX_PLURALS.get(str(sex), "all") for sex in errors["sex"]])[
                    ["given", "group", "n", "mae_months", "mae_change_months", "low", "high"]
                ],
                hide_index=True,
                column_config={
                    "given": "told",
                    "n": "cases",
                    "mae_months": st.column_config.NumberColumn("MAE, months", format="%.2f"),
                    "mae_change_months": st.column_config.NumberColumn(
                        "change against the right sex, months", format="%+.2f"
                    ),
                    "low": _TABLE["low"],
                    "high": _TABLE["high"],
                },
            )


# What changed is an argument only so that files written anew are read anew.


@st.cache_data(show_spinner="Summarising the effect of the sex …", max_entries=4)
def _sex_summary(
    path: str, changed: tuple[tuple[str, int], ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = AnalysisFolder.open(Path(path)).sex_effect()
    if table is None:
        return pd.DataFrame(), pd.DataFrame()
    return summarise_sex_effect(table), errors_without_sex(table)

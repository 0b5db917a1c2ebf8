"""From a point, a bar or a row that was picked to the page of its case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from apps.views import charts, reading
from apps.views.links import choice_key, go_to, linked_choice, plain
from boneage_xai.store import AnalysisFolder
from reports.wording import SEX_WORDS, months

_MOST = 500
_ROWS_SHOWN = 8
CASE_COLUMNS = {
    "case_id": st.column_config.TextColumn("case"),
    "sex": st.column_config.TextColumn("sex"),
    "reference_months": st.column_config.NumberColumn("reference, months", format="%.1f"),
    "predicted_months": st.column_config.NumberColumn("predicted, months", format="%.1f"),
    "error_months": st.column_config.NumberColumn("error, months", format="%+.1f"),
}


def picked(event: Any, field: str = "case_id") -> str | None:
    """Return what was picked in a chart, None where nothing was."""
    points = event["selection"].get(charts.PICKED) or []
    return str(points[0][field]) if points and field in points[0] else None


def follow_pick(chart: str, field: str, parameter: str) -> None:
    """Make what was picked in a chart the answer to a linked choice.

    Args:
        chart: session-state key of the chart.
        field: which of the picked fields is the answer.
        parameter: name of the choice in the address.
    """
    if (answer := picked(st.session_state[chart], field)) is not None:
        st.session_state[choice_key(parameter)] = answer


def offer_case(
    folder: AnalysisFolder, case_id: str | None, key: str, *, analysis: str | None = None
) -> None:
    """Say what is known of a picked case and lead to its page; show nothing without one.

    Args:
        folder: of the analysis.
        case_id: the case, None where nothing was picked.
        key: tells one offer on a page from another.
        analysis: name of the analysis to go to, None stays in the one that is looked at.
    """
    if case_id is None:
        return
    with st.container(border=True):
        st.markdown(_described(folder, case_id))
        cases = reading.cases(folder)
        if cases is None or not (cases["case_id"] == case_id).any():
            st.caption("This case was not attributed: there is no map to look at.")
        elif st.button("Look at this case", key=f"open-{key}-{case_id}", type="primary"):
            there = {} if analysis is None else {"analysis": analysis}
            go_to(page="case", case=case_id, **there)


def _described(folder: AnalysisFolder, case_id: str) -> str:
    words = f"**Case {plain(case_id)}**"
    if not reading.has(folder, "predictions.parquet"):
        return words
    predictions = reading.predictions(folder)
    found = predictions[predictions["case_id"] == case_id]
    if found.empty:
        return words
    row = found.iloc[0]
    return (
        f"{words} · {SEX_WORDS.get(row['sex'], '')} · reference "
        f"{months(row['reference_months'])}, predicted {months(row['predicted_months'])}, "
        f"error {months(row['error_months'], signed=True)} months"
    )


def offer_cases(
    folder: AnalysisFolder,
    table: pd.DataFrame,
    key: str,
    columns: dict[str, Any] | None = None,
    *,
    parameter: str = "picked",
    analysis: str | None = None,
) -> str | None:
    """Show the cases behind a bar or a row, and lead to the page of one of them.

    Args:
        folder: of the analysis.
        table: with case_id, the case to look at first on top.
        key: tells one offer on a page from another.
        columns: what is shown of a case and how; None shows prediction and error.
        parameter: name of the choice in the address.
        analysis: as for ``offer_case``.

    Returns:
        The case that is chosen, None where there is none.
    """
    if table.empty:
        st.caption("No case.")
        return None
    columns = columns or CASE_COLUMNS
    shown = table.drop_duplicates("case_id").head(_MOST)
    ids = [str(one) for one in shown["case_id"]]
    chosen = linked_choice(st.selectbox, f"Case ({len(ids):,})", ids, parameter)
    offer_case(folder, chosen, key, analysis=analysis)

    def follow() -> None:
        rows = st.session_state[f"rows-{key}"]["selection"]["rows"]
        if rows and rows[0] < len(ids):
            st.session_state[choice_key(parameter)] = ids[rows[0]]

    st.dataframe(
        shown[[name for name in columns if name in shown]],
        hide_index=True,
        column_config=columns,
        on_select=follow,
        selection_mode="single-row",
        key=f"rows-{key}",
        height=_height(len(shown)),
    )
    if len(table) > len(shown):
        st.caption(f"The first {len(shown):,} of {len(table):,}.")
    return chosen


def _height(rows: int) -> int:
    return 35 * (min(rows, _ROWS_SHOWN) + 1) + 3


def ordered(table: pd.DataFrame, by: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return rows with the largest magnitude first, of some columns."""
    found = table.sort_values(by, key=abs, ascending=False, kind="stable")
    return found if columns is None else found[list(columns)]

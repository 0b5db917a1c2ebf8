"""Charts as the pages show them, made once where they show a whole analysis.

Altair compares each part of a chart with its schema whenever it becomes a specification, which
takes longer than everything else on most pages. Here it does so without, and specifications that
depend on an analysis alone are kept for all sessions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import streamlit as st

Chart = alt.Chart | alt.LayerChart
Specification = dict[str, Any]

MOST_ELEMENTS = 500
"""Of more rows than this a chart is drawn on a canvas, of fewer as elements with descriptions."""


def show_chart(chart: Chart, **settings: Any) -> Any:
    """Show a chart, with the arguments of ``st.vega_lite_chart``; return what was picked in it."""
    return _show(specification(chart), settings)


def show_kept_chart(
    build: Callable[[], Chart | None],
    *of: Hashable,
    table: pd.DataFrame | None = None,
    **settings: Any,
) -> Any:
    """Show a chart that is built once for all sessions.

    Args:
        build: builds it; None where there is nothing to draw.
        of: all that the chart depends on, with when the files behind it were last written.
        table: takes the place of the only one in the chart, which then need not depend on it.
        settings: arguments of ``st.vega_lite_chart``.

    Returns:
        What was picked in it; None where nothing is drawn.
    """
    kept = _kept(build, of)
    if kept is None:
        return None
    if table is not None:
        kept = {**kept, "datasets": dict.fromkeys(kept["datasets"], _arrow(table))}
    return _show(kept, settings)


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False)


def _show(kept: Specification, settings: dict[str, Any]) -> Any:
    # Streamlit changes what it is given; the tables are the long part, and stay as they are.
    datasets = dict(kept["datasets"])
    spec = copy.deepcopy({name: part for name, part in kept.items() if name != "datasets"})
    return st.vega_lite_chart(spec={**spec, "datasets": datasets}, **settings)


@st.cache_resource(show_spinner=False, max_entries=64)
def _kept(_build: Callable[[], Chart | None], of: tuple[Hashable, ...]) -> Specification | None:
    chart = _build()
    return None if chart is None else specification(chart)


def specification(chart: Chart) -> Specification:
    """Return a chart as Vega-Lite, its tables as Arrow under ``datasets``.

    Args:
        chart: whose encodings name their types; it stays as it is.
    """
    shown = chart.copy()
    datasets: dict[str, pa.Table] = {}
    names: dict[int, str] = {}
    for part in _parts(shown):
        frame = part.data
        if isinstance(frame, pd.DataFrame):
            if id(frame) not in names:
                names[id(frame)] = name = f"table-{len(names)}"
                datasets[name] = _arrow(frame)
            part.data = alt.NamedData(name=names[id(frame)])
    spec: Specification = shown.to_dict(validate=False)
    # Altair's own look; Streamlit has one, too.
    if chart.config is alt.Undefined:
        spec.pop("config", None)
    if max((table.num_rows for table in datasets.values()), default=0) > MOST_ELEMENTS:
        # A description for each point takes longer than drawing it, and nobody reads so many.
        spec["config"] = {**spec.get("config", {}), "aria": False}
        spec["usermeta"] = {"embedOptions": {"renderer": "canvas"}}
    return {**spec, "datasets": datasets}


def _parts(chart: Any) -> Iterator[Any]:
    yield chart
    for layer in getattr(chart, "layer", None) or ():
        yield from _parts(layer)

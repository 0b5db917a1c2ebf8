"""Reads from an analysis folder that are kept until the file changes.

Nothing here computes, so that a page has its first numbers without the library's networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from boneage_xai.files import read_table
from boneage_xai.store import CONTROL_FOLDER, NEIGHBOUR_TABLE, AnalysisFolder
from boneage_xai.stored_maps import StoredMaps
from boneage_xai.types import RegionMap
from reports.examples import attributed_cases
from reports.wording import SEX_WORDS, months


def has(folder: AnalysisFolder, *names: str) -> bool:
    """Return whether all these files are in the folder."""
    return all((folder.path / name).is_file() for name in names)


def predictions(folder: AnalysisFolder) -> pd.DataFrame:
    """Return the predictions."""
    return _predictions(str(folder.path), changed_at(folder.path / "predictions.parquet"))


def metrics(folder: AnalysisFolder) -> dict[str, Any]:
    """Return the metrics."""
    return _metrics(str(folder.path), changed_at(folder.path / "metrics.json"))


def history(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return the training history, None where there is none."""
    return _history(str(folder.path), changed_at(folder.path / "history.csv"))


def cases(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return the attributed cases, None before ``attribute``."""
    changes = [changed_at(folder.path / n) for n in ("attributions.parquet", "predictions.parquet")]
    return _cases(str(folder.path), *changes)


def case_labels(folder: AnalysisFolder) -> dict[str, str]:
    """Return what each attributed case is called in a list, in the order of their maps."""
    return _case_labels(
        str(folder.path), maps_changed(folder), changed_at(folder.path / "predictions.parquet")
    )


def attributions(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return one row per case and method, None before ``attribute``."""
    return _attributions(str(folder.path), changed_at(folder.path / "attributions.parquet"))


def regions(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return one row per case, method and region, None without region maps."""
    return _regions(str(folder.path), changed_at(folder.path / "regions.parquet"))


def table(
    folder: AnalysisFolder, name: str, columns: Sequence[str] | None = None
) -> pd.DataFrame | None:
    """Return a table of the analysis, of a Parquet file only some columns; None without it."""
    asked = None if columns is None else tuple(columns)
    return _table(str(folder.path), name, asked, changed_at(folder.path / name))


def changes(folder: AnalysisFolder) -> tuple[tuple[str, int], ...]:
    """Return when each file of an analysis and of its control was last written."""
    return tuple(
        (str(file.relative_to(folder.path)), changed_at(file))
        for pattern in ("*.*", "attributions.zarr/zarr.json", f"{CONTROL_FOLDER}/*.*")
        for file in sorted(folder.path.glob(pattern))
        if file.is_file()
    )


def profile_changes(folder: AnalysisFolder) -> tuple[int, ...]:
    """Return when the files behind a region profile and its control were last written."""
    control = folder.path / CONTROL_FOLDER
    return tuple(
        changed_at(file)
        for file in (
            folder.path / "regions.parquet",
            folder.path / "predictions.parquet",
            control / "analysis.json",
            control / "regions.parquet",
        )
    )


def maps(folder: AnalysisFolder) -> StoredMaps | None:
    """Return the maps, opened once for all sessions; None before ``attribute``."""
    return _maps(str(folder.path), maps_changed(folder))


def layers(folder: AnalysisFolder) -> list[str]:
    """Return the layers that have activation maps."""
    found = maps(folder)
    recorded: Any = [] if found is None else found.attrs.get("layers", [])
    return [str(layer) for layer in recorded]


def case_array(folder: AnalysisFolder, name: str, row: int) -> npt.NDArray[Any]:
    """Return one case of a Zarr array of the analysis."""
    return _case_array(str(folder.path), name, row, maps_changed(folder))


def case_regions(folder: AnalysisFolder, case_id: str, row: int) -> RegionMap | None:
    """Return the stored region map of a case on the input grid, None where it has none."""
    found = maps(folder)
    if found is None or "regions" not in found:
        return None
    attributes = found["regions"].attrs
    having: Any = attributes.get("case_ids", [])
    if case_id not in having:
        return None
    names: Any = attributes["names"]
    labels = case_array(folder, "regions", row)
    return RegionMap(labels, {int(value): str(name) for value, name in names.items()})


def neighbours(folder: AnalysisFolder, case_id: str) -> pd.DataFrame | None:
    """Return the stored neighbours of a case, None before ``neighbours``."""
    table = _neighbours(str(folder.path), changed_at(folder.path / NEIGHBOUR_TABLE))
    if table is None:
        return None
    found = table[table["case_id"].astype(str) == case_id].sort_values("rank")
    return None if found.empty else found.reset_index(drop=True)


def interval(folder: AnalysisFolder, case_id: str) -> tuple[float, float, float] | None:
    """Return the ends of a case's prediction interval and its coverage, None without one."""
    if not has(folder, "intervals.parquet", "intervals.json"):
        return None
    table, coverage = _intervals(str(folder.path), changed_at(folder.path / "intervals.parquet"))
    found = table[table["case_id"].astype(str) == case_id]
    if found.empty or coverage is None:
        return None
    one = found.iloc[0]
    low, high = float(one["low_months"]), float(one["high_months"])
    return (low, high, coverage) if np.isfinite([low, high]).all() else None


def map_row(folder: AnalysisFolder, case_id: str) -> int | None:
    """Return the row of a case in the arrays of maps, None where it has none."""
    return _map_rows(str(folder.path), maps_changed(folder)).get(case_id)


def changed_at(file: Path) -> int:
    """Return when a file was last written, in nanoseconds; 0 where there is none."""
    return file.stat().st_mtime_ns if file.is_file() else 0


def maps_changed(folder: AnalysisFolder) -> int:
    """Return when the maps of an analysis were last begun, in nanoseconds; 0 without maps."""
    return changed_at(folder.path / "attributions.zarr" / "zarr.json")


# What changed is an argument only so that a file written anew is read anew. Large tables are shared
# by all sessions and not copied for each look at them, so nobody may change one.


@st.cache_resource(show_spinner=False, max_entries=8)
def _predictions(path: str, changed: int) -> pd.DataFrame:
    return AnalysisFolder.open(Path(path)).predictions()


@st.cache_data(show_spinner=False, max_entries=8)
def _metrics(path: str, changed: int) -> dict[str, Any]:
    return AnalysisFolder.open(Path(path)).metrics()


@st.cache_data(show_spinner=False, max_entries=8)
def _history(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).history()


@st.cache_resource(show_spinner=False, max_entries=8)
def _cases(path: str, attributed: int, predicted: int) -> pd.DataFrame | None:
    return attributed_cases(AnalysisFolder.open(Path(path)))


@st.cache_resource(show_spinner=False, max_entries=8)
def _case_labels(path: str, attributed: int, predicted: int) -> dict[str, str]:
    cases = _cases(path, attributed, predicted)
    labels = {}
    for case in [] if cases is None else cases.to_dict("records"):
        parts = [str(case["case_id"]), SEX_WORDS.get(str(case["sex"]), "")]
        if not pd.isna(case["reference_months"]):
            parts.append(f"{case['reference_months']:.0f} months")
            parts.append(f"error {months(case['error_months'], signed=True)}")
        labels[str(case["case_id"])] = " · ".join(part for part in parts if part)
    return labels


@st.cache_resource(show_spinner=False, max_entries=8)
def _attributions(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).attributions()


@st.cache_resource(show_spinner=False, max_entries=8)
def _regions(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).regions()


@st.cache_resource(show_spinner=False, max_entries=8)
def _neighbours(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).neighbours()


@st.cache_resource(show_spinner=False, max_entries=8)
def _intervals(path: str, changed: int) -> tuple[pd.DataFrame, float | None]:
    folder = AnalysisFolder.open(Path(path))
    settings = (folder.intervals() or {}).get("settings") or {}
    return read_table(folder.path / "intervals.parquet"), settings.get("coverage")


@st.cache_resource(show_spinner=False, max_entries=32)
def _table(
    path: str, name: str, columns: tuple[str, ...] | None, changed: int
) -> pd.DataFrame | None:
    file = Path(path) / name
    return read_table(file, columns) if file.is_file() else None


@st.cache_resource(show_spinner=False, max_entries=8)
def _maps(path: str, changed: int) -> StoredMaps | None:
    return AnalysisFolder.open(Path(path)).maps()


@st.cache_data(show_spinner=False, max_entries=64)
def _case_array(path: str, name: str, row: int, changed: int) -> npt.NDArray[Any]:
    found = _maps(path, changed)
    array: Any = found[name] if found is not None else []
    return np.asarray(array[row])


@st.cache_resource(show_spinner=False, max_entries=8)
def _map_rows(path: str, changed: int) -> dict[str, int]:
    found = _maps(path, changed)
    ids: Any = [] if found is None else found.attrs.get("case_ids", [])
    return {str(case_id): row for row, case_id in enumerate(ids)}

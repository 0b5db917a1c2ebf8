"""Reads from an analysis folder that are kept until the file changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from boneage_xai.analysis.neighbours import NEIGHBOUR_TABLE
from boneage_xai.analysis.random_control import CONTROL_FOLDER
from boneage_xai.figures.overlay import analysis_limit_months
from boneage_xai.store import AnalysisFolder, read_table
from boneage_xai.types import RegionMap
from reports.examples import attributed_cases


def has(folder: AnalysisFolder, *names: str) -> bool:
    """Return whether all these files are in the folder."""
    return all((folder.path / name).is_file() for name in names)


def predictions(folder: AnalysisFolder) -> pd.DataFrame:
    """Return the predictions."""
    return _predictions(str(folder.path), _changed(folder.path / "predictions.parquet"))


def metrics(folder: AnalysisFolder) -> dict[str, Any]:
    """Return the metrics."""
    return _metrics(str(folder.path), _changed(folder.path / "metrics.json"))


def history(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return the training history, None where there is none."""
    return _history(str(folder.path), _changed(folder.path / "history.csv"))


def cases(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return the attributed cases, None before ``attribute``."""
    changes = [_changed(folder.path / n) for n in ("attributions.parquet", "predictions.parquet")]
    return _cases(str(folder.path), *changes)


def attributions(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return one row per case and method, None before ``attribute``."""
    return _attributions(str(folder.path), _changed(folder.path / "attributions.parquet"))


def regions(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return one row per case, method and region, None without region maps."""
    return _regions(str(folder.path), _changed(folder.path / "regions.parquet"))


def profile_changes(folder: AnalysisFolder) -> tuple[int, ...]:
    """Return when the files behind a region profile and its control were last written."""
    control = folder.path / CONTROL_FOLDER
    return tuple(
        _changed(file)
        for file in (
            folder.path / "regions.parquet",
            folder.path / "predictions.parquet",
            control / "analysis.json",
            control / "regions.parquet",
        )
    )


def layers(folder: AnalysisFolder) -> list[str]:
    """Return the layers that have activation maps."""
    maps = folder.maps()
    recorded: Any = [] if maps is None else maps.attrs.get("layers", [])
    return [str(layer) for layer in recorded]


def case_array(folder: AnalysisFolder, name: str, row: int) -> npt.NDArray[Any]:
    """Return one case of a Zarr array of the analysis."""
    return _case_array(str(folder.path), name, row, _maps_changed(folder))


def case_regions(folder: AnalysisFolder, case_id: str, row: int) -> RegionMap | None:
    """Return the stored region map of a case on the input grid, None where it has none."""
    maps = folder.maps()
    if maps is None or "regions" not in maps:
        return None
    attributes = maps["regions"].attrs
    having: Any = attributes.get("case_ids", [])
    if case_id not in having:
        return None
    names: Any = attributes["names"]
    labels = case_array(folder, "regions", row)
    return RegionMap(labels, {int(value): str(name) for value, name in names.items()})


def neighbours(folder: AnalysisFolder, case_id: str) -> pd.DataFrame | None:
    """Return the stored neighbours of a case, None before ``neighbours``."""
    table = _neighbours(str(folder.path), _changed(folder.path / NEIGHBOUR_TABLE))
    if table is None:
        return None
    found = table[table["case_id"].astype(str) == case_id].sort_values("rank")
    return None if found.empty else found.reset_index(drop=True)


def interval(folder: AnalysisFolder, case_id: str) -> tuple[float, float, float] | None:
    """Return the ends of a case's prediction interval and its coverage, None without one."""
    if not has(folder, "intervals.parquet", "intervals.json"):
        return None
    table, coverage = _intervals(str(folder.path), _changed(folder.path / "intervals.parquet"))
    found = table[table["case_id"].astype(str) == case_id]
    if found.empty or coverage is None:
        return None
    one = found.iloc[0]
    low, high = float(one["low_months"]), float(one["high_months"])
    return (low, high, coverage) if np.isfinite([low, high]).all() else None


def limit_months(folder: AnalysisFolder, method: str) -> float:
    """Return the end of the colour scale that all cases share, months per pixel."""
    return _limit_months(str(folder.path), method, _maps_changed(folder))


def _changed(file: Path) -> int:
    """Return when a file was last written, in nanoseconds; 0 where there is none."""
    return file.stat().st_mtime_ns if file.is_file() else 0


def _maps_changed(folder: AnalysisFolder) -> int:
    return _changed(folder.path / "attributions.zarr" / "zarr.json")


# What changed is an argument only so that a file written anew is read anew.


@st.cache_data(show_spinner=False, max_entries=8)
def _predictions(path: str, changed: int) -> pd.DataFrame:
    return AnalysisFolder.open(Path(path)).predictions()


@st.cache_data(show_spinner=False, max_entries=8)
def _metrics(path: str, changed: int) -> dict[str, Any]:
    return AnalysisFolder.open(Path(path)).metrics()


@st.cache_data(show_spinner=False, max_entries=8)
def _history(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).history()


@st.cache_data(show_spinner=False, max_entries=8)
def _cases(path: str, attributed: int, predicted: int) -> pd.DataFrame | None:
    return attributed_cases(AnalysisFolder.open(Path(path)))


@st.cache_data(show_spinner=False, max_entries=8)
def _attributions(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).attributions()


@st.cache_data(show_spinner=False, max_entries=8)
def _regions(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).regions()


@st.cache_data(show_spinner=False, max_entries=8)
def _neighbours(path: str, changed: int) -> pd.DataFrame | None:
    return AnalysisFolder.open(Path(path)).neighbours()


@st.cache_data(show_spinner=False, max_entries=8)
def _intervals(path: str, changed: int) -> tuple[pd.DataFrame, float | None]:
    folder = AnalysisFolder.open(Path(path))
    settings = (folder.intervals() or {}).get("settings") or {}
    return read_table(folder.path / "intervals.parquet"), settings.get("coverage")


@st.cache_data(show_spinner=False, max_entries=64)
def _case_array(path: str, name: str, row: int, changed: int) -> npt.NDArray[Any]:
    maps = AnalysisFolder.open(Path(path)).maps()
    array: Any = maps[name] if maps is not None else []
    return np.asarray(array[row])


@st.cache_data(show_spinner=False, max_entries=32)
def _limit_months(path: str, method: str, changed: int) -> float:
    maps = AnalysisFolder.open(Path(path)).maps()
    return 1.0 if maps is None else analysis_limit_months(maps, method)

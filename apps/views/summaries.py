"""What is computed from an analysis folder for a page, kept until the files change."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from apps.views.reading import changed_at, changes, maps_changed, table
from boneage_xai.analysis.completeness import COMPLETENESS_COLUMNS, with_tolerance
from boneage_xai.analysis.occlusion_agreement import compared
from boneage_xai.analysis.random_control import similarity_to_control as similarity_to_control_of
from boneage_xai.analysis.stress import (
    EXAMPLES_FILE,
    STRESS_TABLE,
    StressExample,
    read_examples,
    summarise_stress,
)
from boneage_xai.figures.overlay import analysis_limit_months
from boneage_xai.store import AnalysisFolder


def stress(folder: AnalysisFolder) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the stress test and its summary by transform, None before ``stress``."""
    return _stress(str(folder.path), changed_at(folder.path / STRESS_TABLE))


def stress_examples(folder: AnalysisFolder) -> list[StressExample]:
    """Return the case that each family of transforms moves most; empty without them."""
    return _stress_examples(str(folder.path), changed_at(folder.path / EXAMPLES_FILE))


def completeness(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return gaps and their tolerances by case and method, None before ``attribute``."""
    found = table(folder, "attributions.parquet", COMPLETENESS_COLUMNS)
    if found is None or found.empty:
        return None
    settings = folder.manifest["steps"].get("attribute", {}).get("settings") or {}
    return with_tolerance(found, settings)


def similarity_to_control(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return how alike maps are to those of random weights, None without such a control."""
    return _similarity_to_control(str(folder.path), changes(folder))


def removal_verdicts(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return which methods agree with what removal does, None where it cannot be compared."""
    return _removal_verdicts(str(folder.path), changes(folder))


def limit_months(folder: AnalysisFolder, method: str) -> float:
    """Return the end of the colour scale that all cases share, months per pixel."""
    return _limit_months(str(folder.path), method, maps_changed(folder))


# What changed is an argument only so that files written anew are read anew.


@st.cache_data(show_spinner="Summarising the stress test …", max_entries=4)
def _stress(path: str, changed: int) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    found = AnalysisFolder.open(Path(path)).stress()
    return None if found is None or found.empty else (found, summarise_stress(found))


@st.cache_data(show_spinner=False, max_entries=4)
def _stress_examples(path: str, changed: int) -> list[StressExample]:
    file = Path(path) / EXAMPLES_FILE
    return read_examples(file) if file.is_file() else []


@st.cache_data(show_spinner="Comparing maps with the control …", max_entries=4)
def _similarity_to_control(path: str, changed: tuple[tuple[str, int], ...]) -> pd.DataFrame | None:
    return similarity_to_control_of(AnalysisFolder.open(Path(path)))


@st.cache_data(show_spinner="Comparing maps with removal …", max_entries=4)
def _removal_verdicts(path: str, changed: tuple[tuple[str, int], ...]) -> pd.DataFrame | None:
    return compared(AnalysisFolder.open(Path(path))).verdicts


@st.cache_data(show_spinner=False, max_entries=32)
def _limit_months(path: str, method: str, changed: int) -> float:
    maps = AnalysisFolder.open(Path(path)).maps()
    return 1.0 if maps is None else analysis_limit_months(maps, method)

"""The analysis folder: what the commands found out about a network, a reader for each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai import __version__
from boneage_xai.errors import DataError, ReportError, one_clause
from boneage_xai.files import read_json, read_object, read_table, write_json
from boneage_xai.stored_maps import StoredMaps

ANALYSIS_FORMAT = "boneage_xai.analysis"
ANALYSIS_VERSION = 1
NEIGHBOUR_TABLE = "neighbours.parquet"
CONTROL_FOLDER = "random-weights"
"""Within the analysis of a network, the analysis of its copy with random weights."""


# Without these an analysis cannot be read; a damaged footer may have lost or renamed one.
PREDICTION_COLUMNS = ["case_id", "sex", "reference_months", "predicted_months", "error_months"]
"""Of ``predictions.parquet``, which may have columns of the label table besides."""

_COLUMNS = {
    "predictions.parquet": PREDICTION_COLUMNS,
    "attributions.parquet": ["case_id", "method"],
    "regions.parquet": ["case_id", "method", "region", "signed_months"],
}


@dataclass(frozen=True)
class AnalysisFolder:
    """What ``evaluate`` and ``attribute`` found out about one run on one data set.

    Each command adds its own files; ``analysis.json`` lists the steps taken.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> AnalysisFolder:
        """Open an existing analysis folder.

        Raises:
            ReportError: not an analysis folder, or one of another version.
        """
        file = path / "analysis.json"
        if not file.is_file():
            raise ReportError(
                f"{path}: expected an analysis folder (from `boneage-xai evaluate`), "
                "found no analysis.json in it"
            )
        manifest = read_json(file)
        if not isinstance(manifest, dict):
            raise ReportError(f"{file}: expected an object, found {type(manifest).__name__}")
        found = (manifest.get("format"), manifest.get("version"))
        if found != (ANALYSIS_FORMAT, ANALYSIS_VERSION):
            raise ReportError(
                f"{file}: expected {ANALYSIS_FORMAT} version {ANALYSIS_VERSION}, "
                f"found {found[0]} version {found[1]}"
            )
        for part in ("run", "data", "steps"):
            if not isinstance(manifest.get(part), dict):
                raise ReportError(f"{file}: expected an object called {part}, found none")
        return cls(path, manifest)

    @classmethod
    def add_step(
        cls,
        path: Path,
        *,
        run: Mapping[str, Any],
        data: Mapping[str, Any],
        step: str,
        detail: Mapping[str, Any],
    ) -> AnalysisFolder:
        """Record that a command added its results, creating ``analysis.json`` if need be.

        Raises:
            ReportError: the folder holds the analysis of another run or data set.
        """
        manifest: dict[str, Any] = {
            "format": ANALYSIS_FORMAT,
            "version": ANALYSIS_VERSION,
            "toolkit_version": __version__,
            "run": dict(run),
            "data": dict(data),
            "steps": {},
        }
        if (path / "analysis.json").is_file():
            check_same_analysis(path, run=run, data=data)
            earlier = cls.open(path).manifest
            manifest["steps"] = dict(earlier["steps"])
            # A step that needs no labels may have been given none.
            if earlier["data"].get("labels") and not data.get("labels"):
                manifest["data"]["labels"] = earlier["data"]["labels"]
        manifest["steps"][step] = dict(detail)
        write_json(path / "analysis.json", manifest)
        return cls.open(path)

    def has_training_cases(self) -> bool:
        """Return whether the network was trained on cases of the analysis, as far as is known."""
        counted = self.manifest["steps"].get("evaluate", {}).get("n_training")
        if counted is None:
            return self.manifest["data"].get("split") in ("train", "all")
        return int(counted) > 0

    def predictions(self) -> pd.DataFrame:
        """Return ``PREDICTION_COLUMNS`` and what else ``evaluate`` wrote, per case."""
        return self._table("predictions.parquet")

    def metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return read_object(self.path / "metrics.json")

    def intervals(self) -> dict[str, Any] | None:
        """Return the content of ``intervals.json``, None where there were too few cases."""
        file = self.path / "intervals.json"
        return read_object(file) if file.is_file() else None

    def history(self) -> pd.DataFrame | None:
        """Return the training history per epoch, None for a model trained elsewhere."""
        return self._optional("history.csv")

    def attributions(self) -> pd.DataFrame | None:
        """Return one row per case and method, None before ``attribute``."""
        return self._optional("attributions.parquet")

    def regions(self) -> pd.DataFrame | None:
        """Return one row per case, method and region, None without region maps."""
        return self._optional("regions.parquet")

    def interventions(self) -> pd.DataFrame | None:
        """Return one row per phantom and region, None before ``intervene``."""
        return self._optional("interventions.parquet")

    def occlusion(self) -> pd.DataFrame | None:
        """Return one row per case, filling and removed area, None before ``occlude``."""
        return self._optional("occlusion.parquet")

    def scores(self) -> pd.DataFrame | None:
        """Return one row per phantom and method, None before ``benchmark-methods``."""
        return self._optional("scoreboard.parquet")

    def stress(self) -> pd.DataFrame | None:
        """Return one row per case and transform, None before ``stress``."""
        return self._optional("stress.parquet")

    def sex_effect(self) -> pd.DataFrame | None:
        """Return one row per case, read as a girl's and a boy's, None before ``sex-effect``."""
        return self._optional("sex_effect.parquet")

    def neighbours(self) -> pd.DataFrame | None:
        """Return one row per case and similar training case, None before ``neighbours``."""
        return self._optional(NEIGHBOUR_TABLE)

    def failures(self) -> pd.DataFrame | None:
        """Return one row per case with its traits and whether it is a worst one, None before."""
        return self._optional("failures.parquet")

    def failure_findings(self) -> dict[str, Any] | None:
        """Return the content of ``failures.json``, None before ``failures``."""
        file = self.path / "failures.json"
        return read_object(file) if file.is_file() else None

    def shortcuts(self) -> dict[str, Any] | None:
        """Return the content of ``shortcuts.json``, None before ``shortcuts``."""
        file = self.path / "shortcuts.json"
        return read_object(file) if file.is_file() else None

    def shortcut_changes(self) -> pd.DataFrame | None:
        """Return one row per case and test of the shortcut audit, None before ``shortcuts``."""
        return self._optional("shortcuts.parquet")

    def shortcut_example(self) -> tuple[str, dict[str, npt.NDArray[np.uint8]]] | None:
        """Return a case id and its pictures as the shortcut audit changed them, None without."""
        file = self.path / "shortcuts_example.npz"
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as stored:
                pictures = {name: stored[name] for name in stored.files}
            return str(pictures.pop("case_id")), pictures
        # What NumPy and zipfile raise on damage has no common kind.
        except Exception as error:
            raise DataError(
                f"{file}: expected pictures, found something unreadable ({one_clause(error)})"
            ) from error

    def maps(self) -> StoredMaps | None:
        """Return inputs, maps and activations, None before ``attribute``."""
        folder = self.path / "attributions.zarr"
        return StoredMaps(folder) if folder.is_dir() else None

    def _optional(self, name: str) -> pd.DataFrame | None:
        return self._table(name) if (self.path / name).is_file() else None

    def _table(self, name: str) -> pd.DataFrame:
        table = read_table(self.path / name)
        for column in _COLUMNS.get(name, []):
            if column not in table:
                raise DataError(f"{self.path / name}: expected column {column}, found none")
        return table


def check_same_analysis(path: Path, *, run: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to mix results of different models, data or labels in one analysis folder.

    Raises:
        ReportError: the folder holds the analysis of another run or data set, or
            is a folder with something else in it.
    """
    # Hidden files are what a killed write left behind.
    if not path.exists() or (
        path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())
    ):
        return
    manifest = AnalysisFolder.open(path).manifest
    for part, ours, key in (
        ("run", run, "model_id"),
        ("data", data, "fingerprint"),
        ("data", data, "split"),
    ):
        theirs = manifest[part].get(key)
        if theirs != ours.get(key):
            raise ReportError(
                f"{path}: holds the analysis of another {part} ({key} {theirs}, "
                f"not {ours.get(key)}); choose another --out"
            )
    labels = manifest["data"].get("labels"), data.get("labels")
    if all(labels) and labels[0] != labels[1]:
        raise ReportError(
            f"{path}: holds the analysis of the same radiographs with other bone ages or sexes; "
            "choose another --out"
        )

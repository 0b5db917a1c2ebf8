"""Files and folders on disk: writes that are whole or absent, and the analysis folder.

A file is written under a temporary name beside its target and then renamed, so a reader
never sees half of it, also after a kill. Only open formats are used: JSON, CSV, Parquet,
Zarr, safetensors. Nothing is pickled and nothing is executed on load.

Longer than most modules, because every file of an analysis has its reader here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyarrow.parquet import read_schema
from safetensors import SafetensorError
from safetensors.numpy import save_file

from boneage_xai import __version__
from boneage_xai.errors import DataError, ReportError, one_clause
from boneage_xai.stored_maps import StoredMaps

ANALYSIS_FORMAT = "boneage_xai.analysis"
ANALYSIS_VERSION = 1
NEIGHBOUR_TABLE = "neighbours.parquet"
CONTROL_FOLDER = "random-weights"
"""Within the analysis of a network, the analysis of its copy with random weights."""


# Without these an analysis cannot be read; a damaged footer may have lost or renamed one.
_COLUMNS = {
    "predictions.parquet": "case_id sex reference_months predicted_months error_months",
    "attributions.parquet": "case_id method",
    "regions.parquet": "case_id method region signed_months",
}


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    The temporary name keeps the suffix of ``path``, for writers that choose by suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    staged = Path(name)
    try:
        yield staged
        staged.chmod(0o644)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.

    Raises:
        DataError: ``path`` exists already.
    """
    if path.exists():
        raise DataError(f"{path} exists already: expected a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield staged
        staged.chmod(0o755)
        try:
            staged.rename(path)
        except OSError as error:
            raise DataError(f"{path} appeared while it was being written") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, on disk when this returns, also if the power fails then."""
    with staged_file(path) as staged, staged.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on disk; folders only where that exists."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with staged_file(path) as staged:
        staged.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; NaN and infinities become null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "item") and getattr(content, "ndim", None) == 0:
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Path):
        return str(content)
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # Also numbers of more digits than Python converts, and lists in lists without end.
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected JSON, found something unreadable ({one_clause(error)})"
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: the file is missing or holds none.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet or CSV, by the suffix of ``path``, whole or not at all."""
    with staged_file(path) as staged:
        if path.suffix == ".parquet":
            frame.to_parquet(staged, index=False, write_page_checksum=True)
        else:
            frame.to_csv(staged, index=False)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a Parquet or CSV table that the toolkit wrote.

    Args:
        path: the file.
        columns: of a Parquet file, those to read, where it has them; None reads all.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        if path.suffix == ".parquet":
            if columns is not None:
                there = set(read_schema(path).names)
                columns = [name for name in columns if name in there]
            return pd.read_parquet(path, columns=columns, page_checksum_verification=True)
        # A converter, because a case may be called NA.
        return pd.read_csv(path, converters={"case_id": str})
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # What pandas and Arrow raise on damage has no common kind.
    except Exception as error:
        raise DataError(
            f"{path}: expected a table, found something unreadable ({one_clause(error)})"
        ) from error


def write_safetensors(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays as safetensors, whole or not at all.

    Raises:
        DataError: there is no room.
    """
    # safetensors writes the memory as it lies, and networks in channels-last order lie otherwise.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with staged_file(path) as staged:
        try:
            save_file(ordered, staged, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise DataError(f"{path}: expected room for the file, found none ({error})") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
            manifest["steps"] = dict(cls.open(path).manifest["steps"])
        manifest["steps"][step] = dict(detail)
        write_json(path / "analysis.json", manifest)
        return cls.open(path)

    def predictions(self) -> pd.DataFrame:
        """Return case_id, sex, reference_months, predicted_months, error_months."""
        return self._table("predictions.parquet")

    def metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return _read_object(self.path / "metrics.json")

    def intervals(self) -> dict[str, Any] | None:
        """Return the content of ``intervals.json``, None where there were too few cases."""
        file = self.path / "intervals.json"
        return _read_object(file) if file.is_file() else None

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
        return _read_object(file) if file.is_file() else None

    def shortcuts(self) -> dict[str, Any] | None:
        """Return the content of ``shortcuts.json``, None before ``shortcuts``."""
        file = self.path / "shortcuts.json"
        return _read_object(file) if file.is_file() else None

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
        for column in _COLUMNS.get(name, "").split():
            if column not in table:
                raise DataError(f"{self.path / name}: expected column {column}, found none")
        return table


def check_same_analysis(path: Path, *, run: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse to mix results of different models or data in one analysis folder.

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

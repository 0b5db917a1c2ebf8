"""The run that an analysis was made of, found again to compute more with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import CheckpointError, ConfigError, first_problem
from boneage_xai.models.checkpoint import MANIFEST_FILE, TrainedRun, load_run, read_manifest
from boneage_xai.store import AnalysisFolder


def recorded_run_folder(folder: AnalysisFolder) -> Path:
    """Return where the run lies that an analysis records.

    A relative path is looked for from the working directory, then from the folders above the
    analysis, since they are often moved together.

    Args:
        folder: the analysis.

    Raises:
        ConfigError: the analysis is of a network from elsewhere, whose code is not executed
            because a file in a folder names it.
        CheckpointError: the run is not there, or its record names other weights by now.
    """
    record = folder.manifest["run"]
    named = str(record.get("path") or "")
    if record.get("card") is not None:
        raise ConfigError(
            f"{folder.path}: expected the analysis of a run of the toolkit, found that of a "
            "network from elsewhere, whose code is only executed where a command names it with "
            "--card"
        )
    recorded = Path(named)
    tried = [recorded]
    if not recorded.is_absolute():
        tried += [above / recorded for above in folder.path.resolve().parents]
    found = next((path for path in tried if named and (path / MANIFEST_FILE).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{folder.path}: expected the run that it analyses in {named or 'a folder'}, "
            "found none there; move the run back, or analyse it again from where it is"
        )
    _check_model(folder, found, read_manifest(found).weights_sha256[:12])
    return found


def load_recorded_run(folder: AnalysisFolder, device: str | torch.device = "cpu") -> TrainedRun:
    """Load the run that an analysis was made of, and no other.

    Args:
        folder: the analysis.
        device: where the network is put.

    Returns:
        The run, whose weights have the hash that the analysis records.

    Raises:
        ConfigError: see ``recorded_run_folder``.
        CheckpointError: the run is not there, is damaged, or has other weights by now.
    """
    path = recorded_run_folder(folder)
    run = load_run(path, device)
    _check_model(folder, path, run.model_id)
    return run


def _check_model(folder: AnalysisFolder, path: Path, model_id: str) -> None:
    recorded = str(folder.manifest["run"].get("model_id"))
    if model_id != recorded:
        raise CheckpointError(
            f"{path}: expected the weights that were analysed (model {recorded}), found others "
            f"(model {model_id})"
        )


def recorded_settings(folder: AnalysisFolder) -> tuple[AttributionSettings, str | None]:
    """Return how an analysis attributed, to attribute one more radiograph alike.

    Args:
        folder: the analysis.

    Returns:
        The settings, and the name of the recorded baseline where it had to give way to ``black``
        because it is made of training radiographs.

    Raises:
        ConfigError: settings of another version.
    """
    step: dict[str, Any] = folder.manifest["steps"].get("attribute") or {}
    try:
        settings = AttributionSettings.model_validate(step.get("settings") or {})
    except ValidationError as error:
        raise ConfigError(f"{folder.path}: attribution settings: {first_problem(error)}") from error
    if settings.baseline in ("mean", "expected"):
        return settings.model_copy(update={"baseline": "black"}), settings.baseline
    return settings, None

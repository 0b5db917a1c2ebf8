"""Run folders: the weights of a trained network beside everything needed to use it.

``model.safetensors`` holds tensors only and ``run.json`` is checked text, so loading a run
never executes code.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boneage_xai import __version__
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import CheckpointError, DataError, first_problem, one_clause
from boneage_xai.files import file_sha256, read_json, read_table, write_json, write_safetensors
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor

RUN_FORMAT: Literal["boneage_xai.run"] = "boneage_xai.run"
RUN_VERSION: Literal[1] = 1
WEIGHTS_FILE = "model.safetensors"
SPLITS_FILE = "splits.csv"
MANIFEST_FILE = "run.json"


class TrainingData(BaseModel):
    """Which cases a run was trained and validated on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cohort: str
    source: str
    fingerprint: str
    n_train: int
    n_validation: int
    skipped_problem_rows: int = 0


class RunManifest(BaseModel):
    """The content of ``run.json``; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["boneage_xai.run"] = RUN_FORMAT
    version: Literal[1] = RUN_VERSION
    toolkit_version: str = __version__
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    recipe_name: str
    recipe: dict[str, Any]
    architecture: ArchitectureSettings
    preprocessing: PreprocessSettings
    age_mean_months: float
    age_sd_months: float
    seed: int
    data: TrainingData
    baselines: dict[str, Any]
    epochs: int
    best_epoch: int
    val_mae_months: float
    weights_sha256: str
    versions: dict[str, str] = Field(default_factory=lambda: library_versions())


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained network ready to predict, in evaluation mode, with its manifest."""

    path: Path
    network: BoneAgeRegressor
    manifest: RunManifest

    @property
    def model_id(self) -> str:
        """Identifier of the model: the first twelve digits of its weights' SHA-256."""
        return self.manifest.weights_sha256[:12]

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How radiographs must be prepared for this network."""
        return self.manifest.preprocessing

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.manifest.recipe_name

    @property
    def cohort_name(self) -> str:
        """Name of the set that the network was trained on."""
        return self.manifest.data.cohort

    @property
    def baselines(self) -> dict[str, Any]:
        """Baselines fitted on the training cases."""
        return self.manifest.baselines

    def splits(self) -> pd.DataFrame:
        """Return which cases the run was trained and validated on, as ``read_splits`` does."""
        return read_splits(self)

    def record(self) -> dict[str, Any]:
        """Return the ``run`` part of ``analysis.json``."""
        manifest = self.manifest
        return {
            "path": str(self.path),
            "model_id": self.model_id,
            "recipe": manifest.recipe_name,
            "architecture": manifest.architecture.model_dump(mode="json"),
            "preprocessing": manifest.preprocessing.model_dump(mode="json"),
            "training": {
                "seed": manifest.seed,
                "epochs": manifest.epochs,
                "best_epoch": manifest.best_epoch,
                **manifest.data.model_dump(mode="json"),
            },
            "versions": manifest.versions,
        }


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result."""
    names = ("torch", "torchvision", "lightning", "captum", "numpy", "scikit-image")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def save_weights(network: BoneAgeRegressor, path: Path) -> str:
    """Write a network's tensors as safetensors, whole or not at all.

    Returns:
        SHA-256 of the file in hexadecimal.

    Raises:
        DataError: there is no room for it.
    """
    state = network.state_dict()
    write_safetensors(path, {key: value.detach().cpu().numpy() for key, value in state.items()})
    return file_sha256(path)


def write_manifest(manifest: RunManifest, run: Path) -> None:
    """Write ``run.json``; a run folder is complete once it is there."""
    write_json(run / MANIFEST_FILE, manifest.model_dump(mode="json"))


def read_manifest(run: Path) -> RunManifest:
    """Read and check ``run.json``.

    Raises:
        CheckpointError: no run folder, an unfinished one, or one of another version.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: expected a run folder (from `boneage-xai train`), found none"
        )
    file = run / MANIFEST_FILE
    if not file.is_file():
        found = "an unfinished training" if (run / "engine").is_dir() else f"no {MANIFEST_FILE}"
        raise CheckpointError(f"{run}: expected a finished run, found {found}")
    content = read_json(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a run manifest, found {type(content).__name__}")
    found_format = (content.get("format"), content.get("version"))
    if found_format != (RUN_FORMAT, RUN_VERSION):
        raise CheckpointError(
            f"{file}: expected {RUN_FORMAT} version {RUN_VERSION}, "
            f"found {found_format[0]} version {found_format[1]}"
        )
    try:
        return RunManifest.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error


def read_splits(run: TrainedRun) -> pd.DataFrame:
    """Read which cases a run was trained and validated on.

    Returns:
        case_id, split (``train`` or ``validation``) and the digest of the prepared pixels.

    Raises:
        CheckpointError: the table is missing, damaged or not of this run.
    """
    file = run.path / SPLITS_FILE
    try:
        splits = read_table(file)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    expected = run.manifest.data
    found = splits["split"].tolist() if "split" in splits else []
    counts = (found.count("train"), found.count("validation"))
    if counts != (expected.n_train, expected.n_validation) or "pixels_digest" not in splits:
        raise CheckpointError(
            f"{file}: expected {expected.n_train} training and {expected.n_validation} validation "
            f"cases with the digests of their pixels, found {counts[0]} and {counts[1]}"
            f"{'' if 'pixels_digest' in splits else ' without digests'}"
        )
    return splits


def load_run(run: Path, device: str | torch.device = "cpu") -> TrainedRun:
    """Load a trained network from its run folder.

    Args:
        run: folder written by ``boneage-xai train``.
        device: where the network is put.

    Returns:
        The network in evaluation mode with frozen parameters, and its manifest.

    Raises:
        CheckpointError: missing, unfinished, damaged or of another version.
    """
    manifest = read_manifest(run)
    weights = run / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(f"{run}: expected {WEIGHTS_FILE} beside {MANIFEST_FILE}, found none")
    if (found := file_sha256(weights)) != manifest.weights_sha256:
        raise CheckpointError(
            f"{weights}: expected SHA-256 {manifest.weights_sha256[:12]}… as in {MANIFEST_FILE}, "
            f"found {found[:12]}…: the file was changed or damaged"
        )
    # Initial weights are drawn and thrown away; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        network = BoneAgeRegressor(manifest.architecture)
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{weights}: does not fit its architecture ({one_clause(error)})"
        ) from error
    return TrainedRun(run, network.to(device).requires_grad_(False).eval(), manifest)

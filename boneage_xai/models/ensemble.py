"""Ensembles and test-time augmentation: models made of trained runs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import CheckpointError, ConfigError, first_problem
from boneage_xai.files import read_json, staged_folder, write_json
from boneage_xai.models.averaged import AveragedNetwork, Views
from boneage_xai.models.checkpoint import (
    MANIFEST_FILE,
    SPLITS_FILE,
    WEIGHTS_FILE,
    TrainedRun,
    library_versions,
    load_run,
    read_splits,
)

ENSEMBLE_FILE = "ensemble.json"
_MEMBERS = "members"


class EnsembleManifest(BaseModel):
    """The content of ``ensemble.json``; unknown keys are refused.

    Args:
        name: how people call it.
        members: model ids of the runs in ``members/0``, ``members/1``, …
        views: of each radiograph that are averaged over.
        created: when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["boneage_xai.ensemble"] = "boneage_xai.ensemble"
    version: Literal[1] = 1
    name: str
    members: tuple[str, ...] = Field(min_length=1)
    views: Views
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Trained runs that predict together; a ``Model``.

    Args:
        path: its folder.
        manifest: its ``ensemble.json``.
        network: the average.
        members: the runs.
    """

    path: Path
    manifest: EnsembleManifest
    network: AveragedNetwork
    members: tuple[TrainedRun, ...]

    @property
    def model_id(self) -> str:
        """First twelve digits of a SHA-256 of the members and the views."""
        described = " ".join(self.manifest.members) + self.manifest.views.model_dump_json()
        return hashlib.sha256(described.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def cohort_name(self) -> str:
        """Name of the set that its first member was trained on."""
        return self.members[0].cohort_name

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How radiographs must be prepared, the same for every member."""
        return self.members[0].preprocessing

    @property
    def baselines(self) -> Mapping[str, Any]:
        """Baselines fitted on the training cases of the first member."""
        return self.members[0].baselines

    def splits(self) -> pd.DataFrame:
        """Return split and pixels_digest of the members' cases.

        Whatever one member was trained on is ``train``; ``validation`` is what all held out.
        """
        tables = [member.splits() for member in self.members]
        every = pd.concat(tables)
        trained = set(every.loc[every["split"] == "train", "pixels_digest"])
        held_out = set.intersection(
            *(set(table.loc[table["split"] == "validation", "pixels_digest"]) for table in tables)
        )
        every = every.drop_duplicates("pixels_digest").reset_index(drop=True)
        is_trained = every["pixels_digest"].isin(trained)
        every["split"] = is_trained.map({True: "train", False: "validation"})
        return every[is_trained | every["pixels_digest"].isin(held_out)].reset_index(drop=True)

    def record(self) -> dict[str, Any]:
        """Return the ``run`` part of ``analysis.json``."""
        splits = self.splits()["split"]
        first = self.members[0].record()
        return {
            "path": str(self.path),
            "model_id": self.model_id,
            "recipe": self.name,
            "architecture": first["architecture"],
            "preprocessing": first["preprocessing"],
            "training": {
                **first["training"],
                "n_train": int((splits == "train").sum()),
                "n_validation": int((splits == "validation").sum()),
            },
            "members": [member.record() for member in self.members],
            "views": self.manifest.views.model_dump(mode="json"),
            "versions": library_versions(),
        }


def write_ensemble(
    runs: Sequence[Path], out: Path, *, views: Views, name: str | None = None
) -> Ensemble:
    """Make one model of runs, with copies of their weights.

    Args:
        runs: run folders, all with the same preprocessing.
        out: folder to write; must not exist, or be empty.
        views: of each radiograph that are averaged over.
        name: how people call it; None names it after its members and views.

    Raises:
        CheckpointError: a run that cannot be loaded.
        ConfigError: a folder that is in use; runs prepared differently, or the same one twice;
            one run seen in one view, which would be the run itself.
    """
    # Of a write that was killed a hidden folder is left.
    if out.exists() and not (out.is_dir() and all(one.name[0] == "." for one in out.iterdir())):
        raise ConfigError(f"{out}: expected a new or empty folder, found one in use")
    members = [load_run(run) for run in runs]
    if len(members) == 1 and views == Views():
        raise ConfigError("ensemble: expected several runs, or several views of one, found neither")
    for earlier, member in enumerate(members):
        if member.preprocessing != members[0].preprocessing:
            raise ConfigError(
                f"{member.path}: expected radiographs prepared as for {members[0].path} "
                f"({members[0].preprocessing}), found {member.preprocessing}"
            )
        if member.model_id in [other.model_id for other in members[:earlier]]:
            raise ConfigError(f"{member.path}: expected different runs, found one of them twice")
        read_splits(member)
    manifest = EnsembleManifest(
        name=name or _described([member.name for member in members], views),
        members=tuple(member.model_id for member in members),
        views=views,
    )
    with staged_folder(out / _MEMBERS) as staged:
        for number, member in enumerate(members):
            folder = staged / str(number)
            folder.mkdir()
            for file in (WEIGHTS_FILE, SPLITS_FILE, MANIFEST_FILE):
                shutil.copyfile(member.path / file, folder / file)
    # The folder is complete once this is there.
    write_json(out / ENSEMBLE_FILE, manifest.model_dump(mode="json"))
    return load_ensemble(out)


def _described(names: Sequence[str], views: Views) -> str:
    different = list(dict.fromkeys(names))
    parts = [" + ".join(different)]
    if len(names) > len(different):
        parts.append(f"{len(names)} runs")
    if views.count > 1:
        parts.append(f"{views.count} views")
    return ", ".join(parts)


def load_ensemble(path: Path, device: str | torch.device = "cpu") -> Ensemble:
    """Load what :func:`write_ensemble` wrote.

    Raises:
        CheckpointError: missing, damaged, or other members than it was made of.
    """
    file = path / ENSEMBLE_FILE
    if not file.is_file():
        raise CheckpointError(f"{path}: expected {ENSEMBLE_FILE}, found none")
    try:
        manifest = EnsembleManifest.model_validate(read_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    members = []
    for number, expected in enumerate(manifest.members):
        member = load_run(path / _MEMBERS / str(number), device)
        if member.model_id != expected:
            raise CheckpointError(
                f"{member.path}: expected model {expected} as in {ENSEMBLE_FILE}, "
                f"found {member.model_id}"
            )
        members.append(member)
    network = AveragedNetwork([member.network for member in members], manifest.views)
    return Ensemble(path, manifest, network.eval(), tuple(members))


def load_model(path: Path, device: str | torch.device = "cpu") -> TrainedRun | Ensemble:
    """Load a run or an ensemble, whichever the folder holds.

    Raises:
        CheckpointError: neither, or a damaged one.
    """
    if (path / ENSEMBLE_FILE).is_file():
        return load_ensemble(path, device)
    return load_run(path, device)

"""The control that a profile is held against: the same network with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from boneage_xai.analysis.comparison import compare_maps
from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.attribution.randomisation import randomised_network
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import ReportError
from boneage_xai.models.interface import Model
from boneage_xai.store import CONTROL_FOLDER, AnalysisFolder

_MEASURED_ON = 32


@dataclass(frozen=True, eq=False)
class RandomModel:
    """A copy of a model whose weights are random; it passes for no other.

    Args:
        model: the model that it is a copy of.
        network: the copy.
        seed: of the weights.
        measured_on: images that statistics of BatchNorm were measured on.
    """

    model: Model
    network: nn.Module
    seed: int
    measured_on: int

    @property
    def path(self) -> Path:
        """Run folder or model card of the model."""
        return self.model.path

    @property
    def model_id(self) -> str:
        """The first twelve digits of a SHA-256 over all its tensors."""
        found = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return found.hexdigest()[:12]

    @property
    def name(self) -> str:
        """The model's name, and that its weights are random."""
        return f"{self.model.name} with random weights"

    @property
    def cohort_name(self) -> str | None:
        """Name of the set that the model was trained on."""
        return self.model.cohort_name

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How radiographs must be prepared for this network."""
        return self.model.preprocessing

    @property
    def baselines(self) -> Mapping[str, Any] | None:
        """Baselines fitted on the model's training cases."""
        return self.model.baselines

    def splits(self) -> pd.DataFrame | None:
        """Return the training cases of the model: the control sees the same others."""
        return self.model.splits()

    def record(self) -> dict[str, Any]:
        """Return the ``run`` part of ``analysis.json``, which says what it is."""
        return {
            **self.model.record(),
            "model_id": self.model_id,
            "recipe": self.name,
            "random_weights": {
                "copy_of": self.model.model_id,
                "seed": self.seed,
                "batch_norm_measured_on": self.measured_on,
            },
        }


def with_random_weights(prepared: RunOnCohort, seed: int = 0) -> RunOnCohort:
    """Put a copy with random weights in place of a network, with the same cases.

    Args:
        prepared: network and cases.
        seed: of the weights.

    Returns:
        The copy with the cases; BatchNorm is measured on up to 32 of them, chosen evenly over sex
        and age.

    Raises:
        AttributionError: as ``randomised_network``.
    """
    chosen = choose_cases(prepared.cohort, _MEASURED_ON)
    rows = prepared.cache.rows([case.case_id for case in chosen])
    like = next(prepared.run.network.parameters(), torch.zeros(0))
    images = torch.tensor(prepared.cache.pixels[rows] / 255.0, dtype=like.dtype, device=like.device)
    is_male = torch.tensor(chosen.is_male(), dtype=like.dtype, device=like.device)
    network = randomised_network(prepared.run.network, seed, images[:, None], is_male)
    return replace(prepared, run=RandomModel(prepared.run, network, seed, len(chosen)))


def random_weights_of(folder: AnalysisFolder) -> Mapping[str, Any] | None:
    """Return the record of random weights, None for the analysis of a network as it is."""
    found = folder.manifest["run"].get("random_weights")
    return found if isinstance(found, dict) else None


def control_of(folder: AnalysisFolder) -> AnalysisFolder | None:
    """Return the control inside an analysis folder, None where there is none.

    Raises:
        ReportError: what lies there is no control of this network on these data.
    """
    path = folder.path / CONTROL_FOLDER
    if not (path / "analysis.json").is_file():
        return None
    control = AnalysisFolder.open(path)
    record = random_weights_of(control)
    expected = {
        "copy of model": folder.manifest["run"].get("model_id"),
        "data fingerprint": folder.manifest["data"].get("fingerprint"),
    }
    found = {
        "copy of model": None if record is None else record.get("copy_of"),
        "data fingerprint": control.manifest["data"].get("fingerprint"),
    }
    for what, value in expected.items():
        if value != found[what]:
            raise ReportError(
                f"{path}: expected a control with {what} {value}, found {found[what]}"
            )
    return control


def similarity_to_control(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return how alike a network's maps are to those of its control for the same cases.

    What a map shares with that of a network that has learnt nothing comes from the image. The
    weights that were drawn decide the sign of such a map: the opposite is as much a copy.

    Args:
        folder: analysis of the network.

    Returns:
        Per case and common method: method, case_id, and the sizes (0 to 1) of rank_correlation and
        chance from ``compare_maps``; None without a control, or without maps in either.

    Raises:
        ReportError: what lies there is no control of this network on these data.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps, 2018; here all layers are random at once.
    """
    control = control_of(folder)
    if control is None:
        return None
    found = compare_maps(folder, control, ("network", "control"))
    if found.empty:
        return None
    sizes = found[["rank_correlation", "chance"]].abs()
    return found.drop(columns=["model_a", "model_b"]).assign(**sizes)

"""What predictions, analyses and explanations ask of a network, whoever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from torch import nn

from boneage_xai.data.preprocess import PreprocessSettings


class Model(Protocol):
    """A network ready to predict, in evaluation mode, with what is known about it.

    A run that the toolkit trained knows its training cases; a network from elsewhere does not,
    and then ``splits`` and ``baselines`` give None.
    """

    @property
    def path(self) -> Path:
        """Run folder or model card."""
        ...

    @property
    def network(self) -> nn.Module:
        """``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months."""
        ...

    @property
    def model_id(self) -> str:
        """Twelve hexadecimal digits that are the same for the same model only."""
        ...

    @property
    def name(self) -> str:
        """How people call the model."""
        ...

    @property
    def cohort_name(self) -> str | None:
        """Name of the set that the model was trained on, None where it is not known."""
        ...

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How radiographs must be prepared for this network."""
        ...

    @property
    def baselines(self) -> Mapping[str, Any] | None:
        """Baselines fitted on the training cases, None where these are not known."""
        ...

    def splits(self) -> pd.DataFrame | None:
        """Return split and pixels_digest of the training cases, None where not known."""
        ...

    def record(self) -> dict[str, Any]:
        """Return the ``run`` part of ``analysis.json``."""
        ...

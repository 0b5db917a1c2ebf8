"""What every attribution method is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from boneage_xai.errors import AttributionError
from boneage_xai.types import FloatImage

BaselineName = Literal["black", "blurred", "mean"]


class AttributionSettings(BaseModel):
    """Settings of the attribution methods; each method reads those that concern it.

    Args:
        baseline: image that integrated gradients starts from: ``black`` (0 everywhere,
            before the network's normalisation), ``blurred`` (the image itself under a
            heavy Gaussian), ``mean`` (the training mean image, given by the caller).
        n_steps: nodes of the Gauss-Legendre rule.
        internal_batch_size: nodes evaluated at once; bounds memory, does not change maps.
        blur_sigma_fraction: standard deviation of the Gaussian of ``blurred``, as a
            fraction of the image's longer side.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: BaselineName = "black"
    n_steps: int = Field(default=50, ge=1)
    internal_batch_size: int = Field(default=4, ge=1)
    blur_sigma_fraction: float = Field(default=0.1, gt=0, le=1)


@dataclass(frozen=True, eq=False)
class AttributedMap:
    """The signed map of one image with what is needed to judge it.

    Args:
        map_months: (H, W) float32, positive where a pixel makes the prediction older.
        prediction_months: the network's output for the image.
        baseline: name of the baseline, None for methods without one.
        baseline_prediction_months: the network's output for the baseline, None likewise.
        completeness_gap_months: sum of the map minus (prediction - prediction at the
            baseline), None where the method promises no completeness.
    """

    map_months: FloatImage
    prediction_months: float
    baseline: str | None = None
    baseline_prediction_months: float | None = None
    completeness_gap_months: float | None = None

    def __post_init__(self) -> None:
        """Refuse a map that cannot be summed.

        Raises:
            AttributionError: NaN or infinity in the map.
        """
        if not np.isfinite(self.map_months).all():
            raise AttributionError("attribution map: expected finite months, found NaN or infinity")


class AttributionMethod(Protocol):
    """A function that explains one prediction by a signed map in months."""

    def __call__(
        self,
        network: nn.Module,
        image: Tensor,
        is_male: Tensor,
        settings: AttributionSettings,
        mean_image: FloatImage | None = None,
    ) -> AttributedMap:
        """Attribute ``network(image (1, 1, H, W) in [0, 1], is_male (1,))`` to the pixels."""
        ...

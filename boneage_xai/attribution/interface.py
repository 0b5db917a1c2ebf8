"""What every attribution method is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from boneage_xai.errors import AttributionError
from boneage_xai.types import FloatImage

BaselineName = Literal["black", "blurred", "mean", "expected"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


class AttributionSettings(BaseModel):
    """Settings of the attribution methods; each method reads those that concern it.

    Args:
        baseline: image that methods compare with (Integrated and Guided Integrated Gradients,
            DeepLIFT, occlusion): ``black`` (0 everywhere, before the network's normalisation),
            ``blurred`` (the image itself under a heavy Gaussian), ``mean`` (the training mean
            image, given by the caller), ``expected`` (the average over reference images of the
            same sex, given by the caller: expected gradients only).
        gap_tolerance_months: nodes are added until the completeness gap is at most this …
        gap_tolerance_fraction: … or this fraction of the difference between the predictions
            at image and baseline, whichever is larger.
        map_tolerance_fraction: and until the estimated error of integration, summed over pixels
            without sign, is at most this fraction of the map's magnitude: a gap within its
            tolerance says little on single pixels.
        min_nodes: gradients per case to begin with.
        max_nodes: gradients per case at most, in each precision; a case that still is not within
            both tolerances is marked as not converged.
        precision: ``float32``; ``bfloat16`` or ``float16`` where a check on a few cases lets it
            pass; ``auto`` tries float16 on a GPU and bfloat16 on a processor, where they are
            computed fast and the cases are many.
        memory_budget_mb: memory for activations and gradients, None for a quarter of a GPU's and
            1 GiB elsewhere; does not change maps.
        n_references: reference images of each sex for ``expected``.
        reference_seed: of their draw.
        blur_sigma_fraction: standard deviation of the Gaussian of ``blurred``, as a
            fraction of the image's longer side.
        noise_fraction: standard deviation of SmoothGrad's noise, as a fraction of the image's
            range (brightest minus darkest pixel).
        noise_samples: noisy copies that SmoothGrad averages over.
        noise_seed: of their draw, which is the same for every case.
        guided_steps: steps of the path of Guided Integrated Gradients, a gradient each.
        guided_fraction: share of the pixels, those of the smallest gradients, that move first.
        guided_distance: how far a pixel may be ahead of the straight path or behind it, as a
            fraction of the way.
        cam_layer: layer of Grad-CAM and LayerCAM, a name as in ``network.named_modules()``;
            None takes the last convolutional stage.
        patch_fraction: side of occlusion's square patch, as a fraction of the image's longer
            side.
        stride_fraction: step from patch to patch likewise, at most ``patch_fraction`` so that
            every pixel is covered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: BaselineName = "black"
    gap_tolerance_months: float = Field(default=0.5, ge=0)
    gap_tolerance_fraction: float = Field(default=0.01, ge=0, lt=1)
    map_tolerance_fraction: float = Field(default=0.01, gt=0)
    min_nodes: int = Field(default=17, ge=3)
    max_nodes: int = Field(default=256, ge=3)
    precision: PrecisionName = "auto"
    memory_budget_mb: int | None = Field(default=None, ge=1)
    n_references: int = Field(default=16, ge=1)
    reference_seed: int = Field(default=0, ge=0)
    blur_sigma_fraction: float = Field(default=0.1, gt=0, le=1)
    noise_fraction: float = Field(default=0.1, ge=0, le=1)
    noise_samples: int = Field(default=32, ge=1)
    noise_seed: int = Field(default=0, ge=0)
    guided_steps: int = Field(default=100, ge=1)
    guided_fraction: float = Field(default=0.25, gt=0, le=1)
    guided_distance: float = Field(default=0.02, ge=0, le=1)
    cam_layer: str | None = None
    patch_fraction: float = Field(default=0.125, gt=0, le=1)
    stride_fraction: float = Field(default=0.0625, gt=0, le=1)

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.max_nodes < self.min_nodes:
            raise ValueError(
                f"max_nodes: expected at least min_nodes ({self.min_nodes}), found {self.max_nodes}"
            )
        return self

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.stride_fraction > self.patch_fraction:
            raise ValueError(
                f"stride_fraction: expected at most patch_fraction ({self.patch_fraction:g}), "
                f"found {self.stride_fraction:g}"
            )
        return self

    def tolerance_months(self, change_months: float) -> float:
        """Return the completeness gap allowed for a change from baseline to image."""
        return max(self.gap_tolerance_months, self.gap_tolerance_fraction * abs(change_months))


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
        map_error_fraction: estimated error of integration, the sum over pixels of its magnitude as
            a fraction of that of the map, None where it is not estimated.
        nodes: gradients that were computed, None for methods that follow no path.
        converged: whether gap and error are within their tolerances, None likewise.
        precision: in which gradients were computed, None likewise.
    """

    map_months: FloatImage
    prediction_months: float
    baseline: str | None = None
    baseline_prediction_months: float | None = None
    completeness_gap_months: float | None = None
    map_error_fraction: float | None = None
    nodes: int | None = None
    converged: bool | None = None
    precision: str | None = None

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

"""Occlusion: what covering a patch of a radiograph does to the prediction."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.baselines import single_baseline
from boneage_xai.attribution.forward import prediction_of
from boneage_xai.attribution.gradients import fitting_batch, predictions
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.path_integration import half_budget_bytes
from boneage_xai.types import FloatImage


def occlusion(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Replace one square patch after the other by the baseline and measure the change.

    A patch is worth the prediction for the image minus that with the patch replaced: positive
    where its content makes the prediction older. A pixel gets the average over the patches that
    cover it. The last patch of a row or column is moved back to end at the image's edge, so that
    all patches have the same size and all values the same unit.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: patch_fraction, stride_fraction, memory_budget_mb; baseline ``black``,
            ``blurred`` or ``mean``.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.

    Returns:
        Signed map in months per patch of that size, averaged over the patches that cover the
        pixel. Overlapping patches count pixels several times: it promises no completeness.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.
        ConfigError: a baseline that is not one image, or ``mean`` without a mean image.

    Source: Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014. Captum's
    Occlusion cuts patches off at the lower and right edge and so mixes sizes; where patches fit
    exactly both agree.
    """
    prediction_months = prediction_of(network, image, is_male)
    with torch.inference_mode(False), torch.no_grad():
        image, is_male = image.detach().clone(), is_male.detach().clone()
        baseline = single_baseline(settings, image, mean_image, "occlusion")
        height, width = image.shape[2:]
        side = max(height, width)
        patch_px = max(1, round(settings.patch_fraction * side))
        stride_px = min(patch_px, max(1, round(settings.stride_fraction * side)))
        corners = list(
            product(_starts(height, patch_px, stride_px), _starts(width, patch_px, stride_px))
        )
        batch_size = fitting_batch(
            network, image, is_male, half_budget_bytes(settings, image.device)
        )
        (at_baseline,) = predictions(network, baseline, is_male, 1).tolist()
        total = np.zeros((height, width), dtype=np.float64)
        covered = np.zeros((height, width), dtype=np.int64)
        for start in range(0, len(corners), batch_size):
            places = [
                (slice(y, y + patch_px), slice(x, x + patch_px))
                for y, x in corners[start : start + batch_size]
            ]
            copies = image.repeat(len(places), 1, 1, 1)
            for copy, place in zip(copies, places, strict=True):
                copy[0][place] = baseline[0, 0][place]
            values = predictions(network, copies, is_male.repeat(len(places)), batch_size)
            for place, value in zip(places, values.tolist(), strict=True):
                total[place] += prediction_months - value
                covered[place] += 1
    mean_months: npt.NDArray[np.float64] = total / covered
    return AttributedMap(
        mean_months.astype(np.float32),
        prediction_months,
        baseline=settings.baseline,
        baseline_prediction_months=at_baseline,
    )


def _starts(length: int, patch_px: int, stride_px: int) -> list[int]:
    """Return where patches begin, so that the last ends with the image."""
    last = max(0, length - patch_px)
    return sorted({*range(0, last, stride_px), last})

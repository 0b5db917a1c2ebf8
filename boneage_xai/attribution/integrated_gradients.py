"""Integrated Gradients in months, with the completeness gap of each map."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from boneage_xai.attribution.baselines import baseline_image
from boneage_xai.attribution.forward import check_single, months, untouched
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.types import FloatImage


def integrated_gradients(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Attribute one prediction to pixels along the straight path from a baseline.

    Sex is held fixed along the path: it is no input to be attributed, so girls (coded 0)
    and boys are treated alike and the map explains the change made by the image alone.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: baseline, n_steps, internal_batch_size.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.

    Returns:
        Signed map in months with predictions at image and baseline; the gap is that of
        the float32 map as returned, summed in float64.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.
        ConfigError: baseline ``mean`` without a mean image.

    Source: Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, 2017. The
    integral is a Gauss-Legendre rule, whose weights sum to 1 (Captum's trapezoid's do not).
    """
    check_single(image, is_male)
    with untouched(network):
        start = image.detach().clone()
        sex = is_male.detach().clone()
        baseline = baseline_image(settings, start, mean_image)
        # No target: to Captum it would be the index of an output, and there is only one.
        attributed = IntegratedGradients(partial(months, network)).attribute(
            start,
            baselines=baseline,
            additional_forward_args=(sex,),
            n_steps=settings.n_steps,
            method="gausslegendre",
            internal_batch_size=settings.internal_batch_size,
        )
        with torch.no_grad():
            both = months(network, torch.cat([start, baseline]), sex.repeat(2))
    map_months = attributed.detach()[0, 0].cpu().numpy().astype(np.float32)
    prediction_months, baseline_months = (float(value) for value in both.double().cpu())
    total_months = float(map_months.sum(dtype=np.float64))
    return AttributedMap(
        map_months,
        prediction_months,
        baseline=settings.baseline,
        baseline_prediction_months=baseline_months,
        completeness_gap_months=total_months - (prediction_months - baseline_months),
    )

"""SmoothGrad: the gradient averaged over noisy copies of a radiograph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.forward import prediction_of
from boneage_xai.attribution.gradients import fitting_batch, gradients
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.path_integration import half_budget_bytes
from boneage_xai.types import FloatImage


def smoothgrad(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Average the gradient of the prediction over copies of the image with Gaussian noise.

    The noise comes from a generator of the method's own with a seed in the settings: every case
    meets the same noise, whatever the order of cases, and the global random state is left alone.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: noise_fraction, noise_samples, noise_seed, memory_budget_mb.
        mean_image: not used by this method.

    Returns:
        Signed map in months per unit of intensity, that is per step from black to white; it
        promises no completeness.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.

    Source: Smilkov et al., SmoothGrad: removing noise by adding noise, 2017, without absolute
    values. As there, noisy copies may leave [0, 1].
    """
    prediction_months = prediction_of(network, image, is_male)
    with torch.inference_mode(False), torch.no_grad():
        image, is_male = image.detach().clone(), is_male.detach().clone()
        batch_size = fitting_batch(
            network, image, is_male, half_budget_bytes(settings, image.device)
        )
        sigma = settings.noise_fraction * float(image.max() - image.min())
        # On the processor and in one type, so that every device sees the same noise.
        generator = torch.Generator().manual_seed(settings.noise_seed)
        total = torch.zeros_like(image[0, 0], dtype=torch.float64)
        for start in range(0, settings.noise_samples, batch_size):
            # Copy by copy, so that the draw does not depend on the size of a batch.
            copies = [
                image + sigma * torch.randn(image.shape, generator=generator).to(image)
                for _ in range(min(batch_size, settings.noise_samples - start))
            ]
            _, slopes = gradients(
                network, torch.cat(copies), is_male.repeat(len(copies)), batch_size
            )
            for slope in slopes:
                total += slope[0].double()
    mean_slope = (total / settings.noise_samples).cpu().numpy()
    return AttributedMap(mean_slope.astype(np.float32), prediction_months)

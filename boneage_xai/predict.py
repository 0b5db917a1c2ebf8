"""Predictions of bone age for whole cohorts, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.data.cache import PixelCache
from boneage_xai.models.interface import Model
from boneage_xai.types import Cohort, Prediction

Progress = Callable[[int, int], None]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode and back into what each module was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def as_images(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Turn cached pixels (n, S, S) uint8 into network input (n, 1, S, S) float32 in [0, 1]."""
    images = torch.from_numpy(np.array(pixels)).to(device)
    return images.unsqueeze(1).float().div_(255).contiguous(memory_format=torch.channels_last)


def predict_pixels(
    network: nn.Module,
    pixels: npt.NDArray[np.uint8],
    is_male: npt.NDArray[np.bool_],
    batch_size: int = 64,
    progress: Progress | None = None,
    rows: npt.NDArray[np.intp] | None = None,
) -> npt.NDArray[np.float64]:
    """Predict bone age from prepared pixels, in float32.

    Args:
        network: ``forward(image (N, 1, H, W), is_male (N,)) -> (N,)`` in months.
        pixels: (m, S, S) uint8, as the cache holds them, memory-mapped or not.
        is_male: (n,) bool.
        batch_size: images a step; it does not change the result beyond rounding.
        progress: called with (done, total).
        rows: (n,) row of ``pixels`` for each case; None where they correspond one to one.

    Returns:
        (n,) predicted months.
    """
    device = next(network.parameters()).device
    n = len(is_male)
    chosen = np.arange(n) if rows is None else rows
    months = np.empty(n, dtype=np.float64)
    with evaluation_mode(network), torch.inference_mode():
        for start in range(0, n, batch_size):
            part = slice(start, start + batch_size)
            sex = torch.from_numpy(is_male[part]).to(device, torch.float32)
            images = as_images(pixels[chosen[part]], device)
            months[part] = network(images, sex).double().cpu().numpy()
            if progress is not None:
                progress(min(start + batch_size, n), n)
    return months


def predict_cohort(
    run: Model,
    cohort: Cohort,
    cache: PixelCache,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predict every case of a cohort.

    Args:
        run: the network, as it was trained or from a model card.
        cohort: the cases.
        cache: pixels prepared with the network's own preprocessing; holds at least these cases.
        batch_size: images a step.
        progress: called with (done, total).

    Returns:
        One prediction per case, in the cohort's order.
    """
    rows = cache.rows([case.case_id for case in cohort])
    months = predict_pixels(run.network, cache.pixels, cohort.is_male(), batch_size, progress, rows)
    return [
        Prediction(case.case_id, float(value), case.bone_age_months, case.sex, run.model_id)
        for case, value in zip(cohort, months, strict=True)
    ]

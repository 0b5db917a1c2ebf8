"""Predictions and gradients of many images, in batches that fit a memory budget."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from boneage_xai.attribution.forward import months, slope_of, untouched

# On a processor throughput no longer grows beyond about this many images a step, nor, with two,
# by much beyond this much for their activations.
CPU_BATCH = 16
_CPU_ENOUGH_BYTES = 2**27
_CPU_FEW = 2
GPU_BATCH = 256
# Gradient and reordered copies of the largest activation live beside what is kept.
_TRANSIENT = 3


def gradients(
    network: nn.Module, images: Tensor, is_male: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Predict and differentiate.

    Args:
        network: frozen, in evaluation mode.
        images: (n, 1, H, W) in [0, 1].
        is_male: (n,) 0 or 1.
        batch_size: images a step.

    Returns:
        Months (n,) float64 and gradients (n, 1, H, W) in months per unit of intensity, both
        on the images' device.

    Raises:
        AttributionError: an output of another shape, or no gradient that reaches the pixels.
    """
    values, slopes = [], []
    with untouched(network):
        for start in range(0, images.shape[0], batch_size):
            part = images[start : start + batch_size].detach().clone()
            part = part.contiguous(memory_format=torch.channels_last).requires_grad_()
            output = months(network, part, is_male[start : start + batch_size].detach().clone())
            slopes.append(slope_of(output, part).contiguous())
            values.append(output.detach().double())
    return torch.cat(values), torch.cat(slopes)


def predictions(network: nn.Module, images: Tensor, is_male: Tensor, batch_size: int) -> Tensor:
    """Predict (n,) months in float64, without gradients.

    Args:
        network: frozen, in evaluation mode.
        images: (n, 1, H, W) in [0, 1].
        is_male: (n,) 0 or 1.
        batch_size: images a step.

    Raises:
        AttributionError: an output of another shape.
    """
    values = []
    with untouched(network), torch.no_grad():
        for start in range(0, images.shape[0], batch_size):
            part = images[start : start + batch_size].clone()
            part = part.contiguous(memory_format=torch.channels_last)
            sex = is_male[start : start + batch_size].clone()
            values.append(months(network, part, sex).double())
    return torch.cat(values)


def bytes_per_image(network: nn.Module, image: Tensor, is_male: Tensor) -> int:
    """Measure the memory that one image takes during a gradient.

    One forward counts what autograd keeps for the way back, weights left out; three times the
    largest piece is added for what lives only for a moment.

    Args:
        network: frozen, in evaluation mode.
        image: (1, 1, H, W).
        is_male: (1,).

    Returns:
        Bytes; 0 where nothing is kept, as no gradient reaches the pixels.
    """
    weights = {
        tensor.untyped_storage().data_ptr()
        for tensor in chain(network.parameters(), network.buffers())
    }
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give_back(tensor: Any) -> Any:
        return tensor

    with untouched(network), saved_tensors_hooks(count, give_back):
        start = image.detach().clone().requires_grad_()
        output = months(network, start, is_male.detach().clone())
        if output.requires_grad:
            torch.autograd.grad(output.sum(), start, allow_unused=True)
    return sum(kept.values()) + _TRANSIENT * max(kept.values(), default=0)


def fitting_batch(network: nn.Module, image: Tensor, is_male: Tensor, budget_bytes: int) -> int:
    """Return how many images a step the memory budget allows, at most what is worth while.

    Args:
        network: frozen, in evaluation mode.
        image: (1, 1, H, W), one of those to come.
        is_male: (1,).
        budget_bytes: memory for activations.

    Returns:
        At least 1, also where a single image exceeds the budget; few where the memory cannot be
        measured, as no gradient reaches the pixels.
    """
    each = bytes_per_image(network, image, is_male)
    if not each:
        return _CPU_FEW
    most = GPU_BATCH
    if image.device.type == "cpu":
        most = min(CPU_BATCH, max(_CPU_FEW, _CPU_ENOUGH_BYTES // each))
    return max(1, min(most, budget_bytes // each))

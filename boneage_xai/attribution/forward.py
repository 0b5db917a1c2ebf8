"""Running a network for attribution and leaving it exactly as it was found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from boneage_xai.errors import AttributionError


@contextmanager
def in_full_float32() -> Iterator[None]:
    """Keep cuDNN from rounding float32 to TensorFloat-32, as it does unless told otherwise.

    What is called float32 would carry ten bits of mantissa, and bfloat16, which is faster, would be
    checked against that.
    """
    convolutions: Any = getattr(torch.backends.cudnn, "conv", None)
    exact: str | bool
    if convolutions is None:  # PyTorch before 2.9
        owner, name, exact = torch.backends.cudnn, "allow_tf32", False
    else:
        owner, name, exact = convolutions, "fp32_precision", "ieee"
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation with frozen parameters, and restore it whatever happens.

    Inside, no BatchNorm statistic changes, dropout is off, parameters collect no gradient
    gradients with respect to inputs work even if the caller has switched them off, and a GPU
    computes float32 in full.
    Afterwards each module's mode, each parameter's ``requires_grad`` and torch's random
    state are as before.

    Raises:
        AttributionError: a BatchNorm without running statistics, whose output for one
            image depends on the others in the batch.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise AttributionError(
                f"{name}: expected BatchNorm with running statistics, found one that mixes "
                "the images of a batch, for which attributions are not defined"
            )
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    cuda = sorted({p.get_device() for p, _ in flags if p.device.type == "cuda"})
    try:
        # Flags are set one by one: a network may override train() to keep parts frozen,
        # and then train(True) would not bring back what was there.
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            in_full_float32(),
            torch.random.fork_rng(devices=cuda),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def months(network: nn.Module, image: Tensor, is_male: Tensor) -> Tensor:
    """Run the network and check that it answers with one number per image.

    Args:
        network: called as ``network(image, is_male)``.
        image: (N, 1, H, W) in [0, 1].
        is_male: (N,) 0 or 1.

    Returns:
        (N,) months.

    Raises:
        AttributionError: an output of another shape.
    """
    output = network(image, is_male)
    if not isinstance(output, Tensor) or output.shape != (image.shape[0],):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise AttributionError(
            f"network: expected months of shape ({image.shape[0]},), found {found}"
        )
    return output


def slope_of(output: Tensor, start: Tensor) -> Tensor:
    """Differentiate predictions with respect to the pixels that they were made from.

    Args:
        output: (N,) months.
        start: (N, 1, H, W), a leaf.

    Returns:
        (N, 1, H, W) months per unit of intensity.

    Raises:
        AttributionError: no gradient reaches the pixels.
    """
    slope = None
    if output.requires_grad:
        (slope,) = torch.autograd.grad(output.sum(), start, allow_unused=True)
    if slope is None:
        raise AttributionError(
            "network: expected months that can be differentiated with respect to the pixels, "
            "found a network in which no gradient reaches them"
        )
    return slope


def prediction_of(network: nn.Module, image: Tensor, is_male: Tensor) -> float:
    """Predict one image and refuse what no map could explain.

    Args:
        network: called as ``network(image, is_male)``; left as it was found.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.

    Raises:
        AttributionError: wrong shapes, or a prediction that is no finite number.
    """
    check_single(image, is_male)
    with untouched(network), torch.no_grad():
        value = float(months(network, image.detach().clone(), is_male.detach().clone()).double())
    return finite_months(value)


def finite_months(value: float) -> float:
    """Return a prediction that a map can explain.

    Raises:
        AttributionError: NaN or infinity.
    """
    if not math.isfinite(value):
        raise AttributionError(f"network: expected finite months, found {value}")
    return value


def sex_effects(network: nn.Module, images: Tensor, is_male: Tensor) -> list[float]:
    """Return what swapping the sex, with the image held fixed, does to each prediction.

    Args:
        network: called as ``network(image, is_male)``.
        images: (n, 1, H, W) in [0, 1].
        is_male: (n,) 0 or 1.

    Returns:
        n times the prediction for the other sex minus that for the case's own, in months.

    Raises:
        AttributionError: an output of another shape.
    """
    with untouched(network), torch.no_grad():
        own = months(network, images, is_male).double()
        swapped = months(network, images, 1 - is_male).double()
    effects: list[float] = (swapped - own).tolist()
    return effects


def check_single(image: Tensor, is_male: Tensor) -> None:
    """Refuse anything but one grey image with one sex.

    Raises:
        AttributionError: shapes other than (1, 1, H, W) and (1,).
    """
    if image.ndim != 4 or image.shape[:2] != (1, 1) or is_male.shape != (1,):
        raise AttributionError(
            "attribution: expected image (1, 1, H, W) and is_male (1,), "
            f"found {tuple(image.shape)} and {tuple(is_male.shape)}"
        )

"""Grad-CAM and LayerCAM with sign: activations of a layer, weighted into months."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boneage_xai.attribution.activations import default_layers
from boneage_xai.attribution.forward import months, prediction_of, untouched
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage


def grad_cam(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Weight the channels of a layer by their mean gradient and add them up, with sign.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: cam_layer; None takes the last convolutional stage.
        mean_image: not used by this method.

    Returns:
        Signed map in months on the image's grid whose sum is that at the layer's resolution. For
        a layer that is only averaged over space afterwards the sum is the first-order Taylor
        term of the prediction in the layer's activations, from zero activations; for others the
        mean gradient stands for the gradient at each place. It promises no completeness.

    Raises:
        AttributionError: wrong shapes, a layer that does not run exactly once or has no spatial
            output, or a network for which maps are not defined.
        ConfigError: no such layer.

    Source: Selvaraju et al., Grad-CAM, 2017, without its ReLU, which would hide what makes the
    prediction younger.
    """
    activation, slope, prediction_months = _at_layer(network, image, is_male, settings)
    weighted = (slope.mean(dim=(1, 2), keepdim=True) * activation).sum(dim=0)
    return _on_image(weighted, image, prediction_months)


def layer_cam(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Multiply each activation of a layer by its own gradient and add up the channels.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: cam_layer; None takes the last convolutional stage.
        mean_image: not used by this method.

    Returns:
        Signed map in months on the image's grid. Its sum is the first-order Taylor term of the
        prediction in the layer's activations, from zero activations: it promises no
        completeness.

    Raises:
        AttributionError: wrong shapes, a layer that does not run exactly once or has no spatial
            output, or a network for which maps are not defined.
        ConfigError: no such layer.

    Source: Jiang et al., LayerCAM, 2021, with neither of its ReLUs.
    """
    activation, slope, prediction_months = _at_layer(network, image, is_male, settings)
    return _on_image((slope * activation).sum(dim=0), image, prediction_months)


def spread(coarse: npt.NDArray[np.floating[Any]], shape: tuple[int, int]) -> FloatImage:
    """Spread a coarse map over a finer grid, so that its sum stays the same.

    Bilinear interpolation divided by the area ratio; near the edges and for ratios that are not
    whole numbers each coarse value is divided so that all of it arrives.

    Args:
        coarse: (h, w) months.
        shape: (H, W) at least (h, w).

    Returns:
        (H, W) float32.

    Raises:
        AttributionError: a grid that is coarser than the map.
    """
    if coarse.shape[0] > shape[0] or coarse.shape[1] > shape[1]:
        raise AttributionError(
            f"activation map: expected a layer no finer than the image {shape}, "
            f"found {coarse.shape}"
        )
    rows, columns = (_shares(short, long) for short, long in zip(coarse.shape, shape, strict=True))
    fine: FloatImage = (rows.T @ coarse.astype(np.float64) @ columns).astype(np.float32)
    return fine


def _shares(short: int, long: int) -> npt.NDArray[np.float64]:
    """Return (short, long) shares of each coarse place that go to each fine one."""
    unit = torch.eye(short, dtype=torch.float64)[None]
    weights = F.interpolate(unit, size=long, mode="linear", align_corners=False)[0]
    shares: npt.NDArray[np.float64] = (weights / weights.sum(dim=1, keepdim=True)).numpy()
    return shares


def _at_layer(
    network: nn.Module, image: Tensor, is_male: Tensor, settings: AttributionSettings
) -> tuple[Tensor, Tensor, float]:
    """Return a layer's activations and gradients (C, h, w) in float64, and the prediction."""
    prediction_months = prediction_of(network, image, is_male)
    layer = settings.cam_layer
    if layer is None:
        layers = default_layers(network, size_px=max(image.shape[2:]))
        if not layers:
            raise AttributionError(
                f"{type(network).__name__}: expected layers with outputs (N, C, h, w) to take "
                "activations from, found none"
            )
        layer = layers[-1]
    module = dict(network.named_modules()).get(layer) if layer else None
    if module is None:
        raise ConfigError(
            f"{type(network).__name__}: expected the name of one of its layers, found {layer!r}"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise AttributionError(f"{layer}: expected a layer that can be observed, found TorchScript")
    seen: list[Tensor] = []
    with untouched(network), _cut(module, layer, seen):
        output = months(network, image.detach().clone(), is_male.detach().clone())
        if len(seen) != 1:
            raise AttributionError(
                f"{layer}: expected a layer that runs once per image, found one that runs "
                f"{len(seen)} times"
            )
        if not output.requires_grad:
            raise AttributionError(
                f"{layer}: expected a layer on which the prediction depends, found another"
            )
        (slope,) = torch.autograd.grad(output.sum(), seen[0])
    return seen[0].detach()[0].double(), slope[0].double(), prediction_months


@contextmanager
def _cut(module: nn.Module, layer: str, seen: list[Tensor]) -> Iterator[None]:
    """Make a module's output a leaf to differentiate by; the hook never outlives this."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise AttributionError(f"{layer}: expected outputs (N, C, h, w), found {found}")
        leaf = output.detach().clone().requires_grad_()
        seen.append(leaf)
        # A copy goes on: a following in-place ReLU may overwrite it, but not the leaf.
        return leaf.clone()

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _on_image(coarse: Tensor, image: Tensor, prediction_months: float) -> AttributedMap:
    height, width = image.shape[2:]
    return AttributedMap(spread(coarse.cpu().numpy(), (height, width)), prediction_months)

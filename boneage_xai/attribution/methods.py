"""The attribution methods by name; a new one is a function and a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from boneage_xai.attribution.class_activation import grad_cam, layer_cam
from boneage_xai.attribution.deep_lift import deep_lift
from boneage_xai.attribution.forward import (
    check_single,
    finite_months,
    months,
    slope_of,
    untouched,
)
from boneage_xai.attribution.guided_ig import guided_ig
from boneage_xai.attribution.integrated_gradients import expected_gradients, integrated_gradients
from boneage_xai.attribution.interface import (
    AttributedMap,
    AttributionMethod,
    AttributionSettings,
)
from boneage_xai.attribution.occlusion import occlusion
from boneage_xai.attribution.smoothgrad import smoothgrad
from boneage_xai.errors import ConfigError
from boneage_xai.types import FloatImage


def gradient(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Differentiate the prediction with respect to each pixel, keeping the sign.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: not used by this method.
        mean_image: not used by this method.

    Returns:
        Map in months per unit of intensity, that is per step from black to white; it
        promises no completeness.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.

    Source: Simonyan, Vedaldi & Zisserman, 2014, without its absolute value.
    """
    slope, prediction_months = _slope(network, image, is_male)
    return AttributedMap(slope[0, 0].cpu().numpy().astype(np.float32), prediction_months)


def input_x_gradient(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Multiply each pixel by its gradient: the linear part of the change from black.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: not used by this method.
        mean_image: not used by this method.

    Returns:
        Map in months; complete for linear networks only, so it promises no completeness.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.

    Source: Shrikumar et al., Not Just a Black Box, 2016.
    """
    slope, prediction_months = _slope(network, image, is_male)
    product = (slope * image.detach())[0, 0]
    return AttributedMap(product.cpu().numpy().astype(np.float32), prediction_months)


METHODS: dict[str, AttributionMethod] = {
    "integrated_gradients": integrated_gradients,
    "expected_gradients": expected_gradients,
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "guided_ig": guided_ig,
    "deep_lift": deep_lift,
    "grad_cam": grad_cam,
    "layer_cam": layer_cam,
    "occlusion": occlusion,
}

BASELINE_METHODS = frozenset({"guided_ig", "deep_lift", "occlusion"})
"""Methods that compare with one baseline image and run case by case."""

PATH_METHODS: dict[str, Callable[[AttributionSettings], AttributionSettings]] = {
    "integrated_gradients": lambda settings: settings,
    "expected_gradients": lambda settings: settings.model_copy(update={"baseline": "expected"}),
}
"""Methods whose cases share batches, with the settings each makes of those it is given."""


def method_named(name: str) -> AttributionMethod:
    """Return the method of this name.

    Raises:
        ConfigError: no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"attribution method: expected one of {', '.join(METHODS)}, found {name}")
    return METHODS[name]


def _slope(network: nn.Module, image: Tensor, is_male: Tensor) -> tuple[Tensor, float]:
    """Return the gradient (1, 1, H, W) of the prediction, and the prediction in months."""
    check_single(image, is_male)
    with untouched(network):
        start = image.detach().clone().requires_grad_()
        output = months(network, start, is_male.detach().clone())
        slope = slope_of(output, start)
    return slope.detach(), finite_months(float(output.detach().double()))

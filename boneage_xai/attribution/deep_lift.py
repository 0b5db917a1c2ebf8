"""DeepLIFT: a network's change from a baseline, passed back unit by unit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.baselines import single_baseline
from boneage_xai.attribution.forward import months, prediction_of, untouched
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.rescale import RescaleRule
from boneage_xai.errors import AttributionError
from boneage_xai.types import FloatImage

# What rounding may leave of the gap in each type, as a fraction of the map's absolute sum.
_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
_LEAST_MONTHS = 1e-3


def deep_lift(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
) -> AttributedMap:
    """Attribute the change from a baseline by DeepLIFT's Rescale rule.

    The rule is applied to the operations of one run on image and baseline together, wherever
    they are: functional, in place or in a module that is used several times. A softmax (as in
    the head that predicts a distribution over ages) takes its Jacobian averaged along the line
    between the two vectors of logits. For a function of one number that average is the Rescale
    rule itself, and it keeps the sum exact. A maximum gives what it gained to the image's
    brightest place and what it lost to the baseline's.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1, held fixed.
        settings: baseline ``black``, ``blurred`` or ``mean``.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.

    Returns:
        Signed map in months with the completeness gap of that very map.

    Raises:
        AttributionError: wrong shapes; operations without a rule, such as the product of two
            parts that both depend on the image; a gap larger than rounding explains.
        ConfigError: a baseline that is not one image, or ``mean`` without a mean image.

    Source: Shrikumar, Greenside & Kundaje, Learning Important Features Through Propagating
    Activation Differences, 2017. Captum's DeepLift agrees on networks of modules that run once;
    elsewhere it misses functional activations without a word, and its maps through a max pooling
    inside a network differ from the rule written out by hand.
    """
    prediction_of(network, image, is_male)
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise AttributionError(
                f"deep_lift: expected a network in Python, found the compiled module {name!r}, "
                "whose operations cannot be seen"
            )
    with untouched(network):
        sex = is_male.detach().clone().repeat(2)
        at_image = image.detach().clone()
        baseline = single_baseline(settings, at_image, mean_image, "deep_lift")
        pair = torch.cat([at_image, baseline]).requires_grad_()
        with RescaleRule():
            output = months(network, pair, sex)
        if output.requires_grad:
            (multiplier,) = torch.autograd.grad(output[0], pair)
        else:
            multiplier = torch.zeros_like(pair)
        difference = at_image.double() - baseline.double()
        product = (multiplier[:1].double() * difference)[0, 0].cpu().numpy()
        prediction_months, at_baseline = output.detach().double().tolist()
    attributed = AttributedMap(
        product.astype(np.float32),
        prediction_months,
        baseline=settings.baseline,
        baseline_prediction_months=at_baseline,
        completeness_gap_months=float(product.astype(np.float32).sum(dtype=np.float64))
        - (prediction_months - at_baseline),
    )
    _check_complete(attributed, image.dtype)
    return attributed


def _check_complete(attributed: AttributedMap, dtype: torch.dtype) -> None:
    gap_months = attributed.completeness_gap_months
    size_months = float(np.abs(attributed.map_months).sum(dtype=np.float64))
    size_months += abs(attributed.prediction_months) * torch.finfo(torch.float32).eps
    allowed = _LEAST_MONTHS + _ROUNDING.get(dtype, 1e-3) * size_months
    if gap_months is None or not abs(gap_months) <= allowed:
        raise AttributionError(
            f"deep_lift: expected a map that adds up to within {allowed:.2g} months, found a gap "
            f"of {gap_months:.3g}: the network holds operations that the rule does not see, "
            "or logits too far apart"
        )

"""What methods and activation maps need of a network, and which networks lack it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from boneage_xai.attribution.methods import METHODS
from boneage_xai.errors import AttributionError
from boneage_xai.models.adapter import ExternalModel
from boneage_xai.models.averaged import AveragedNetwork
from boneage_xai.models.trial import gradients_flow

Need = Literal["predictions", "gradients", "layers"]

NEEDS: dict[str, Need] = {
    "integrated_gradients": "gradients",
    "expected_gradients": "gradients",
    "gradient": "gradients",
    "input_x_gradient": "gradients",
    "smoothgrad": "gradients",
    "guided_ig": "gradients",
    "occlusion": "predictions",
}
"""What each method needs: answers alone, gradients with respect to the pixels, or also hooks on
the layers between, which is what a method needs that is not named here."""


def hidden_layers(network: nn.Module) -> str | None:
    """Return why a network's layers cannot be observed, None where they can."""
    if isinstance(network, ExternalModel | AveragedNetwork):
        return network.hidden_layers
    return None


def check_methods(network: nn.Module, methods: Sequence[str]) -> None:
    """Refuse methods that are not valid for a network.

    Args:
        network: the network to explain.
        methods: names of attribution methods.

    Raises:
        AttributionError: a method that works on layers, for a network that hides them; or a
            network from elsewhere whose predictions cannot be differentiated.
    """
    hidden = hidden_layers(network)
    needs = {name: NEEDS.get(name, "layers") for name in methods if name in METHODS}
    for name, need in needs.items():
        if need == "layers" and hidden is not None:
            possible = sorted(other for other, its in NEEDS.items() if its != "layers")
            raise AttributionError(
                f"{name}: expected a network whose layers can be observed, found "
                f"{hidden}; possible are {', '.join(possible)}"
            )
    if not isinstance(network, ExternalModel):
        return
    differentiated = [name for name, need in needs.items() if need != "predictions"]
    if differentiated and not gradients_flow(network):
        raise AttributionError(
            f"{differentiated[0]}: expected a network that can be differentiated with respect to "
            f"the pixels, found {network.card.name}, in which no gradient reaches them"
        )


def usable_layers(network: nn.Module, layers: Sequence[str] | None) -> Sequence[str] | None:
    """Return the layers to take activation maps from: none where a network hides them.

    Args:
        network: the network to explain.
        layers: names that were asked for; None leaves the choice open.

    Raises:
        AttributionError: layers were asked for, and the network hides them.
    """
    reason = hidden_layers(network)
    if reason is None:
        return layers
    if layers:
        raise AttributionError(
            f"activation maps of {layers[0]}: expected a network whose layers can be observed, "
            f"found {reason}"
        )
    return ()

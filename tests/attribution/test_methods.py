from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.methods import METHODS, method_named
from boneage_xai.errors import AttributionError, ConfigError

SETTINGS = AttributionSettings()
REFERENCES = SameSexReferences(*np.random.default_rng(5).random((2, 3, 12, 12), dtype=np.float32))
GIRL, BOY = torch.zeros(1), torch.ones(1)


def explain(name: str, network: nn.Module, image: Tensor, sex: Tensor) -> AttributedMap:
    """Run a method with what it needs beside the network, the image and the sex."""
    extra = {"references": REFERENCES} if name == "expected_gradients" else {}
    return METHODS[name](network, image, sex, SETTINGS, **extra)


def test_gradient_and_input_x_gradient_of_a_linear_network(
    linear_network: Callable[[Tensor], nn.Module],
) -> None:
    weight = torch.tensor([[2.0, -3.0], [0.5, -1.0]])
    image = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    for name, expected in (("gradient", weight), ("input_x_gradient", weight * image)):
        attributed = METHODS[name](linear_network(weight), image[None, None], BOY, SETTINGS)
        np.testing.assert_allclose(attributed.map_months, expected, rtol=1e-6)
        assert attributed.prediction_months == pytest.approx(
            120 + float((weight * image).sum()), abs=1e-4
        )
        assert attributed.baseline is None
        assert attributed.completeness_gap_months is None


def test_gradient_against_finite_differences(small_network: nn.Module, image: Tensor) -> None:
    network, image = small_network.double().eval(), image.double()
    sex = BOY.double()
    slope = METHODS["gradient"](network, image, sex, SETTINGS).map_months
    step = 1e-6
    for y, x in [(0, 0), (3, 7), (11, 11)]:
        moved = image.clone()
        moved[0, 0, y, x] += step
        with torch.no_grad():
            change = float(network(moved, sex) - network(image, sex)) / step
        assert slope[y, x] == pytest.approx(change, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_signed_and_do_not_vanish_for_girls(
    small_network: nn.Module, image: Tensor, name: str
) -> None:
    for sex in (GIRL, BOY):
        attributed = explain(name, small_network, image, sex)
        assert attributed.map_months.shape == (12, 12)
        # After a ReLU all of a Grad-CAM may have one sign; that it is negative shows it signed.
        if name == "grad_cam":
            assert attributed.map_months.min() < 0
        else:
            assert attributed.map_months.min() < 0 < attributed.map_months.max()


def everything(network: nn.Module) -> dict[str, object]:
    """Return all that an attribution could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [module.training for module in network.modules()],
        "flags": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [copy.deepcopy(parameter.grad) for parameter in network.parameters()],
        "state": copy.deepcopy(network.state_dict()),
        "hooks": [list(getattr(module, kind)) for module in network.modules() for kind in hooks],
        "random": torch.get_rng_state(),
        "gradients enabled": torch.is_grad_enabled(),
    }


def run(what: str, network: nn.Module, image: Tensor) -> None:
    if what == "layer_activations":
        layer_activations(network, image, GIRL, ["backbone.0", "backbone.4"])
    elif what == "default_layers":
        default_layers(network, size_px=12)
    else:
        explain(what, network, image, GIRL)


def unusual_state(network: nn.Module) -> None:
    """Mix modes, flags, gradients and a hook as fine-tuning code does."""
    network.train()
    network.backbone[1].eval()
    network.head.eval()
    network.backbone[0].requires_grad_(False)
    for parameter in network.head.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    network.head.register_forward_hook(lambda module, inputs, output: None)
    # A network may override train(), so that calling it does not bring a mix back.
    network.train = lambda mode=True: pytest.fail("train() must not be called")


@pytest.mark.parametrize("what", [*METHODS, "layer_activations", "default_layers"])
@pytest.mark.parametrize("enabled", [True, False], ids=["grad", "no_grad"])
def test_network_and_input_are_left_as_found(
    small_network: nn.Module, image: Tensor, what: str, enabled: bool
) -> None:
    unusual_state(small_network)
    image_before = image.clone()
    with torch.set_grad_enabled(enabled):
        before = everything(small_network)
        run(what, small_network, image)
        after = everything(small_network)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(image, image_before, rtol=0, atol=0)
    assert not image.requires_grad
    assert image.grad is None


@pytest.mark.parametrize("what", [*METHODS, "layer_activations", "default_layers"])
def test_network_is_left_as_found_after_an_error_inside(
    small_network: nn.Module, image: Tensor, what: str
) -> None:
    class Broken(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            torch.rand(3)
            raise ZeroDivisionError

    small_network.backbone[6] = Broken()
    unusual_state(small_network)
    before = everything(small_network)
    with pytest.raises(ZeroDivisionError):
        run(what, small_network, image)
    torch.testing.assert_close(everything(small_network), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_mode_of_the_network_does_not_change_the_map(
    small_network: nn.Module, image: Tensor, name: str
) -> None:
    maps = []
    for training in (True, False):
        small_network.train(training)
        maps.append(explain(name, small_network, image, BOY).map_months)
    np.testing.assert_array_equal(maps[0], maps[1])


@pytest.mark.parametrize("name", METHODS)
def test_works_under_inference_mode(small_network: nn.Module, image: Tensor, name: str) -> None:
    expected = explain(name, small_network, image, BOY).map_months
    with torch.inference_mode():
        inside = explain(name, small_network, image.clone(), BOY.clone()).map_months
    np.testing.assert_array_equal(inside, expected)


def test_batchnorm_without_statistics_is_refused(image: Tensor, small_network: nn.Module) -> None:
    small_network.backbone[1] = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(AttributionError, match=r"backbone\.1: expected BatchNorm with running"):
        METHODS["gradient"](small_network, image, BOY, SETTINGS)


class WrongShape(nn.Module):
    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return image.mean(dim=(2, 3))


class NotFinite(nn.Module):
    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return torch.log(image.flatten(1) * 0).sum(dim=1)


@pytest.mark.parametrize("name", METHODS)
def test_networks_and_inputs_that_do_not_fit_are_refused(image: Tensor, name: str) -> None:
    with pytest.raises(AttributionError, match=r"expected months of shape \(\d+,\), found"):
        explain(name, WrongShape(), image, BOY)
    with pytest.raises(AttributionError, match="expected finite months"):
        explain(name, NotFinite(), image, BOY)
    with pytest.raises(AttributionError, match=r"expected image \(1, 1, H, W\)"):
        explain(name, WrongShape(), image.repeat(2, 1, 1, 1), BOY.repeat(2))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"occlusion"}))
def test_a_network_without_gradients_is_refused(
    small_network: nn.Module, image: Tensor, name: str
) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.inner = nn.Conv2d(1, 2, 3), small_network

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            self.backbone(image)
            with torch.no_grad():
                months: Tensor = self.inner(image, is_male)
            return months

    with pytest.raises(AttributionError):
        explain(name, Detached().eval(), image, BOY)


def test_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match=r"integrated_gradients, .* found lime"):
        method_named("lime")

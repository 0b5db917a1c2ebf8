from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.class_activation import grad_cam, layer_cam, spread
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError

BOY = torch.ones(1)


class Pooled(nn.Module):
    """months = 50 + weights · (spatial mean of two channels, the image and 1 − image)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.backbone[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.backbone[0].bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return 50 + self.backbone(image) @ torch.tensor([8.0, -4.0], dtype=image.dtype)


def test_by_hand_on_a_pooled_layer() -> None:
    image = torch.tensor([[0.1, 0.2], [0.3, 0.4]])[None, None]
    expected = (8 * image - 4 * (1 - image))[0, 0] / 4
    for method in (grad_cam, layer_cam):
        attributed = method(Pooled(), image, BOY, AttributionSettings())
        np.testing.assert_allclose(attributed.map_months, expected, atol=1e-6)
        assert attributed.completeness_gap_months is None
        # Linear above the layer: the Taylor term is the whole change from zero activations.
        assert attributed.map_months.sum() == pytest.approx(
            attributed.prediction_months - 50, abs=1e-5
        )


def test_grad_cam_against_captum(small_network: nn.Module, image: Tensor) -> None:
    network = copy.deepcopy(small_network).double().eval()
    # Captum needs a layer whose output is not overwritten.
    network.backbone[5] = nn.ReLU()
    image, sex = image.double(), BOY.double()
    coarse = LayerGradCam(network, network.backbone[4]).attribute(
        image, additional_forward_args=(sex,), relu_attributions=False
    )[0, 0]
    options = AttributionSettings(cam_layer="backbone.4")
    found = grad_cam(network, image, sex, options).map_months
    np.testing.assert_allclose(
        found, spread(coarse.detach().numpy(), (12, 12)), rtol=1e-5, atol=1e-6
    )
    assert found.sum() == pytest.approx(float(coarse.sum()), rel=1e-4)


def test_layer_cam_before_an_in_place_relu(small_network: nn.Module, image: Tensor) -> None:
    network = copy.deepcopy(small_network).double().eval()
    sex = BOY.double()
    activation = network.backbone[:5](image.double()).detach().requires_grad_()
    features = network.backbone[6:](activation.relu()).flatten(1)
    joined = torch.cat([features, network.sex(sex[:, None])], dim=1)
    (120 + 1000 * network.head(joined)).sum().backward()
    coarse = (activation * activation.grad).sum(dim=1)[0].detach().numpy()
    found = layer_cam(network, image.double(), sex, AttributionSettings(cam_layer="backbone.4"))
    np.testing.assert_allclose(found.map_months, spread(coarse, (12, 12)), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(short=st.integers(1, 7), extra=st.integers(0, 20), seed=st.integers(0, 99))
def test_spreading_keeps_the_sum(short: int, extra: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).normal(size=(short, short + 1))
    fine = spread(coarse, (short + extra, short + 1 + extra))
    assert fine.sum(dtype=np.float64) == pytest.approx(coarse.sum(), abs=1e-4)
    if extra == 0:
        np.testing.assert_allclose(fine, coarse, rtol=1e-5)


def test_spreading_is_interpolation_by_the_area_ratio() -> None:
    coarse = np.random.default_rng(0).normal(size=(3, 4))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None, None], size=(12, 16), mode="bilinear"
    )
    np.testing.assert_allclose(spread(coarse, (12, 16)), expected[0, 0] / 16, rtol=1e-5, atol=1e-7)
    with pytest.raises(AttributionError, match="no finer than the image"):
        spread(coarse, (2, 2))


@pytest.mark.parametrize("method", [grad_cam, layer_cam])
def test_layers_that_do_not_fit_are_refused(
    small_network: nn.Module, image: Tensor, method: object
) -> None:
    with pytest.raises(ConfigError, match="expected the name of one of its layers, found 'no'"):
        method(small_network, image, BOY, AttributionSettings(cam_layer="no"))
    with pytest.raises(AttributionError, match=r"expected outputs \(N, C, h, w\)"):
        method(small_network, image, BOY, AttributionSettings(cam_layer="head.0"))
    small_network.backbone[5] = small_network.backbone[2]
    with pytest.raises(AttributionError, match="found one that runs 2 times"):
        method(small_network, image, BOY, AttributionSettings(cam_layer="backbone.2"))
    assert not any(module._forward_hooks for module in small_network.modules())

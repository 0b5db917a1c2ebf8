from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.baselines import baseline_images
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.occlusion import occlusion
from boneage_xai.errors import ConfigError

GIRL, BOY = torch.zeros(1), torch.ones(1)


def test_linear_network_by_hand(linear_network: Callable[[Tensor], nn.Module]) -> None:
    weight = torch.tensor([[1.0, -2.0, 4.0], [8.0, 16.0, -32.0], [64.0, 128.0, 256.0]])
    image = torch.full((1, 1, 3, 3), 0.5)
    attributed = occlusion(
        linear_network(weight),
        image,
        GIRL,
        AttributionSettings(patch_fraction=0.67, stride_fraction=0.34),
    )
    a, b, c, d = 11.5, -7.0, 108.0, 184.0
    expected = [
        [a, (a + b) / 2, b],
        [(a + c) / 2, (a + b + c + d) / 4, (b + d) / 2],
        [c, (c + d) / 2, d],
    ]
    np.testing.assert_allclose(attributed.map_months, expected, atol=1e-4)
    assert attributed.baseline == "black"
    assert attributed.completeness_gap_months is None


@pytest.mark.parametrize("baseline", ["black", "blurred"])
def test_against_captum_where_patches_fit(
    small_network: nn.Module, image: Tensor, baseline: str
) -> None:
    options = AttributionSettings(baseline=baseline, patch_fraction=1 / 3, stride_fraction=1 / 6)
    network = copy.deepcopy(small_network).double().eval()
    image = image.double()
    start = baseline_images(options, image)
    expected = Occlusion(network).attribute(
        image, (1, 4, 4), (1, 2, 2), start, additional_forward_args=(BOY.double(),)
    )
    found = occlusion(network, image, BOY.double(), options).map_months
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    patch=st.floats(0.05, 1),
    step=st.floats(0.05, 1),
)
def test_every_pixel_is_covered_by_whole_patches(
    height: int, width: int, patch: float, step: float
) -> None:
    class Total(nn.Module):
        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            return image.sum(dim=(1, 2, 3)) + 0 * is_male

    options = AttributionSettings(patch_fraction=patch, stride_fraction=patch * step)
    image = torch.ones(1, 1, height, width)
    side = max(1, round(patch * max(height, width)))
    found = occlusion(Total(), image, GIRL, options).map_months
    np.testing.assert_allclose(found, min(side, height) * min(side, width), rtol=1e-5)


def test_a_network_without_gradients_is_explained(small_network: nn.Module, image: Tensor) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            with torch.no_grad():
                months: Tensor = self.inner(image, is_male)
            return months

    expected = occlusion(small_network, image, GIRL, AttributionSettings())
    found = occlusion(Detached(), image, GIRL, AttributionSettings())
    np.testing.assert_allclose(found.map_months, expected.map_months, atol=1e-3)
    assert np.abs(found.map_months).max() > 0.1


def test_settings_and_baselines_that_do_not_fit(small_network: nn.Module, image: Tensor) -> None:
    with pytest.raises(ValueError, match="stride_fraction: expected at most patch_fraction"):
        AttributionSettings(patch_fraction=0.1, stride_fraction=0.2)
    with pytest.raises(ConfigError, match="expected a baseline that is one image"):
        occlusion(small_network, image, BOY, AttributionSettings(baseline="expected"))

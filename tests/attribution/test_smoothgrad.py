from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import METHODS
from boneage_xai.attribution.smoothgrad import smoothgrad

BOY = torch.ones(1)


def test_linear_network_gives_its_weights(linear_network: Callable[[Tensor], nn.Module]) -> None:
    weight = torch.tensor([[2.0, -3.0], [0.5, -1.0]])
    attributed = smoothgrad(
        linear_network(weight), torch.rand(1, 1, 2, 2), BOY, AttributionSettings()
    )
    np.testing.assert_allclose(attributed.map_months, weight, rtol=1e-6)


def test_against_a_plain_loop_in_float64(small_network: nn.Module, image: Tensor) -> None:
    settings = AttributionSettings(noise_samples=7, noise_fraction=0.3, noise_seed=11)
    network = copy.deepcopy(small_network).double().eval()
    generator = torch.Generator().manual_seed(11)
    sigma = 0.3 * float(image.max() - image.min())
    total = torch.zeros(12, 12, dtype=torch.float64)
    for _ in range(7):
        noise = sigma * torch.randn((1, 1, 12, 12), generator=generator)
        point = (image.double() + noise.double()).requires_grad_()
        network(point, BOY.double()).sum().backward()
        total += point.grad[0, 0]
    found = smoothgrad(small_network.double(), image.double(), BOY.double(), settings).map_months
    np.testing.assert_allclose(found, total / 7, rtol=1e-4, atol=1e-5)


def test_batches_do_not_change_the_map(
    small_network: nn.Module, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = []
    for size in (1, 5, 16):
        monkeypatch.setattr(
            "boneage_xai.attribution.smoothgrad.fitting_batch", lambda *_, size=size: size
        )
        maps.append(smoothgrad(small_network, image, BOY, AttributionSettings()).map_months)
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=1e-4, atol=1e-5)


def test_without_noise_it_is_the_gradient_and_with_another_seed_another_map(
    small_network: nn.Module, image: Tensor
) -> None:
    def explain(**changes: float) -> np.ndarray:
        return smoothgrad(small_network, image, BOY, AttributionSettings(**changes)).map_months

    plain = METHODS["gradient"](small_network, image, BOY, AttributionSettings()).map_months
    np.testing.assert_allclose(explain(noise_fraction=0), plain, rtol=1e-4, atol=1e-5)
    assert np.array_equal(explain(), explain())
    assert not np.allclose(explain(), explain(noise_seed=1))

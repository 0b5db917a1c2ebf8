from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.guided_ig import guided_ig
from boneage_xai.attribution.interface import AttributionSettings

GIRL, BOY = torch.zeros(1), torch.ones(1)


def reference(network: nn.Module, image: Tensor, sex: Tensor, options: AttributionSettings) -> list:
    """The paper's algorithm from black, pixel by pixel in float64 and plain Python."""
    end = image.double().flatten().tolist()
    n = len(end)

    def slope_at(point: list[float]) -> list[float]:
        pixels = torch.tensor(point, dtype=torch.float64).view(image.shape).requires_grad_()
        (slope,) = torch.autograd.grad(network(pixels, sex.double()).sum(), pixels)
        return slope.flatten().tolist()

    x, attributed = [0.0] * n, [0.0] * n
    whole, steps = sum(map(abs, end)), options.guided_steps
    slope = slope_at(x)
    for step in range(1, steps + 1):
        before = list(x)
        alpha = step / steps
        low = max(alpha - options.guided_distance, 0.0)
        high = [min(alpha + options.guided_distance, 1.0) * pixel for pixel in end]
        target = whole * (1 - alpha)
        for i in range(n):
            if end[i] != 0 and x[i] / end[i] < low:
                x[i] = low * end[i]
        gamma = np.inf
        while gamma > 1:
            current = sum(abs(end[i] - x[i]) for i in range(n))
            if current - target < 1e-9 * whole:
                break
            sizes = [np.inf if x[i] == high[i] else abs(slope[i]) for i in range(n)]
            threshold = sorted(sizes)[int(options.guided_fraction * (n - 1))]
            chosen = [i for i in range(n) if sizes[i] <= threshold and sizes[i] < np.inf]
            reach = sum(abs(high[i] - x[i]) for i in chosen)
            gamma = (current - target) / reach
            for i in chosen:
                x[i] = high[i] if gamma > 1 else x[i] + gamma * (high[i] - x[i])
        following = slope_at(x)
        for i in range(n):
            attributed[i] += (x[i] - before[i]) * (slope[i] + following[i]) / 2
        slope = following
    return attributed


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1.0])
def test_against_the_paper_in_float64(
    small_network: nn.Module, image: Tensor, fraction: float
) -> None:
    network = copy.deepcopy(small_network).double().eval()
    options = AttributionSettings(guided_steps=20, guided_fraction=fraction, guided_distance=0.1)
    found = guided_ig(network, image.double(), BOY.double(), options)
    expected = np.array(reference(network, image, BOY, options)).reshape(12, 12)
    np.testing.assert_allclose(found.map_months, expected, rtol=1e-4, atol=1e-5)
    assert found.nodes == 21
    assert found.precision == "float64"


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_linear_network_gives_weight_times_difference(
    linear_network: Callable[[Tensor], nn.Module], sex: Tensor
) -> None:
    weight = torch.tensor([[2.0, -3.0, 0.5], [0.0, 10.0, -1.0]])
    image = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.6]])
    mean = np.array([[0.3, 0.1, 0.0], [1.0, 0.0, 0.5]], dtype=np.float32)
    options = AttributionSettings(baseline="mean", guided_steps=7)
    attributed = guided_ig(linear_network(weight), image[None, None], sex, options, mean)
    np.testing.assert_allclose(attributed.map_months, weight * (image - mean), atol=1e-5)
    assert attributed.completeness_gap_months == pytest.approx(0, abs=1e-4)
    assert attributed.converged


def test_the_gap_is_that_of_the_map(small_network: nn.Module, image: Tensor) -> None:
    network = small_network.double().eval()
    found = guided_ig(network, image.double(), BOY.double(), AttributionSettings(guided_steps=10))
    change = found.prediction_months - found.baseline_prediction_months
    total = float(found.map_months.sum(dtype=np.float64))
    assert found.completeness_gap_months == pytest.approx(total - change, abs=1e-9)
    assert 1e-6 < abs(found.completeness_gap_months) < 0.5
    assert found.converged
    strict = AttributionSettings(
        guided_steps=10, gap_tolerance_months=1e-6, gap_tolerance_fraction=0
    )
    assert not guided_ig(network, image.double(), BOY.double(), strict).converged


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    fraction=st.floats(0.01, 1),
    distance=st.floats(0, 1),
    steps=st.integers(1, 12),
)
def test_any_settings_end_and_are_complete_for_a_quadratic_network(
    seed: int, fraction: float, distance: float, steps: int
) -> None:
    class Quadratic(nn.Module):
        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            return (image**2).sum(dim=(1, 2, 3)) + image[:, 0, 0, 0] * image[:, 0, 1, 1] + is_male

    # The mean of the gradients at both ends of a straight step is exact for a quadratic.
    image = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    options = AttributionSettings(
        guided_steps=steps, guided_fraction=fraction, guided_distance=distance
    )
    found = guided_ig(Quadratic(), image.double(), BOY.double(), options)
    assert found.completeness_gap_months == pytest.approx(0, abs=1e-5)

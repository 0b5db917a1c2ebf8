from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from boneage_xai.attribution.baselines import mean_of_pixels
from boneage_xai.attribution.integrated_gradients import integrated_gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError, ConfigError

GIRL, BOY = torch.zeros(1), torch.ones(1)


@pytest.mark.parametrize("baseline", ["black", "blurred", "mean"])
@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_linear_network_gives_weight_times_difference(
    linear_network: Callable[[Tensor], nn.Module], baseline: str, sex: Tensor
) -> None:
    weight = torch.tensor([[2.0, -3.0, 0.5], [0.0, 10.0, -1.0]])
    image = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    mean_image = np.array([[0.3, 0.1, 0.0], [1.0, 0.25, 0.5]], dtype=np.float32)
    start = {
        "black": np.zeros((2, 3)),
        "blurred": gaussian_filter(image.numpy(), 0.3 * 3, mode="nearest"),
        "mean": mean_image,
    }[baseline]
    attributed = integrated_gradients(
        linear_network(weight),
        image[None, None],
        sex,
        AttributionSettings(baseline=baseline, blur_sigma_fraction=0.3, n_steps=7),
        mean_image,
    )
    expected = weight.numpy() * (image.numpy() - start)
    np.testing.assert_allclose(attributed.map_months, expected, atol=1e-6)
    assert attributed.map_months.dtype == np.float32
    assert attributed.baseline == baseline
    constant = 100 + 20 * float(sex)
    assert attributed.prediction_months == pytest.approx(
        constant + float((weight * image).sum()), abs=1e-4
    )
    assert attributed.baseline_prediction_months == pytest.approx(
        constant + float((weight.numpy() * start).sum()), abs=1e-4
    )
    assert attributed.completeness_gap_months == pytest.approx(0, abs=1e-4)


def riemann_reference(network: nn.Module, image: Tensor, sex: Tensor, nodes: int) -> np.ndarray:
    """Midpoint rule in float64, one node at a time, without any library."""
    network = network.double().eval()
    total = torch.zeros_like(image, dtype=torch.float64)
    for node in range(nodes):
        point = ((node + 0.5) / nodes * image.double()).requires_grad_()
        network(point, sex.double()).sum().backward()
        total += point.grad
    return (image.double() * total / nodes)[0, 0].numpy()


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_against_a_plain_riemann_sum(small_network: nn.Module, image: Tensor, sex: Tensor) -> None:
    attributed = integrated_gradients(
        small_network, image, sex, AttributionSettings(n_steps=200, internal_batch_size=50)
    )
    reference = riemann_reference(small_network, image, sex, nodes=400)
    error = np.abs(attributed.map_months - reference).sum() / np.abs(reference).sum()
    assert error < 0.01
    # A girl's sex is coded 0, which must not silence the image.
    assert np.abs(reference).sum() > 1


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_completeness(small_network: nn.Module, image: Tensor, sex: Tensor) -> None:
    attributed = integrated_gradients(
        small_network, image, sex, AttributionSettings(n_steps=200, internal_batch_size=50)
    )
    small_network.eval()
    with torch.no_grad():
        at_image = float(small_network(image, sex))
        at_black = float(small_network(torch.zeros_like(image), sex))
    change = at_image - at_black
    assert abs(change) > 0.5
    assert attributed.map_months.sum() == pytest.approx(change, abs=0.01 * abs(change))
    assert attributed.prediction_months == pytest.approx(at_image, abs=1e-3)
    assert attributed.baseline_prediction_months == pytest.approx(at_black, abs=1e-3)
    assert attributed.completeness_gap_months == pytest.approx(
        float(attributed.map_months.sum(dtype=np.float64)) - change, abs=1e-3
    )


@pytest.mark.parametrize("internal_batch_size", [1, 7, 64])
def test_internal_batch_size_does_not_change_the_map(
    small_network: nn.Module, image: Tensor, internal_batch_size: int
) -> None:
    whole = integrated_gradients(
        small_network, image, GIRL, AttributionSettings(n_steps=20, internal_batch_size=20)
    )
    parts = integrated_gradients(
        small_network,
        image,
        GIRL,
        AttributionSettings(n_steps=20, internal_batch_size=internal_batch_size),
    )
    np.testing.assert_allclose(parts.map_months, whole.map_months, rtol=1e-4, atol=1e-6)


def test_mean_baseline_needs_a_fitting_mean_image(small_network: nn.Module, image: Tensor) -> None:
    settings = AttributionSettings(baseline="mean")
    with pytest.raises(ConfigError, match="expected the training mean image"):
        integrated_gradients(small_network, image, GIRL, settings)
    with pytest.raises(AttributionError, match=r"expected a mean image of shape \(12, 12\)"):
        integrated_gradients(small_network, image, GIRL, settings, np.zeros((3, 3), np.float32))


def test_mean_of_pixels() -> None:
    pixels = np.array([[[0, 255]], [[255, 255]], [[51, 0]]], dtype=np.uint8)
    mean = mean_of_pixels(pixels, [0, 2])
    np.testing.assert_allclose(mean, [[25.5 / 255, 0.5]], rtol=1e-6)
    assert mean.dtype == np.float32
    with pytest.raises(ConfigError, match="at least one"):
        mean_of_pixels(pixels, [])


@pytest.mark.parametrize("extra", [{"n_steps": 0}, {"baseline": "grey"}, {"steps": 5}])
def test_settings_refuse_what_they_do_not_know(extra: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(extra))):
        AttributionSettings(**extra)

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from boneage_xai.attribution.baselines import (
    SameSexReferences,
    baseline_images,
    draw_references,
    mean_of_pixels,
)
from boneage_xai.attribution.integrated_gradients import (
    attribute_batch,
    expected_gradients,
    integrated_gradients,
    make_integrator,
)
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
        AttributionSettings(baseline=baseline, blur_sigma_fraction=0.3),
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
    network = copy.deepcopy(network).double().eval()
    total = torch.zeros_like(image, dtype=torch.float64)
    for node in range(nodes):
        point = ((node + 0.5) / nodes * image.double()).requires_grad_()
        network(point, sex.double()).sum().backward()
        total += point.grad
    return (image.double() * total / nodes)[0, 0].numpy()


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        (AttributionSettings(), 0.025),
        (AttributionSettings(map_tolerance_fraction=0.005), 0.01),
    ],
    ids=["default", "fine"],
)
def test_against_a_plain_riemann_sum(
    disc_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    settings: AttributionSettings,
    limit: float,
) -> None:
    images, sexes = disc_cases
    for index in range(3):
        image, sex = images[index : index + 1], sexes[index : index + 1]
        attributed = integrated_gradients(disc_network, image, sex, settings)
        assert attributed.converged
        assert attributed.nodes is not None
        assert attributed.nodes < 150
        reference = riemann_reference(disc_network, image, sex, nodes=1024)
        error = np.abs(attributed.map_months - reference).sum() / np.abs(reference).sum()
        assert error < limit


def test_a_girls_sex_does_not_silence_the_image(small_network: nn.Module, image: Tensor) -> None:
    reference = riemann_reference(small_network, image, GIRL, nodes=1024)
    settings = AttributionSettings(gap_tolerance_months=0.01, gap_tolerance_fraction=0)
    attributed = integrated_gradients(small_network, image, GIRL, settings)
    assert np.abs(reference).sum() > 1
    assert np.abs(attributed.map_months - reference).sum() < 0.01 * np.abs(reference).sum()


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_completeness(small_network: nn.Module, image: Tensor, sex: Tensor) -> None:
    settings = AttributionSettings(gap_tolerance_months=0.05, gap_tolerance_fraction=0)
    attributed = integrated_gradients(small_network, image, sex, settings)
    small_network.eval()
    with torch.no_grad():
        at_image = float(small_network(image, sex))
        at_black = float(small_network(torch.zeros_like(image), sex))
    change = at_image - at_black
    assert abs(change) > 0.5
    assert attributed.converged
    assert attributed.map_months.sum() == pytest.approx(change, abs=0.051)
    assert attributed.prediction_months == pytest.approx(at_image, abs=1e-3)
    assert attributed.baseline_prediction_months == pytest.approx(at_black, abs=1e-3)
    assert attributed.completeness_gap_months == pytest.approx(
        float(attributed.map_months.sum(dtype=np.float64)) - change, abs=1e-3
    )


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


@pytest.mark.parametrize(
    "extra", [{"max_nodes": 16}, {"baseline": "grey"}, {"n_steps": 5}, {"gap_tolerance_months": -1}]
)
def test_settings_refuse_what_they_do_not_know(extra: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(extra))):
        AttributionSettings(**extra)


def test_tolerance_is_the_larger_of_months_and_share() -> None:
    settings = AttributionSettings()
    assert settings.tolerance_months(-20) == 0.5
    assert settings.tolerance_months(-80) == pytest.approx(0.8)


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_expected_gradients_of_a_linear_network(
    linear_network: Callable[[Tensor], nn.Module], sex: Tensor
) -> None:
    weight = torch.tensor([[2.0, -3.0], [0.5, 10.0]])
    image = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    rng = np.random.default_rng(0)
    references = SameSexReferences(
        rng.random((3, 2, 2), dtype=np.float32), rng.random((5, 2, 2), dtype=np.float32)
    )
    attributed = expected_gradients(
        linear_network(weight), image[None, None], sex, AttributionSettings(), references=references
    )
    mine = references.boys if float(sex) else references.girls
    expected = weight.numpy() * (image.numpy() - mine.mean(axis=0))
    np.testing.assert_allclose(attributed.map_months, expected, atol=1e-5)
    assert attributed.baseline == "expected"
    constant = 100 + 20 * float(sex)
    assert attributed.baseline_prediction_months == pytest.approx(
        constant + float((weight.numpy() * mine).sum(axis=(1, 2)).mean()), abs=1e-4
    )


def test_expected_gradients_is_the_mean_over_references(
    small_network: nn.Module, image: Tensor
) -> None:
    references = np.random.default_rng(3).random((4, 12, 12), dtype=np.float32)
    settings = AttributionSettings(
        gap_tolerance_months=2e-3, gap_tolerance_fraction=0, max_nodes=2000
    )
    together = expected_gradients(
        small_network,
        image,
        BOY,
        settings,
        references=SameSexReferences(references[:1], references),
    )
    singly = [
        integrated_gradients(
            small_network,
            image,
            BOY,
            settings.model_copy(update={"baseline": "mean"}),
            one,
        ).map_months
        for one in references
    ]
    expected = np.mean(singly, axis=0)
    assert np.abs(together.map_months - expected).sum() < 0.01 * np.abs(expected).sum()


def test_expected_gradients_need_references_and_nodes(
    small_network: nn.Module, image: Tensor
) -> None:
    with pytest.raises(ConfigError, match="expected reference images, found none"):
        expected_gradients(small_network, image, GIRL, AttributionSettings())
    references = SameSexReferences(*np.zeros((2, 4, 12, 12), np.float32))
    settings = AttributionSettings(min_nodes=11, max_nodes=11)
    with pytest.raises(ConfigError, match="max_nodes: expected at least 12 for 4 references"):
        expected_gradients(small_network, image, GIRL, settings, references=references)
    with pytest.raises(AttributionError, match=r"a reference image of shape \(12, 12\)"):
        baseline_images(
            AttributionSettings(baseline="expected"), image, references=np.zeros((1, 3, 3))
        )


def test_references_are_drawn_by_sex_seed_and_row() -> None:
    pixels = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    rows = np.array([9, 1, 4, 6, 3, 8])
    is_male = np.array([True, False, True, True, False, False])

    def drawn(seed: int, n: int = 2) -> tuple[set[int], set[int]]:
        references = draw_references(pixels, rows, is_male, n, seed)
        girls, boys = (
            {round(255 * float(image[0, 0])) for image in images}
            for images in (references.girls, references.boys)
        )
        return girls, boys

    assert drawn(0) == drawn(0)
    assert len({(frozenset(girls), frozenset(boys)) for girls, boys in map(drawn, range(9))}) > 1
    assert drawn(0, n=50) == ({1, 3, 8}, {9, 4, 6})
    girls, boys = drawn(1)
    assert len(girls) == len(boys) == 2
    assert girls < {1, 3, 8}
    assert boys < {9, 4, 6}
    with pytest.raises(ConfigError, match="both sexes, found none of boys"):
        draw_references(pixels, rows, np.zeros(6, dtype=bool), 2, 0)


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_cases_of_one_sex_share_the_prediction_at_their_baseline(baseline: str) -> None:
    class Counting(nn.Module):
        seen = 0

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                Counting.seen += len(image)
            return 100 * image.mean(dim=(1, 2, 3)) + is_male

    torch.manual_seed(0)
    images, sexes = torch.rand(7, 1, 8, 8), torch.tensor([0.0, 1, 1, 0, 1, 0, 0])
    mean_image = np.full((8, 8), 0.25, dtype=np.float32)
    settings = AttributionSettings(baseline=baseline, precision="float32")
    integrator = make_integrator(
        Counting(), images, sexes, settings, n_cases=7, mean_image=mean_image
    )
    Counting.seen = 0
    found = attribute_batch(integrator, images, sexes)
    assert Counting.seen == 7 + 2
    level = 0.0 if baseline == "black" else 0.25
    for index, (integral, _) in enumerate(found):
        expected = 100 * level + float(sexes[index])
        assert integral.baseline_prediction_months == pytest.approx(expected, abs=1e-4)
        assert integral.gap_months == pytest.approx(0, abs=1e-3)

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.forward import months
from boneage_xai.attribution.gradients import bytes_per_image, fitting_batch, gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import gradient
from boneage_xai.attribution.path_cases import PathIntegral
from boneage_xai.attribution.path_integration import half_budget_bytes, integrate_batch
from boneage_xai.attribution.prepared import frozen_copy
from boneage_xai.errors import AttributionError

SETTINGS = AttributionSettings()
EXACT = AttributionSettings(gap_tolerance_months=1e-3, gap_tolerance_fraction=0, max_nodes=400)


class Quadratic(nn.Module):
    """months = 100 + sum(a * image ** 2): the slope along a path is linear."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return 100 + is_male + (self.a * image.square()).sum(dim=(1, 2, 3))


class Kink(nn.Module):
    """months = 60 * relu(w · image - 1)."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return 60 * ((self.w * image).sum(dim=(1, 2, 3)) - 1).relu() + is_male


class Counting(nn.Module):
    """Count the images that pass with and without gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.steps: list[int] = []

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        if image.requires_grad:
            self.steps.append(image.shape[0])
        return self.inner(image, is_male)


def black(images: Tensor) -> list[Tensor]:
    return [torch.zeros_like(images[index : index + 1]) for index in range(len(images))]


def test_quadratic_network_is_exact_by_hand() -> None:
    a = torch.tensor([[[[3.0, -2.0], [40.0, 0.0]]]], dtype=torch.float64)
    image = torch.tensor([[[[0.5, 1.0], [0.25, 0.75]]]], dtype=torch.float64)
    start = torch.tensor([[[[0.1, 0.0], [0.5, 1.0]]]], dtype=torch.float64)
    sex = torch.ones(1, dtype=torch.float64)
    (integral,) = integrate_batch(
        frozen_copy(Quadratic(a)), image, [start], sex, SETTINGS, batch_size=7
    )
    expected = (a * (image.square() - start.square()))[0, 0].numpy()
    np.testing.assert_allclose(integral.map_months, expected, atol=1e-12)
    assert integral.gap_months == pytest.approx(0, abs=1e-12)
    assert integral.map_error_fraction == pytest.approx(0, abs=1e-12)
    assert integral.nodes == 17
    assert integral.converged


def test_a_kink_is_found_by_hand() -> None:
    w = torch.tensor([[[[2.0, 1.0], [0.0, -0.5]]]])
    image = torch.tensor([[[[0.9, 0.6], [0.5, 0.2]]]])
    (integral,) = integrate_batch(
        frozen_copy(Kink(w)), image, black(image), torch.zeros(1), EXACT, batch_size=5
    )
    # w · image is 2.3, so the slope sets in at 1 / 2.3 and is 60 w from there on.
    expected = (60 * w * image * (1 - 1 / 2.3))[0, 0].numpy()
    np.testing.assert_allclose(integral.map_months, expected, atol=2e-3)
    assert integral.converged
    assert integral.prediction_months == pytest.approx(60 * 1.3, abs=1e-4)
    assert integral.nodes < 80


def test_the_adaptive_map_is_captums_with_many_nodes(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    images, sexes = disc_cases
    integrals = integrate_batch(
        frozen_copy(disc_network), images, black(images), sexes, EXACT, batch_size=16
    )
    for index in range(2):
        captums = IntegratedGradients(partial(months, disc_network)).attribute(
            images[index : index + 1],
            baselines=0.0,
            additional_forward_args=(sexes[index : index + 1],),
            n_steps=512,
            method="gausslegendre",
            internal_batch_size=64,
        )
        theirs = captums[0, 0].detach().numpy()
        error = np.abs(integrals[index].map_months - theirs).sum() / np.abs(theirs).sum()
        assert error < 0.01


def test_lanes_share_the_cases_and_change_nothing(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    network, (images, sexes) = frozen_copy(disc_network).double(), disc_cases
    images, sexes, told = images.double(), sexes.double(), list[int]()
    alone = integrate_batch(network, images, black(images), sexes, SETTINGS, batch_size=8)
    shared = integrate_batch(
        network,
        images,
        black(images),
        sexes,
        SETTINGS,
        batch_size=8,
        lanes=3,
        on_gradients=told.append,
    )
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one.map_months, other.map_months, atol=1e-9)
        assert (one.nodes, one.converged) == (other.nodes, other.converged)
    assert told == sorted(told)
    assert told[-1] == sum(integral.nodes for integral in shared)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(6)), n=st.integers(1, 6), batch_size=st.integers(1, 40))
def test_neither_batch_size_nor_company_changes_a_map(
    disc_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    order: list[int],
    n: int,
    batch_size: int,
) -> None:
    network = frozen_copy(disc_network).double()
    images, sexes = (tensor.double() for tensor in disc_cases)
    chosen = order[:n]
    together = integrate_batch(
        network,
        images[chosen],
        black(images[chosen]),
        sexes[chosen],
        SETTINGS,
        batch_size=batch_size,
    )
    index = chosen[-1]
    alone = integrate_batch(
        network, images[[index]], black(images[[index]]), sexes[[index]], SETTINGS, batch_size=16
    )
    np.testing.assert_allclose(together[-1].map_months, alone[0].map_months, rtol=1e-8, atol=1e-10)
    assert together[-1].nodes == alone[0].nodes


def test_in_float32_batches_change_no_more_than_the_tolerance(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    network = frozen_copy(disc_network)
    images, sexes = disc_cases
    runs = [
        integrate_batch(network, images, black(images), sexes, SETTINGS, batch_size=size)
        for size in (1, 23)
    ]
    for one, other in zip(*runs, strict=True):
        scale = np.abs(one.map_months).sum()
        assert np.abs(one.map_months - other.map_months).sum() < 0.01 * scale


def test_memory_for_one_case_at_a_time_gives_the_same(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    network = frozen_copy(disc_network).double()
    images = torch.rand((3, 1, 128, 128), dtype=torch.float64)
    sexes = torch.zeros(3, dtype=torch.float64)
    maps = []
    for budget_mb in (1, 1024):
        config = AttributionSettings(memory_budget_mb=budget_mb, min_nodes=9)
        integrals = integrate_batch(network, images, black(images), sexes, config, batch_size=4)
        maps.append([integral.map_months for integral in integrals])
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-8, atol=1e-10)


def test_the_memory_budget_of_a_processor_is_that_given_or_one_gibibyte() -> None:
    processor = torch.device("cpu")
    assert half_budget_bytes(AttributionSettings(), processor) == 2**29
    assert half_budget_bytes(AttributionSettings(memory_budget_mb=6), processor) == 3 * 2**20


def test_batches_are_filled_and_converged_cases_leave(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    counting = Counting(frozen_copy(disc_network))
    images, sexes = disc_cases
    config = AttributionSettings(gap_tolerance_months=0.1, min_nodes=9)
    integrals = integrate_batch(counting, images, black(images), sexes, config, batch_size=8)
    nodes = [integral.nodes for integral in integrals]
    assert sum(counting.steps) == sum(nodes)
    assert len(set(nodes)) > 1
    assert np.mean(counting.steps) > 6
    assert all(integral.converged for integral in integrals)
    assert all(abs(integral.gap_months) <= max(0.1, 0.01 * 200) for integral in integrals)
    shares = [integral.seconds / integral.nodes for integral in integrals]
    assert shares == pytest.approx([shares[0]] * len(shares))
    assert shares[0] > 0


def test_what_does_not_converge_is_marked_with_its_gap(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    images, sexes = disc_cases
    config = AttributionSettings(
        gap_tolerance_months=0, gap_tolerance_fraction=0, min_nodes=3, max_nodes=12
    )
    for integral in integrate_batch(
        frozen_copy(disc_network), images, black(images), sexes, config, batch_size=8
    ):
        assert not integral.converged
        assert integral.nodes == 11
        change = integral.prediction_months - integral.baseline_prediction_months
        assert integral.gap_months == pytest.approx(integral.map_months.sum() - change, abs=1e-9)
        assert integral.gap_months != 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    class NotANumber(nn.Module):
        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            months = image.flatten(1).sum(dim=1)
            return torch.where(months > 0, months + value, months)

    image = torch.rand(1, 1, 4, 4)
    with pytest.raises(AttributionError, match="expected finite months"):
        integrate_batch(NotANumber(), image, black(image), torch.zeros(1), SETTINGS, batch_size=8)
    with pytest.raises(AttributionError, match="expected finite months"):
        gradient(NotANumber(), image, torch.zeros(1), AttributionSettings())


def test_several_baselines_are_averaged_and_share_the_image() -> None:
    a = torch.tensor([[[[3.0, -2.0], [40.0, 1.0]]]], dtype=torch.float64)
    image = torch.rand((1, 1, 2, 2), dtype=torch.float64)
    starts = torch.rand((20, 1, 2, 2), dtype=torch.float64)
    counting = Counting(Quadratic(a))
    (integral,) = integrate_batch(
        counting, image, [starts], torch.zeros(1, dtype=torch.float64), SETTINGS, batch_size=16
    )
    expected = (a * (image.square() - starts.square())).mean(dim=0)[0].numpy()
    np.testing.assert_allclose(integral.map_months, expected, atol=1e-12)
    # A start and a middle for each, and the image once.
    assert integral.nodes == sum(counting.steps) == 2 * 20 + 1


def test_the_gap_is_against_the_networks_own_predictions() -> None:
    """Gradients of a network that is 10% too steep leave a gap of 10% of the change."""
    a = torch.full((1, 1, 2, 2), 10.0)
    image = torch.ones(1, 1, 2, 2)
    (integral,) = integrate_batch(
        Quadratic(a),
        image,
        black(image),
        torch.zeros(1),
        SETTINGS,
        batch_size=8,
        gradient_network=Quadratic(1.1 * a),
    )
    assert integral.prediction_months == 140
    assert integral.gap_months == pytest.approx(4, abs=1e-4)
    assert not integral.converged


def test_the_estimated_error_is_the_true_one(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    network = frozen_copy(disc_network).double()
    images, sexes = (tensor.double() for tensor in disc_cases)

    def integrals(tolerance: float) -> list[PathIntegral]:
        config = EXACT.model_copy(
            update={"map_tolerance_fraction": tolerance, "gap_tolerance_months": 5.0}
        )
        return integrate_batch(network, images, black(images), sexes, config, batch_size=16)

    exact = integrals(3e-4)
    for tolerance in (0.1, 0.03, 0.01):
        ratios = []
        for one, other in zip(integrals(tolerance), exact, strict=True):
            assert one.map_error_fraction <= tolerance
            size = np.abs(other.map_months).sum()
            true = np.abs(one.map_months - other.map_months).sum() / size
            ratios.append(one.map_error_fraction / true)
        assert 0.5 < np.median(ratios) < 2


def test_a_smooth_network_has_its_error_by_hand() -> None:
    """The error of the trapezoidal rule for a cubic network is known."""

    class Cubic(nn.Module):
        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            return 10 * image.pow(3).sum(dim=(1, 2, 3))

    image = torch.ones((1, 1, 2, 2), dtype=torch.float64)
    config = AttributionSettings(min_nodes=17, max_nodes=17)
    (integral,) = integrate_batch(
        Cubic(), image, black(image), torch.zeros(1).double(), config, batch_size=8
    )
    # Slope 30 a²: the error of 16 intervals is 60 / 12 / 16² at each pixel, of 10.
    assert integral.map_months == pytest.approx(10 + 60 / 12 / 256, rel=1e-12)
    assert integral.map_error_fraction == pytest.approx(60 / 12 / 256 / 10, rel=0.01)


@pytest.mark.parametrize(
    ("images", "baselines", "sexes"),
    [
        (torch.zeros(2, 3, 4, 4), [torch.zeros(1, 3, 4, 4)] * 2, torch.zeros(2)),
        (torch.zeros(2, 1, 4, 4), [torch.zeros(1, 1, 4, 4)], torch.zeros(2)),
        (torch.zeros(2, 1, 4, 4), [torch.zeros(1, 1, 4, 4)] * 2, torch.zeros(1)),
        (torch.zeros(1, 1, 4, 4), [torch.zeros(1, 1, 3, 3)], torch.zeros(1)),
        (torch.zeros(1, 1, 4, 4), [torch.zeros(0, 1, 4, 4)], torch.zeros(1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    images: Tensor, baselines: list[Tensor], sexes: Tensor
) -> None:
    with pytest.raises(AttributionError, match="path integrals: expected"):
        integrate_batch(Quadratic(images[:1]), images, baselines, sexes, SETTINGS, batch_size=4)


def test_gradients_by_hand() -> None:
    a = torch.tensor([[[[3.0, -2.0]]]])
    images = torch.tensor([[[[0.5, 1.0]]], [[[0.25, 0.0]]], [[[1.0, 1.0]]]])
    values, slopes = gradients(Quadratic(a), images, torch.tensor([0.0, 1.0, 0.0]), 2)
    torch.testing.assert_close(values, torch.tensor([98.75, 101.1875, 101.0]).double())
    torch.testing.assert_close(slopes, 2 * a * images)


def test_memory_is_measured(disc_network: nn.Module, small_network: nn.Module) -> None:
    sex = torch.ones(1)
    network = frozen_copy(disc_network)
    small, large = (
        bytes_per_image(network, torch.rand(1, 1, side, side), sex) for side in (64, 128)
    )
    assert large == pytest.approx(4 * small, rel=0.05)
    # At least the eight channels after the first ReLU are kept, and not the weights twenty times.
    assert 8 * 128 * 128 * 4 < large < 20 * 8 * 128 * 128 * 4
    image = torch.rand(1, 1, 128, 128)
    assert fitting_batch(network, image, sex, budget_bytes=1) == 1
    assert fitting_batch(network, image, sex, budget_bytes=5 * large) == 5
    assert fitting_batch(network, image, sex, budget_bytes=2**40) == 16


def test_integrals_hold_what_they_promise(
    linear_network: Callable[[Tensor], nn.Module], image: Tensor
) -> None:
    weight = torch.linspace(-1, 1, 144).reshape(12, 12)
    network = frozen_copy(linear_network(weight))
    integral: PathIntegral
    (integral,) = integrate_batch(
        network, image, [image / 3], torch.ones(1), SETTINGS, batch_size=9
    )
    np.testing.assert_allclose(
        integral.map_months, (weight * image[0, 0] * 2 / 3).numpy(), atol=1e-6
    )
    assert integral.map_months.dtype == np.float64

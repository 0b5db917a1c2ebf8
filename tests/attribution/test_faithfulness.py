"""Deletion, insertion, ROAD, infidelity and sensitivity where the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from boneage_xai.attribution.faithfulness import deletion, insertion
from boneage_xai.attribution.infidelity import infidelity, max_sensitivity
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import gradient, input_x_gradient
from boneage_xai.attribution.road import impute, road
from boneage_xai.errors import AttributionError, ConfigError

Linear = Callable[[Tensor], nn.Module]
SEX = torch.ones(1)


@pytest.fixture
def weight() -> Tensor:
    return torch.randn((12, 12), generator=torch.Generator().manual_seed(3))


def test_deletion_of_a_linear_network_by_hand(
    linear_network: Linear, weight: Tensor, image: Tensor
) -> None:
    network = linear_network(weight)
    exact = (weight * image[0, 0]).numpy()
    curve = deletion(
        network, image, SEX, exact, baseline="black", cell_px=4, n_steps=9, order="older_first"
    )
    by_cell = exact.astype(np.float64).reshape(3, 4, 3, 4).sum(axis=(1, 3)).ravel()
    expected = 120 + exact.sum() - np.concatenate([[0], np.cumsum(np.sort(by_cell)[::-1])])
    np.testing.assert_allclose(curve.months, expected, atol=1e-3)
    np.testing.assert_allclose(curve.fractions, np.arange(10) / 9)
    np.testing.assert_allclose(curve.random_months[:, -1], 120, atol=1e-3)
    gap = curve.months - curve.random_months.mean(axis=0)
    assert curve.area_signed_months == pytest.approx((gap[1:] + gap[:-1]).sum() / 18)
    # No order falls faster than that of the exact contributions.
    assert (curve.months <= curve.random_months + 1e-3).all()
    assert curve.area_signed_months < 0


def test_insertion_runs_from_the_blurred_image_to_the_image(
    linear_network: Linear, weight: Tensor, image: Tensor
) -> None:
    network = linear_network(weight)
    pixels = image[0, 0].numpy()
    exact = weight.numpy() * (pixels - gaussian_filter(pixels, 1.2, mode="nearest"))
    curve = insertion(network, image, SEX, exact, order="older_first", n_steps=9)
    assert curve.months[-1] == pytest.approx(120 + float((weight * image[0, 0]).sum()), abs=1e-3)
    assert curve.months[-1] - curve.months[0] == pytest.approx(float(exact.sum()), abs=1e-3)
    assert curve.area_signed_months > 0


def planted(size: int = 16) -> tuple[Tensor, np.ndarray]:
    weight = torch.zeros(size, size)
    weight[4:8, 8:12] = 1.0
    return weight, weight.numpy()


def test_the_true_square_beats_chance_and_its_complement_does_not(linear_network: Linear) -> None:
    weight, truth = planted()
    network = linear_network(weight)
    image = torch.ones(1, 1, 16, 16)
    good, bad = (
        deletion(network, image, SEX, each, baseline="black", n_steps=16, n_random=20)
        for each in (truth, 1 - truth)
    )
    # All 16 months fall at the first cell of 16, or at the last.
    np.testing.assert_allclose(good.change_months, [0] + [16] * 16)
    np.testing.assert_allclose(bad.change_months, [0] * 16 + [16])
    assert good.area_change_months > 2 > -2 > bad.area_change_months


def test_a_map_of_zeros_is_at_chance(linear_network: Linear) -> None:
    weight, _ = planted()
    image = torch.ones(1, 1, 16, 16)
    areas = [
        deletion(
            linear_network(weight), image, SEX, np.zeros((16, 16)), baseline="black", seed=seed
        ).area_change_months
        for seed in range(40)
    ]
    # Uniform over 16 cells: standard deviation 4.6 months for one order.
    assert abs(np.mean(areas)) < 3 * 4.9 / np.sqrt(40)


def test_curves_and_scores_do_not_depend_on_the_batch(small_network: nn.Module) -> None:
    image = torch.rand((1, 1, 12, 12), generator=torch.Generator().manual_seed(5))
    values = gradient(small_network, image, SEX, AttributionSettings()).map_months
    state = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    small_network.train()
    torch_state = torch.get_rng_state()
    for size in (1, 7):
        one = deletion(small_network, image, SEX, values, batch_size=size)
        other = deletion(small_network, image, SEX, values, batch_size=64)
        np.testing.assert_allclose(one.months, other.months, atol=1e-2)
        scores = [road(small_network, image, SEX, values, batch_size=b) for b in (size, 64)]
        np.testing.assert_allclose(
            scores[0].most_first_months, scores[1].most_first_months, atol=1e-2
        )
    assert small_network.training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(torch.equal(state[name], now) for name, now in small_network.state_dict().items())


def test_imputation_by_a_dense_system() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((7, 6))
    removed = rng.random((7, 6)) < 0.6
    found = impute(pixels, removed, 0.0, rng)
    # Slow reference: repeat the weighted mean of neighbours until it stands still.
    slow = np.where(removed, 0.5, pixels)
    for _ in range(3000):
        for y, x in np.argwhere(removed):
            total = weights = 0.0
            for v in range(max(0, y - 1), min(7, y + 2)):
                for u in range(max(0, x - 1), min(6, x + 2)):
                    if (v, u) != (y, x):
                        weight = 1 / 6 if v == y or u == x else 1 / 12
                        total += weight * slow[v, u]
                        weights += weight
            slow[y, x] = total / weights
    np.testing.assert_allclose(found, slow, atol=1e-9)


def test_road_by_hand_and_for_a_planted_square(linear_network: Linear) -> None:
    weight, truth = planted()
    pixels = np.zeros((16, 16))
    pixels[4:8, 8:12] = 0.9
    image = torch.tensor(pixels, dtype=torch.float32)[None, None]
    scores = road(linear_network(weight), image, SEX, truth, fractions=[16 / 256], noise_sd=0.0)
    # The bright square is filled from its black surroundings; of the rest nothing counts.
    assert scores.most_first_months == pytest.approx([-0.9 * 16], abs=1e-4)
    assert scores.least_first_months == pytest.approx([0.0], abs=1e-4)
    assert scores.difference_months == pytest.approx([14.4], abs=1e-4)
    opposite = road(linear_network(weight), image, SEX, 1 - truth, fractions=[16 / 256])
    assert opposite.difference_months[0] < -14


def test_infidelity_is_zero_for_the_exact_map_of_a_linear_network(
    linear_network: Linear, weight: Tensor, image: Tensor
) -> None:
    network, black = linear_network(weight), torch.zeros_like(image)
    settings = AttributionSettings()
    exact = input_x_gradient(network, image, SEX, settings).map_months
    slope = gradient(network, image, SEX, settings).map_months
    found = infidelity(network, image, SEX, exact, black, square_px=3)
    assert found.infidelity_months2 < 1e-6 < 1 < found.zero_map_months2
    per_intensity = infidelity(network, image, SEX, slope, black, square_px=3, per_intensity=True)
    assert per_intensity.infidelity_months2 < 1e-6
    tripled = infidelity(network, image, SEX, 3 * exact, black, square_px=3)
    assert tripled.scale == pytest.approx(1 / 3, rel=1e-4)
    assert tripled.scaled_infidelity_months2 < 1e-6
    assert tripled.infidelity_months2 == pytest.approx(4 * found.zero_map_months2, rel=1e-3)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captums(small_network: nn.Module, image: Tensor, normalize: bool) -> None:
    network = small_network.eval()
    slope = gradient(network, image, SEX, AttributionSettings()).map_months
    black = torch.zeros_like(image)
    ours = infidelity(
        network, image, SEX, slope, black, per_intensity=True, square_px=4, n_squares=20
    )

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        taken = torch.zeros_like(inputs)
        for row, (top, left) in enumerate(ours.corners):
            square = (row, 0, slice(top, top + 4), slice(left, left + 4))
            taken[square] = inputs[square]
        return taken, inputs - taken

    theirs = captum_infidelity(
        network,
        perturb,
        image,
        torch.tensor(slope)[None, None],
        additional_forward_args=(SEX,),
        n_perturb_samples=20,
        normalize=normalize,
    )
    value = ours.scaled_infidelity_months2 if normalize else ours.infidelity_months2
    assert value == pytest.approx(float(theirs), rel=1e-3)


def test_max_sensitivity_of_a_linear_network(
    linear_network: Linear, weight: Tensor, image: Tensor
) -> None:
    network = linear_network(weight)
    inner = 0.1 + 0.8 * image
    assert max_sensitivity(gradient, network, inner, SEX).max_relative_change == 0
    found = max_sensitivity(input_x_gradient, network, inner, SEX, radius=0.05, seed=2)
    # For input × gradient the change is weight × noise; drawn here as the function draws it.
    rng = np.random.default_rng(2)
    w, x = weight.numpy(), inner[0, 0].numpy()
    expected = [
        np.linalg.norm(w * rng.uniform(-0.05, 0.05, (12, 12))) / np.linalg.norm(w * x)
        for _ in range(10)
    ]
    assert found.max_relative_change == pytest.approx(max(expected), rel=1e-4)
    assert found.mean_relative_change == pytest.approx(np.mean(expected), rel=1e-4)


def test_max_sensitivity_is_captums(small_network: nn.Module) -> None:
    network = small_network.eval()
    image = 0.1 + 0.8 * torch.rand((1, 1, 12, 12), generator=torch.Generator().manual_seed(8))

    def explain(inputs: tuple[Tensor, ...] | Tensor) -> tuple[Tensor]:
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        maps = [
            input_x_gradient(network, each[None], SEX, AttributionSettings()).map_months
            for each in images
        ]
        return (torch.tensor(np.stack(maps))[:, None],)

    def perturb(inputs: Tensor) -> Tensor:
        # The same noise as ours: one stream gives all samples at once or one by one.
        noise = np.random.default_rng(0).uniform(-0.02, 0.02, tuple(inputs.shape))
        return inputs + torch.tensor(noise, dtype=inputs.dtype)

    theirs = float(sensitivity_max(explain, image, perturb, n_perturb_samples=20))
    ours = max_sensitivity(input_x_gradient, network, image, SEX, n_samples=20)
    assert ours.max_relative_change == pytest.approx(theirs, rel=1e-4)


def test_what_does_not_fit_is_refused(
    linear_network: Linear, weight: Tensor, image: Tensor
) -> None:
    network, values = linear_network(weight), weight.numpy()
    with pytest.raises(AttributionError, match="expected the image's shape"):
        deletion(network, image, SEX, values[1:])
    with pytest.raises(AttributionError, match="NaN"):
        road(network, image, SEX, np.full((12, 12), np.nan))
    with pytest.raises(ConfigError, match="fractions"):
        road(network, image, SEX, values, fractions=[1.0])
    with pytest.raises(ConfigError, match="baseline"):
        deletion(network, image, SEX, values, baseline="white")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="squares"):
        infidelity(network, image, SEX, values, image, square_px=13)
    with pytest.raises(AttributionError, match="0 everywhere"):
        max_sensitivity(gradient, linear_network(torch.zeros(12, 12)), image, SEX)


def test_max_sensitivity_is_that_of_quantus_within_its_draws(small_network: nn.Module) -> None:
    quantus = pytest.importorskip("quantus")
    network = small_network.eval()
    pixels = 0.1 + 0.8 * np.random.default_rng(0).random((1, 1, 12, 12), dtype=np.float32)

    class WithoutSex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs, SEX.expand(len(inputs)))[:, None]

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> object:
        maps = [
            input_x_gradient(
                network, torch.tensor(each)[None], SEX, AttributionSettings()
            ).map_months
            for each in inputs
        ]
        return np.stack(maps)[:, None]

    metric = quantus.MaxSensitivity(
        nr_samples=40,
        lower_bound=0.02,
        norm_numerator=quantus.norm_func.fro_norm,
        norm_denominator=quantus.norm_func.fro_norm,
        similarity_func=quantus.similarity_func.difference,
        abs=False,
        normalise=False,
        disable_warnings=True,
    )
    (theirs,) = metric(
        model=WithoutSex(),
        x_batch=pixels,
        y_batch=np.zeros(1, dtype=int),
        explain_func=explain,
        device="cpu",
    )
    ours = max_sensitivity(input_x_gradient, network, torch.tensor(pixels), SEX, n_samples=40)
    assert ours.max_relative_change == pytest.approx(theirs, rel=0.5)

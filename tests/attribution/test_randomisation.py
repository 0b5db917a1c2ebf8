"""Randomised networks: maps that follow the weights pass, maps that ignore them are flagged."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.methods import gradient
from boneage_xai.attribution.randomisation import (
    Randomisation,
    randomise_parameters,
    randomised_network,
    similarities,
    top_down,
)
from boneage_xai.errors import AttributionError

SEX = torch.ones(1)
HAND = np.ones((24, 24), dtype=np.bool_)


def edges(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: object = None,
) -> AttributedMap:
    """Ignore the network: the slope of the image itself."""
    slope_y, _ = np.gradient(image[0, 0].numpy())
    return AttributedMap(slope_y.astype(np.float32), 0.0)


def test_an_edge_detector_is_flagged_and_the_gradient_is_not(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    image = disc_cases[0][:1]
    state = {name: tensor.clone() for name, tensor in disc_network.state_dict().items()}
    disc_network.train()
    before = torch.get_rng_state()
    flagged = randomise_parameters(edges, disc_network, image, SEX, HAND)
    assert flagged.too_similar is True
    assert flagged.at_full_depth() == pytest.approx(1)
    assert flagged.table.query("map == 'method'")["ssim_signed"].min() == pytest.approx(1)
    assert abs(flagged.at_full_depth("gradient")) < 0.5
    passed = randomise_parameters(gradient, disc_network, image, SEX, HAND)
    assert passed.too_similar is False
    assert disc_network.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], now) for name, now in disc_network.state_dict().items())
    assert not any(module._forward_hooks for module in disc_network.modules())


def test_a_single_depth_is_the_last(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    image = disc_cases[0][:1]
    every = randomise_parameters(gradient, disc_network, image, SEX, HAND, n_seeds=1)
    last = randomise_parameters(gradient, disc_network, image, SEX, HAND, n_seeds=1, n_depths=1)
    assert last.table["depth"].unique().tolist() == [every.table["depth"].max()]
    assert last.at_full_depth() == every.at_full_depth()


def test_copies_of_either_sign_do_not_cancel() -> None:
    table = pd.DataFrame(
        {
            "map": "method",
            "depth": [1, 2, 1, 2],
            "spearman_signed": [0.9, 0.8, 0.9, -0.6],
            "spearman_absolute": [0.9, 0.2, 0.9, 0.0],
        }
    )
    result = Randomisation(table, threshold=0.5)
    assert result.at_full_depth() == pytest.approx(0.7)
    assert result.too_similar is True
    constant = table.assign(spearman_signed=np.nan, spearman_absolute=np.nan)
    assert Randomisation(constant, threshold=0.5).too_similar is None


def test_the_same_seed_gives_the_same_table(
    disc_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    image = disc_cases[0][:1]
    one, other = (
        randomise_parameters(gradient, disc_network, image, SEX, HAND, n_seeds=1, n_depths=3)
        for _ in range(2)
    )
    assert one.table.equals(other.table)
    assert one.table["depth"].drop_duplicates().tolist() == [1, 4, 7]
    assert one.table["module"].iloc[-1] == "backbone.0"


def test_modules_come_from_the_output_down(disc_network: nn.Module) -> None:
    found = top_down(disc_network, torch.zeros(1, 1, 24, 24), SEX)
    head, backbone = ["head.2", "head.0", "sex"], ["backbone.5", "backbone.4"]
    assert found == [*head, *backbone, "backbone.1", "backbone.0"]


def test_a_parameter_without_reset_is_drawn_anew(linear_network: type[nn.Module]) -> None:
    weight = 5 + torch.randn((24, 24), generator=torch.Generator().manual_seed(0))
    result = randomise_parameters(
        gradient, linear_network(weight), torch.ones(1, 1, 24, 24), SEX, HAND, n_seeds=6
    )
    # The gradient is the weight itself, so what is left is chance: 1/sqrt(576) for one seed.
    assert result.at_full_depth() < 4 / np.sqrt(576 * 6)
    # Of the same mean: 120 + 576 × 5 months with a spread of 24 for a spread of 1.
    predictions = result.table.query("map == 'gradient'")["prediction_months"]
    assert predictions.to_numpy() == pytest.approx(120 + float(weight.sum()), abs=120)


def test_only_the_hand_is_compared() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 24, 24))
    hand = np.zeros((24, 24), dtype=np.bool_)
    hand[4:20, 6:18] = True
    found = similarities(one, other, hand)
    assert found["spearman_signed"] == pytest.approx(spearmanr(one[hand], other[hand]).statistic)
    assert found["spearman_absolute"] == pytest.approx(
        spearmanr(np.abs(one[hand]), np.abs(other[hand])).statistic
    )
    changed = np.where(hand, other, 1000.0)
    assert similarities(one, changed, hand) == found
    # Scale says nothing; the sign does.
    assert similarities(one, 7 * one, hand)["ssim_signed"] == pytest.approx(1)
    flipped = similarities(one, -one, hand)
    assert flipped["spearman_signed"] == pytest.approx(-1)
    assert flipped["ssim_absolute"] == pytest.approx(1)


def test_what_cannot_be_compared_is_refused(disc_network: nn.Module) -> None:
    image = torch.zeros(1, 1, 24, 24)
    with pytest.raises(AttributionError, match="30 pixels"):
        randomise_parameters(gradient, disc_network, image, SEX, np.zeros((24, 24), dtype=np.bool_))
    with pytest.raises(AttributionError, match="mask of shape"):
        randomise_parameters(gradient, disc_network, image, SEX, HAND[1:])


class Normed(nn.Module):
    """Convolutions with BatchNorm, whose statistics decide whether a signal survives."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for _ in range(6):
            layers += [nn.Conv2d(width, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
            width = 4
        self.features = nn.Sequential(*layers, nn.Dropout(0.5))
        self.head = nn.Linear(4, 1)
        self.register_buffer("scale", torch.tensor(40.0))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return self.scale * self.head(self.features(image).mean(dim=(2, 3)))[:, 0] + is_male


def test_weights_that_hooks_compute_are_forgotten_too() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = nn.Conv2d(1, 4, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convolution = nn.utils.weight_norm(convolution)
        network = Averaging(convolution).requires_grad_(False)
        images = torch.rand(3, 1, 12, 12)
        network(images, torch.ones(3))  # without gradients, for such a module to be copied
    copy = randomised_network(network, 3, images, torch.ones(3))
    for name in ("weight_g", "weight_v"):
        assert not torch.equal(getattr(copy.part, name), getattr(network.part, name))


@pytest.mark.parametrize("frozen", [False, True])
def test_torchscript_cannot_be_randomised(frozen: bool) -> None:
    scripted = torch.jit.script(Averaging(nn.Conv2d(1, 4, 3)).eval())
    network = torch.jit.freeze(scripted) if frozen else scripted
    images = torch.rand(3, 1, 12, 12)
    with pytest.raises(AttributionError, match="can be made random, found"):
        randomised_network(network, 3, images, torch.ones(3))
    with pytest.raises(AttributionError, match="can be made random, found"):
        top_down(network, images[:1], SEX)


class Averaging(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return self.part(image).mean(dim=(1, 2, 3)) + is_male


def test_randomised_network_has_random_weights_and_measured_statistics() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Normed()
        images = torch.rand(6, 1, 12, 12)
    sexes = torch.ones(6)
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    copy = randomised_network(network, 3, images, sexes)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert torch.equal(copy.scale, network.scale)
    for name, value in copy.named_parameters():
        if "weight" in name and value.dim() > 1:
            assert not torch.equal(value, state[name])
    # Statistics by hand: what goes into the first BatchNorm, and what comes out of the last.
    with torch.no_grad():
        inputs = copy.features[0](images)
        torch.testing.assert_close(copy.features[1].running_mean, inputs.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(copy.features[1].running_var, inputs.var(dim=(0, 2, 3)))
        last = copy.features[:17](images)
    torch.testing.assert_close(last.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=2e-2)
    torch.testing.assert_close(last.var(dim=(0, 2, 3)), torch.ones(4), rtol=0.1, atol=0)
    assert [module.momentum for module in copy.modules() if isinstance(module, nn.BatchNorm2d)] == [
        0.1
    ] * 6
    same, other = (randomised_network(network, seed, images, sexes) for seed in (3, 4))
    assert torch.equal(same(images, sexes), copy(images, sexes))
    assert not torch.equal(other(images, sexes), copy(images, sexes))


def test_randomised_network_needs_parameters_and_images() -> None:
    with pytest.raises(AttributionError, match=r"at least 2 images .* found 1"):
        randomised_network(Normed(), 0, torch.rand(1, 1, 12, 12), SEX)
    with pytest.raises(AttributionError, match="with parameters"):
        randomised_network(nn.Flatten(), 0, torch.rand(2, 1, 4, 4), torch.ones(2))

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from boneage_xai.attribution.gradients import gradients
from boneage_xai.attribution.integrated_gradients import integrated_gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.prepared import (
    HALF_TYPES,
    float32_poolings,
    frozen_copy,
    in_half,
    prepare,
)
from boneage_xai.errors import AttributionError
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor

# Side in pixels at which each network is quick and still has a feature map at its end.
STUDIED = {"vgg16": 48, "resnet18": 48, "inception_v3": 96, "resnet101": 48}
FOLDED = {"vgg16": 0, "resnet18": 20, "inception_v3": 94, "resnet101": 104}


def studied_network(name: str, output: str = "expectation") -> BoneAgeRegressor:
    """Build a network with random weights whose BatchNorms have seen images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BoneAgeRegressor(
            ArchitectureSettings(backbone=name, hidden=(32,), output=output, normalised_stem=True),
            age_mean_months=127.0,
            age_sd_months=41.0,
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.uniform_(module.bias, -0.1, 0.1)
                module.momentum = 0.5
        size_px = STUDIED[name]
        network.train()
        with torch.no_grad():
            for _ in range(2):
                network(torch.rand(6, 1, size_px, size_px), torch.ones(6))
    return network


def images_for(size_px: int, n: int = 2) -> tuple[Tensor, Tensor]:
    images = torch.rand((n, 1, size_px, size_px), generator=torch.Generator().manual_seed(1))
    return images, torch.arange(n) % 2 * 1.0


@pytest.mark.parametrize("name", STUDIED)
def test_studied_networks_fold_and_predict_the_same(name: str) -> None:
    network = studied_network(name)
    images, sexes = images_for(STUDIED[name])
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()
    prepared = prepare(network, images, sexes)
    assert prepared.folded == FOLDED[name]
    assert str(FOLDED[name]) in prepared.note or prepared.note == "no BatchNorm that can be folded"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.network.modules())
    assert not any(parameter.requires_grad for parameter in prepared.network.parameters())
    assert not any(module.training for module in prepared.network.modules())
    with torch.no_grad():
        other = images.flip(3)
        torch.testing.assert_close(
            prepared.network(other, sexes), network.eval()(other, sexes), rtol=0, atol=0.01
        )
    # The original, put into evaluation by this test only now, was in training all along.
    assert all(modes)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", STUDIED)
def test_studied_networks_are_explained(name: str) -> None:
    network = studied_network(name, output="value")
    images, sexes = images_for(STUDIED[name], n=1)
    settings = AttributionSettings(min_nodes=9, max_nodes=33, map_tolerance_fraction=1)
    attributed = integrated_gradients(network, images, sexes, settings)
    network.eval()
    with torch.no_grad():
        at_image, at_black = (float(network(x, sexes)) for x in (images, images * 0))
    assert attributed.prediction_months == pytest.approx(at_image, abs=0.01)
    assert attributed.baseline_prediction_months == pytest.approx(at_black, abs=0.01)
    change = at_image - at_black
    gap = float(attributed.map_months.sum(dtype="float64")) - change
    assert attributed.completeness_gap_months == pytest.approx(gap, abs=0.02)
    assert attributed.converged == (abs(gap) <= max(0.5, 0.01 * abs(change)))
    assert abs(attributed.map_months).sum() > abs(change) > 0


class Pair(nn.Module):
    """A convolution, what may come between, a BatchNorm, and a head."""

    def __init__(self, convolution: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = convolution or nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.05]))
            self.norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))

    def between(self, features: Tensor) -> Tensor:
        return features

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.norm(self.between(self.convolution(image)))
        return 100 + 30 * features.mean(dim=(1, 2, 3)) + is_male


class Depends(Pair):
    def between(self, features: Tensor) -> Tensor:
        return features if features.sum() > -1e9 else -features


class Twice(Pair):
    def between(self, features: Tensor) -> Tensor:
        return features + self.norm(features)


class Tapped(Pair):
    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.convolution(image)
        return super().forward(image, is_male) + features.square().mean(dim=(1, 2, 3))


class Residual(Pair):
    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.convolution(image)
        return 100 + (self.norm(features) + features).mean(dim=(1, 2, 3)) + is_male


class Rectified(nn.Conv2d):
    """A convolution that is not linear: folding into it would be wrong."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input).relu()


def test_a_plain_pair_folds() -> None:
    images, sexes = images_for(8)
    assert prepare(Pair(), images, sexes).folded == 1


@pytest.mark.parametrize(
    ("network", "note"),
    [
        (Depends(), "cannot be traced"),
        (Twice(), "no BatchNorm that can be folded"),
        (Tapped(), "no BatchNorm that can be folded"),
        (Residual(), "no BatchNorm that can be folded"),
        (Pair(Rectified(1, 3, 3)), "predictions would move by"),
        (Pair(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())), "no BatchNorm that can be folded"),
    ],
    ids=["control flow", "norm twice", "convolution twice", "residual", "not linear", "relu"],
)
def test_what_does_not_fold_stays_as_it_is(network: nn.Module, note: str) -> None:
    images, sexes = images_for(8)
    prepared = prepare(network, images, sexes)
    assert prepared.folded == 0
    assert note in prepared.note
    with torch.no_grad():
        torch.testing.assert_close(
            prepared.network(images, sexes), network.eval()(images, sexes), rtol=0, atol=1e-4
        )


def test_a_hooked_pair_stays_as_it_is() -> None:
    network = Pair().eval()
    network.norm.register_forward_hook(lambda module, inputs, output: output + 1)
    images, sexes = images_for(8)
    prepared = prepare(network, images, sexes)
    assert (prepared.folded, prepared.note) == (0, "no BatchNorm that can be folded")
    with torch.no_grad():
        torch.testing.assert_close(prepared.network(images, sexes), network(images, sexes))


def test_bfloat16_copy_keeps_the_head_in_float32(disc_network: nn.Module) -> None:
    images, sexes = images_for(24)
    prepared = prepare(disc_network, images, sexes)
    half = in_half(prepared, 1, torch.bfloat16)
    after_pooling = half.get_submodule("backbone.inner.4").parameters()
    assert {p.dtype for p in after_pooling} == {torch.bfloat16}
    assert {p.dtype for p in half.get_submodule("head").parameters()} == {torch.float32}
    assert {p.dtype for p in prepared.network.parameters()} == {torch.float32}
    with torch.no_grad():
        change = (half(images, sexes) - prepared.network(images, sexes)).abs().max()
    assert 0 < change < 2
    in_double = prepare(disc_network.double(), images.double(), sexes.double())
    assert not float32_poolings(in_double, torch.bfloat16)
    assert not float32_poolings(prepare(Pair(), images, sexes), torch.float16)


def test_small_gradients_survive_float16(disc_network: nn.Module) -> None:
    """Their sizes are few steps of float16, the smallest of which is 6e-8."""
    images, sexes = images_for(24)
    prepared = prepare(disc_network, images, sexes)
    with torch.no_grad():
        head = list(prepared.network.get_submodule("head").parameters())
        for parameter in head:
            parameter.mul_(1e-7 / head[0].abs().max())
    assert 0 < gradients(prepared.network, images, sexes, 8)[1].abs().max() < 2e-6
    half = in_half(prepared, 1, torch.float16)
    full, halved = (gradients(each, images, sexes, 8)[1] for each in (prepared.network, half))
    assert (halved - full).norm() < 0.02 * full.norm()


def test_a_network_that_cannot_be_copied_is_named() -> None:
    network = Pair()
    network.lock = threading.Lock()
    with pytest.raises(AttributionError, match="Pair: expected a network that can be copied"):
        frozen_copy(network)


@pytest.mark.parametrize(
    ("name", "poolings"),
    [(name, 1) for name in STUDIED] + [("inception_v3", 2), ("vgg16", 2)],
)
@pytest.mark.parametrize("dtype", HALF_TYPES.values(), ids=HALF_TYPES)
def test_two_bytes_begin_after_a_max_pooling(name: str, poolings: int, dtype: torch.dtype) -> None:
    network = studied_network(name)
    images, sexes = images_for(STUDIED[name])
    prepared = prepare(network, images, sexes)
    assert poolings in float32_poolings(prepared, dtype)
    half = in_half(prepared, poolings, dtype)
    kinds: list[str] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kind = "pool" if isinstance(module, nn.MaxPool2d) else str(inputs[0].dtype)
        if kind not in kinds[-1:]:
            kinds.append(kind)

    hooks = [
        module.register_forward_pre_hook(note)
        for module in half.modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.Linear)
    ]
    with torch.no_grad():
        predicted = half(images, sexes)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        features, exact = (
            each.get_submodule("backbone")(images) for each in (half, prepared.network)
        )
    assert kinds[: 2 * poolings + 1] == ["torch.float32", "pool"] * poolings + [str(dtype)]
    assert kinds[-1] == "torch.float32"
    assert predicted.dtype == torch.float32
    # Heads of random weights magnify whatever is left.
    assert 0 < (features - exact).norm() < 0.15 * exact.norm()
    # The float32 copy is left as it was.
    assert {parameter.dtype for parameter in prepared.network.parameters()} == {torch.float32}

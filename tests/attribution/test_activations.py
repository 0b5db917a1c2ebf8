from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor


@pytest.fixture
def images() -> Tensor:
    return torch.rand((5, 1, 12, 12), generator=torch.Generator().manual_seed(2))


DENSENET = ["relu0", "denseblock1", "denseblock2", "denseblock3", "norm5"]
SEXES = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("reduce", ["mean", "max", "signed_mean"])
def test_against_the_layers_run_by_hand(
    small_network: nn.Module, images: Tensor, reduce: str
) -> None:
    maps = layer_activations(
        small_network, images, SEXES, ["backbone.1", "backbone.4"], reduce=reduce
    )
    small_network.eval()
    layers = small_network.backbone
    with torch.no_grad():
        # The ReLU after layer 1 works in place: the map must be of what layer 1 gave.
        normalised = layers[1](layers[0](images))
        later = layers[4](layers[3](torch.relu(normalised)))
    reduction = {
        "mean": lambda output: np.abs(output).mean(axis=1),
        "max": lambda output: np.abs(output).max(axis=1),
        "signed_mean": lambda output: output.mean(axis=1),
    }[reduce]
    for name, output in (("backbone.1", normalised), ("backbone.4", later)):
        expected = reduction(output.numpy())
        np.testing.assert_allclose(maps[name], expected, rtol=1e-5, atol=1e-6)
        assert maps[name].dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_size_does_not_change_the_maps(
    small_network: nn.Module, images: Tensor, batch_size: int
) -> None:
    whole = layer_activations(small_network, images, SEXES, ["backbone.4"], batch_size=5)
    parts = layer_activations(small_network, images, SEXES, ["backbone.4"], batch_size=batch_size)
    np.testing.assert_allclose(parts["backbone.4"], whole["backbone.4"], rtol=1e-5, atol=1e-7)


class Reusing(nn.Module):
    """One ReLU runs twice, one layer never, one gives vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(1, 2, 3)
        self.idle = nn.Conv2d(1, 2, 3)
        self.flat = nn.Flatten()

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return self.flat(self.relu(self.conv(self.relu(image)))).sum(dim=1)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("relu", AttributionError, "relu: .* found one that is reused"),
        ("idle", AttributionError, "idle: .* found one that does not run"),
        ("flat", AttributionError, r"flat: expected outputs \(N, C, h, w\), found \(5, 200\)"),
        ("conv7", ConfigError, "found 'conv7'"),
        ("", ConfigError, "found ''"),
    ],
)
def test_layers_without_one_map_per_image_are_refused(
    images: Tensor, layer: str, error: type[Exception], message: str
) -> None:
    network = Reusing()
    with pytest.raises(error, match=message):
        layer_activations(network, images, SEXES, [layer])
    assert not any(module._forward_hooks for module in network.modules())


def test_wrong_options_are_refused(small_network: nn.Module, images: Tensor) -> None:
    with pytest.raises(ConfigError, match="median"):
        layer_activations(small_network, images, SEXES, [], reduce="median")
    with pytest.raises(AttributionError, match="as many sexes"):
        layer_activations(small_network, images, SEXES[:2], ["backbone.1"])


@pytest.mark.parametrize(
    ("name", "size_px", "expected"),
    [
        ("resnet18", 128, ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("resnet50", 128, ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("squeezenet1_0", 256, [f"features.{layer}" for layer in (1, 5, 10, 12)]),
        ("densenet121", 64, [f"features.{layer}" for layer in DENSENET]),
        ("convnext_tiny", 64, [f"features.{layer}" for layer in (1, 3, 5, 7)]),
        (
            "inception_v3",
            299,
            ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
        ),
    ],
)
def test_default_layers_are_one_per_scale(name: str, size_px: int, expected: list[str]) -> None:
    network = BoneAgeRegressor(ArchitectureSettings(backbone=name))
    assert default_layers(network, size_px) == [f"backbone.{layer}" for layer in expected]


class Vgg(nn.Module):
    """VGG11's layers in the nesting of torchvision, without the large unused classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.features = make_layers(cfgs["A"])
        self.backbone.avgpool = nn.AdaptiveAvgPool2d(7)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.backbone.features(image.repeat(1, 3, 1, 1))
        return self.backbone.avgpool(features).flatten(1).mean(dim=1)


def test_default_layers_leave_out_what_only_pools() -> None:
    expected = [f"backbone.features.{layer}" for layer in (1, 4, 9, 14, 19)]
    assert default_layers(Vgg(), size_px=64) == expected


def test_default_layers_get_smaller_and_can_be_computed(small_network: nn.Module) -> None:
    layers = default_layers(small_network, size_px=12)
    assert layers == ["backbone.2", "backbone.5"]
    maps = layer_activations(small_network, torch.rand(1, 1, 12, 12), torch.ones(1), layers)
    assert [maps[layer].shape for layer in layers] == [(1, 12, 12), (1, 6, 6)]


def test_a_network_without_spatial_layers_has_none(linear_network: type[nn.Module]) -> None:
    assert default_layers(linear_network(torch.zeros(8, 8)), size_px=8) == []

"""Backbones: grey folding is exact, weights load or are refused, blocks cover the network."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.models.backbones import (
    IMAGENET_NORMALISATION,
    INCEPTION_NORMALISATION,
    GreyStem,
    backbone_names,
    build_backbone,
    feature_blocks,
    normalisation_of,
)

STUDIED = ("vgg16", "resnet18", "resnet101", "inception_v3", "squeezenet1_0")
OTHERS = ("densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf")


def without_values(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


def save_weights(name: str, path: Path) -> None:
    """Write random weights in torchvision's format, noughts for a classifier after features.

    An expanded tensor is stored as its one value: the classifier of VGG16 is half a gigabyte.
    """
    network = without_values(name)
    part = getattr(network, "features", network).to_empty(device="cpu")
    for module in part.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    state = {
        key: torch.zeros((), dtype=value.dtype).expand(value.shape) if value.is_meta else value
        for key, value in network.state_dict().items()
    }
    torch.save(state, path)


def rgb_features(name: str, path: Path, grey: torch.Tensor) -> torch.Tensor:
    """The plain torchvision network on the normalised grey image, repeated three times."""
    network = without_values(name)
    state = torch.load(path, weights_only=True)
    if hasattr(network, "features"):
        network = network.features
        state = {
            key.removeprefix("features."): value
            for key, value in state.items()
            if key.startswith("features.")
        }
    network.load_state_dict({key: value.double() for key, value in state.items()}, assign=True)
    normalisation = INCEPTION_NORMALISATION if name == "inception_v3" else IMAGENET_NORMALISATION
    mean, std = (torch.tensor(part).double().view(1, 3, 1, 1) for part in normalisation)
    x = (grey.double().repeat(1, 3, 1, 1) - mean) / std
    network.eval()
    if not hasattr(network, "fc"):
        return network(x).mean(dim=(2, 3))
    network.fc = nn.Identity()
    return network(x)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "inception_v3", "squeezenet1_0"])
def test_pretrained_rgb_stem_folds_to_grey_exactly(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    save_weights(name, path)
    grey = torch.rand(1, 1, 99, 101)
    with torch.inference_mode():
        expected = rgb_features(name, path, grey)
        found = build_backbone(name, str(path)).eval().double()(grey.double()).flatten(1)
    # float32 storage of the folded stem is the only difference left
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_fold_is_exact_at_the_border_where_a_bias_is_not() -> None:
    torch.manual_seed(0)
    rgb = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=True)
    mean, std = IMAGENET_NORMALISATION
    grey = torch.rand(2, 1, 20, 24)
    normalised = (grey - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    expected = rgb(normalised)
    torch.testing.assert_close(GreyStem.fold(rgb, mean, std)(grey), expected)
    scaled = rgb.weight / torch.tensor(std).view(1, 3, 1, 1)
    bias = rgb.bias - (scaled * torch.tensor(mean).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    naive = nn.functional.conv2d(grey, scaled.sum(1, keepdim=True), bias, stride=2, padding=3)
    assert (naive - expected).abs()[..., 0, 0].max() > 0.01


def test_random_stem_equals_the_rgb_network_on_repeated_grey() -> None:
    torch.manual_seed(3)
    rgb = torchvision.models.resnet18(weights=None).conv1
    torch.manual_seed(3)
    grey = build_backbone("resnet18").conv1
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(grey(x), rgb(x.repeat(1, 3, 1, 1)))


def built_without_values(name: str) -> nn.Module:
    """Build a backbone whose parts are looked at: to draw values for large ones takes seconds."""
    # RegNet computes its widths with tensors.
    with torch.device("meta" if name in STUDIED else "cpu"):
        return build_backbone(name)


@pytest.mark.parametrize("name", STUDIED + OTHERS)
def test_every_parameter_is_in_exactly_one_block(name: str) -> None:
    backbone = built_without_values(name)
    blocks = feature_blocks(backbone)
    in_blocks = [id(p) for block in blocks for module in block for p in module.parameters()]
    assert sorted(in_blocks) == sorted(id(p) for p in backbone.parameters())
    # Every block learns something, but for pooling between blocks there is nothing to freeze.
    assert all(any(True for m in block for _ in m.parameters()) for block in blocks)


@pytest.mark.parametrize(
    ("name", "count"), [("vgg16", 5), ("resnet18", 5), ("resnet101", 5), ("squeezenet1_0", 9)]
)
def test_number_of_blocks(name: str, count: int) -> None:
    assert len(feature_blocks(built_without_values(name))) == count


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_give_pooled_features(name: str) -> None:
    with torch.inference_mode():
        features = build_backbone(name).eval()(torch.rand(2, 1, 64, 64)).flatten(1)
    assert features.shape[0] == 2
    assert features.shape[1] >= 200


def test_unknown_and_transformer_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="resnet19"):
        build_backbone("resnet19")
    with pytest.raises(ConfigError, match="transformer"):
        build_backbone("vit_b_16")
    assert "vit_b_16" not in backbone_names()


def test_safetensors_weights_load(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    backbone = build_backbone("squeezenet1_1", str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(
        backbone.features[3].squeeze.weight, state["features.3.squeeze.weight"]
    )


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("name", backbone_names())
def test_stems_expect_what_the_published_weights_were_trained_on(name: str) -> None:
    every = torchvision.models.get_model_weights(name)
    published = getattr(every, "IMAGENET1K_V1", None) or every.DEFAULT
    expected = published.transforms()
    if name in ("inception_v3", "googlenet"):
        # Their transform_input turns these into the other.
        assert normalisation_of(name) == ((0.5,) * 3, (0.5,) * 3)
    else:
        assert normalisation_of(name) == (tuple(expected.mean), tuple(expected.std))


def test_densenet_takes_its_names_as_they_were_published(tmp_path: Path) -> None:
    state = torchvision.models.densenet121(weights=None).state_dict()
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    torch.save(published, tmp_path / "w.pth")
    backbone = build_backbone("densenet121", str(tmp_path / "w.pth"))
    name = "denseblock4.denselayer16.conv2.weight"
    torch.testing.assert_close(backbone.features.state_dict()[name], state[f"features.{name}"])


def test_bad_weights_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    other = tmp_path / "other.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), other)
    with pytest.raises(
        CheckpointError, match="expected the tensors of torchvision's squeezenet1_0"
    ):
        build_backbone("squeezenet1_0", str(other))
    with pytest.raises(CheckpointError, match="found none"):
        build_backbone("squeezenet1_0", str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        build_backbone("resnet18", str(tmp_path / "text.pth"))
    (tmp_path / "hello.pth").write_text("hello world\n")
    with pytest.raises(CheckpointError, match=r"hello\.pth: expected tensors alone"):
        build_backbone("resnet18", str(tmp_path / "hello.pth"))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.weight": Malicious()}))
    with pytest.raises(CheckpointError, match="executing code"):
        build_backbone("resnet18", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_absent_imagenet_weights_say_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(CheckpointError, match=r"checkpoints/resnet18-\w+\.pth.*put the file there"):
        build_backbone("resnet18", "imagenet")


@pytest.mark.realdata
def test_real_imagenet_weights_load(real_data: Path) -> None:
    path = real_data / "weights" / "squeezenet1_0-imagenet.pth"
    backbone = build_backbone("squeezenet1_0", str(path)).eval()
    with torch.inference_mode():
        found = backbone(torch.from_numpy(np.full((1, 1, 96, 96), 0.5, np.float32))).flatten(1)
        expected = rgb_features("squeezenet1_0", path, torch.full((1, 1, 96, 96), 0.5))
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)

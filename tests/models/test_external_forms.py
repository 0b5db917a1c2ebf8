"""Networks from elsewhere that rely on what the toolkit's own never ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from external_fixture import Elsewhere, close, elsewhere, images
from torch import Tensor

from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import method_named
from boneage_xai.attribution.prepared import prepare
from boneage_xai.attribution.randomisation import randomised_network
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.models.external import load_external
from external_networks import SIZE_PX, SOURCES, card

__all__ = ["elsewhere", "images"]

SOURCE = """
import os

import torch
from torch import nn


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=4)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5 * 36 + 1, 1)

    def forward(self, image, sex):
        out = torch.relu(self.conv2(torch.relu(self.conv1(image))))
        return self.head(torch.cat([out.view(out.size(0), -1), sex], dim=1))


class OneByOne(nn.Module):
    def __init__(self, flat=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4) if flat else nn.BatchNorm2d(4)
        self.flat = flat

    def forward(self, image, sex):
        if len(image) != 1:
            raise ValueError("one image only")
        out = self.conv(image)
        out = self.norm(out.mean(dim=(2, 3))) if self.flat else self.norm(out).mean(dim=(2, 3))
        return out.sum(dim=1, keepdim=True) + sex


class Around(nn.Module):
    def __init__(self, file):
        super().__init__()
        file = os.path.join(os.path.dirname(__file__), file)
        if file.endswith(".pt"):
            self.inner = torch.jit.load(file)
        else:
            self.inner = torch.export.load(file).module()

    def forward(self, image, sex):
        return self.inner(image, sex) + 1
"""


@pytest.fixture
def forms(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A module of odd networks beside the cards, and its namespace."""
    (tmp_path / "forms.py").write_text(SOURCE)
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "forms.py")}
    exec(compile(SOURCE, "forms.py", "exec"), namespace)
    yield namespace
    sys.modules.pop("forms", None)


@pytest.mark.parametrize("kind", ["factory", "torchscript", "exported"])
def test_a_network_may_flatten_by_a_view(
    forms: Any, tmp_path: Path, images: tuple[Tensor, Tensor], kind: str
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        flat = forms["Flat"]().eval()
    inputs = torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 1)
    if kind == "factory":
        torch.save(flat.state_dict(), tmp_path / "flat.pth")
        source = {"factory": "forms:Flat", "weights": "flat.pth"}
    elif kind == "torchscript":
        torch.jit.trace(flat, inputs).save(str(tmp_path / "flat.pt"))
        source = {"torchscript": "flat.pt"}
    else:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(flat, inputs, dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, tmp_path / "flat.pt2")
        source = {"exported": "flat.pt2"}
    network = load_external(card(tmp_path, source)).network
    close(prepare(network, *images).network(*images), network(*images))
    image, is_male = images[0][:1], images[1][:1]
    settings = AttributionSettings(gap_tolerance_months=0.01, gap_tolerance_fraction=0)
    made = method_named("integrated_gradients")(network, image, is_male, settings)
    assert made.baseline_prediction_months is not None
    change = made.prediction_months - made.baseline_prediction_months
    assert made.map_months.sum(dtype=np.float64) == pytest.approx(change, abs=0.011)


@pytest.mark.parametrize("kind", ["traced", "dynamic"])
def test_a_factory_may_wrap_what_was_saved(
    elsewhere: Elsewhere, forms: Any, tmp_path: Path, images: tuple[Tensor, Tensor], kind: str
) -> None:
    file = next(iter(SOURCES[kind].values()))
    (tmp_path / file).write_bytes((elsewhere.folder / file).read_bytes())
    source = {"factory": "forms:Around", "arguments": {"file": file}}
    network = load_external(card(tmp_path, source)).network
    plain = load_external(card(elsewhere.folder, SOURCES[kind])).network
    close(network(*images), plain(*images) + 1)
    image, is_male = images[0][:1], images[1][:1]
    settings = AttributionSettings()
    maps = [method_named("gradient")(one, image, is_male, settings) for one in (network, plain)]
    np.testing.assert_allclose(maps[0].map_months, maps[1].map_months, rtol=1e-4, atol=1e-6)
    layers = default_layers(network, SIZE_PX)
    assert list(layer_activations(network, *images, layers)) == layers
    if kind == "traced":
        assert layers == []
        with pytest.raises(AttributionError, match="can be observed, found TorchScript"):
            layer_activations(network, *images, ["network.inner.conv1"])
        with pytest.raises(AttributionError, match="found none"):
            method_named("grad_cam")(network, image, is_male, settings)
        with pytest.raises(AttributionError, match="can be observed, found TorchScript"):
            method_named("grad_cam")(
                network, image, is_male, AttributionSettings(cam_layer="network.inner.conv1")
            )


def test_batch_norm_is_measured_on_all_images_that_come_one_by_one(
    forms: Any, tmp_path: Path, images: tuple[Tensor, Tensor]
) -> None:
    network = load_external(card(tmp_path, {"factory": "forms:OneByOne"})).network
    assert network.batch == (1, 1)
    # Of different brightness, so that no image alone has the statistics of all.
    image = images[0] * torch.linspace(0.1, 1, len(images[0])).view(-1, 1, 1, 1)
    random = randomised_network(network, 0, image, images[1])
    norm = random.get_submodule("network.norm")
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        inner = random.get_submodule("network.conv")((image.repeat(1, 3, 1, 1) - mean) / std)
    close(norm.running_mean, inner.mean(dim=(0, 2, 3)))
    source = {"factory": "forms:OneByOne", "arguments": {"flat": True}}
    flat = load_external(card(tmp_path, source)).network
    with pytest.raises(AttributionError, match="takes several images at once"):
        randomised_network(flat, 0, *images)


def test_networks_from_elsewhere_as_onnx(elsewhere: Elsewhere, forms: Any, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="boneage-xai[onnx] is not installed")
    from boneage_xai.export.onnx_network import export_onnx

    made = export_onnx(
        load_external(card(elsewhere.folder, SOURCES["dynamic"])), tmp_path / "d.onnx"
    )
    assert made.largest_difference_months < 0.001
    for source, words in (
        ({"factory": "forms:OneByOne"}, "expected a network that"),
        (None, "expected a factory or an exported program, found TorchScript"),
    ):
        model = (
            load_external(card(elsewhere.folder, SOURCES["scripted"]))
            if source is None
            else load_external(card(tmp_path, source))
        )
        with pytest.raises(ConfigError, match=words):
            export_onnx(model, tmp_path / "refused.onnx")
    assert not (tmp_path / "refused.onnx").exists()

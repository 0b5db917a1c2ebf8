"""Every method on the networks of the studies and on one from elsewhere."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import METHODS
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor

SETTINGS = AttributionSettings(
    min_nodes=5,
    max_nodes=9,
    noise_samples=2,
    guided_steps=3,
    patch_fraction=0.5,
    stride_fraction=0.5,
)
SIZES_PX = {"vgg16": 32, "resnet18": 32, "resnet101": 32, "inception_v3": 80, "external": 20}
VARIANTS = {
    "sex": {"sex_features": 8, "hidden": (16,)},
    "image only": {"sex_features": 0, "hidden": (16,)},
    "expectation": {"sex_features": 8, "hidden": (16,), "output": "expectation"},
}


class External(nn.Module):
    """A network of someone else's: functional activations and no part named backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Linear(9, 1)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = torch.max_pool2d(torch.relu(self.first(image)), 2)
        features = torch.nn.functional.leaky_relu(self.second(features)).mean(dim=(2, 3))
        return 100 + 50 * self.last(torch.cat([features, is_male[:, None]], dim=1))[:, 0]


@cache
def built(name: str, variant: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "external":
            return External()
        options = ArchitectureSettings(backbone=name, **VARIANTS[variant])
        network = BoneAgeRegressor(options, age_mean_months=127.0, age_sd_months=41.0)
        # Statistics of BatchNorm as after training, without which activations explode.
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network.train()(torch.rand(4, 1, SIZES_PX[name], SIZES_PX[name]), torch.ones(4))
    # Left in training mode, as a caller may.
    return network


CASES = [(name, variant) for name in SIZES_PX for variant in ("sex", "image only")]
CASES = [*CASES[:-1], ("resnet18", "expectation"), ("vgg16", "expectation")]


def trace(network: nn.Module) -> list[object]:
    """Return what would tell of a change; versions count writes into a tensor."""
    tensors = [*network.parameters(), *network.buffers()]
    return [
        [module.training for module in network.modules()],
        [len(module._forward_hooks) for module in network.modules()],
        [(id(tensor), tensor._version, tensor.requires_grad) for tensor in tensors],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_maps_are_finite_complete_where_promised_and_leave_no_trace(
    name: str, variant: str, method: str
) -> None:
    network, size_px = built(name, variant), SIZES_PX[name]
    image = torch.rand((1, 1, size_px, size_px), generator=torch.Generator().manual_seed(3))
    rng = np.random.default_rng(0)
    references = SameSexReferences(*rng.random((2, 1, size_px, size_px), dtype=np.float32))
    extra = {"references": references} if method == "expected_gradients" else {}
    before = trace(network)
    found = METHODS[method](network, image, torch.ones(1), SETTINGS, **extra)
    assert found.map_months.shape == (size_px, size_px)
    assert found.map_months.dtype == np.float32
    assert np.isfinite(found.map_months).all()
    assert found.map_months.any()
    complete = {"integrated_gradients", "expected_gradients", "guided_ig", "deep_lift"}
    assert (found.completeness_gap_months is not None) == (method in complete)
    if method == "deep_lift":
        change = found.prediction_months - found.baseline_prediction_months
        assert found.map_months.sum(dtype=np.float64) == pytest.approx(change, rel=0.01, abs=2e-3)
    assert trace(network) == before


@pytest.mark.parametrize("method", METHODS)
def test_float64(method: str) -> None:
    network = copy.deepcopy(built("external", "sex"))
    image = torch.rand((1, 1, 20, 20), generator=torch.Generator().manual_seed(3))
    references = SameSexReferences(*np.zeros((2, 1, 20, 20), dtype=np.float32))
    extra = {"references": references} if method == "expected_gradients" else {}
    single = METHODS[method](network, image, torch.ones(1), SETTINGS, **extra).map_months
    double = METHODS[method](
        network.double(), image.double(), torch.ones(1, dtype=torch.float64), SETTINGS, **extra
    ).map_months
    np.testing.assert_allclose(double, single, rtol=1e-2, atol=1e-2 * np.abs(double).max())

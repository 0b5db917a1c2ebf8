"""Small networks whose attributions can be computed by hand or by a plain loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class LinearNetwork(nn.Module):
    """months = 100 + 20 * is_male + sum(weight * image)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.backbone = nn.Flatten()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        pixels = self.backbone(image)
        return 100 + 20 * is_male + pixels @ self.weight.flatten()


class SmallNetwork(nn.Module):
    """Convolutions with BatchNorm, in-place ReLU, pooling, dropout and a sex branch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Dropout(0.5),
        )
        self.sex = nn.Linear(1, 3)
        self.head = nn.Sequential(nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.backbone(image).flatten(1)
        joined = torch.cat([features, self.sex(is_male[:, None])], dim=1)
        return 120 + 1000 * self.head(joined)[:, 0]


@pytest.fixture
def linear_network() -> Callable[[Tensor], nn.Module]:
    return LinearNetwork


@pytest.fixture
def small_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = SmallNetwork()
        # Statistics and scales as after training, so that evaluation differs from training.
        normalisation = network.backbone[1]
        with torch.no_grad():
            normalisation.running_mean.uniform_(-0.2, 0.2)
            normalisation.running_var.uniform_(0.3, 2.0)
            normalisation.weight.uniform_(0.5, 1.5)
            normalisation.bias.uniform_(-0.2, 0.2)
    return network


@pytest.fixture
def image() -> Tensor:
    return torch.rand((1, 1, 12, 12), generator=torch.Generator().manual_seed(1))

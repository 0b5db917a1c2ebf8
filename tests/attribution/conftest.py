"""Small networks whose attributions can be computed by hand or by a plain loop."""

from __future__ import annotations

import copy
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


class DiscNetwork(nn.Module):
    """A small convolutional network without bias before its BatchNorms, as the studies' have."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.sex = nn.Linear(1, 4)
        self.head = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        joined = torch.cat([self.backbone(image), self.sex(is_male[:, None])], dim=1)
        return 100 + 40 * self.head(joined)[:, 0]


def discs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw bright discs (n, 1, 24, 24), sexes, and months that grow with the radius."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    radius = 2 + 8 * torch.rand(n, 1, 1, generator=generator)
    centre_y, centre_x = 8 + 8 * torch.rand(2, n, 1, 1, generator=generator)
    distance = ((y - centre_y) ** 2 + (x - centre_x) ** 2).sqrt()
    noise = 0.1 * torch.rand(n, 24, 24, generator=generator)
    is_male = (torch.rand(n, generator=generator) < 0.5).float()
    images = 0.8 * torch.sigmoid(radius - distance) + noise
    return images[:, None], is_male, 20 * radius[:, 0, 0] + 10 * is_male


@pytest.fixture(scope="session")
def _disc_network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DiscNetwork()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        images, is_male, target = discs(32, generator)
        optimiser.zero_grad()
        (network(images, is_male) - target).abs().mean().backward()
        optimiser.step()
    optimiser.zero_grad()
    return network.eval()


@pytest.fixture
def disc_network(_disc_network: nn.Module) -> nn.Module:
    """Return a network trained on discs for a second, a copy of the test's own."""
    return copy.deepcopy(_disc_network)


@pytest.fixture
def disc_cases() -> tuple[Tensor, Tensor]:
    """Return six discs (6, 1, 24, 24) that the network has not seen, and their sexes."""
    images, is_male, _ = discs(6, torch.Generator().manual_seed(99))
    return images, is_male


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

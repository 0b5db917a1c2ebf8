"""Networks of other code, in every way that a card can name, once for all tests of a module."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from external_networks import (
    MODULE,
    SIZE_PX,
    network_module,
    save_in_every_way,
    settle,
)


@dataclass(frozen=True)
class Elsewhere:
    folder: Path
    module: Any
    network: nn.Module


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    folder = tmp_path_factory.mktemp("elsewhere")
    module = network_module(folder)
    network = settle(module.build())
    save_in_every_way(network, folder)
    for how in ("before", "keyword", "embedding", "channel", "none", "dictionary", "classes"):
        wrapped = settle(module.Wrapped(how))
        torch.save(wrapped.state_dict(), folder / f"{how}.pth")
    torch.save(settle(module.Odd("nan")).state_dict(), folder / "odd.pth")
    sys.modules.pop(MODULE, None)
    return Elsewhere(folder, module, network)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(5, 1, SIZE_PX, SIZE_PX, generator=generator), torch.tensor([0.0, 1, 1, 0, 1])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-4)

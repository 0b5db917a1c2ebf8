"""Exponential moving average of the weights, quick at first and slow in the end."""

from __future__ import annotations

from itertools import chain
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WarmedUpAverage(AveragedModel):
    """An average of weights and buffers that trusts the newest less, the more there have been.

    Its decay after n steps is min(decay, (1 + n) / (10 + n)). With a constant decay it trails
    the weights by 1 / (1 - decay) steps from the start, and its BatchNorm statistics do not fit its
    weights while those still move fast.

    torch's own update looks for its tensors at every step, some thousand calls of Python for a
    large network, while a GPU waits: here they are found once.

    Args:
        model: whose weights are averaged; must not exchange its tensors for others.
        device: of the average, that of ``model``.
        decay: of the average after many steps.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device, use_buffers=True)
        self.decay = decay
        # Asked for at every step, which must not wait for the device.
        self.n_averaged = self.n_averaged.cpu()
        self._tensors: tuple[list[Tensor], ...] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's current values into the average."""
        if self._tensors is None:
            self._tensors = (*_floats_and_others(self.module), *_floats_and_others(model))
        averages, kept_counters, values, counters = self._tensors
        n = int(self.n_averaged)
        if n == 0:
            torch._foreach_copy_(averages, values)
        else:
            torch._foreach_lerp_(averages, values, 1 - min(self.decay, (1 + n) / (10 + n)))
        if counters:
            # Counters have no meaningful average.
            torch._foreach_copy_(kept_counters, counters)
        self.n_averaged += 1


def _floats_and_others(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    tensors = [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )


class AveragedWeights(WeightAveraging):
    """Validate and keep a moving average of the weights, on the device that trains.

    Args:
        decay: of the average after many steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Copy the network to where it will be trained; Lightning moves it only later."""
        if stage == "fit":
            self._average_model: Any = WarmedUpAverage(
                pl_module, trainer.strategy.root_device, self._decay
            )

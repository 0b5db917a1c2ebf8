"""Exponential moving average of the weights, quick at first and slow in the end."""

from __future__ import annotations

from collections.abc import Callable

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

AverageUpdate = Callable[[list[Tensor], list[Tensor], Tensor], None]


def warmed_up_average(decay: float) -> AverageUpdate:
    """Return the update of an average whose decay is min(decay, (1 + n) / (10 + n)).

    With a constant decay the average trails the weights by 1 / (1 - decay) steps from the
    start, and its BatchNorm statistics do not fit its weights while those still move fast.

    Args:
        decay: of the average after many steps n.

    Returns:
        A function of (averages, current values, n), as AveragedModel's ``multi_avg_fn``.
    """

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        if not averages[0].is_floating_point():
            # Counters have no meaningful average.
            torch._foreach_copy_(averages, current)
            return
        weight = 1 - ((1 + n_averaged) / (10 + n_averaged)).clamp(max=decay)
        if weight.device.type == "cpu":
            torch._foreach_lerp_(averages, current, float(weight))
        else:
            # A number would make the processor wait for the device at every step.
            changes = torch._foreach_sub(current, averages)
            torch._foreach_mul_(changes, weight)
            torch._foreach_add_(averages, changes)

    return update


class AveragedWeights(WeightAveraging):
    """Validate and keep a moving average of the weights, on the device that trains.

    Args:
        decay: of the average after many steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=warmed_up_average(decay))

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Copy the network to where it will be trained; Lightning moves it only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # It is compared with zero at every step, which must not wait for the device.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

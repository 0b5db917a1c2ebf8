"""Exponential moving average of the weights, quick at first and slow in the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
        n = int(n_averaged)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, weight)
        else:
            # Counters have no meaningful average.
            torch._foreach_copy_(averages, current)

    return update

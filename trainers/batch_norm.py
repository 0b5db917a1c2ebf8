"""Batch normalisation over the batch of all processes together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """On processors what torch's SyncBatchNorm is on GPUs, for equal batches in all processes."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        """Normalise (N, C, H, W) by the statistics of all processes, while training."""
        if not self.training:
            return super().forward(input)
        images = input.to(self.weight.dtype)
        n = images.numel() // images.shape[1] * dist.get_world_size()
        mean = _sum_of_all(images.sum((0, 2, 3))) / n
        centred = images - mean[:, None, None]
        variance = _sum_of_all(centred.square().sum((0, 2, 3))) / n
        self._follow(mean.detach(), variance.detach() * n / (n - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class _SumOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process's loss depends on every process's values.
        return _SumOfAll.forward(ctx, gradients[0])


def _sum_of_all(values: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(values)
    return total


def share_batch_norm(network: nn.Module) -> None:
    """Let every BatchNorm of a network take its statistics from the batch of all processes.

    Args:
        network: changed in place; its state dict keeps its keys.
    """
    if torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm

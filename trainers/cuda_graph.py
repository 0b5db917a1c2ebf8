"""Launching a network's forward and backward pass as one recording each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from boneage_xai.models.regressor import BoneAgeRegressor

logger = logging.getLogger(__name__)

_Pass = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class RecordedPass:
    """``network.raw_and_features`` for training on a GPU, without launching each kernel anew.

    Launching a small network kernel by kernel takes longer than a GPU needs to compute it. CUDA
    records the launches of a pass once for each shape of the images and replays them; what is
    computed is the same. Where a pass cannot be recorded, it runs as it is.

    Args:
        network: trained in place; keeps its tensors while recordings of it are used.
    """

    def __init__(self, network: BoneAgeRegressor) -> None:
        self._unrecorded = _RawAndFeatures(network)
        self._shape: tuple[int, ...] = ()
        self._recorded: _Pass = self._unrecorded

    def __call__(self, images: Tensor, is_male: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``raw_and_features`` does, of (N, 1, S, S) images and (N,) sexes."""
        if tuple(images.shape) != self._shape:
            self._shape = tuple(images.shape)
            # Before the next one: two recordings at once would take twice the memory.
            self._recorded = self._unrecorded
            self._recorded = self._record(images, is_male)
        return self._recorded(images, is_male)

    def _record(self, images: Tensor, is_male: Tensor) -> _Pass:
        network = self._unrecorded.network
        kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
        recorded: _Pass = self._unrecorded
        samples = (images.clone(), is_male.clone())
        try:
            recorded = cast(
                _Pass, torch.cuda.make_graphed_callables(_RawAndFeatures(network), samples)
            )
        except RuntimeError as error:
            logger.warning("the training step is launched kernel by kernel: %s", error)
        # Recording runs the network a few times, which its BatchNorm statistics must not notice.
        for buffer, before in kept:
            buffer.copy_(before)
        return recorded


class _RawAndFeatures(nn.Module):
    def __init__(self, network: BoneAgeRegressor) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, is_male: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.raw_and_features(images, is_male)

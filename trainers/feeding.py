"""Feeding the training step: batches straight out of the memory-mapped pixel cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels (N, S, S) uint8, is_male (N,) float32, bone age (N,) float32 in months."""


class CachedRadiographs(Dataset[Batch]):
    """Cases of a pixel cache, read a batch at a time.

    Args:
        pixels: (n, S, S) uint8 memory map.
        rows: (m,) rows of ``pixels`` that belong to this set.
        is_male: (m,) bool.
        bone_age_months: (m,) float.
    """

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.intp],
        is_male: npt.NDArray[np.bool_],
        bone_age_months: npt.NDArray[np.float64],
    ) -> None:
        self.pixels = pixels
        self.rows = rows
        self.is_male = torch.from_numpy(is_male.astype(np.float32))
        self.bone_age_months = torch.from_numpy(bone_age_months.astype(np.float32))

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch at once, so that nothing is collated case by case."""
        chosen = np.asarray(indices)
        return (
            torch.from_numpy(self.pixels[self.rows[chosen]]),
            self.is_male[chosen],
            self.bone_age_months[chosen],
        )


class EpochShuffle(Sampler[int]):
    """Random order that depends on the seed and the epoch alone, so that it can be resumed."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Iterate over this epoch's permutation."""
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist())

    def __len__(self) -> int:
        """Return the number of cases."""
        return self.n


def make_loader(cases: CachedRadiographs, batch_size: int, seed: int | None) -> DataLoader[Batch]:
    """Return batches in random order (training) or, without a seed, in the given order.

    Training drops the last incomplete batch, whose BatchNorm statistics would be noisy,
    unless it is the only one. Where there is a GPU, batches lie in pinned memory, from which they
    travel while it computes.
    """
    return DataLoader(
        cases,
        batch_size=batch_size,
        sampler=None if seed is None else EpochShuffle(len(cases), seed),
        drop_last=seed is not None and len(cases) > batch_size,
        collate_fn=_already_a_batch,
        num_workers=0,
        pin_memory=torch.cuda.is_available(),
    )


def _already_a_batch(batch: Any) -> Any:
    return batch

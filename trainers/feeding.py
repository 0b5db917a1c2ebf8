"""Feeding the training step: batches straight out of the memory-mapped pixel cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from boneage_xai.errors import ConfigError
from trainers.share import WHOLE, Share, require_shares

# Of cases that a GPU cannot hold, batches are gathered by processes of their own while the main one
# launches kernels, which for most networks takes it as long as the GPU needs to run them.
_GATHERING_PROCESSES = 2
_MOST_OF_GPU_MEMORY = 0.25
# Without gradients, a small batch takes a GPU less time than launching its kernels.
_GPU_VALIDATION_BATCH = 256

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Pixels (N, S, S) uint8, is_male (N,) float32, bone age (N,) float32 in months, ages of regions
(N, R) float32 in months, without columns where none are known."""


class CachedRadiographs(Dataset[Batch]):
    """Cases of a pixel cache, read a batch at a time: from the cache, or from a GPU's memory.

    Args:
        pixels: (n, S, S) uint8 memory map.
        rows: (m,) rows of ``pixels`` that belong to this set.
        is_male: (m,) bool.
        bone_age_months: (m,) float.
        region_ages_months: (m, R) float, None where none are known.
    """

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.intp],
        is_male: npt.NDArray[np.bool_],
        bone_age_months: npt.NDArray[np.float64],
        region_ages_months: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.pixels = pixels
        self.rows = rows
        self.is_male = torch.from_numpy(is_male.astype(np.float32))
        self.bone_age_months = torch.from_numpy(bone_age_months.astype(np.float32))
        known = np.empty((len(rows), 0)) if region_ages_months is None else region_ages_months
        self.region_ages_months = torch.from_numpy(known.astype(np.float32))
        self._resident: Batch | None = None

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.rows)

    def keep_on(self, device: torch.device) -> None:
        """Copy all cases to a device, from which batches come then."""
        size_px = self.pixels.shape[1:]
        pixels = torch.empty((len(self), *size_px), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 256):
            part = slice(start, start + 256)
            pixels[part] = torch.from_numpy(self.pixels[self.rows[part]])
        self._resident = (
            pixels,
            self.is_male.to(device),
            self.bone_age_months.to(device),
            self.region_ages_months.to(device),
        )

    def n_bytes(self) -> int:
        """Return the size of all pixels."""
        return len(self) * int(np.prod(self.pixels.shape[1:]))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch at once, so that nothing is collated case by case."""
        if self._resident is not None:
            pixels, is_male, bone_age_months, region_ages = self._resident
            # Only from pinned memory does a copy not wait for the step before it.
            chosen_here = torch.tensor(indices, pin_memory=pixels.is_cuda)
            chosen_there = chosen_here.to(pixels.device, non_blocking=True)
            return (
                pixels[chosen_there],
                is_male[chosen_there],
                bone_age_months[chosen_there],
                region_ages[chosen_there],
            )
        chosen = np.asarray(indices)
        return (
            torch.from_numpy(self.pixels[self.rows[chosen]]),
            self.is_male[chosen],
            self.bone_age_months[chosen],
            self.region_ages_months[chosen],
        )


class EpochShuffle(Sampler[int]):
    """One process's cases of an epoch, in random order.

    The order of all cases depends on the seed and the epoch alone, so that it can be resumed and
    does not change with the number of processes: each takes its part of every batch.

    Args:
        n: cases in all; those that do not fill a batch are left out of the epoch.
        batch_size: cases a step of all processes together, at most n.
        seed: of the order.
        share: this process's part of every batch.
    """

    def __init__(self, n: int, batch_size: int, seed: int, share: Share = WHOLE) -> None:
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Iterate over this process's part of the epoch's permutation."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        whole = order[: self.n - self.n % self.batch_size]
        parts = whole.reshape(-1, self.share.count, self.batch_size // self.share.count)
        return iter(parts[:, self.share.rank].ravel().tolist())

    def __len__(self) -> int:
        """Return the number of this process's cases."""
        return self.n // self.batch_size * (self.batch_size // self.share.count)


def make_loader(
    cases: CachedRadiographs, batch_size: int, seed: int | None, share: Share = WHOLE
) -> DataLoader[Batch]:
    """Return one process's batches in random order (training) or, without a seed, in order.

    Training drops the last incomplete batch, whose BatchNorm statistics would be noisy,
    unless it is the only one. A GPU that trains alone holds all cases in its memory where they take
    at most a quarter of what is free. Otherwise other processes gather the batches, which lie in
    pinned memory and travel while it computes.

    Args:
        cases: of all processes.
        batch_size: of all processes together.
        seed: of the order; None for validation, where every case belongs to one process.
        share: this process's part of every batch.

    Raises:
        ConfigError: processes that cannot share a training batch evenly, or more of them than
            validation cases.
    """
    sampler: Sampler[int] | Sequence[int]
    if seed is None and torch.cuda.is_available():
        # Without gradients four times as many images fit where a step of training does.
        batch_size = max(batch_size, min(4 * batch_size, _GPU_VALIDATION_BATCH))
    batch_size = min(batch_size, len(cases))
    if seed is not None:
        require_shares(share.count, batch_size)
        sampler = EpochShuffle(len(cases), batch_size, seed, share)
    elif len(cases) < share.count:
        raise ConfigError(
            f"--devices, --nodes: expected at most a process for each of the {len(cases)} "
            f"validation cases, found {share.count}"
        )
    else:
        parts = np.array_split(np.arange(len(cases)), share.count)
        sampler = parts[share.rank].tolist()
    gathered_elsewhere = torch.cuda.is_available() and not _kept_on_gpu(cases, share)
    return DataLoader(
        cases,
        batch_size=max(batch_size // share.count, 1),
        sampler=sampler,
        collate_fn=_already_a_batch,
        num_workers=_GATHERING_PROCESSES if gathered_elsewhere else 0,
        persistent_workers=gathered_elsewhere,
        pin_memory=gathered_elsewhere,
    )


def _kept_on_gpu(cases: CachedRadiographs, share: Share) -> bool:
    if share.count > 1 or cases.n_bytes() > _MOST_OF_GPU_MEMORY * torch.cuda.mem_get_info()[0]:
        return False
    cases.keep_on(torch.device("cuda", torch.cuda.current_device()))
    return True


def _already_a_batch(batch: Any) -> Any:
    return batch

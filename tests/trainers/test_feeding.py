"""Batches out of the cache, and out of a device's memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainers import feeding
from trainers.feeding import CachedRadiographs, make_loader
from trainers.share import Share

N = 300


@pytest.fixture
def cases() -> CachedRadiographs:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * N, 5, 5), dtype=np.uint8)
    rows = rng.permutation(2 * N)[:N]
    ages = rng.uniform(10, 220, N)
    return CachedRadiographs(pixels, rows, rng.random(N) < 0.5, ages, rng.random((N, 3)))


def test_a_device_gives_the_batches_of_the_cache(cases: CachedRadiographs) -> None:
    indices = [299, 0, 17, 255, 256]
    from_cache = cases.__getitems__(indices)
    cases.keep_on(torch.device("cpu"))
    cases.pixels = cases.pixels[:0]
    kept = cases.__getitems__(indices)
    assert all(torch.equal(a, b) for a, b in zip(from_cache, kept, strict=True))
    assert kept[0].shape == (5, 5, 5)
    assert kept[3].shape == (5, 3)


@pytest.mark.parametrize(
    ("free_bytes", "count", "kept"),
    [(4 * N * 25, 1, True), (4 * N * 25 - 4, 1, False), (1 << 40, 2, False)],
)
def test_a_gpu_that_trains_alone_holds_what_takes_a_quarter_of_its_memory(
    cases: CachedRadiographs,
    monkeypatch: pytest.MonkeyPatch,
    free_bytes: int,
    count: int,
    kept: bool,
) -> None:
    there: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, free_bytes))
    monkeypatch.setattr(CachedRadiographs, "keep_on", lambda self, device: there.append(device))
    loader = make_loader(cases, 16, 0, Share(0, count))
    assert bool(there) == kept
    assert (loader.num_workers > 0) == (not kept)


def test_a_gpu_validates_in_larger_batches(
    cases: CachedRadiographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_loader(cases, 16, None).batch_size == 16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(feeding, "_kept_on_gpu", lambda *_: True)
    assert make_loader(cases, 16, None).batch_size == 64
    assert make_loader(cases, 100, None).batch_size == 256
    assert make_loader(cases, 512, None).batch_size == N

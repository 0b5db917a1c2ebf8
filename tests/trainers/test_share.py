"""Shares of processes: which cases each takes, and that an image is changed alike in any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.errors import ConfigError
from trainers.augmentation import augment
from trainers.feeding import CachedRadiographs, EpochShuffle, make_loader
from trainers.recipe import AugmentationSettings
from trainers.share import Share


@settings(deadline=None)
@given(
    n=st.integers(1, 70),
    per_process=st.integers(1, 5),
    count=st.integers(1, 4),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_processes_take_the_parts_of_the_batches_of_one(
    n: int, per_process: int, count: int, seed: int, epoch: int
) -> None:
    batch_size = per_process * count
    n = max(n, batch_size)
    shuffles = [EpochShuffle(n, batch_size, seed, Share(rank, count)) for rank in range(count)]
    for shuffle in shuffles:
        shuffle.set_epoch(epoch)
    orders = [list(shuffle) for shuffle in shuffles]
    assert [len(shuffle) for shuffle in shuffles] == [len(order) for order in orders]
    steps = n // batch_size
    batches = [
        order[step * per_process : (step + 1) * per_process]
        for step in range(steps)
        for order in orders
    ]
    permutation = np.random.default_rng((seed, epoch)).permutation(n).tolist()
    assert [case for batch in batches for case in batch] == permutation[: steps * batch_size]


def _cases(n: int) -> CachedRadiographs:
    pixels = np.zeros((n, 2, 2), dtype=np.uint8)
    return CachedRadiographs(pixels, np.arange(n), np.zeros(n, bool), np.arange(n, dtype=float))


@pytest.mark.parametrize("n", [3, 8, 17])
def test_every_validation_case_belongs_to_one_process(n: int) -> None:
    loaders = [make_loader(_cases(n), 6, None, Share(rank, 3)) for rank in range(3)]
    ages = [float(age) for loader in loaders for _, _, batch, _ in loader for age in batch]
    assert sorted(ages) == list(range(n))


def test_shares_that_are_not_possible_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"divides the batch of 8 cases, found 3"):
        make_loader(_cases(20), 8, 0, Share(0, 3))
    with pytest.raises(ConfigError, match=r"the batch of 5 cases, found 2"):
        make_loader(_cases(5), 8, 0, Share(0, 2))
    with pytest.raises(ConfigError, match=r"each of the 2 validation cases, found 3"):
        make_loader(_cases(2), 9, None, Share(0, 3))


def test_an_image_is_changed_alike_in_any_number_of_processes() -> None:
    changes = AugmentationSettings(
        rotation_degrees=20, shift_fraction=0.1, zoom=(0.8, 1.2), horizontal_flip=0.5,
        vertical_flip=0.5, gamma=0.3, contrast=0.2, brightness=0.1,
    )  # fmt: skip
    images = torch.rand(6, 1, 16, 16)
    torch.manual_seed(3)
    whole = augment(images, changes)
    parts = []
    for rank in range(3):
        torch.manual_seed(3)
        parts.append(augment(images[2 * rank : 2 * rank + 2], changes, Share(rank, 3)))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(whole[0], images[0])

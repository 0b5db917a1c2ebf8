"""Checkpoints: damage is refused in one sentence, and one moment is written once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from boneage_xai.errors import CheckpointError
from trainers.checkpoints import WholeCheckpointIO, read_checkpoint


@pytest.mark.parametrize(
    ("record", "at", "bit"),
    [
        pytest.param(b"PK\x01\x02", 8, 0, id="says it is encrypted"),
        pytest.param(b"PK\x01\x02", 10, 3, id="says it is deflated"),
        pytest.param(b"PK\x03\x04", 29, 3, id="ends before it begins"),
        pytest.param(b"PK\x06\x07", 16, 1, id="says it spans several disks"),
    ],
)
def test_a_flipped_bit_in_the_archive_is_refused(
    tmp_path: Path, record: bytes, at: int, bit: int
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(3)}}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(record) + at] ^= 1 << bit
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected a whole checkpoint"):
        read_checkpoint(path)


def test_the_checkpoint_of_one_moment_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"

    def checkpoint(step: int) -> dict[str, object]:
        return {"global_step": step, "state_dict": {"weight": torch.full((3,), float(step))}}

    writer = WholeCheckpointIO()
    writer.save_checkpoint(checkpoint(1), best)
    writer.save_checkpoint(checkpoint(1), last)
    assert best.samefile(last)
    # A later epoch that is not the best leaves the best as it is.
    writer.save_checkpoint(checkpoint(2), last)
    assert read_checkpoint(best)["global_step"] == 1
    assert read_checkpoint(last)["global_step"] == 2

    def refuse(*_: object) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    writer.save_checkpoint(checkpoint(3), best)
    writer.save_checkpoint(checkpoint(3), last)
    assert not best.samefile(last)
    assert read_checkpoint(last)["global_step"] == 3

"""A damaged checkpoint is refused in one sentence, whichever bit of it was flipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from boneage_xai.errors import CheckpointError
from trainers.checkpoints import read_checkpoint


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

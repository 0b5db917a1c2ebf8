"""Files are whole or absent, and damage is named."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from boneage_xai.errors import DataError
from boneage_xai.files import (
    link_durably,
    read_json,
    read_table,
    staged_file,
    staged_folder,
    write_durably,
    write_json,
    write_safetensors,
    write_table,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def write_half() -> None:
        with staged_file(file) as staged:
            staged.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_is_absent(tmp_path: Path) -> None:
    def write_half() -> None:
        with staged_folder(tmp_path / "new") as staged:
            (staged / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"), staged_folder(tmp_path / "there"):
        pass


def test_json_has_no_nan_and_takes_numpy(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": np.float32(1.5), "y": float("nan"), "z": (Path("a"),)})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"x": 1.5, "y": None, "z": ["a"]}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_tables_come_back(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"case_id": ["007", "8"], "months": [1.5, 2.0]})
    write_table(tmp_path / name, frame)
    back = read_table(tmp_path / name)
    assert back["case_id"].tolist() == ["007", "8"]
    assert back["months"].tolist() == [1.5, 2.0]


def test_only_the_columns_asked_for_are_read_where_there(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pd.DataFrame({"a": [1], "b": [2.5], "c": ["x"]}))
    back = read_table(tmp_path / "t.parquet", ["c", "absent", "a"])
    assert list(back.columns) == ["c", "a"]


@pytest.mark.parametrize("name", ["t.parquet", "t.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe{not it")
    with pytest.raises(DataError, match=name):
        (read_json if name.endswith("json") else read_table)(tmp_path / name)


def test_a_flipped_bit_in_a_parquet_table_is_found(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    numbers = np.random.default_rng(0).normal(size=500)
    write_table(file, pd.DataFrame({"months": numbers}))
    whole = file.read_bytes()
    place = whole.index(numbers[250:251].tobytes())
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DataError, match="expected a table, found something unreadable"):
        read_table(file)


def test_tensors_come_back_however_they_lie_in_memory(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    # As torch lays out the weights of a network in channels-last order.
    turned = np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not turned.flags.c_contiguous
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"weights": turned, "n": np.array(3)}, {"of": "us"})
    read = load_file(file)
    np.testing.assert_array_equal(read["weights"], weights)
    assert read["n"].shape == ()


def test_tensors_without_room_leave_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"weights": np.ones(4, np.float32), "n": np.array(3)}, {"of": "us"})
    before = file.read_bytes()
    assert load_file(file)["weights"].tolist() == [1, 1, 1, 1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match=r"model\.safetensors: expected room for the file"):
            write_safetensors(file, {"weights": np.ones(4096, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_second_name_outlives_what_has_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    write_durably(first, b"one")
    write_durably(second, b"older")
    link_durably(first, second)
    assert first.samefile(second)
    link_durably(first, second)
    write_durably(first, b"two")
    assert (first.read_bytes(), second.read_bytes()) == (b"two", b"one")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_permissions_are_those_of_the_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from boneage_xai.files import staged_file, staged_folder, write_text\n"
        "root = Path(sys.argv[1])\n"
        "write_text(root / 'plain', '')\n"
        "with staged_file(root / 'mine', mode=0o600) as staged: staged.write_text('')\n"
        "with staged_folder(root / 'folder') as staged: pass\n"
        "for name in ('plain', 'mine', 'folder'):\n"
        "    print(oct((root / name).stat().st_mode & 0o777))\n"
    )
    for umask, expected in ((0o022, "0o644 0o600 0o755"), (0o077, "0o600 0o600 0o700")):
        folder = tmp_path / oct(umask)
        folder.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            umask=umask,
        )
        assert run.stdout.split() == expected.split()

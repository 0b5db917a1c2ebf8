"""Walking a source folder: which tables and images are found, and which are passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.data.layouts import folders_named, index_folder
from boneage_xai.errors import DataError
from source_folders import TRAINING, make


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "t.csv": TRAINING,
            "._t.csv": "rubbish",
            "~$t.xlsx": "lock",
            "__MACOSX/t.csv": TRAINING,
            ".cache/t.csv": TRAINING,
            "README.txt": "id,sex",
        },
        ["1377.png", "1378.png", "._1377.png", "__MACOSX/1377.png", ".thumbs/1377.png"],
    )
    index = index_folder(tmp_path)
    assert index.tables == (tmp_path / "t.csv",)
    assert [folder.path for folder in index.image_folders] == [tmp_path]
    assert dict(index.image_folders[0].files) == {"1377": ("1377.png",), "1378": ("1378.png",)}


def test_walk_ends_at_a_depth_and_in_a_loop(tmp_path: Path) -> None:
    make(tmp_path, {}, ["a/b/c/1.png"])
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    index = index_folder(tmp_path, max_depth=2)
    assert index.image_folders == ()
    assert index_folder(tmp_path).image_folders


def test_folder_that_vanished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot list the folder"):
        index_folder(tmp_path / "gone")


def test_folder_names_prefer_the_folder_beside_the_table(tmp_path: Path) -> None:
    make(tmp_path, {"s/t.csv": TRAINING}, ["s/x/x/1.png", "q/x/1.png"])
    index = index_folder(tmp_path)
    table = tmp_path / "s" / "t.csv"
    assert [f.parts for f in folders_named(index, table, "x")] == [("s", "x", "x")]
    assert [f.parts for f in folders_named(index, table, "./q/x/")] == [("q", "x")]
    assert folders_named(index, table, "y") == ()

"""Walking a source folder: which tables and images are found, and which are passed over."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from boneage_xai.data.cohort import read_source
from boneage_xai.data.folder_index import index_folder
from boneage_xai.data.layouts import folders_named
from boneage_xai.errors import DataError
from dicom_files import dataset, written
from source_folders import TRAINING, make, make_unlistable


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


def test_one_folder_that_cannot_be_listed_costs_only_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, {"t.csv": TRAINING}, ["1377.png", "lost/1378.png"])
    (tmp_path / "self").symlink_to("self")
    make_unlistable(monkeypatch, "lost")
    reading = read_source(tmp_path)
    assert [case.case_id for case in reading.cohorts[0]] == ["1377"]
    (note,) = [problem for problem in reading.problems if problem.kind == "unlisted_folder"]
    assert note.severity == "note"
    assert note.message == f"{tmp_path / 'lost'}: cannot list the folder (Permission denied)"


def test_a_link_beside_its_folder_makes_no_image_ambiguous(tmp_path: Path) -> None:
    make(tmp_path, {"t.csv": TRAINING}, ["images/1377.png", "images/1378.png"])
    (tmp_path / "latest").symlink_to("images", target_is_directory=True)
    (tmp_path / "images" / "up").symlink_to(tmp_path, target_is_directory=True)
    reading = read_source(tmp_path)
    assert [len(cohort) for cohort in reading.cohorts] == [2]
    assert reading.problems == ()
    assert {case.image.parent.name for case in reading.cohorts[0]} == {"images"}


def test_a_link_beside_a_folder_of_dicom_files_claims_no_id(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    written(tmp_path / "images" / "1.dcm", dataset(PatientSex="F"))
    (tmp_path / "latest").symlink_to("images", target_is_directory=True)
    reading = read_source(tmp_path)
    assert ([len(cohort) for cohort in reading.cohorts], reading.n_rows) == ([1], (1,))
    assert reading.problems == ()


def test_names_are_compared_composed(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Jürgen") for form in ("NFC", "NFD"))
    labels = {"labels/labels.json": '{"1": "radius"}', f"labels/{apart}.png": ""}
    rows = f"id,image,sex\n{composed},,F\nÄ,../else/{composed},M\n"
    make(tmp_path / "set", {"t.csv": rows, **labels}, [f"{apart}.png"])
    make(tmp_path / "else", {}, [f"{apart}.png"])
    reading = read_source(tmp_path / "set")
    assert [case.case_id for case in reading.cohorts[0]] == [composed, "Ä"]
    assert reading.problems == ()
    region_file = reading.cohorts[0].cases[0].region_file
    assert region_file == tmp_path / "set" / "labels" / f"{apart}.png"


def test_absolute_names_find_any_suffix_and_leave_no_image_without_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    rows = f"id,image,sex\n1,{root}/0,F\n2,{root}/1.jpg,M\n3,{root}/2.png,M\n"
    make(tmp_path, {"t.csv": rows}, ["images/0.PNG", "images/1.png", "images/2.png"])
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path, Path()):
        reading = read_source(source)
        assert [case.case_id for case in reading.cohorts[0]] == ["1", "2", "3"]
        assert reading.problems == ()


def test_masks_in_a_folder_called_labels_are_not_taken_for_radiographs(tmp_path: Path) -> None:
    make(tmp_path, {"labels.csv": TRAINING}, ["images/1377.png", "labels/1377.png"])
    reading = read_source(tmp_path)
    assert [len(cohort) for cohort in reading.cohorts] == [0]
    assert "could mean" in reading.problems[0].message
    assert reading.problems[0].kind == "ambiguous_image"


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

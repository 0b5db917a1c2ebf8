"""Cohorts from disk: every kind of problem is reported, nothing is dropped or guessed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from boneage_xai.data.cohort import CohortReading, read_source, require_clean, select_cohort
from boneage_xai.data.inspection import inspect_images
from boneage_xai.data.problems import PROBLEM_KINDS, Problem
from boneage_xai.data.repeats import repeated_images
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Case, Cohort, Sex
from source_folders import make_unlistable


def write_png(path: Path, width: int = 4, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)).save(path)
    return path


def write_dicom(path: Path, sex: str | None, age: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality = "DX"
    if sex is not None:
        dataset.PatientSex = sex
    if age is not None:
        dataset.PatientAge = age
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 3, 2, 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing = [0.2, 0.2]
    dataset.PixelData = bytes(range(6))
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_set(
    root: Path, rows: list[str], images: list[str], header: str = "id,boneage,sex"
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "set.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in images:
        write_png(root / name)
    return root


def errors_of(reading: CohortReading) -> list[tuple[str, str | None]]:
    return [(p.kind, p.case_id) for p in reading.problems if p.severity == "error"]


def test_clean_set_has_all_cases_and_no_problem(tmp_path: Path) -> None:
    write_set(tmp_path, ["007,120,F", "8,12.5,M"], ["img/007.png", "img/8.png"])
    reading = read_source(tmp_path)
    assert reading.problems == ()
    assert reading.tables == (tmp_path / "set.csv",)
    assert list(select_cohort(reading)) == [
        Case("007", tmp_path / "img/007.png", Sex.FEMALE, bone_age_months=120.0),
        Case("8", tmp_path / "img/8.png", Sex.MALE, bone_age_months=12.5),
    ]
    require_clean(reading)


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("9,10,X", "unknown_sex", ["9", "'X'", "M or F", "line 3"]),
        ("9,10,1", "unknown_sex", ["'1'"]),
        ("9,,F", "missing_age", ["9", "empty bone age"]),
        ("9,400,F", "impossible_age", ["9", "'400'", "0 to 240 months"]),
        ("9,10", "malformed_row", ["line 3", "expected 3", "found 2"]),
        (",10,F", "missing_id", ["line 3"]),
        ("1,10,F", "duplicate_id", ["case 1", "lines 2, 3"]),
        ("77,10,F", "missing_image", ["case 77", "'77'"]),
        ("5,10,F", "ambiguous_image", ["case 5", "a/5.png", "b/5.jpg"]),
    ],
)
def test_each_problem_of_a_row_is_an_error_and_loses_its_case(
    tmp_path: Path, row: str, kind: str, words: list[str]
) -> None:
    write_set(tmp_path, ["1,10,F", row], ["a/1.png", "a/9.png", "a/5.png", "b/5.jpg"])
    reading = read_source(tmp_path)
    (problem,) = [p for p in reading.problems if p.severity == "error"]
    assert problem.kind == kind
    assert problem.path == tmp_path / "set.csv"
    assert all(word in problem.message for word in [*words, str(tmp_path / "set.csv")])
    expected = [] if kind == "duplicate_id" else ["1"]
    assert [case.case_id for case in reading.cohorts[0]] == expected
    # An image that a faulty row names has a row: it is not listed a second time.
    faulty = row.split(",")[0]
    assert faulty not in {p.case_id for p in reading.problems if p.kind == "image_without_row"}
    with pytest.raises(DataError, match=r"1 problem must be mended first.*boneage-xai cohort"):
        require_clean(reading)


def test_image_without_row_is_a_note_and_passes(tmp_path: Path) -> None:
    write_set(tmp_path, ["1,10,F"], ["img/1.png", "img/2.png"])
    write_set(tmp_path / "sub", ["3,10,F"], ["sub/3.png"])
    write_png(tmp_path / "sub" / "4.png")
    reading = read_source(tmp_path)
    assert {(p.kind, p.severity, p.case_id) for p in reading.problems} == {
        ("image_without_row", "note", "2"),
        ("image_without_row", "note", "4"),
    }
    require_clean(reading)


def test_folder_of_no_table_is_one_note(tmp_path: Path) -> None:
    (tmp_path / "boneage-training-dataset.csv").write_text("id,boneage,male\n1,2,True\n")
    for name in ("boneage-training-dataset/1.png", "spare/2.png", "spare/3.png"):
        write_png(tmp_path / name)
    (problem,) = read_source(tmp_path).problems
    assert (problem.kind, problem.path) == ("image_without_row", tmp_path / "spare")
    assert "2 images" in problem.message


def test_table_that_is_no_label_table_is_a_note(tmp_path: Path) -> None:
    write_set(tmp_path, ["1,10,F"], ["1.png"])
    (tmp_path / "splits.csv").write_text("case_id,split\n1,train\n")
    (problem,) = read_source(tmp_path).problems
    assert (problem.kind, problem.severity) == ("unrecognised_table", "note")
    assert "'case_id', 'split'" in problem.message


def test_every_problem_kind_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(
        tmp_path,
        ["1,1,F", "1,1,F", "2,,F", "3,x,F", "4,1,?", "5,1", ",1,F", "6,1,F", "7,1,F"],
        ["a/7.png", "b/7.png", "a/8.png"],
    )
    (tmp_path / "e.csv").write_text("id,sex\n")
    (tmp_path / "n.csv").write_text("a,b\n")
    write_dicom(tmp_path / "d" / "9.dcm", "M")
    (tmp_path / "d" / "t.csv").write_text("id,sex\n9,F\n10,F\n")
    (tmp_path / "d" / "10.dcm").write_text("no dicom")
    write_png(tmp_path / "k" / "train" / "1.png")
    (tmp_path / "k" / "train.csv").write_text("id,sex\n1,F\n")
    (tmp_path / "k" / "more.csv").write_text("id,sex\n1,F\n")
    write_set(
        tmp_path / "y", [f"{i},9.5,F" for i in range(20, 25)], [f"{i}.png" for i in range(20, 25)]
    )
    (tmp_path / "lost").mkdir()
    make_unlistable(monkeypatch, "lost")
    found = Counter(problem.kind for problem in read_source(tmp_path).problems)
    twice = repeated_images({"y": {"20": "a", "21": "a"}})
    assert found + Counter(problem.kind for problem in twice) == Counter(list(PROBLEM_KINDS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "found nothing there"),
        (lambda root: root, "found neither in this folder"),
        (lambda root: write_png(root / "a.png"), "found an image"),
        (lambda root: write_png(root / "a.png").parent, "found 1 image and no table"),
        (lambda root: write_set(root, ["1,2,3"], [], header="a,b,c"), "found 'a', 'b', 'c'"),
        (lambda root: write_set(root, [], [], header=""), "found an empty file"),
    ],
)
def test_source_that_holds_no_cohort_is_refused(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    source = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_source(source)
    assert str(source) in str(caught.value)


def test_columns_are_passed_to_every_table(tmp_path: Path) -> None:
    write_set(tmp_path, ["1,10,F"], ["1.png"], header="Fall,Alter,Geschlecht")
    columns = {"id": "Fall", "age": "Alter", "sex": "Geschlecht"}
    for source in (tmp_path, tmp_path / "set.csv"):
        assert len(select_cohort(read_source(source, columns))) == 1
        with pytest.raises(DataError, match="--column id="):
            read_source(source)
    with pytest.raises(ConfigError, match="no such role"):
        read_source(tmp_path, {"name": "Fall"})


def test_dicom_folder_states_sex_and_age_itself(tmp_path: Path) -> None:
    write_dicom(tmp_path / "p1" / "a.dcm", "F", "010Y")
    write_dicom(tmp_path / "p2" / "b.dicom", "M")
    write_dicom(tmp_path / "p2" / "c.dcm", None)
    write_dicom(tmp_path / "p3" / "d.dcm", "O")
    write_dicom(tmp_path / "p3" / "e.dcm", "M")
    write_dicom(tmp_path / "p4" / "e.dcm", "M")
    (tmp_path / "f.dcm").write_text("no dicom")
    write_png(tmp_path / "p1" / "g.png")
    reading = read_source(tmp_path)
    assert (reading.layout, reading.tables) == ("dicom", (None,))
    assert list(reading.cohorts[0]) == [
        Case("a", tmp_path / "p1/a.dcm", Sex.FEMALE, chronological_age_months=120.0),
        Case("b", tmp_path / "p2/b.dicom", Sex.MALE),
    ]
    assert reading.cohorts[0].name == tmp_path.name
    assert sorted(errors_of(reading), key=str) == [
        ("duplicate_id", "e"),
        ("unknown_sex", "c"),
        ("unknown_sex", "d"),
        ("unreadable_file", "f"),
    ]
    (note,) = [p for p in reading.problems if p.severity == "note"]
    assert (note.kind, note.case_id) == ("image_without_row", "g")


def test_dicom_header_completes_a_table_and_never_contradicts_it(tmp_path: Path) -> None:
    header = "id,sex,boneage,chronological_age_months"
    write_set(tmp_path, ["1,M,100,", "2,M,100,96", "3,M,100,", "4,M,1,"], [], header)
    for name, sex in (("1", "M"), ("2", "M"), ("3", "F"), ("4", "O")):
        write_dicom(tmp_path / f"{name}.dcm", sex, "009Y")
    reading = read_source(tmp_path)
    ages = {case.case_id: case.chronological_age_months for case in reading.cohorts[0]}
    assert ages == {"1": 108.0, "2": 96.0, "4": 108.0}
    (problem,) = reading.problems
    assert (problem.kind, problem.case_id) == ("sex_disagrees", "3")
    assert "has the sex F in its DICOM header, expected M" in problem.message


@pytest.mark.parametrize("folder", ["labels", "regions/labels", "img/labels", "img/regions/labels"])
def test_region_maps_are_attached_and_are_no_radiographs(tmp_path: Path, folder: str) -> None:
    write_set(tmp_path, ["1,10,F", "2,10,F"], ["img/1.png", "img/2.png"])
    label_map = write_png(tmp_path / folder / "1.png")
    write_png(tmp_path / folder / "99.png")
    (tmp_path / folder / "labels.json").write_text("{}")
    reading = read_source(tmp_path)
    assert reading.problems == ()
    assert [case.region_file for case in reading.cohorts[0]] == [label_map, None]
    again = read_source(tmp_path / "set.csv")
    assert again.cohorts == reading.cohorts


def test_png_in_a_labels_folder_without_names_stay_images(tmp_path: Path) -> None:
    write_set(tmp_path, ["1,10,F"], ["img/1.png", "labels/1.png"])
    reading = read_source(tmp_path)
    assert errors_of(reading) == [("ambiguous_image", "1")]


def test_several_sets_must_be_chosen_from(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("id,sex\n1,F\n")
        write_png(tmp_path / name / "1.png")
    reading = read_source(tmp_path)
    with pytest.raises(ConfigError, match=r"holds 2 sets: .*train\.csv.*point SOURCE at the table"):
        select_cohort(reading)
    with pytest.raises(ConfigError, match="no set called 'val', expected one of test, training"):
        select_cohort(reading, "val")
    assert select_cohort(reading, "training")["1"].image == tmp_path / "train" / "1.png"
    only = read_source(tmp_path / "train.csv")
    assert select_cohort(only) == select_cohort(reading, "training")


def test_table_about_the_images_of_a_published_set_is_set_aside(tmp_path: Path) -> None:
    write_png(tmp_path / "boneage-training-dataset" / "1.png")
    (tmp_path / "boneage-training-dataset.csv").write_text("id,boneage,male\n1,2,True\n")
    (tmp_path / "boneage-test-dataset.csv").write_text("Case ID,Sex\n4360,M\n")
    (tmp_path / "truth.csv").write_text("id,sex,bone_age\n1,M,3\n")
    reading = read_source(tmp_path)
    assert select_cohort(reading).name == "training"
    assert (reading.layout, len(reading.cohorts)) == ("kaggle", 1)
    assert [(p.kind, p.severity, p.path) for p in reading.problems] == [
        ("spare_table", "note", tmp_path / "boneage-test-dataset.csv"),
        ("spare_table", "note", tmp_path / "truth.csv"),
    ]
    truth = select_cohort(read_source(tmp_path / "truth.csv"))
    assert (truth.name, truth["1"].bone_age_months) == ("truth", 3.0)


def test_require_clean_counts_and_quotes_the_first() -> None:
    problems = [
        Problem("image_without_row", "note", "nothing to see"),
        Problem("unknown_sex", "error", "t.csv, line 2: case 5 has the sex 'X', expected M or F"),
        Problem("missing_image", "error", "second"),
    ]
    with pytest.raises(DataError) as caught:
        require_clean(problems, "data/set")
    sentence = str(caught.value)
    assert sentence.startswith("data/set: 2 problems")
    assert "case 5 has the sex 'X'" in sentence
    assert "second" not in sentence
    assert "boneage-xai cohort data/set" in sentence
    require_clean(problems[:1])


@pytest.fixture
def damaged(tmp_path: Path) -> Cohort:
    """Five cases: two sound ones, a cut PNG, text named .png, a DICOM of another sex."""
    sound = write_png(tmp_path / "1.png", width=30, height=50)
    write_png(tmp_path / "2.png", width=20, height=70)
    (tmp_path / "3.png").write_bytes(sound.read_bytes()[:-40])
    (tmp_path / "4.png").write_text("this is text")
    write_dicom(tmp_path / "5.dcm", "F")
    images = sorted(tmp_path.iterdir())
    return Cohort("damaged", tuple(Case(p.stem, p, Sex.MALE) for p in images))


@pytest.mark.parametrize("workers", [1, 2, None])
def test_inspection_reports_what_cannot_be_decoded(damaged: Cohort, workers: int | None) -> None:
    calls: list[tuple[int, int]] = []
    seen = inspect_images(damaged, workers, lambda done, total: calls.append((done, total)))
    assert [(p.kind, p.case_id) for p in seen.problems] == [
        ("unreadable_file", "3"),
        ("unreadable_file", "4"),
        ("sex_disagrees", "5"),
    ]
    assert all(str(problem.path) in problem.message for problem in seen.problems)
    assert (seen.n, seen.width_px, seen.height_px) == (5, (2, 30), (3, 70))
    assert seen.with_pixel_spacing == 1
    assert calls == [(done, 5) for done in range(1, 6)]
    with pytest.raises(DataError, match="3 problems"):
        require_clean(seen)


def test_inspection_of_nothing_and_with_no_workers() -> None:
    seen = inspect_images(Cohort("empty", ()))
    assert (seen.n, seen.problems, seen.width_px) == (0, (), None)
    with pytest.raises(ConfigError, match="workers: expected 1 or more, found 0"):
        inspect_images(Cohort("empty", ()), workers=0)


CELL = st.sampled_from
ROW = st.tuples(
    CELL(["1", "2", "3", "4", "5.png", "", "x/6"]),
    CELL(["10", "240", "", "-3", "nan"]),
    CELL(["M", "F", "U", "1", ""]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=8), present=st.sets(st.integers(1, 9)))
def test_every_row_becomes_a_case_or_a_problem(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    present: set[int],
) -> None:
    """Reference: a row is sound alone, its id once, its image there; else an error names it."""
    root = tmp_path_factory.mktemp("source")
    write_set(root, [",".join(row) for row in rows], [])
    for number in present:
        (root / f"{number}.png").touch()
    reading = read_source(root)
    stems = [row[0].split("/")[-1].removesuffix(".png") for row in rows]
    sound = {
        stem
        for stem, (case_id, age, sex) in zip(stems, rows, strict=True)
        if stem
        and stems.count(stem) == 1
        and age in ("10", "240")
        and sex in ("M", "F")
        and "/" not in case_id
        and int(stem) in present
    }
    assert {case.case_id for case in reading.cohorts[0]} == sound
    blamed = {p.case_id for p in reading.problems if p.severity == "error"}
    assert {stem for stem in stems if stem} - sound == blamed - {None}
    noted = {p.case_id for p in reading.problems if p.kind == "image_without_row"}
    # The row x/6 looks for its image in the folder x, so that 6.png beside the table is spare.
    named = {stem for stem in stems if stem != "6"}
    assert noted == {str(number) for number in present} - named


def test_a_script_without_a_main_guard_can_inspect_its_images(tmp_path: Path) -> None:
    write_set(tmp_path, ["1,1,F", "2,1,F"], ["1.png", "2.png"])
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from boneage_xai.data.cohort import read_source\n"
        "from boneage_xai.data.inspection import inspect_images\n"
        f"cohort = read_source(Path({str(tmp_path)!r})).cohorts[0]\n"
        "print('seen', len(inspect_images(cohort, workers=2).digests))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("seen 2\n", 0)

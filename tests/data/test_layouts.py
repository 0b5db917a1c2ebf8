"""Every folder layout of the field: which sets are found, and which image each row gets."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.data.cohort import CohortReading, read_source
from boneage_xai.data.folder_index import index_folder
from boneage_xai.data.layouts import LAYOUTS, find_sets, plain_name
from boneage_xai.data.tables import read_label_table
from source_folders import TRAINING, make

VALIDATION = "Image ID,male,Bone Age (months)\n1386,TRUE,30\n1392,FALSE,40\n"
TEST = "Case ID,Sex,Ground truth bone age (months)\n4360,M,168.93\n4460,F,100.5\n"
TEST_WITHOUT_AGES = "Case ID,Sex\n4360,M\n4460,F\n"


def images_of(reading: CohortReading, root: Path) -> dict[str, dict[str, str]]:
    return {
        cohort.name: {case.case_id: case.image.relative_to(root).as_posix() for case in cohort}
        for cohort in reading.cohorts
    }


@pytest.mark.parametrize(
    ("files", "images", "layout", "expected"),
    [
        pytest.param(
            {"boneage-training-dataset.csv": TRAINING},
            ["boneage-training-dataset/1377.png", "boneage-training-dataset/1378.png"],
            "kaggle",
            {"training": ["boneage-training-dataset/{}.png"]},
            id="kaggle, flat",
        ),
        pytest.param(
            {
                "boneage-training-dataset.csv": TRAINING,
                "boneage-test-dataset.csv": TEST_WITHOUT_AGES,
            },
            [
                *(
                    f"boneage-training-dataset/boneage-training-dataset/{i}.png"
                    for i in (1377, 1378)
                ),
                *(f"boneage-test-dataset/boneage-test-dataset/{i}.png" for i in (4360, 4460)),
            ],
            "kaggle",
            {
                "test": ["boneage-test-dataset/boneage-test-dataset/{}.png"],
                "training": ["boneage-training-dataset/boneage-training-dataset/{}.png"],
            },
            id="kaggle, doubled",
        ),
        pytest.param(
            {"boneage-training-dataset.csv/boneage-training-dataset.csv": TRAINING},
            [f"boneage-training-dataset/{i}.png" for i in (1377, 1378)],
            "rsna",
            {"training": ["boneage-training-dataset/{}.png"]},
            id="kaggle, table in a folder of its name",
        ),
        pytest.param(
            {
                "Bone Age Training Set Annotations/train.csv": TRAINING,
                "Bone Age Validation Set/Validation Dataset.csv": VALIDATION,
                "Bone Age Test Set/Bone age ground truth.csv": TEST,
            },
            [
                *(f"boneage-training-dataset/{i}.png" for i in (1377, 1378)),
                "Bone Age Validation Set/boneage-validation-dataset-1/1386.png",
                "Bone Age Validation Set/boneage-validation-dataset-2/1392.png",
                *(f"Bone Age Test Set/Test Set Images/{i}.png" for i in (4360, 4460)),
            ],
            "rsna",
            {
                "test": ["Bone Age Test Set/Test Set Images/{}.png"],
                "training": ["boneage-training-dataset/{}.png"],
                "validation": [
                    "Bone Age Validation Set/boneage-validation-dataset-1/{}.png",
                    "Bone Age Validation Set/boneage-validation-dataset-2/{}.png",
                ],
            },
            id="rsna, all three",
        ),
        pytest.param(
            {
                "train.csv": TRAINING,
                "Bone+Age+Validation+Set/Validation+Dataset.csv": VALIDATION,
                "Bone+Age+Test+Set/Bone+age+ground+truth.csv": TEST,
            },
            [
                *(
                    f"boneage-training-dataset/boneage-training-dataset/{i}.png"
                    for i in (1377, 1378)
                ),
                *(
                    f"Bone+Age+Validation+Set/boneage-validation-dataset-{k}"
                    f"/boneage-validation-dataset-{k}/{i}.png"
                    for k, i in ((1, 1386), (2, 1392))
                ),
                *(f"Bone+Age+Test+Set/Test+Set+Images/{i}.png" for i in (4360, 4460)),
            ],
            "rsna",
            {
                "test": ["Bone+Age+Test+Set/Test+Set+Images/{}.png"],
                "training": ["boneage-training-dataset/boneage-training-dataset/{}.png"],
                "validation": [
                    f"Bone+Age+Validation+Set/{part}/{part}/{{}}.png"
                    for part in ("boneage-validation-dataset-1", "boneage-validation-dataset-2")
                ],
            },
            id="rsna, + for spaces, doubled",
        ),
        pytest.param(
            {
                "annotations.csv": "image_ID,dir,patient_ID,sex,bone_age\n"
                "1377.png,rsna/train,1,F,180.0\n1378.png,other,2,M,12.0\n"
            },
            ["rsna/train/train/1377.png", "rsna/train/train/1378.png", "images/other/1378.png"],
            "deeplasia",
            {"annotations": ["rsna/train/train/{}.png", "images/other/{}.png"]},
            id="deeplasia, doubled and elsewhere",
        ),
        pytest.param(
            {"my labels.tsv": TRAINING.replace(",", "\t")},
            ["1377.jpg", "1378.DCM.tiff"],
            "table",
            {"my labels": ["{}.jpg"]},
            id="generic, beside",
        ),
        pytest.param(
            {"a/one.csv": TRAINING, "b/two.csv": TRAINING},
            [f"{folder}/img/{i}.webp" for folder in "ab" for i in (1377, 1378)],
            "table",
            {"one": ["a/img/{}.webp"], "two": ["b/img/{}.webp"]},
            id="generic, each table has the images below it",
        ),
        pytest.param(
            {"tables/one.csv": TRAINING},
            ["pictures/1377.jpeg", "pictures/1378.tif"],
            "table",
            {"one": ["pictures/{}.jpeg", "pictures/{}.tif"]},
            id="generic, images beside the folder of tables",
        ),
        pytest.param(
            {"train.csv": TRAINING, "test.csv": TEST},
            [f"images/{i}.png" for i in (1377, 1378, 4360, 4460)],
            "table",
            {"test": ["images/{}.png"], "training": ["images/{}.png"]},
            id="two sets share one folder",
        ),
    ],
)
def test_layout_is_recognised(
    tmp_path: Path,
    files: dict[str, str],
    images: list[str],
    layout: str,
    expected: dict[str, list[str]],
) -> None:
    make(tmp_path, files, images)
    reading = read_source(tmp_path)
    assert reading.layout == layout
    found = images_of(reading, tmp_path)
    assert found.keys() == expected.keys()
    for name, patterns in expected.items():
        assert all(
            image in {pattern.format(case_id) for pattern in patterns}
            for case_id, image in found[name].items()
        )
    named = {image for per_case in found.values() for image in per_case.values()}
    # What no case got must have been said.
    spare = set(images) - named
    assert {p.path for p in reading.problems if p.kind == "image_without_row"} == {
        tmp_path / image for image in spare
    }


def test_rsna_test_set_with_its_workbook(tmp_path: Path) -> None:
    make(tmp_path, {}, ["Bone Age Test Set/Test Set Images/4360.png"])
    workbook = openpyxl.Workbook()
    assert workbook.active is not None
    workbook.active.append(["Case ID", "Sex", "Ground truth bone age (months)"])
    workbook.active.append([4360.0, "M", 168.93])
    workbook.save(tmp_path / "Bone Age Test Set/Bone age ground truth.xlsx")
    reading = read_source(tmp_path)
    assert reading.problems == ()
    (case,) = reading.cohorts[0]
    assert (reading.cohorts[0].name, case.bone_age_months) == ("test", 168.93)


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "webp", "tif", "tiff"])
def test_any_image_suffix_may_stand_behind_an_id(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, {"t.csv": "id,sex\n0012.png,M\n"}, [f"img/0012.{suffix}"])
    reading = read_source(tmp_path)
    assert images_of(reading, tmp_path) == {"t": {"0012": f"img/0012.{suffix}"}}


def test_named_suffix_decides_between_two_files(tmp_path: Path) -> None:
    make(tmp_path, {"t.csv": "id,sex\n1.png,M\n"}, ["1.png", "1.jpg"])
    reading = read_source(tmp_path)
    assert images_of(reading, tmp_path) == {"t": {"1": "1.png"}}
    assert [(p.kind, p.path) for p in reading.problems] == [
        ("image_without_row", tmp_path / "1.jpg")
    ]


@pytest.mark.parametrize(
    ("table", "layout", "name"),
    [
        ("Bone Age Training Set Annotations/train.csv", "rsna", "training"),
        ("Bone Age Validation Set/Validation Dataset.csv", "rsna", "validation"),
        ("boneage-training-dataset.csv", "kaggle", "training"),
    ],
)
def test_source_may_be_a_table(tmp_path: Path, table: str, layout: str, name: str) -> None:
    make(
        tmp_path,
        {
            "Bone Age Training Set Annotations/train.csv": TRAINING,
            "Bone Age Validation Set/Validation Dataset.csv": VALIDATION,
            "boneage-training-dataset.csv": TRAINING,
        },
        [
            *(f"boneage-training-dataset/{i}.png" for i in (1377, 1378)),
            *(
                f"Bone Age Validation Set/boneage-validation-dataset-1/{i}.png"
                for i in (1386, 1392)
            ),
        ],
    )
    reading = read_source(tmp_path / table)
    assert reading.layout == layout
    assert [(cohort.name, len(cohort)) for cohort in reading.cohorts] == [(name, 2)]
    assert reading.problems == ()


def test_relative_sources_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a/train.csv": TRAINING}, ["train/1377.png", "train/1378.png"])
    monkeypatch.chdir(tmp_path / "a")
    assert [len(c) for c in read_source(Path("train.csv")).cohorts] == [2]
    assert [len(c) for c in read_source(Path("..")).cohorts] == [2]
    monkeypatch.chdir(tmp_path)
    assert [len(c) for c in read_source(Path()).cohorts] == [2]


def test_table_source_does_not_list_images_of_its_sister_table(tmp_path: Path) -> None:
    make(
        tmp_path,
        {"train.csv": TRAINING, "test.csv": TEST},
        [*(f"images/{i}.png" for i in (1377, 1378, 4360, 4460)), "images/99.png"],
    )
    reading = read_source(tmp_path / "train.csv")
    assert [cohort.name for cohort in reading.cohorts] == ["training"]
    assert [(p.kind, p.case_id) for p in reading.problems] == [("image_without_row", "99")]


def test_table_source_is_silent_about_the_folders_of_other_sets(tmp_path: Path) -> None:
    make(
        tmp_path,
        {"train.csv": TRAINING, "test.csv": TEST},
        ["train/1377.png", "train/1378.png", "train/5.png", "test/6.png", "spare/7.png"],
    )
    problems = read_source(tmp_path / "train.csv").problems
    assert [(p.kind, p.case_id) for p in problems] == [("image_without_row", "5")]


def test_folder_belongs_to_the_nearest_table(tmp_path: Path) -> None:
    rows = "id,sex\n1,M\n"
    make(tmp_path, {"one.csv": rows, "sub/two.csv": rows}, ["img/1.png", "sub/img/1.png"])
    assert images_of(read_source(tmp_path), tmp_path) == {
        "one": {"1": "img/1.png"},
        "two": {"1": "sub/img/1.png"},
    }


def test_image_column_may_lead_out_of_the_folder(tmp_path: Path) -> None:
    absolute = tmp_path / "far" / "x.png"
    make(
        tmp_path,
        {"set/t.csv": f"id,sex,image\n1,M,../far/y\n2,F,{absolute}\n3,F,../far/none.png\n"},
        ["far/x.png", "far/y.jpg"],
    )
    reading = read_source(tmp_path / "set")
    assert {case.case_id: case.image for case in reading.cohorts[0]} == {
        "1": tmp_path / "far" / "y.jpg",
        "2": absolute,
    }
    assert [(p.kind, p.case_id) for p in reading.problems] == [("missing_image", "3")]


def test_same_names_become_stems_then_paths(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "train.csv": TRAINING,
            "boneage-training-dataset.csv": TRAINING,
            "a/t.csv": TRAINING,
            "b/t.csv": TRAINING,
        },
        ["boneage-training-dataset/1377.png", "a/1377.png", "b/1377.png"],
    )
    index = index_folder(tmp_path)
    sets = find_sets(index, [read_label_table(path) for path in index.tables])
    assert sorted(image_set.name for image_set in sets) == [
        "a/t.csv",
        "b/t.csv",
        "boneage-training-dataset",
        "train",
    ]


def test_every_table_becomes_one_set_also_without_images(tmp_path: Path) -> None:
    make(tmp_path, {"x.csv": TRAINING, "d.csv": "id,dir,sex\n1,,M\n"}, [])
    index = index_folder(tmp_path)
    sets = find_sets(index, [read_label_table(path) for path in index.tables])
    assert {image_set.name: image_set.folders for image_set in sets} == {"x": (), "d": ()}


def test_plain_name_treats_plus_as_space() -> None:
    assert plain_name("Bone+Age+Test+Set") == plain_name("bone age test-set") == "boneagetestset"


def test_layouts_is_a_plain_dict_of_functions_that_ends_with_dicom() -> None:
    assert list(LAYOUTS)[-2:] == ["table", "dicom"]


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(0, 3),
    doubled=st.booleans(),
    ids=st.lists(st.integers(1, 99999), min_size=1, max_size=6, unique=True),
    suffixes=st.lists(st.sampled_from([".png", ".jpg", ".TIF"]), min_size=6, max_size=6),
)
def test_every_row_finds_its_image_wherever_the_set_lies(
    tmp_path_factory: pytest.TempPathFactory,
    depth: int,
    doubled: bool,
    ids: list[int],
    suffixes: list[str],
) -> None:
    root = tmp_path_factory.mktemp("source")
    home = "/".join(["d"] * depth + ["boneage-training-dataset"])
    folder = f"{home}/boneage-training-dataset" if doubled else home
    rows = "".join(f"{i},{i % 229},True\n" for i in ids)
    names = {f"{i}": f"{folder}/{i}{suffix}" for i, suffix in zip(ids, suffixes, strict=False)}
    make(root, {f"{home}.csv": f"id,boneage,male\n{rows}"}, list(names.values()))
    reading = read_source(root)
    assert images_of(reading, root) == {"training": names}
    assert reading.problems == ()

"""Ages in years, heaped ages and repeated radiographs: told where planted, and not elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.inspection import inspect_images
from boneage_xai.data.label_checks import heaping, label_suspicions
from boneage_xai.data.repeats import pixels_digest, repeated_images
from boneage_xai.data.splits import leaked_cases


@pytest.mark.parametrize(
    ("ages", "is_suspect"),
    [
        ([1.5, 3, 8, 12.25, 19.9], True),
        ([1.5, 3, 8, 12.25, None, 19.9], True),
        ([1.5, 3, 8, 12.25, 20.1], False),
        ([18, 36, 96, 147, 239], False),
        ([1.5, 3, 8, 12], False),
        ([None] * 9, False),
        ([], False),
    ],
)
def test_ages_that_look_like_years(ages: list[float | None], is_suspect: bool) -> None:
    found = label_suspicions(Path("t.csv"), ages)
    assert [problem.kind for problem in found] == (["ages_like_years"] if is_suspect else [])
    assert all(problem.severity == "note" for problem in found)


def test_heaping_by_hand() -> None:
    # 0, 6, 12, 18, 24 of 25 months are half years; 0, 12, 24 whole ones.
    found = heaping([0.0, 12.0, 12.0, 18.0, 24.0, np.nan, 7.0, 6.5])
    assert found is not None
    assert found["12"] == {"share": 4 / 7, "expected": 3 / 25}
    assert found["6"] == {"share": 5 / 7, "expected": 5 / 25}
    assert heaping([12.0, 24.0, np.nan]) is None


def test_even_ages_are_as_expected() -> None:
    found = heaping(np.arange(1.0, 229.0))
    assert found is not None
    for entry in found.values():
        assert entry["share"] == entry["expected"]


def test_the_same_radiograph_under_another_id_is_told(phantoms: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(phantoms, folder)
    cohort = select_cohort(read_source(folder))
    clean = inspect_images(cohort, workers=1)
    assert len(set(clean.digests.values())) == len(cohort)
    assert repeated_images({"training": clean.digests}) == []
    shutil.copy(cohort.cases[4].image, cohort.cases[9].image)
    found = repeated_images({"training": inspect_images(cohort, workers=1).digests})
    (problem,) = found
    assert (problem.kind, problem.severity) == ("repeated_image", "note")
    for case in (cohort.cases[4], cohort.cases[9]):
        assert f"{case.case_id} of training" in problem.message


def test_sets_that_share_a_radiograph_are_told() -> None:
    (problem,) = repeated_images({"training": {"1": "a", "2": "b"}, "validation": {"7": "b"}})
    assert "2 of training, 7 of validation" in problem.message
    assert "the sets share it" in problem.message


def test_many_cases_with_one_picture_are_not_all_named() -> None:
    (problem,) = repeated_images({"training": dict.fromkeys(map(str, range(5000)), "placeholder")})
    assert "4 of training and 4,995 more show the same radiograph" in problem.message


def test_digests_tell_shapes_apart() -> None:
    flat = np.zeros((2, 3), dtype=np.float32)
    assert pixels_digest(flat) != pixels_digest(flat.T.copy())
    assert pixels_digest(flat) == pixels_digest(flat.copy())


def test_leaked_cases() -> None:
    assert leaked_cases({"1": "a", "2": "b"}, {"3": "c", "4": "b"}) == ("4",)
    assert leaked_cases({"1": "a"}, {"3": "c"}) == ()


@pytest.mark.parametrize("cut", [lambda a: a[:0], lambda a: a * np.nan])
def test_no_ages_no_heaping(cut: Callable[[np.ndarray], np.ndarray]) -> None:
    assert heaping(cut(np.arange(9.0))) is None

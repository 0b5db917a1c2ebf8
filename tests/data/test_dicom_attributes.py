"""DICOM attributes: pixel spacing, sex and age, read or left unknown, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boneage_xai.data.cohort import read_source
from boneage_xai.data.dicom import dicom_header, read_dicom
from boneage_xai.types import Sex
from dicom_files import dataset, written


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.3],
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.16, 0.24),
        ),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.3]}, (0.1, 0.1)),
        ({"PixelSpacing": [0, 0]}, None),
        ({"PixelSpacing": None}, None),
    ],
)
def test_pixel_spacing(
    tmp_path: Path, elements: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    read = read_dicom(written(tmp_path / "a", dataset(**elements))).pixel_spacing_mm
    assert read == (None if spacing is None else pytest.approx(spacing))


@pytest.mark.parametrize(
    ("stated", "sex"), [("M", Sex.MALE), ("F", Sex.FEMALE), ("O", None), ("", None), (None, None)]
)
def test_sex_is_never_guessed(tmp_path: Path, stated: str | None, sex: Sex | None) -> None:
    path = written(tmp_path / "a", dataset(PatientSex=stated))
    assert read_dicom(path).sex is sex
    assert dicom_header(path)[0] is sex


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("elements", "months"),
    [
        ({"PatientAge": "012Y"}, 144),
        ({"PatientAge": "144M"}, 144),
        ({"PatientAge": "050W"}, 350 * 12 / 365.25),
        ({"PatientAge": "010D"}, 10 * 12 / 365.25),
        ({"PatientAge": "about ten"}, None),
        ({"PatientBirthDate": "20000101", "StudyDate": "20100101"}, 3653 * 12 / 365.25),
        ({"PatientAge": "", "PatientBirthDate": "20000101", "StudyDate": "20000101"}, 0),
        # Whole years, by dates that say it better, and by others that contradict them.
        (
            {"PatientAge": "008Y", "PatientBirthDate": "20100101", "StudyDate": "20181220"},
            3275 * 12 / 365.25,
        ),
        (
            {"PatientAge": "009Y", "PatientBirthDate": "20100101", "StudyDate": "20190101"},
            3287 * 12 / 365.25,
        ),
        ({"PatientAge": "008Y", "PatientBirthDate": "19000101", "StudyDate": "20181220"}, 96),
        ({"PatientBirthDate": "20000101"}, None),
        ({"PatientBirthDate": "20110101", "StudyDate": "20100101"}, None),
        ({"PatientBirthDate": "20001301", "StudyDate": "20100101"}, None),
        ({}, None),
    ],
)
def test_age(tmp_path: Path, elements: dict[str, str], months: float | None) -> None:
    path = written(tmp_path / "a", dataset(**elements))
    expected = None if months is None else pytest.approx(months)
    assert read_dicom(path).chronological_age_months == expected
    assert dicom_header(path)[1] == expected


def test_an_impossible_age_is_unknown_with_a_note(tmp_path: Path) -> None:
    elements = {"PatientSex": "F", "PatientBirthDate": "19000101", "StudyDate": "20181220"}
    path = written(tmp_path / "1.dcm", dataset(**elements))
    assert read_dicom(path).chronological_age_months is None
    for table in (False, True):
        if table:
            (tmp_path / "t.csv").write_text("id,sex\n1,F\n")
        reading = read_source(tmp_path)
        assert reading.cohorts[0].cases[0].chronological_age_months is None
        (problem,) = reading.problems
        assert (problem.kind, problem.severity) == ("impossible_age", "note")
        assert "is 1428 months old by its DICOM header, expected at most 300" in problem.message


def test_header_reads_no_pixels(tmp_path: Path) -> None:
    ds = dataset(PatientSex="F", PatientAge="009Y")
    del ds.PixelData
    assert dicom_header(written(tmp_path / "17.dcm", ds)) == (Sex.FEMALE, 108, "17")

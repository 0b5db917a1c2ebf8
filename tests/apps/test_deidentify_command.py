"""``boneage-xai deidentify``: what it says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import assert_one_sentence

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.types import Sex
from dicom_files import dataset, written

Run = Callable[..., int]


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    written(folder / "smith.dcm", dataset(PatientSex="F", PatientAge="010Y"))
    written(folder / "jones.dcm", dataset(PatientSex="M", BurnedInAnnotation="YES"))
    (folder / "labels.csv").write_text("id,sex\nsmith,F\n")
    return folder


def test_copies_that_keep_sex_and_age_are_a_cohort_again(
    cli: Run, clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli("deidentify", clinic, out, "--keep-patient-characteristics") == 0
    said = capsys.readouterr()
    assert "2 copies" in said.out
    assert "1 of 2 copies state that there is some, 1 do not say" in " ".join(said.err.split())
    assert "1 files that are no DICOM radiographs" in " ".join(said.err.split())
    cases = list(select_cohort(read_source(out)))
    assert {case.sex for case in cases} == {Sex.FEMALE, Sex.MALE}
    assert {case.chronological_age_months for case in cases} == {120.0, None}


def test_programs_read_the_same_and_a_key_repeats_the_names(
    cli: Run, clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    mapping = tmp_path / "mapping.csv"
    arguments = ("deidentify", clinic, tmp_path / "one", "--key", key, "--mapping", mapping)
    assert cli(*arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["copies"], said["other_files"], said["left_out"]) == (2, 1, [])
    assert said["burned_in_annotation"] == {"YES": 1, "NO": 0, "unstated": 1}
    assert cli("deidentify", clinic, tmp_path / "two", "--key", key) == 0
    names = [{file.name for file in (tmp_path / out).iterdir()} for out in ("one", "two")]
    assert names[0] == names[1] == {row.split(",")[1] for row in mapping.read_text().split()[1:]}


def test_refusals_are_one_sentence_and_leave_nothing(
    cli: Run, clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for arguments, named in (
        ((clinic / "absent", out), "absent"),
        ((clinic, clinic / "out"), "clinic/out"),
        ((clinic, clinic), "clinic"),
        ((clinic, out, "--key", tmp_path / "no-key"), "no-key"),
        ((clinic, out, "--mapping", clinic / "smith.dcm"), "smith.dcm"),
    ):
        assert cli("deidentify", *arguments) == 2
        assert_one_sentence(capsys.readouterr().err, named)
    assert {path.name for path in tmp_path.iterdir()} == {"clinic"}
    assert len(list(clinic.iterdir())) == 3

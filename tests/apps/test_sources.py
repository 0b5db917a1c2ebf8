"""Which of a source's cases a command works on, and how many rows it says it left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from apps.sources import one_cohort
from boneage_xai.errors import DataError
from dicom_files import dataset, written


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (9, 8), 90).save(folder / f"{name}.png")


def test_a_damaged_image_of_another_set_does_not_count(tmp_path: Path) -> None:
    for name, ids in (("train", ["a", "b"]), ("val", ["c", "d"])):
        (tmp_path / name).mkdir()
        for case_id in ids:
            written(tmp_path / name / f"{case_id}.dcm", dataset(PatientSex="F"))
        rows = "".join(f"{case_id},F,90\n" for case_id in ids)
        (tmp_path / f"{name}.csv").write_text(f"id,sex,boneage\n{rows}")
    (tmp_path / "val" / "d.dcm").write_bytes(b"no radiograph")
    for skip in (False, True):
        cohort, left_out = one_cohort(tmp_path, None, skip, "training")
        assert ([case.case_id for case in cohort], left_out) == (["a", "b"], 0)
    with pytest.raises(DataError, match=r"d\.dcm"):
        one_cohort(tmp_path, None, False, "validation")
    assert one_cohort(tmp_path, None, True, "validation")[1] == 1


def test_rows_are_counted_and_not_their_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path, "1", "2", "3", "4", "5")
    (tmp_path / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    rows = ["1,F,90", "2,,x", "3,?,999", "4,F,90", "4,F,90", "4,F,90", "5,M,80", "6,M,80", "7,M"]
    (tmp_path / "t.csv").write_text("\n".join(["id,sex,boneage", *rows]))
    cohort, left_out = one_cohort(tmp_path, None, True, "training")
    assert ([case.case_id for case in cohort], left_out) == (["1"], 8)
    assert "8 rows with problems left out" in capsys.readouterr().err

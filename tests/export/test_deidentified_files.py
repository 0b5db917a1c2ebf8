"""Which files copies without identifiers are made of, where they go, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.export.deidentified_files import deidentify_files
from dicom_files import dataset, written


def test_a_tree_is_copied_flat_and_the_mapping_only_written_on_request(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, place in enumerate(("", "a", "a/b/c")):
        (source / place).mkdir(parents=True, exist_ok=True)
        annotated = {} if number == 2 else {"BurnedInAnnotation": ("YES", "NO")[number]}
        # Archives write names without a suffix.
        written(source / place / f"IM{number}", dataset(**annotated))
    (source / "a" / "notes.txt").write_text("of Smith")
    shutil.copy(source / "IM0", source / "DICOMDIR")
    mapping = tmp_path / "kept" / "mapping.csv"
    made = deidentify_files(source, tmp_path / "out", mapping=mapping)
    assert made.n_other == 2
    assert made.burned_in == {"YES": 1, "NO": 1, "unstated": 1}
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    rows = dict(line.split(",") for line in mapping.read_text().splitlines()[1:])
    assert set(rows) == {"IM0", "a/IM1", "a/b/c/IM2"}
    assert set(rows.values()) == names
    assert all("IM" not in name and name.endswith(".dcm") for name in names)
    assert mapping.stat().st_mode & 0o077 == 0
    deidentify_files(source, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "again", "kept"}


def test_one_bad_file_leaves_nothing_unless_problems_are_skipped(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    whole = written(source / "good.dcm", dataset(PatientName="MARKname")).read_bytes()
    (source / "cut.dcm").write_bytes(whole[: len(whole) - 3000])
    mapping = tmp_path / "mapping.csv"
    with pytest.raises(DataError, match=r"cut\.dcm") as caught:
        deidentify_files(source, tmp_path / "out", mapping=mapping)
    assert "MARK" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    made = deidentify_files(source, tmp_path / "out", skip_problems=True)
    assert [str(below) for below in made.copies] == ["good.dcm"]
    assert len(made.left_out) == 1
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert (source / "good.dcm").read_bytes() == whole


def test_the_source_is_never_written_to(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    file = written(source / "hand.dcm", dataset())
    before = file.read_bytes()
    for out, mapping in (
        (source, None),
        (source / "out", None),
        (tmp_path / "out", source / "mapping.csv"),
        (tmp_path / "out", file),
        (tmp_path / "out", tmp_path / "out" / "mapping.csv"),
    ):
        with pytest.raises((ConfigError, DataError)):
            deidentify_files(source, out, mapping=mapping)
    assert [path.name for path in tmp_path.rglob("*")] == ["source", "hand.dcm"]
    assert file.read_bytes() == before


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="found nothing"):
        deidentify_files(tmp_path / "absent", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("no radiograph")
    with pytest.raises(DataError, match="found 1 others"):
        deidentify_files(tmp_path / "other", out)
    file = written(tmp_path / "hand.dcm", dataset())
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        deidentify_files(file, out, key=b"short")
    nameless = copy.deepcopy(dataset())
    del nameless.SOPInstanceUID
    with pytest.raises(DataError, match="expected SOPInstanceUID"):
        deidentify_files(written(tmp_path / "nameless.dcm", nameless), out)
    assert not out.exists()

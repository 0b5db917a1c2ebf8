"""Copies of DICOM files show the same picture and nothing of the profile's identifiers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deidentified_copies import KEY, copied
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    generate_uid,
)

from boneage_xai.data.dicom import read_dicom
from boneage_xai.export.confidentiality_profile import action_on, profile
from boneage_xai.export.deidentified_files import deidentify_files
from dicom_files import dataset, written

PLACES = ("header", "nested", "deep", "private")
# Numbers of two bytes stand anywhere; what a sequence holds is planted as elements of its own.
UNMARKED = ("SQ", "US", "AS")


def listed() -> list[int]:
    """Return the tags of the profile that can be planted in a data set."""
    return [tag for tag in profile() if dictionary_has_tag(tag) and Tag(tag).group >= 8]


def mark_of(tag: int, place: str) -> str:
    """Return a value for an element that stands nowhere else."""
    at = 4 * sorted(profile()).index(tag) + PLACES.index(place)
    return {
        "DA": f"{1401 + at // 28}02{1 + at % 28:02}",
        "TM": f"{at % 24:02}{at % 60:02}59.{900_000 + at}",
        "DT": f"{3401 + at}0203112233.{900_000 + at}",
        "UI": f"1.2.826.0.1.99991.{7_654_321 + at}",
        "DS": f"{81_000_000 + at}",
        "IS": f"{71_000_000 + at}",
    }.get(dictionary_VR(tag), f"MARK{at:05}")


def plant(ds: Dataset, place: str) -> list[str]:
    """Put every attribute of the profile into a data set, and return what must not stay."""
    marks = []
    for tag in listed():
        representation = dictionary_VR(tag)
        if representation in UNMARKED:
            continue
        mark = mark_of(tag, place)
        marks.append(mark)
        value = mark.encode() + b" " if representation in ("OB", "UN") else mark
        ds.add_new(tag, representation, value)
    return marks


def marked() -> tuple[FileDataset, list[str]]:
    """Return a radiograph with every identifier at four places and some beside the elements."""
    ds = dataset()
    nested, deep, private = Dataset(), Dataset(), Dataset()
    marks = [
        *plant(ds, "header"),
        *plant(nested, "nested"),
        *plant(deep, "deep"),
        *plant(private, "private"),
    ]
    for number, (tag, rule) in enumerate(profile().items()):
        # Sequences that refer to images stay, with other UIDs.
        if dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ" and "U*" not in rule.actions:
            item = Dataset()
            item.CodeMeaning = f"MARKsequence{number:03}"
            marks.append(item.CodeMeaning)
            ds.add_new(tag, "SQ", Sequence([item]))
    # Sequences that the profile keeps, one within the other.
    nested.AnatomicRegionModifierSequence = Sequence([deep])
    ds.AnatomicRegionSequence = Sequence([nested])
    block = ds.private_block(0x0011, "MARKcreator", create=True)
    block.add_new(1, "SQ", Sequence([private]))
    block.add_new(2, "LO", "MARKprivate")
    nested.private_block(0x0013, "MARKnestedcreator", create=True).add_new(1, "LO", "MARKwithin")
    ds.add_new(0x60003000, "OW", b"MARKoverlaydata ")
    ds.add_new(0x60020022, "LO", "MARKoverlaylabel")
    ds.add_new(0x50000022, "LO", "MARKcurve")
    ds.add_new(0x00080003, "LO", "MARKunknown")
    ds.PixelData += b"MARKpixels"
    ds.preamble = b"MARKpreamble".ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = "MARKsource"
    ds.file_meta.PrivateInformationCreatorUID = "1.2.826.0.1.99991.1"
    ds.file_meta.PrivateInformation = b"MARKmeta"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    rest = "creator private nestedcreator within overlaydata overlaylabel curve unknown"
    marks += [f"MARK{one}" for one in f"{rest} pixels preamble source meta".split()]
    return ds, marks


@pytest.mark.parametrize("keep", [False, True])
def test_no_identifier_of_the_profile_stays_anywhere_in_a_copy(tmp_path: Path, keep: bool) -> None:
    ds, marks = marked()
    (tmp_path / "source").mkdir()
    file = written(tmp_path / "source" / "MARKname.dcm", ds)
    whole = file.read_bytes()
    assert len(marks) > 1500
    assert [mark for mark in marks if mark.encode() not in whole] == []
    # New UIDs drawn at random would now and then hold the eight digits of a mark.
    made = deidentify_files(
        tmp_path / "source", tmp_path / "out", key=KEY, keep_patient_characteristics=keep
    )
    (one,) = (tmp_path / "out").iterdir()
    assert {one.name} == set(made.copies.values())
    content = one.read_bytes()
    kept = {
        mark_of(tag, place)
        for tag, rule in profile().items()
        if keep and rule.is_patient_characteristic and dictionary_has_tag(tag)
        for place in ("header", "nested", "deep")
    }
    stay = {mark for mark in marks if mark.encode() in content}
    assert stay == kept & set(marks)
    assert (b"MARK" in content) == bool(kept)
    np.testing.assert_array_equal(read_dicom(one).pixels, read_dicom(file).pixels)


def test_the_copy_says_what_was_done_and_keeps_what_identifies_nobody(tmp_path: Path) -> None:
    source = written(
        tmp_path / "hand.dcm",
        dataset(BodyPartExamined="HAND", ViewPosition="PA", ImageLaterality="L", KVP="50"),
    )
    (made,) = copied(source, tmp_path / "out").values()
    assert made.PatientIdentityRemoved == "YES"
    assert "PS3.15" in made.DeidentificationMethod
    codes = [code.CodeValue for code in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100"]
    assert (made.BodyPartExamined, made.ViewPosition, made.ImageLaterality, made.KVP) == (
        "HAND",
        "PA",
        "L",
        50,
    )


def test_the_table_agrees_with_the_standard_where_known_by_heart() -> None:
    expected = {
        "PatientName": "Z",
        "PatientBirthDate": "Z",
        "AccessionNumber": "Z",
        "StudyDate": "Z",
        "InstitutionAddress": "X",
        "OtherPatientIDs": "X",
        "SOPInstanceUID": "U",
        "ContentDate": "D",
        "SourceImageSequence": "U*",
        "InstitutionCodeSequence": "X",
        "SOPClassUID": "K",
        "PixelData": "K",
        "Rows": "K",
    }
    found = {
        keyword: action_on(Tag(keyword), is_sequence="Sequence" in keyword) for keyword in expected
    }
    assert found == expected
    assert action_on(Tag(0x00090010), is_sequence=False) == "X"


def test_sex_and_age_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    written(source / "stated.dcm", dataset(PatientSex="F", PatientAge="010Y", PatientSize="1.4"))
    written(
        source / "derived.dcm",
        dataset(PatientSex="M", PatientBirthDate="20100131", StudyDate="20200301"),
    )
    plain = copied(source, tmp_path / "plain")
    for one in plain.values():
        assert one.PatientSex == ""
        assert "PatientAge" not in one
        assert "PatientSize" not in one
    kept = copied(source, tmp_path / "kept", keep_patient_characteristics=True)
    assert (kept["stated"].PatientSex, kept["stated"].PatientAge) == ("F", "010Y")
    assert kept["stated"].PatientSize == 1.4
    assert (kept["derived"].PatientSex, kept["derived"].PatientAge) == ("M", "121M")
    assert kept["derived"].PatientBirthDate == kept["derived"].StudyDate == ""
    codes = [code.CodeValue for code in kept["derived"].DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108"]


def _two_of_one_study(folder: Path) -> tuple[FileDataset, FileDataset]:
    folder.mkdir()
    uids = {"StudyInstanceUID": generate_uid(), "PatientID": "Smith-1"}
    first = dataset(SOPInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), **uids)
    second = dataset(SOPInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), **uids)
    reference = Dataset()
    reference.ReferencedSOPClassUID = first.SOPClassUID
    reference.ReferencedSOPInstanceUID = first.SOPInstanceUID
    second.SourceImageSequence = Sequence([reference])
    second.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"
    for name, one in (("first", first), ("second", second)):
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        written(folder / f"{name}.dcm", one)
    return first, second


def test_uids_stay_consistent_across_the_files_of_a_call(tmp_path: Path) -> None:
    first, second = _two_of_one_study(tmp_path / "source")
    made = copied(tmp_path / "source", tmp_path / "out")
    one, two = made["first"], made["second"]
    assert one.StudyInstanceUID == two.StudyInstanceUID != first.StudyInstanceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert two.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert two.SourceImageSequence[0].ReferencedSOPClassUID == first.SOPClassUID
    assert two.SOPInstanceUID != second.SOPInstanceUID
    assert two.file_meta.MediaStorageSOPInstanceUID == two.SOPInstanceUID
    assert one.PatientID == two.PatientID != ""
    # The standard registers this one: it says where an atlas begins, not whose image it is.
    assert two.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    for uid in (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID):
        assert uid.is_valid
        assert uid.startswith("2.25.")


def test_another_call_gives_other_names_unless_it_has_the_key(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _two_of_one_study(source)
    outs = {}
    for name, key in (("a", KEY), ("b", KEY), ("c", None), ("d", None)):
        deidentify_files(source, tmp_path / name, key=key)
        outs[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
    assert outs["a"] == outs["b"]
    studies = {
        pydicom.dcmread(next((tmp_path / name).iterdir())).StudyInstanceUID for name in "acd"
    }
    assert len(studies) == 3
    assert len({name for out in (outs["a"], outs["c"], outs["d"]) for name in out}) == 6


def _errors(file: Path) -> Iterator[str]:
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return (line for line in done.stderr.splitlines() if line.startswith("Error"))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_the_validator_finds_no_error_that_the_source_had_not(tmp_path: Path) -> None:
    identified = dataset(
        PatientName="Smith^Jane",
        PatientID="4711",
        PatientBirthDate="20100131",
        PatientSex="F",
        StudyDate="20200301",
        ContentDate="20200301",
        ContentTime="112233",
        AcquisitionDateTime="20200301112233",
        StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        DetectorID="77",
        StationName="ROOM1",
    )
    file = written(tmp_path / "hand.dcm", identified)
    before = set(_errors(file))
    for keep in (False, True):
        out = tmp_path / f"out-{keep}"
        made = deidentify_files(file, out, keep_patient_characteristics=keep)
        (name,) = made.copies.values()
        assert set(_errors(out / name)) - before == set()


def test_an_age_that_dates_tell_more_exactly_is_kept_in_months(tmp_path: Path) -> None:
    elements = {"PatientAge": "008Y", "PatientBirthDate": "20000115", "StudyDate": "20081201"}
    source = written(tmp_path / "hand.dcm", dataset(**elements))
    (made,) = copied(source, tmp_path / "out", keep_patient_characteristics=True).values()
    assert made.PatientAge == "107M"
    assert made.PatientBirthDate == ""


def test_names_and_uids_that_the_table_does_not_list_do_not_stay(tmp_path: Path) -> None:
    uid = generate_uid()
    source = written(
        tmp_path / "hand.dcm",
        dataset(EvaluatorName="Doe^Jane", MultiFrameSourceSOPInstanceUID=uid),
    )
    (made,) = copied(source, tmp_path / "out").values()
    assert "EvaluatorName" not in made
    assert made.MultiFrameSourceSOPInstanceUID not in ("", uid)

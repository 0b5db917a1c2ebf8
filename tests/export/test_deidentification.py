"""Copies of DICOM files show the same picture and nothing of the profile's identifiers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from boneage_xai.data.dicom import dicom_header, read_dicom
from boneage_xai.errors import DataError
from boneage_xai.export.confidentiality_profile import action_on, profile
from boneage_xai.export.deidentified_files import deidentify_files
from boneage_xai.types import Sex
from corpus.dicoms import content_of, data_set
from dicom_files import dataset, written

PLACES = ("header", "nested", "deep", "private")
# Numbers of two bytes stand anywhere; what a sequence holds is planted as elements of its own.
UNMARKED = ("SQ", "US", "AS")
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)
KEY = b"sixteen bytes at least"


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


def copied(source: Path, out: Path, **options: bool) -> dict[str, FileDataset]:
    """Copy a source and return the copies by the stem of the original."""
    made = deidentify_files(source, out, key=KEY, **options)
    return {below.stem: pydicom.dcmread(out / name) for below, name in made.copies.items()}


@pytest.mark.parametrize("keep", [False, True])
def test_no_identifier_of_the_profile_stays_anywhere_in_a_copy(tmp_path: Path, keep: bool) -> None:
    ds, marks = marked()
    (tmp_path / "source").mkdir()
    file = written(tmp_path / "source" / "MARKname.dcm", ds)
    whole = file.read_bytes()
    assert len(marks) > 1500
    assert [mark for mark in marks if mark.encode() not in whole] == []
    made = deidentify_files(
        tmp_path / "source", tmp_path / "out", keep_patient_characteristics=keep
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


def in_every_encoding() -> Iterator[tuple[str, bytes]]:
    """Yield grey and coloured radiographs, of an odd number of bytes, in every syntax."""
    odd = np.add.outer(np.arange(73), np.arange(49)).astype(np.uint8)
    colour = np.stack([odd, odd.max() - odd, odd // 2], axis=-1)
    for syntax in SYNTAXES:
        for name, pixels, bits, elements in (
            ("twelve-bits", None, 12, {"PhotometricInterpretation": "MONOCHROME1"}),
            ("odd", odd, 8, {"PixelSpacing": [0.1, 0.2]}),
            ("colour", colour, 8, {}),
        ):
            if syntax == RLELossless and pixels is not None:
                continue  # pydicom's encoder ends the process on rows of an odd length
            ds = data_set(pixels, bits, **elements)
            if syntax == ExplicitVRBigEndian and bits > 8:
                ds.PixelData = np.frombuffer(ds.PixelData, np.uint16).byteswap().tobytes()
            content = content_of(ds, syntax)
            yield f"{name}-{syntax.name.replace(' ', '')}.dcm", content


def test_copies_of_every_encoding_show_the_same_picture(tmp_path: Path) -> None:
    n_read = 0
    for name, content in in_every_encoding():
        file, out = tmp_path / name, tmp_path / f"{name}.out"
        file.write_bytes(content)
        shown = read_dicom(file)
        made = deidentify_files(file, out, keep_patient_characteristics=True)
        (copy_name,) = made.copies.values()
        again = read_dicom(out / copy_name)
        np.testing.assert_array_equal(again.pixels, shown.pixels, err_msg=name)
        assert again.pixel_spacing_mm == shown.pixel_spacing_mm
        assert dicom_header(out / copy_name)[:2] == (Sex.FEMALE, 120.0)
        n_read += 1
    assert n_read == 3 * len(SYNTAXES) - 2


def test_a_comment_inside_a_compressed_picture_does_not_stay(tmp_path: Path) -> None:
    ds = dataset()
    ds.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    (frame,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    # The comment of a JPEG 2000 stream goes behind its size marker, which is always first.
    behind = 4 + int.from_bytes(frame[4:6], "big")
    text = b"MARKcomment!"
    marked_frame = (
        frame[:behind] + b"\xff\x64" + (4 + len(text)).to_bytes(2, "big") + b"\0\1" + text
    ) + frame[behind:]
    shown = read_dicom(written(tmp_path / "plain.dcm", ds)).pixels
    ds.PixelData = pydicom.encaps.encapsulate([marked_frame])
    file = written(tmp_path / "hand.dcm", ds)
    np.testing.assert_array_equal(read_dicom(file).pixels, shown)
    made = deidentify_files(file, tmp_path / "out")
    (name,) = made.copies.values()
    assert b"MARK" in file.read_bytes()
    assert b"MARK" not in (tmp_path / "out" / name).read_bytes()
    np.testing.assert_array_equal(read_dicom(tmp_path / "out" / name).pixels, shown)


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


@pytest.mark.parametrize(("kind", "bits"), [(np.int16, 12), (np.int8, 7)])
def test_an_overlay_in_unused_bits_does_not_stay(
    tmp_path: Path, kind: type[np.signedinteger], bits: int
) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (40, 30)).astype(kind)
    hidden = rng.integers(0, 2, values.shape) << bits
    marked = ((values & (2**bits - 1)) | hidden).astype(kind)
    source = written(tmp_path / "hand.dcm", dataset(marked, bits=bits))
    (made,) = copied(source, tmp_path / "out").values()
    stored = np.frombuffer(made.PixelData, dtype=kind).reshape(values.shape)
    np.testing.assert_array_equal(stored, values)


def test_padding_stays_padding_and_tells_nothing_else(tmp_path: Path) -> None:
    pixels = np.full((40, 30), 700, dtype=np.uint16)
    pixels[:10] = 0x1000 + np.arange(30)
    ds = dataset(pixels, bits=12, PixelPaddingValue=0x1000, PixelPaddingRangeLimit=0x1FFF)
    source = written(tmp_path / "hand.dcm", ds)
    (made,) = copied(source, tmp_path / "out").values()
    stored = np.frombuffer(made.PixelData, dtype=np.uint16).reshape(pixels.shape)
    np.testing.assert_array_equal(stored, np.where(pixels > 0xFFF, 0x1000, pixels))


def test_an_age_that_dates_tell_more_exactly_is_kept_in_months(tmp_path: Path) -> None:
    elements = {"PatientAge": "008Y", "PatientBirthDate": "20000115", "StudyDate": "20081201"}
    source = written(tmp_path / "hand.dcm", dataset(**elements))
    (made,) = copied(source, tmp_path / "out", keep_patient_characteristics=True).values()
    assert made.PatientAge == "107M"
    assert made.PatientBirthDate == ""


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3)])
def test_unused_bits_of_unsigned_pixels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 100, dtype=np.uint16)
    pixels[3, 4] |= 1 << 12
    elements = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    ds = dataset(pixels, bits=8, **(elements if len(shape) == 3 else {}))
    with pytest.raises(DataError, match="which 8 bits stored cannot hold"):
        deidentify_files(written(tmp_path / "hand.dcm", ds), tmp_path / "out")


def test_names_and_uids_that_the_table_does_not_list_do_not_stay(tmp_path: Path) -> None:
    uid = generate_uid()
    source = written(
        tmp_path / "hand.dcm",
        dataset(EvaluatorName="Doe^Jane", MultiFrameSourceSOPInstanceUID=uid),
    )
    (made,) = copied(source, tmp_path / "out").values()
    assert "EvaluatorName" not in made
    assert made.MultiFrameSourceSOPInstanceUID not in ("", uid)

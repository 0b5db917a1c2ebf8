"""What a DICOM header says about the patient reaches nothing that is written or printed."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import trained
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.radiograph import decode_radiograph, read_radiograph
from boneage_xai.errors import DataError
from dicom_files import dataset, written

__all__ = ["trained"]

Run = Callable[..., int]

# Attributes that the basic profile of PS3.15 Annex E (2024) removes or replaces, of those that
# a radiograph may have. Sex and age are read on purpose.
_BASIC_PROFILE = (
    "PatientName PatientID IssuerOfPatientID OtherPatientIDs OtherPatientNames PatientBirthDate "
    "PatientBirthTime PatientBirthName PatientMotherBirthName PatientAddress "
    "PatientTelephoneNumbers PatientComments PatientReligiousPreference EthnicGroup Occupation "
    "MedicalRecordLocator MilitaryRank BranchOfService CountryOfResidence RegionOfResidence "
    "PatientInsurancePlanCodeSequence AdditionalPatientHistory MedicalAlerts Allergies "
    "LastMenstrualDate ResponsiblePerson ResponsibleOrganization PatientState AdmissionID "
    "AdmittingDiagnosesDescription AccessionNumber StudyID StudyDate StudyTime StudyDescription "
    "SeriesDate SeriesTime SeriesDescription AcquisitionDate AcquisitionTime "
    "AcquisitionDateTime ContentDate ContentTime InstanceCreationDate InstanceCreationTime "
    "InstitutionName InstitutionAddress InstitutionalDepartmentName ReferringPhysicianName "
    "ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PerformingPhysicianName "
    "NameOfPhysiciansReadingStudy PhysiciansOfRecord OperatorsName RequestingPhysician "
    "RequestingService ScheduledPerformingPhysicianName StationName DeviceSerialNumber "
    "DetectorID PlateID GantryID ProtocolName AcquisitionComments ImageComments "
    "DerivationDescription RequestedProcedureDescription RequestedProcedureComments "
    "ReasonForStudy PerformedProcedureStepID PerformedProcedureStepDescription "
    "PerformedStationName PerformedProcedureStepStartDate ScheduledProcedureStepID "
    "FillerOrderNumberImagingServiceRequest CurrentPatientLocation PatientInstitutionResidence "
    "VerifyingObserverName ContentCreatorName StudyInstanceUID SeriesInstanceUID "
    "FrameOfReferenceUID SOPInstanceUID "
)
KEYWORDS = _BASIC_PROFILE.split()
SEQUENCES = {"PatientInsurancePlanCodeSequence"}


def mark_of(number: int, keyword: str) -> str:
    """Return a value for an attribute that stands nowhere else."""
    at = 100 * number + KEYWORDS.index(keyword)
    return {
        "DA": f"{1601 + at // 28}02{1 + at % 28:02}",
        "TM": f"{at % 24:02}{at % 60:02}59.{987_000 + at}",
        "DT": f"{1401 + at}0203112233.{987_000 + at}",
        "UI": f"1.2.826.0.1.99991.{7_654_321 + at}",
    }.get(dictionary_VR(tag_for_keyword(keyword) or 0), f"MARK{at:04}")


@pytest.fixture(scope="module")
def marked(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of DICOM files whose identifiers are all marked, and a label table."""
    folder = tmp_path_factory.mktemp("marked") / "clinic"
    folder.mkdir()
    rows = ["id,sex,boneage"]
    for number, one in enumerate(list(select_cohort(read_source(phantoms)))[:6]):
        made = dataset(np.rint(read_radiograph(one.image).pixels * 4095).astype(np.uint16))
        for keyword in KEYWORDS:
            if keyword not in SEQUENCES:
                setattr(made, keyword, mark_of(number, keyword))
        item = Dataset()
        item.CodeMeaning = mark_of(number, "PatientInsurancePlanCodeSequence")
        made.PatientInsurancePlanCodeSequence = Sequence([item])
        made.add_new(0x00091001, "LO", f"MARKprivate{number}")
        made.preamble = f"MARKpreamble{number}".encode().ljust(128, b"\0")
        made.PatientSex, made.PatientAge, made.ImageLaterality = one.sex.value, "010Y", "L"
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        written(folder / f"hand{number}.dcm", made)
        rows.append(f"hand{number},{one.sex.value},{one.bone_age_months:g}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def marks() -> list[str]:
    return ["MARK", *(mark_of(n, keyword) for n in range(6) for keyword in KEYWORDS)]


def texts_of(path: Path) -> Iterator[bytes]:
    """Yield what a file says, and what lies packed in it."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]{40,})", content):
        yield base64.b64decode(packed)


def leaks(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.rglob("*")):
        names = [mark for mark in marks() if mark in path.name]
        found += [f"{path}: name holds {mark}" for mark in names]
        if path.is_file():
            for text in texts_of(path):
                found += [f"{path}: {mark}" for mark in marks() if mark.encode() in text]
    return found


def test_the_marks_are_in_the_files(marked: Path) -> None:
    for mark in marks():
        assert any(mark.encode() in file.read_bytes() for file in marked.glob("*.dcm")), mark


def test_no_identifier_is_written_or_printed(
    cli: Run,
    trained: Path,
    marked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    out, cache = tmp_path / "analysis", tmp_path / "cache"
    data = ("--data", marked, "--cache", cache)
    monkeypatch.chdir(tmp_path)
    assert cli("cohort", marked) == 0
    assert cli("cohort", marked, "--json") == 0
    assert cli("predict", trained, marked / "hand1.dcm", "--sex", "F") == 0
    assert cli("evaluate", trained, *data, "--out", out) == 0
    attribute = ("attribute", trained, *data, "--out", out, "--method", "gradient")
    assert cli(*attribute, "--limit", "3") == 0
    assert cli("report", out) == 0
    assert cli("report", out, "--cases", "--out", tmp_path / "pages") == 0
    assert cli("export", out, "--data", marked, "--out", tmp_path / "png", "--format", "png") == 0
    said = capsys.readouterr()
    assert len(list(tmp_path.rglob("*"))) > 30
    for text in (said.out, said.err, caplog.text):
        assert [mark for mark in marks() if mark in text] == []
    assert leaks(tmp_path) == []


def test_an_exported_dicom_object_names_the_patient_as_its_source_does(
    cli: Run, trained: Path, marked: Path, tmp_path: Path
) -> None:
    """It must, to be filed with its source; this also shows that ``leaks`` finds what there is."""
    pytest.importorskip("highdicom", reason="boneage-xai[dicom] is not installed")
    out = tmp_path / "analysis"
    data = ("--data", marked, "--cache", tmp_path / "cache")
    attribute = ("attribute", trained, *data, "--out", out, "--method", "gradient")
    assert cli(*attribute, "--limit", "1") == 0
    export = ("export", out, "--data", marked, "--out", tmp_path / "dicom", "--format", "dicom")
    assert cli(*export) == 0
    found = "\n".join(leaks(tmp_path))
    assert ".dcm: MARK" in found
    assert all(line.partition(": ")[0].endswith(".dcm") for line in found.splitlines())


def test_copies_without_identifiers_hold_none(
    cli: Run, marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its list of the profile's attributes is not the one that this file tests with."""
    assert cli("deidentify", marked, tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "burned into the pictures" in " ".join(said.err.split())
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert leaks(tmp_path) == []
    assert [mark for mark in marks() if mark in said.out + said.err] == []


def test_errors_on_damaged_files_repeat_nothing_of_the_patient(
    marked: Path, tmp_path: Path
) -> None:
    """Read from a folder or from memory, cut, changed or of a syntax that nobody decodes."""
    whole = (marked / "hand0.dcm").read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [whole[:length] for length in rng.integers(140, len(whole), size=150)]
    for at in rng.integers(132, 3000, size=600):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        spoilt.append(bytes(changed))
    said = []
    for content in spoilt:
        path = tmp_path / "spoilt.dcm"
        path.write_bytes(content)
        for read in (lambda p=path: read_radiograph(p), lambda c=content: decode_radiograph(c)):
            try:
                read()
            except DataError as error:
                said.append(str(error))
    assert len(said) > 200
    pieces = [mark for mark in marks() if any(mark in sentence for sentence in said)]
    assert pieces == []


def test_ids_come_from_file_names(marked: Path) -> None:
    """Who names files after patients will see these names: the documentation says so."""
    assert {case.case_id for case in select_cohort(read_source(marked))} == {
        file.stem for file in marked.glob("*.dcm")
    }

"""DICOM objects from an analysis: what they hold, what they refer to, and that they are valid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ParametricMapStorage, SegmentationStorage, generate_uid

from analysis_fixture import MALICIOUS, STRANGE
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.export.analysis_export import export_analysis
from boneage_xai.files import read_json
from boneage_xai.regions.label_maps import read_region_map
from boneage_xai.types import Cohort
from dicom_files import dataset, written
from export_fixture import CASE_IDS, SPACING_MM, Explained

pytest.importorskip("highdicom", reason="boneage-xai[dicom] is not installed")


@pytest.fixture(scope="module")
def exported(explained: Explained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dicom") / "out"
    export_analysis(explained.analysis, explained.cohort, out, "dicom")
    return out


def _files(exported: Path, case_id: str) -> dict[str, Path]:
    files = read_json(exported / "export.json")["cases"][case_id]["files"]
    return {name: exported / file for name, file in files.items()}


def test_names_stay_inside_the_folder(exported: Path) -> None:
    index = read_json(exported / "export.json")
    listed = {file for case in index["cases"].values() for file in case["files"].values()}
    assert set(index["cases"]) == set(CASE_IDS)
    assert {path.name for path in exported.iterdir()} == listed | {"export.json"}
    assert len(listed) == 12
    assert index["cases"]["plain"]["files"]["gradient"] == "plain_gradient.dcm"


@pytest.mark.parametrize("case_id", CASE_IDS)
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient"])
def test_the_map_adds_up_and_refers_to_its_source(
    exported: Path, explained: Explained, case_id: str, method: str
) -> None:
    made = pydicom.dcmread(_files(exported, case_id)[method])
    source = pydicom.dcmread(explained.cohort[case_id].image)
    assert made.SOPClassUID == ParametricMapStorage
    assert (made.Rows, made.Columns) == (source.Rows, source.Columns)
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.PatientID == source.PatientID
    assert made.PatientName == source.PatientName
    assert made.SOPInstanceUID != source.SOPInstanceUID
    frame = made.PerFrameFunctionalGroupsSequence[0]
    derived_from = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert derived_from.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert derived_from.ReferencedSOPClassUID == source.SOPClassUID

    months = np.frombuffer(made.FloatPixelData, dtype="<f4").reshape(made.Rows, made.Columns)
    assert months.min() < 0 < months.max()
    stored = explained.analysis.maps()
    assert stored is not None
    row = list(stored.attrs["case_ids"]).index(case_id)  # type: ignore[arg-type]
    on_input = np.asarray(stored[method][row])  # type: ignore[index]
    sums = read_json(exported / "export.json")["cases"][case_id]["sums"][method]
    total = on_input.sum(dtype=np.float64)
    assert sums["sum"] == pytest.approx(total)
    scale = np.abs(on_input).sum(dtype=np.float64)
    added = months.sum(dtype=np.float64) + sums["in_padding"]
    assert added == pytest.approx(total, abs=1e-6 * scale)
    if method == "integrated_gradients":
        # The padding is black, and so is the baseline.
        assert sums["in_padding"] == 0
        table = explained.analysis.attributions()
        assert table is not None
        of_case = table[(table["case_id"] == case_id) & (table["method"] == method)].iloc[0]
        change = of_case["prediction_months"] - of_case["baseline_prediction_months"]
        gap = of_case["completeness_gap_months"]
        assert added == pytest.approx(change + gap, abs=1e-4)

    mapping = frame.get("RealWorldValueMappingSequence") or (
        made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert (mapping[0].RealWorldValueSlope, mapping[0].RealWorldValueIntercept) == (1, 0)
    unit = mapping[0].MeasurementUnitsCodeSequence[0]
    expected = "mo" if method == "integrated_gradients" else "mo/{intensity}"
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == (expected, "UCUM")
    assert mapping[0].DoubleFloatRealWorldValueFirstValueMapped == pytest.approx(months.min())
    assert mapping[0].DoubleFloatRealWorldValueLastValueMapped == pytest.approx(months.max())
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    stated = SPACING_MM if case_id == "plain" else (1.0, 1.0)
    assert tuple(measures.PixelSpacing) == stated


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_effects_of_patches_keep_their_values(
    exported: Path, explained: Explained, case_id: str
) -> None:
    made = pydicom.dcmread(_files(exported, case_id)["occlusion"])
    months = np.frombuffer(made.FloatPixelData, dtype="<f4").reshape(made.Rows, made.Columns)
    stored = explained.analysis.maps()
    assert stored is not None
    row = list(stored.attrs["case_ids"]).index(case_id)  # type: ignore[arg-type]
    on_input = np.asarray(stored["occlusion"][row])  # type: ignore[index]
    # Nothing is divided: every value is one of the map's, or 0 where the source was cut away.
    assert np.isin(months, np.append(on_input, 0)).all()
    assert np.abs(months).max() > 0.5 * np.abs(on_input).max() > 0
    mapping = made.PerFrameFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence") or (
        made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert mapping[0].MeasurementUnitsCodeSequence[0].CodeValue == "mo/{patch}"
    index = read_json(exported / "export.json")
    assert index["units"]["occlusion"] == "months per patch"
    assert index["cases"][case_id]["sums"]["occlusion"] == {}


def test_maps_of_an_image_share_a_frame_of_reference_of_their_own(exported: Path) -> None:
    frames = {
        case_id: {
            pydicom.dcmread(file).FrameOfReferenceUID
            for name, file in _files(exported, case_id).items()
            if name != "regions"
        }
        for case_id in CASE_IDS
    }
    assert [len(found) for found in frames.values()] == [1, 1, 1]
    assert len(set.union(*frames.values())) == 3


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_segments_are_the_regions(exported: Path, explained: Explained, case_id: str) -> None:
    made = pydicom.dcmread(_files(exported, case_id)["regions"])
    source = pydicom.dcmread(explained.cohort[case_id].image)
    region_file = explained.cohort[case_id].region_file
    assert region_file is not None
    regions = read_region_map(region_file)
    assert made.SOPClassUID == SegmentationStorage
    assert made.StudyInstanceUID == source.StudyInstanceUID
    referenced = made.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    instance = referenced.ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    segments = {segment.SegmentNumber: segment for segment in made.SegmentSequence}
    present = [regions.names[value] for value in np.unique(regions.labels).tolist() if value]
    assert [segment.SegmentLabel for segment in segments.values()] == present
    frames = np.atleast_3d(made.pixel_array).reshape(-1, made.Rows, made.Columns)
    assert len(frames) == len(present)
    values = {name: value for value, name in regions.names.items()}
    for pixels, groups in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        value = values[segments[number].SegmentLabel]
        np.testing.assert_array_equal(pixels, regions.labels == value)
    kinds = {
        segment.SegmentLabel: segment.SegmentedPropertyTypeCodeSequence[0]
        for segment in segments.values()
    }
    assert (kinds["radius"].CodeValue, kinds["radius"].CodingSchemeDesignator) == (
        "62413002",
        "SCT",
    )
    assert kinds["MCP"].CodingSchemeDesignator == "99BONEAGE"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_the_validator_finds_no_error(exported: Path) -> None:
    for file in sorted(exported.glob("*.dcm")):
        _validate(file)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"FrameOfReferenceUID": generate_uid()},
        {"FrameOfReferenceUID": generate_uid(), "PixelSpacing": [0.1, 0.1]},
        {
            "FrameOfReferenceUID": generate_uid(),
            "PixelSpacing": [0.1, 0.1],
            "ImagePositionPatient": [0, 0, 0],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        },
        {
            "SpecificCharacterSet": "ISO_IR 100",
            "PatientName": "Müller^Ängel",
            "PatientSex": "U",
            "PatientOrientation": ["L", "F"],
        },
    ],
)
def test_sparse_and_full_sources_give_valid_objects(
    explained: Explained, tmp_path: Path, elements: dict[str, object]
) -> None:
    made = _again(explained, tmp_path, elements)
    out = tmp_path / "out"
    export_analysis(explained.analysis, made, out, "dicom", case_ids=["plain"])
    for name, file in _files(out, "plain").items():
        _validate(file)
        found = pydicom.dcmread(file)
        assert str(found.PatientName) == elements.get("PatientName", "")
        if "FrameOfReferenceUID" in elements:
            assert found.FrameOfReferenceUID == elements["FrameOfReferenceUID"]
        elif name == "regions":
            assert "FrameOfReferenceUID" not in found


@pytest.mark.parametrize("magnification", [None, 1.25])
def test_maps_have_the_spacing_that_the_reader_finds(
    explained: Explained, tmp_path: Path, magnification: float | None
) -> None:
    elements: dict[str, object] = {"ImagerPixelSpacing": [0.1, 0.2]}
    if magnification is not None:
        elements["EstimatedRadiographicMagnificationFactor"] = magnification
    made = _again(explained, tmp_path, elements)
    export_analysis(explained.analysis, made, tmp_path / "out", "dicom", case_ids=["plain"])
    found = pydicom.dcmread(_files(tmp_path / "out", "plain")["gradient"])
    (measures,) = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    factor = 1.0 if magnification is None else magnification
    assert list(measures.PixelSpacing) == pytest.approx([0.1 / factor, 0.2 / factor])


def _again(explained: Explained, folder: Path, elements: dict[str, object]) -> Cohort:
    """Return the cohort with the first case's pixels in a file with these elements alone."""
    case = explained.cohort["plain"]
    stored = pydicom.dcmread(case.image).pixel_array
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    image = written(folder / "again.dcm", dataset(stored, **uids, **elements))
    return Cohort("dicom", (replace(case, image=image),))


def _validate(file: Path) -> None:
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
    assert (done.returncode, errors) in [
        (0, [kind]) for kind in ("ParametricMap", "Segmentation")
    ], done.stderr


def test_what_is_no_dicom_is_refused_before_anything_is_written(
    explained: Explained, tmp_path: Path
) -> None:
    case = explained.cohort[STRANGE]
    image = tmp_path / "hand.png"
    pixels = read_radiograph(case.image).pixels
    Image.fromarray(np.rint(pixels * 65535).astype(np.uint16)).save(image)
    cases = (*explained.cohort.cases[:2], replace(case, image=image))
    with pytest.raises(DataError, match="expected a DICOM file that a derived") as refused:
        export_analysis(explained.analysis, Cohort("dicom", cases), tmp_path / "out", "dicom")
    assert str(refused.value).startswith(f"case {STRANGE}: ")
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_study_is_refused(explained: Explained, tmp_path: Path) -> None:
    case = explained.cohort["plain"]
    image = written(tmp_path / "bare.dcm", dataset(pydicom.dcmread(case.image).pixel_array))
    bare = Cohort("dicom", (replace(case, image=image),))
    with pytest.raises(DataError, match="case plain: expected StudyInstanceUID"):
        export_analysis(explained.analysis, bare, tmp_path / "out", "dicom", case_ids=["plain"])


def test_another_radiograph_or_region_map_is_refused(explained: Explained, tmp_path: Path) -> None:
    first, second, third = explained.cohort.cases
    swapped = Cohort("dicom", (replace(first, image=second.image), second, third))
    with pytest.raises(DataError, match="case plain: expected the radiograph that was attributed"):
        export_analysis(explained.analysis, swapped, tmp_path / "out", "dicom")
    swapped = Cohort("dicom", (replace(first, region_file=second.region_file), second, third))
    with pytest.raises(DataError, match=r"case plain: expected a region map of \(96, 71\) pixels"):
        export_analysis(explained.analysis, swapped, tmp_path / "out", "dicom")
    assert first.region_file is not None
    shutil.copy(first.region_file.with_name("labels.json"), tmp_path)
    turned = np.asarray(Image.open(first.region_file))[::-1]
    Image.fromarray(turned).save(tmp_path / "turned.png")
    swapped = Cohort("dicom", (replace(first, region_file=tmp_path / "turned.png"), second, third))
    with pytest.raises(DataError, match="case plain: expected the region map that was attributed"):
        export_analysis(explained.analysis, swapped, tmp_path / "out", "dicom")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_without_files_the_regions_that_were_attributed_are_enlarged(
    explained: Explained, tmp_path: Path
) -> None:
    bare = Cohort("dicom", tuple(replace(one, region_file=None) for one in explained.cohort))
    out = tmp_path / "out"
    export_analysis(
        explained.analysis, bare, out, "dicom", case_ids=[MALICIOUS], methods=["gradient"]
    )
    files = _files(out, MALICIOUS)
    assert list(files) == ["gradient", "regions"]
    made = pydicom.dcmread(files["regions"])
    region_file = explained.cohort[MALICIOUS].region_file
    assert region_file is not None
    regions = read_region_map(region_file)
    values = {name: value for value, name in regions.names.items()}
    frames = np.atleast_3d(made.pixel_array).reshape(-1, made.Rows, made.Columns)
    drawn = np.zeros(regions.labels.shape, dtype=np.int64)
    for pixels, segment in zip(frames, made.SegmentSequence, strict=True):
        drawn[pixels == 1] = values[segment.SegmentLabel]
    # 48 input pixels over 96 source pixels: all but edges of regions are the same.
    assert (drawn == regions.labels).mean() > 0.9


def test_without_highdicom_the_extra_is_named(
    explained: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r"install boneage-xai\[dicom\]"):
        export_analysis(explained.analysis, explained.cohort, tmp_path / "out", "dicom")


def test_unknown_methods_and_cases_are_refused(explained: Explained, tmp_path: Path) -> None:
    for wanted, what in (
        ({"methods": ["deep_lift"]}, "method deep_lift"),
        ({"case_ids": ["9"]}, "case 9"),
    ):
        with pytest.raises(ConfigError, match=what):
            export_analysis(explained.analysis, explained.cohort, tmp_path / "o", "dicom", **wanted)  # type: ignore[arg-type]

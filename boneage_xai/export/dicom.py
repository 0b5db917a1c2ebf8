"""Attribution maps as DICOM Parametric Maps and regions as Segmentations, beside their source.

Both lie on the pixels of the source image, refer to it, and repeat its patient and study.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from boneage_xai import __version__
from boneage_xai.anatomy import MARKER, RADIUS, SOFT_TISSUE, ULNA
from boneage_xai.data.dicom import dicom_dataset, is_dicom
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.export.cases import PER_INTENSITY, PER_PATCH, ExportedCase, on_source
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, RegionMap

SCHEME = "99BONEAGE"
"""Designator of the private codes, for what SNOMED CT has no code that certainly fits."""

Concept = tuple[str, str, str]

MONTH: Concept = ("mo", "UCUM", "month")
MONTH_PER_PATCH: Concept = ("mo/{patch}", "UCUM", "month per patch")
MONTH_PER_INTENSITY: Concept = ("mo/{intensity}", "UCUM", "month per unit of intensity")
ATTRIBUTION: Concept = ("ATTRIBUTION", SCHEME, "Attribution to predicted bone age")

_STRUCTURE: Concept = ("91723000", "SCT", "Anatomical Structure")
_TISSUE: Concept = ("85756007", "SCT", "Tissue")
_OBJECT: Concept = ("260787004", "SCT", "Physical object")

# A joint region holds parts of two bones, and a shaft is no whole bone: only these are the same.
_PROPERTIES: Mapping[str, tuple[Concept, Concept]] = {
    RADIUS: (_STRUCTURE, ("62413002", "SCT", "Radius")),
    ULNA: (_STRUCTURE, ("23416004", "SCT", "Ulna")),
    SOFT_TISSUE: (_TISSUE, ("87784001", "SCT", "Soft tissue")),
    MARKER: (_OBJECT, (MARKER, SCHEME, MARKER)),
}

_MAKER = "boneage_xai"
# Large, so that they come last among the study's series.
_MAP_SERIES, _REGION_SERIES = 9001, 9002
_WINDOW_PERCENTILE = 99.8
_LONGEST_TEXT = 64
_EMPTY_WHERE_ABSENT = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


class DicomWriter:
    """Write each case's maps and regions as DICOM objects.

    Args:
        folder: the analysis, whose network becomes the objects' device.
        cases: all cases that will be written.
        methods: not used by this format.

    Raises:
        ConfigError: highdicom is not installed.
        DataError: a case whose source is not a DICOM file, or one without the UIDs that a derived
            object refers to.
    """

    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, folder: AnalysisFolder, cases: Sequence[Case], methods: Sequence[str]
    ) -> None:
        try:
            import highdicom  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "export to DICOM: expected the package highdicom, found none; install "
                "boneage-xai[dicom]"
            ) from error
        for case in cases:
            _source(case)
        run = folder.manifest["run"]
        steps = folder.manifest["steps"]
        self._model_id = str(run.get("model_id", "unknown"))
        self._model_name = str(run.get("recipe", _MAKER))
        self._baseline = str(steps.get("attribute", {}).get("settings", {}).get("baseline", ""))

    def __call__(self, exported: ExportedCase, folder: Path, stem: str) -> Mapping[str, str]:
        """Write ``STEM_METHOD.dcm`` for each method and, with regions, ``STEM_regions.dcm``."""
        import highdicom

        source = _source(exported.case)
        files: dict[str, str] = {}
        series = highdicom.UID()
        with warnings.catch_warnings():
            # Names of patients that the standard frowns upon are repeated as they are.
            warnings.simplefilter("ignore")
            for number, (method, values) in enumerate(exported.maps.items(), start=1):
                row = exported.attributes.get(method, {})
                made = parametric_map(
                    source,
                    on_source(method, values, exported.source_map),
                    method,
                    pixel_spacing_mm=exported.radiograph.pixel_spacing_mm,
                    baseline=_text(row.get("baseline")) or self._baseline,
                    series_uid=series,
                    instance_number=number,
                    equipment=self._equipment(),
                )
                files[method] = f"{stem}_{method}.dcm"
                made.save_as(folder / files[method], enforce_file_format=True)
            if exported.regions is not None and exported.regions.labels.any():
                made = segmentation(source, exported.regions, equipment=self._equipment())
                files["regions"] = f"{stem}_regions.dcm"
                made.save_as(folder / files["regions"], enforce_file_format=True)
        return files

    def _equipment(self) -> dict[str, Any]:
        return {
            "manufacturer": _MAKER,
            "manufacturer_model_name": _long_text(self._model_name),
            "software_versions": __version__,
            "device_serial_number": _long_text(self._model_id),
        }


def parametric_map(
    source: Dataset,
    months: npt.NDArray[np.float32],
    method: str,
    *,
    pixel_spacing_mm: tuple[float, float] | None,
    baseline: str,
    series_uid: str,
    instance_number: int,
    equipment: Mapping[str, Any],
) -> FileDataset:
    """Make a Parametric Map of a signed attribution.

    Args:
        source: the source image, with the elements that derived objects repeat.
        months: (H, W) per source pixel.
        method: name of the attribution method.
        pixel_spacing_mm: between rows and between columns in the plane of the hand, None where
            nobody knows; it is 1 mm then.
        baseline: what the map is measured against, empty where it has none.
        series_uid: series that the map belongs to.
        instance_number: within the series.
        equipment: manufacturer, model, versions and serial number.

    Returns:
        Float pixels with slope 1 and the unit month; the window is symmetric about 0.

    Source:
        DICOM PS3.3 2024, A.75 (Parametric Map IOD).
    """
    import highdicom
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    limit = float(np.percentile(np.abs(months), _WINDOW_PERCENTILE)) or float(np.abs(months).max())
    unit = MONTH
    if method in PER_INTENSITY:
        unit = MONTH_PER_INTENSITY
    elif method in PER_PATCH:
        unit = MONTH_PER_PATCH
    against = f", baseline {baseline}" if baseline else ""
    mapping = RealWorldValueMapping(
        lut_label="months",
        lut_explanation=_long_text(f"{method}{against}; + older, - younger"),
        unit=_coded(unit),
        value_range=(float(months.min()), float(months.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=_coded(ATTRIBUTION),
    )
    window = highdicom.VOILUTTransformation(
        window_center=0.0,
        # Decimal strings hold 16 characters.
        window_width=float(f"{2 * (limit or 1.0):.6g}"),
        window_explanation="symmetric about 0",
        voi_lut_function="LINEAR_EXACT",
    )
    made: FileDataset = ParametricMap(
        [_in_a_frame_of_reference(source, pixel_spacing_mm or (1.0, 1.0))],
        months,
        series_instance_uid=series_uid,
        series_number=_MAP_SERIES,
        sop_instance_uid=highdicom.UID(),
        instance_number=instance_number,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="ATTRIBUTION",
        content_description=_long_text(f"{method}{against}"),
        series_description="Attribution of bone age",
        specific_character_set="ISO_IR 192",
        **equipment,
    )
    if not made.get("PositionReferenceIndicator"):
        made.PositionReferenceIndicator = ""
    side = source.get("ImageLaterality") or source.get("Laterality") or ""
    made.Laterality = side if side in ("L", "R") else ""
    return made


def _in_a_frame_of_reference(source: Dataset, pixel_spacing_mm: tuple[float, float]) -> Dataset:
    """Return the source where it has a place in space, else a copy that has one of its own.

    A Parametric Map must have one, and most radiographs do not: the copy's image plane is its frame
    of reference, the same for all maps of the image and for no other image.
    """
    from highdicom.spatial import get_image_coordinate_system

    if get_image_coordinate_system(source) is not None:
        return source
    # Of a shallow copy pydicom would share the elements.
    placed = copy.deepcopy(source)
    placed.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or generate_uid(
        entropy_srcs=["frame of reference", str(source.SOPInstanceUID)]
    )
    placed.ImagePositionPatient = [0.0, 0.0, 0.0]
    placed.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    if not source.get("PixelSpacing"):
        placed.PixelSpacing = [float(f"{spacing:.10g}") for spacing in pixel_spacing_mm]
    return placed


def segmentation(
    source: Dataset, regions: RegionMap, *, equipment: Mapping[str, Any]
) -> FileDataset:
    """Make a Segmentation of hand regions, a segment each, background left out.

    Args:
        source: the source image, with the elements that derived objects repeat.
        regions: (H, W) labels on the source grid; at least one pixel is not background.
        equipment: manufacturer, model, versions and serial number.

    Returns:
        Binary segments of the regions that have pixels, in the order of their labels.

    Source:
        DICOM PS3.3 2024, A.51 (Segmentation IOD).
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription

    numbers: dict[str, int] = {}
    segments = np.zeros(regions.labels.shape, dtype=np.uint16)
    for label in np.unique(regions.labels).tolist():
        if label != 0:
            number = numbers.setdefault(regions.names[label], len(numbers) + 1)
            segments[regions.labels == label] = number
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="boneage_xai regions",
        # Regions come from a locator, a hand that drew them, or both.
        family=highdicom.sr.CodedConcept("REGIONS", SCHEME, "Region map, located or drawn"),
        version=__version__,
    )
    descriptions = []
    for name, number in numbers.items():
        category, kind = _PROPERTIES.get(
            name, (_STRUCTURE, (_long_text(name), SCHEME, _long_text(name.replace("_", " "))))
        )
        descriptions.append(
            SegmentDescription(
                segment_number=number,
                segment_label=_long_text(name),
                segmented_property_category=_coded(category),
                segmented_property_type=_coded(kind),
                algorithm_type="SEMIAUTOMATIC",
                algorithm_identification=algorithm,
            )
        )
    made: FileDataset = Segmentation(
        [source],
        segments[None].astype(np.uint8 if len(numbers) < 256 else np.uint16),
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=_REGION_SERIES,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="REGIONS",
        content_description="Hand regions",
        series_description="Hand regions",
        specific_character_set="ISO_IR 192",
        **equipment,
    )
    shared = made.SharedFunctionalGroupsSequence[0]
    if "FrameOfReferenceUID" in made and source.SliceThickness is None:
        # In a frame of reference, measures of pixels without a thickness are not valid; those of
        # the source, to which each segment refers, hold.
        shared.pop("PixelMeasuresSequence", None)
    if "PatientOrientation" not in made:
        made.PatientOrientation = source.get("PatientOrientation") or ""
    return made


def _source(case: Case) -> FileDataset:
    """Read the source image of a case as highdicom needs it."""
    try:
        with case.image.open("rb") as stream:
            head = stream.read(132)
    except OSError as error:
        raise DataError(
            f"case {case.case_id}: expected a DICOM file, found {error.strerror} ({case.image})"
        ) from error
    if not is_dicom(head):
        raise DataError(
            f"case {case.case_id}: expected a DICOM file that a derived object can refer to, found "
            f"another kind of image ({case.image})"
        )
    dataset = dicom_dataset(case.image)
    for name in _NEEDED:
        if not dataset.get(name):
            raise DataError(
                f"case {case.case_id}: expected {name} in its DICOM file, found none ({case.image})"
            )
    for name in _EMPTY_WHERE_ABSENT:
        if name not in dataset:
            setattr(dataset, name, "")
    if "SliceThickness" not in dataset:
        dataset.SliceThickness = None
    if not (dataset.get("PixelSpacing") and dataset.get("ImageOrientationPatient")):
        dataset.pop("ImagePositionPatient", None)
    if dataset.PatientSex not in ("M", "F", "O", "", None):
        dataset.PatientSex = ""
    return dataset


def _coded(concept: Concept) -> Any:
    from highdicom.sr import CodedConcept

    value, scheme, meaning = concept
    return CodedConcept(value, scheme, meaning)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _long_text(text: str) -> str:
    """Return what a long string of DICOM may hold: 64 characters, no backslash, none of control."""
    kept = "".join("_" if one == "\\" or not one.isprintable() else one for one in text)
    return kept[:_LONGEST_TEXT].strip() or "_"

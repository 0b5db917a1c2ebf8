"""DICOM radiographs made from phantoms, and a network's analysis of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from analysis_fixture import MALICIOUS, STRANGE
from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.models.checkpoint import load_run
from boneage_xai.regions.label_maps import read_region_map
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, Cohort
from dicom_files import dataset, written

CASE_IDS = ("plain", MALICIOUS, STRANGE)
SPACING_MM = (0.5, 0.25)


@dataclass(frozen=True)
class Explained:
    """A folder of DICOM files as cases, and their analysis by a small network."""

    cohort: Cohort
    analysis: AnalysisFolder


def write_dicom_cohort(phantoms: Path, folder: Path) -> Cohort:
    """Write three phantoms, taller than wide, as DICOM files with label maps."""
    cases = []
    names = read_region_map(phantoms / "labels" / "1.png").names
    (folder / "labels").mkdir(parents=True)
    (folder / "labels" / "labels.json").write_text(json.dumps(dict(names)))
    source = select_cohort(read_source(phantoms))
    for number, (case_id, one) in enumerate(zip(CASE_IDS, source, strict=False)):
        assert one.region_file is not None
        pixels = read_radiograph(one.image).pixels[:, 10:81]
        labels = read_region_map(one.region_file).labels[:, 10:81]
        image, region_file = folder / f"{number}.dcm", folder / "labels" / f"{number}.png"
        Image.fromarray(labels.astype(np.uint8)).save(region_file)
        made = dataset(
            np.rint(pixels * 4095).astype(np.uint16),
            StudyInstanceUID=generate_uid(),
            SeriesInstanceUID=generate_uid(),
            PatientName=f"Phantom^{number}",
            PatientID=f"P{number}",
            PatientBirthDate="20150101",
            PatientSex=one.sex.value,
            StudyDate="20250101",
            StudyTime="101112",
            StudyID="7",
            AccessionNumber="A7",
            ReferringPhysicianName="",
            ImageLaterality="L",
        )
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        if number == 0:
            made.PixelSpacing = list(SPACING_MM)
        written(image, made)
        cases.append(Case(case_id, image, one.sex, one.bone_age_months, region_file=region_file))
    return Cohort("dicom", tuple(cases))


@pytest.fixture(scope="session")
def explained(sex_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    """Three DICOM cases with regions, attributed with three methods."""
    home = tmp_path_factory.mktemp("explained")
    cohort = write_dicom_cohort(phantoms, home / "dicom")
    prepared = prepare_run(load_run(sex_run), cohort, split="all", cache_folder=home / "cache")
    evaluate_run(prepared, home / "analysis")
    settings = AttributionSettings(max_nodes=17)
    methods = ("integrated_gradients", "gradient", "occlusion")
    return Explained(
        cohort,
        attribute_run(prepared, home / "analysis", methods=methods, layers=[], settings=settings),
    )

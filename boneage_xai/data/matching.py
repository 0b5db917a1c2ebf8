"""Matching label rows, or DICOM headers, to radiograph files and label maps of regions."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boneage_xai.data.dicom import dicom_header
from boneage_xai.data.dicom_child import MAX_CHRONOLOGICAL_AGE_MONTHS
from boneage_xai.data.folder_index import FolderIndex, ImageFolder, distinct_files
from boneage_xai.data.layouts import DICOM_SUFFIXES, LABEL_MAPS, ImageSet, folders_named
from boneage_xai.data.problems import Problem
from boneage_xai.data.tables import LabelRow, LabelTable, image_stem, strip_image_suffix
from boneage_xai.errors import DataError
from boneage_xai.types import Case, Sex

# Where label maps of hand regions may lie, below a folder that holds a set or its images.
REGION_FOLDERS = (LABEL_MAPS, f"regions/{LABEL_MAPS}")


@dataclass
class Matching:
    """What matching rows to files has found so far: problems, and the files that rows name."""

    problems: list[Problem] = field(default_factory=list)
    used: set[tuple[Path, str]] = field(default_factory=set)


def match_rows(
    index: FolderIndex, image_set: ImageSet, table: LabelTable, matching: Matching
) -> list[Case]:
    """Return the case of each row that has exactly one radiograph.

    Args:
        index: what the source holds.
        image_set: the folders of the table's radiographs.
        table: the rows; folders that a row itself names go before those of the set.
        matching: gets a problem for each row without case, and the files that rows name.
    """
    cases: list[Case] = []
    by_folder: dict[str, tuple[ImageFolder, ...]] = {"": image_set.folders}
    regions, outside = _RegionFinder(index, table.path.parent), _OutsideFinder()

    def candidates(image: str) -> list[tuple[ImageFolder, str]]:
        folder_name, _, name = image.rpartition("/")
        if _is_outside(image):
            return []
        if folder_name not in by_folder:
            by_folder[folder_name] = folders_named(index, table.path, folder_name)
        stem = image_stem(name)
        found = [(f, n) for f in by_folder[folder_name] for n in f.files.get(stem, ())]
        return [(f, n) for f, n in found if n == name] or found

    for image in table.refused_images:
        matching.used.update((f.path, n) for f, n in candidates(image))
    for row in table.rows:
        found = candidates(row.image)
        images = [f.path / n for f, n in found] or outside.find(table, row)
        matching.used.update((path.parent, path.name) for path in images)
        images = distinct_files(images) if len(images) > 1 else images
        if len(images) == 1:
            case = _case(row, images[0], regions, matching.problems)
            if case is not None:
                cases.append(case)
            continue
        if images:
            places = " and ".join(str(image) for image in images)
            kind, what = "ambiguous_image", f"could mean {places}, expected one image"
        else:
            where = ", ".join(str(f.path) for f in image_set.folders[:3]) or str(index.root)
            more = " and further folders" if len(image_set.folders) > 3 else ""
            kind, what = "missing_image", f"has no image {row.image!r} in {where}{more}"
        sentence = f"{table.path}: case {row.case_id} {what}"
        matching.problems.append(Problem(kind, "error", sentence, row.case_id, table.path))
    return cases


def _is_outside(image: str) -> bool:
    """Whether a row names its image by an absolute path or one that leaves the table's folder."""
    return image.startswith(("/", "../")) or Path(image).is_absolute()


def _case(
    row: LabelRow, image: Path, regions: _RegionFinder, problems: list[Problem]
) -> Case | None:
    """Return the case of a row, None with a problem when its DICOM header contradicts it."""
    chronological_age_months = row.chronological_age_months
    if image.suffix.lower() in DICOM_SUFFIXES:
        try:
            sex, age_months, _ = dicom_header(image)
        except DataError as error:
            problems.append(Problem("unreadable_file", "error", str(error), row.case_id, image))
            return None
        if sex is not None and sex is not row.sex:
            problems.append(sex_disagrees(row.case_id, image, row.sex, sex))
            return None
        if chronological_age_months is None:
            chronological_age_months = _possible_age(row.case_id, image, age_months, problems)
    return Case(
        case_id=row.case_id,
        image=image,
        sex=row.sex,
        bone_age_months=row.bone_age_months,
        chronological_age_months=chronological_age_months,
        region_file=regions.find(row.case_id, image.parent),
        attributes=row.attributes,
    )


def _possible_age(
    case_id: str, image: Path, age_months: float | None, problems: list[Problem]
) -> float | None:
    """Return the age of a DICOM header, None with a note where no child can have it."""
    if age_months is None or age_months <= MAX_CHRONOLOGICAL_AGE_MONTHS:
        return age_months
    sentence = (
        f"{image}: case {case_id} is {age_months:.0f} months old by its DICOM header, expected "
        f"at most {MAX_CHRONOLOGICAL_AGE_MONTHS:g}; read as unknown"
    )
    problems.append(Problem("impossible_age", "note", sentence, case_id, image))
    return None


def sex_disagrees(case_id: str, image: Path, in_table: Sex, in_file: Sex) -> Problem:
    """Return the problem of a DICOM header and a label table that state different sexes."""
    sentence = (
        f"{image}: case {case_id} has the sex {in_file.value} in its DICOM header, "
        f"expected {in_table.value} as in the label table"
    )
    return Problem("sex_disagrees", "error", sentence, case_id, image)


def match_headers(
    index: FolderIndex, folders: Sequence[ImageFolder], matching: Matching
) -> list[Case]:
    """Return a case per DICOM file; its header states the sex."""
    cases: list[Case] = []
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for stem, names in folder.files.items():
            matching.used.update((folder.path, name) for name in names)
            files[stem].extend(folder.path / name for name in names)
    regions = _RegionFinder(index, index.root)
    for case_id, paths in files.items():
        images = distinct_files(paths)
        image = images[0]

        def report(kind: str, sentence: str, case_id: str = case_id, image: Path = image) -> None:
            matching.problems.append(Problem(kind, "error", sentence, case_id, image))

        if not case_id.isprintable():
            # Control and direction marks would forge what a terminal or a page shows.
            report("missing_id", f"{image.parent}: expected a case id, found the file {case_id!r}")
            continue
        if len(images) > 1:
            places = " and ".join(str(path) for path in images)
            report("duplicate_id", f"case {case_id} is claimed by {places}, expected one file")
            continue
        try:
            sex, age_months, _ = dicom_header(image)
        except DataError as error:
            report("unreadable_file", str(error))
            continue
        if sex is None:
            report(
                "unknown_sex",
                f"{image}: case {case_id} has no PatientSex of M or F in its DICOM header",
            )
            continue
        cases.append(
            Case(
                case_id=case_id,
                image=image,
                sex=sex,
                chronological_age_months=_possible_age(
                    case_id, image, age_months, matching.problems
                ),
                region_file=regions.find(case_id, image.parent),
            )
        )
    return cases


def images_without_row(
    index: FolderIndex,
    kept: Sequence[ImageSet],
    sets: Sequence[ImageSet],
    matching: Matching,
    whole_source: bool,
) -> Iterator[Problem]:
    """Yield a note per image that no row names, and one per folder that no set has.

    Args:
        index: what the source holds.
        kept: the sets that were asked for.
        sets: all sets of the source.
        matching: the files that rows of ``sets`` name.
        whole_source: whether folders that no set has are reported too.
    """
    # A row may have named the file by another way to its folder.
    real = {folder: Path(os.path.realpath(folder)) for folder, _ in matching.used}
    used = {(real[folder], name) for folder, name in matching.used}
    reported = {folder.path for image_set in kept for folder in image_set.folders}
    owned = {folder.path for image_set in sets for folder in image_set.folders}
    for folder in index.image_folders:
        place = Path(os.path.realpath(folder.path))
        spare = [
            (stem, name)
            for stem, names in folder.files.items()
            for name in names
            if (place, name) not in used
        ]
        if not spare:
            continue
        if folder.path in reported:
            for stem, name in spare:
                sentence = f"{folder.path / name}: no row of a label table names this image"
                yield Problem("image_without_row", "note", sentence, stem, folder.path / name)
        elif folder.path not in owned and whole_source:
            images = "1 image" if len(spare) == 1 else f"{len(spare)} images"
            sentence = f"{folder.path}: no label table belongs to the {images} in this folder"
            yield Problem("image_without_row", "note", sentence, None, folder.path)


class _OutsideFinder:
    """Finds the files that rows mean by paths outside the table's folder; lists a folder once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, table: LabelTable, row: LabelRow) -> list[Path]:
        """Return the file of the name, else all that have it but for another image suffix."""
        if not _is_outside(row.image):
            return []
        named = Path(os.path.normpath(table.path.parent / row.image))
        if named.is_file():
            return [named]
        if named.parent not in self._names:
            stems: dict[str, list[str]] = defaultdict(list)
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(named.parent)):
                    if strip_image_suffix(name) != name:
                        stems[image_stem(name)].append(name)
            self._names[named.parent] = stems
        found = self._names[named.parent].get(image_stem(named.name), ())
        return [named.parent / name for name in found]


class _RegionFinder:
    """Finds the label map of a case; keeps which folders of label maps serve which images."""

    def __init__(self, index: FolderIndex, home: Path) -> None:
        self._index = index
        self._home = home
        self._by_folder: dict[Path, list[Path]] = {}

    def find(self, case_id: str, image_folder: Path) -> Path | None:
        """Return ``<case_id>.png`` in the nearest folder of label maps, None without one."""
        if not self._index.region_folders:
            return None
        if image_folder not in self._by_folder:
            bases = (image_folder, image_folder.parent, self._home, self._index.root)
            places = [base / name for base in bases for name in REGION_FOLDERS]
            self._by_folder[image_folder] = [p for p in places if p in self._index.region_folders]
        name = unicodedata.normalize("NFC", f"{case_id}.png")
        for folder in self._by_folder[image_folder]:
            if (stored := self._index.region_folders[folder].get(name)) is not None:
                return folder / stored
        return None

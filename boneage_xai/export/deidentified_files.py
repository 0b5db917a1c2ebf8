"""Copies of DICOM radiographs without identifiers, in a folder of their own."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
import pandas as pd
from pydicom import dcmwrite
from pydicom.dataset import FileDataset

from boneage_xai.data.dicom import READ_ERRORS, dicom_dataset, is_dicom, read_dicom
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.export.deidentification import Pseudonyms, deidentify
from boneage_xai.files import staged_file, staged_folder

SHORTEST_KEY_BYTES = 16
"""Shorter keys could be tried one by one."""

_DIRECTORY = "DICOMDIR"

BurnedIn = Literal["YES", "NO", "unstated"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Deidentified:
    """What became of a source.

    Args:
        copies: file below the source to the name of its copy.
        left_out: for every DICOM file without a copy, one sentence.
        n_other: files that are not DICOM, or only list others.
        burned_in: how many copies state that text is burned into the pixels, that none is, or
            nothing.
    """

    copies: Mapping[PurePath, str]
    left_out: tuple[str, ...]
    n_other: int
    burned_in: Mapping[BurnedIn, int]


def deidentify_files(
    source: Path,
    out: Path,
    *,
    key: bytes | None = None,
    keep_patient_characteristics: bool = False,
    mapping: Path | None = None,
    skip_problems: bool = False,
    progress: Progress | None = None,
) -> Deidentified:
    """Write copies of DICOM radiographs without what identifies the children.

    Args:
        source: a DICOM file, or a folder of any depth; links to folders are not followed.
        out: new folder; it is there only when all copies are.
        key: at least 16 bytes, for the same new UIDs and names at each call; None draws one that
            nobody keeps.
        keep_patient_characteristics: keep sex and age, see ``deidentify``.
        mapping: new table of files and the names of their copies; it identifies as the source does.
        skip_problems: leave out DICOM files that cannot be read as radiographs.
        progress: called with (done, total).

    Returns:
        The copies' names, which tell nothing, and what was left out. Every copy was read again and
        shows the same pixels at the same spacing.

    Raises:
        DataError: nothing to copy, a file that cannot be read as a radiograph, or one whose copy
            would show another picture.
        ConfigError: a key that is too short, or an output that exists or lies within the source.
    """
    if key is not None and len(key) < SHORTEST_KEY_BYTES:
        raise ConfigError(
            f"key: expected at least {SHORTEST_KEY_BYTES} bytes that nobody can guess, "
            f"found {len(key)}"
        )
    _refuse_places(source, out, mapping)
    files, n_other = _dicom_files(source)
    pseudonyms = Pseudonyms(secrets.token_bytes(32) if key is None else key)
    copies: dict[PurePath, str] = {}
    left_out: list[str] = []
    burned_in: dict[BurnedIn, int] = {"YES": 0, "NO": 0, "unstated": 0}
    with staged_folder(out) as staged:
        for number, file in enumerate(files):
            below = PurePath(file.relative_to(source) if source.is_dir() else file.name)
            copy = staged / pseudonyms.file_name(below)
            try:
                burned_in[_write_copy(file, copy, pseudonyms, keep_patient_characteristics)] += 1
                copies[below] = copy.name
            except DataError as error:
                if not skip_problems:
                    raise
                copy.unlink(missing_ok=True)
                left_out.append(str(error))
            if progress is not None:
                progress(number + 1, len(files))
        if not copies:
            raise DataError(f"{source}: expected DICOM radiographs, found none that can be read")
        if mapping is not None:
            _write_mapping(mapping, copies)
    return Deidentified(copies, tuple(left_out), n_other, burned_in)


def _refuse_places(source: Path, out: Path, mapping: Path | None) -> None:
    if not source.exists():
        raise DataError(f"{source}: expected a DICOM file or a folder of them, found nothing")
    inside = source.resolve()
    for name, path in (("copies", out), ("mapping", mapping)):
        if path is None:
            continue
        if path.exists():
            raise ConfigError(f"{path}: expected a new place for the {name}, found one that exists")
        if inside in path.resolve().parents:
            raise ConfigError(f"{path}: expected a place for the {name} outside of {source}")
    if mapping is not None and out.resolve() in mapping.resolve().parents:
        raise ConfigError(
            f"{mapping}: expected a place for the mapping outside of {out}, since it names the "
            "originals"
        )


def _dicom_files(source: Path) -> tuple[list[Path], int]:
    """Return the DICOM files of a source in order, and the number of its other files."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot list the folder ({error.strerror})") from error

    files, n_other = [], 0
    every = (
        [source]
        if source.is_file()
        else [
            Path(top, name) for top, _, names in os.walk(source, onerror=refuse) for name in names
        ]
    )
    for file in sorted(every):
        try:
            with file.open("rb") as stream:
                head = stream.read(132)
        except OSError as error:
            raise DataError(f"{file}: cannot read the file ({error.strerror})") from error
        if is_dicom(head) and file.name.upper() != _DIRECTORY:
            files.append(file)
        else:
            n_other += 1
    if not files:
        raise DataError(f"{source}: expected DICOM files, found {n_other} others")
    return files, n_other


def _write_copy(file: Path, copy: Path, pseudonyms: Pseudonyms, keep: bool) -> BurnedIn:
    """Write the copy of one radiograph, and read it again."""
    shown = read_dicom(file)
    dataset = dicom_dataset(file, with_pixels=True)
    for name in ("SOPClassUID", "SOPInstanceUID"):
        if not dataset.get(name):
            raise DataError(f"{file}: expected {name}, found none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = deidentify(dataset, pseudonyms, keep_patient_characteristics=keep)
            dcmwrite(copy, made, enforce_file_format=True)
            stated = _burned_in(made)
        except OSError:
            raise
        except READ_ERRORS as error:
            # What a header holds may name the patient.
            raise DataError(
                f"{file}: expected elements that can be written again, found damage"
            ) from error
    try:
        again = read_dicom(copy)
    except DataError as error:
        raise DataError(
            f"{file}: expected a copy that can be read, found one that cannot"
        ) from error
    if (
        not np.array_equal(again.pixels, shown.pixels)
        or again.pixel_spacing_mm != shown.pixel_spacing_mm
    ):
        raise DataError(
            f"{file}: expected a copy that shows the same pixels, found one that differs"
        )
    return stated


def _burned_in(dataset: FileDataset) -> BurnedIn:
    stated = str(dataset.get("BurnedInAnnotation", "") or "").strip().upper()
    return {"YES": "YES", "NO": "NO"}.get(stated, "unstated")  # type: ignore[return-value]


def _write_mapping(mapping: Path, copies: Mapping[PurePath, str]) -> None:
    rows = [{"source": below.as_posix(), "copy": name} for below, name in copies.items()]
    with staged_file(mapping, mode=0o600) as staged:
        pd.DataFrame(rows).to_csv(staged, index=False)

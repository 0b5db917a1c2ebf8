"""Copies of DICOM files without identifiers, as the tests ask for them."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset

from boneage_xai.export.deidentified_files import deidentify_files

KEY = b"sixteen bytes at least"


def copied(source: Path, out: Path, **options: bool) -> dict[str, FileDataset]:
    """Copy a source and return the copies by the stem of the original."""
    made = deidentify_files(source, out, key=KEY, **options)
    return {below.stem: pydicom.dcmread(out / name) for below, name in made.copies.items()}

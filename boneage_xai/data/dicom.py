"""Reading radiographs, sex and age from DICOM files."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from boneage_xai.data.codestreams import declared_shape, rle_length
from boneage_xai.data.dicom_child import MAX_CHRONOLOGICAL_AGE_MONTHS, age_months_of, sex_of
from boneage_xai.data.dicom_grey import first_number, grey
from boneage_xai.errors import DataError
from boneage_xai.types import Radiograph, Sex

MAX_PIXELS = 50_000_000
"""Images of more pixels are refused before they are decoded."""

MAX_FILE_BYTES = 400_000_000
"""Larger files are refused before they are read; a deflated one may unpack to a third."""

# Of a deflated object nobody knows how large it becomes before it has become so large.
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()

# What pydicom and its decoders raise on damaged files, one by one; a RuntimeError is also what they
# raise where they cannot decode at all.
READ_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


def is_dicom(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes may be DICOM.

    Args:
        head: the first 132 bytes of the file, or fewer.

    Returns:
        True for a DICOM preamble, or for a data set that begins without one.
    """
    if head[128:132] == b"DICM":
        return True
    # Without preamble a file begins with an element of group 0002 or 0008.
    if head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08") or len(head) < 8:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    order = ">" if head[0] == 0 else "<"
    element, length = struct.unpack(order + "HI", head[2:8])
    return explicit or (element < 0x2000 and length < 256)


def read_dicom(path: Path | str) -> Radiograph:
    """Read a DICOM radiograph as grey pixels in [0, 1], bone bright.

    Args:
        path: file to read.

    Returns:
        The radiograph with its pixel spacing, and the patient's sex and possible age where stated.
        Windowed images are scaled by the window's output range, others by the range of the
        stored bits; MONOCHROME1 is inverted; padding pixels become 0.

    Raises:
        DataError: not DICOM, no pixel data, several frames, or pixels that cannot be decoded.

    Source:
        DICOM PS3.3 2024, C.7.6.3 and C.11.
    """
    return _read(Path(path), None)


def decode_dicom(content: bytes, name: str = "the radiograph") -> Radiograph:
    """Read a DICOM radiograph that is held in memory, as ``read_dicom`` reads a file.

    Args:
        content: the bytes of the file.
        name: what errors call it; they repeat nothing that stands in the file.

    Raises:
        DataError: as for ``read_dicom``, and a deflated object.
    """
    if _DEFLATED in content:
        raise DataError(f"{name}: expected DICOM that is not deflated, found a deflated object")
    return _read(Path(name), content)


def _read(path: Path, content: bytes | None) -> Radiograph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _read_dataset(path, with_pixels=True, content=content)
        try:
            _refuse_by_header(path, dataset, discreet=content is not None)
            pixels = grey(dataset)
            spacing = _pixel_spacing_mm(dataset)
            sex, age_months = sex_of(dataset), age_months_of(dataset)
        except READ_ERRORS as error:
            reason = "" if content is not None else f" ({_reason(error)})"
            raise DataError(
                f"{path}: expected DICOM pixel data that decode, found damage{reason}"
            ) from (error if content is None else None)
    if not np.isfinite(pixels).all():
        raise DataError(f"{path}: expected finite pixels, found NaN or infinity")
    return Radiograph(
        pixels=pixels,
        source=path,
        pixel_spacing_mm=spacing,
        sex=sex,
        chronological_age_months=(
            None if age_months is None or age_months > MAX_CHRONOLOGICAL_AGE_MONTHS else age_months
        ),
    )


def _reason(error: Exception) -> str:
    return _printable(" ".join((str(error) or type(error).__name__).split()))


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def dicom_header(path: Path | str) -> tuple[Sex | None, float | None, str]:
    """Read sex and age from a DICOM file without touching its pixels.

    Args:
        path: file to read.

    Returns:
        Sex (None unless M or F), chronological age in months (None when absent), and the case
        id to use for the file when no table names it: its stem.

    Raises:
        DataError: not a DICOM file that can be read.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _read_dataset(path, with_pixels=False)
        try:
            return sex_of(dataset), age_months_of(dataset), path.stem
        except READ_ERRORS as error:
            raise DataError(
                f"{path}: expected a readable DICOM header, found damage ({error})"
            ) from error


def dicom_dataset(path: Path | str, *, with_pixels: bool = False) -> FileDataset:
    """Read all elements of a DICOM file, without its pixels unless they are asked for.

    Args:
        path: file to read.
        with_pixels: read the pixels, as they are stored, too.

    Raises:
        DataError: not a DICOM file that can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read_dataset(Path(path), with_pixels=with_pixels)


def _read_dataset(path: Path, *, with_pixels: bool, content: bytes | None = None) -> FileDataset:
    if content is None and path.is_dir():
        raise DataError(f"{path}: expected a DICOM file, found a folder")
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(132)
        if not is_dicom(head):
            raise DataError(f"{path}: expected a DICOM file, found another kind of file")
        if content is None and path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: expected a file of at most {MAX_FILE_BYTES / 1e6:.0f} MB, "
                f"found {path.stat().st_size / 1e6:.0f} MB"
            )
        dataset = _read_deflated(path, head) if content is None else None
        if dataset is None:
            dataset = pydicom.dcmread(
                path if content is None else io.BytesIO(content),
                stop_before_pixels=not with_pixels,
                force=head[128:] != b"DICM",
            )
        if head[128:] != b"DICM":
            _complete_bare_dataset(path, dataset)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a DICOM file, found none") from None
    except READ_ERRORS as error:
        # What a header holds may name the patient.
        reason = _reason(error) if content is None else "damage"
        raise DataError(f"{path}: expected a complete DICOM file, found {reason}") from (
            error if content is None else None
        )
    return dataset


def _read_deflated(path: Path, head: bytes) -> FileDataset | None:
    """Read a deflated object up to a size that pydicom would not heed, None for any other."""
    if head[128:] != b"DICM":
        return None
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    with path.open("rb") as file:
        # Behind the preamble and the element that states the length of the others.
        file.seek(len(head) + 12 + int(meta.FileMetaInformationGroupLength))
        content = unpacker.decompress(file.read(), MAX_FILE_BYTES // 3)
    if unpacker.unconsumed_tail:
        raise DataError(
            f"{path}: expected a deflated object of at most {MAX_FILE_BYTES / 3e6:.0f} MB, "
            "found a larger one"
        )
    if not unpacker.eof:
        raise EOFError("a deflated object that is cut off")
    elements = read_dataset(io.BytesIO(content), False, True)
    return FileDataset(path, elements, head[:128], meta, False, True)


def _complete_bare_dataset(path: Path, dataset: FileDataset) -> None:
    """Accept a file without preamble only as an image object, and name its encoding."""
    if "SOPClassUID" not in dataset or "Rows" not in dataset:
        raise DataError(
            f"{path}: expected a DICOM image, found no preamble and no image object either"
        )
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little_endian = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian
            if is_implicit
            else ExplicitVRLittleEndian
            if is_little_endian
            else ExplicitVRBigEndian
        )


def _refuse_by_header(path: Path, dataset: FileDataset, *, discreet: bool) -> None:
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        modality = "" if discreet else _printable(str(dataset.get("Modality", "") or "unknown"))
        why = f"modality {modality}, or cut off" if modality else "no image, or cut off"
        raise DataError(f"{path}: expected DICOM pixel data, found none ({why})")
    if "PixelData" not in dataset:
        raise DataError(f"{path}: expected integer DICOM pixels, found floating-point ones")
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if rows < 1 or columns < 1:
        raise DataError(f"{path}: expected an image with pixels, found {columns} x {rows}")
    if rows * columns > MAX_PIXELS:
        raise DataError(
            f"{path}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, found {columns} x {rows}"
        )
    if frames > 1:
        raise DataError(f"{path}: expected one DICOM frame, found {frames}")
    _refuse_surplus(path, dataset, rows, columns)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        # Decoders make room for what the compressed picture says of itself.
        shape = declared_shape(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if shape is not None and shape[0] * shape[1] > MAX_PIXELS:
            raise DataError(
                f"{path}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, found "
                f"{shape[0]} x {shape[1]}"
            )
        stated = (columns, rows, int(dataset.SamplesPerPixel))
        if shape is not None and shape != (columns, shape[1] and rows, stated[2]):
            raise DataError(
                f"{path}: expected a picture of {_picture(*stated)} as the header states, "
                f"found one of {_picture(*shape)}"
            )


def _picture(width: int, height: int, components: int) -> str:
    return f"{width} x {height} pixels and {components} component{'s' if components > 1 else ''}"


def _refuse_surplus(path: Path, dataset: FileDataset, rows: int, columns: int) -> None:
    """Refuse more pixels than the header states: decoders cut them off, or shear the picture."""
    syntax = dataset.file_meta.TransferSyntaxUID
    n_bytes = rows * columns * int(dataset.BitsAllocated) // 8
    if syntax == RLELossless:
        # A segment holds one byte of every pixel of one sample.
        found = rle_length(get_frame(dataset.PixelData, 0, number_of_frames=1))
        n_bytes = rows * columns
    elif syntax.is_encapsulated:
        return
    else:
        found = len(dataset.PixelData)
        n_bytes *= int(dataset.SamplesPerPixel)
        if dataset.PhotometricInterpretation == "YBR_FULL_422":
            n_bytes = n_bytes // 3 * 2
    # Some writers pad, but not by a row or a column.
    if found - n_bytes >= n_bytes // max(rows, columns):
        raise DataError(
            f"{path}: expected {n_bytes} bytes of pixels as {columns} x {rows} take, found {found}"
        )


def _pixel_spacing_mm(dataset: FileDataset) -> tuple[float, float] | None:
    spacing = _pair_mm(dataset.get("PixelSpacing"))
    if spacing is not None:
        return spacing
    # At the detector a hand is magnified; the factor brings it back to the plane of the hand.
    spacing = _pair_mm(dataset.get("ImagerPixelSpacing"))
    factor = first_number(dataset.get("EstimatedRadiographicMagnificationFactor"))
    if spacing is None or factor is None or factor <= 0:
        return spacing
    return spacing[0] / factor, spacing[1] / factor


def _pair_mm(value: Any) -> tuple[float, float] | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        return None
    row, column = float(value[0]), float(value[1])
    return (row, column) if row > 0 and column > 0 else None

"""Reading radiographs, sex and age from DICOM files.

The grey-scale chain is the standard's (PS3.3 C.11): stored values, modality transform, then the
first VOI LUT or window, then the photometric interpretation. Look-ups and windows are computed
here rather than by pydicom because they go straight to [0, 1], where a negative rescale slope
and an 8-bit table over 12-bit values need no special care.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from boneage_xai.data.codestreams import declared_size
from boneage_xai.data.dicom_child import age_months_of, sex_of
from boneage_xai.errors import DataError
from boneage_xai.types import FloatImage, Radiograph, Sex

MAX_PIXELS = 100_000_000
"""Images of more pixels are refused before they are decoded."""

# Of a deflated object nobody knows how large it becomes before it has become so large.
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()

FloatArray = npt.NDArray[np.float64]

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"

# What pydicom and its decoders raise on damaged files, one by one; a RuntimeError is also what they
# raise where they cannot decode at all.
_READ_ERRORS = (
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
        The radiograph with its pixel spacing, and the patient's sex and age where stated.
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
            pixels = _grey(dataset)
            spacing = _pixel_spacing_mm(dataset)
            sex, age_months = sex_of(dataset), age_months_of(dataset)
        except _READ_ERRORS as error:
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
        chronological_age_months=age_months,
    )


def _reason(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


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
        except _READ_ERRORS as error:
            raise DataError(
                f"{path}: expected a readable DICOM header, found damage ({error})"
            ) from error


def dicom_dataset(path: Path | str) -> FileDataset:
    """Read all elements of a DICOM file but its pixels.

    Args:
        path: file to read.

    Raises:
        DataError: not a DICOM file that can be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read_dataset(Path(path), with_pixels=False)


def _read_dataset(path: Path, *, with_pixels: bool, content: bytes | None = None) -> FileDataset:
    if content is None and path.is_dir():
        raise DataError(f"{path}: expected a DICOM file, found a folder")
    try:
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            head = file.read(132)
        if not is_dicom(head):
            raise DataError(f"{path}: expected a DICOM file, found another kind of file")
        dataset = pydicom.dcmread(
            path if content is None else io.BytesIO(content),
            stop_before_pixels=not with_pixels,
            force=head[128:] != b"DICM",
        )
        if head[128:] != b"DICM":
            _complete_bare_dataset(path, dataset)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a DICOM file, found none") from None
    except _READ_ERRORS as error:
        # What a header holds may name the patient.
        reason = _reason(error) if content is None else "damage"
        raise DataError(f"{path}: expected a complete DICOM file, found {reason}") from (
            error if content is None else None
        )
    return dataset


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
        modality = "" if discreet else str(dataset.get("Modality", "") or "unknown")
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
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        # Decoders make room for what the compressed picture says of itself.
        size = declared_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if size is not None and size[0] * size[1] > MAX_PIXELS:
            raise DataError(
                f"{path}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, found "
                f"{size[0]} x {size[1]}"
            )


def _grey(dataset: FileDataset) -> FloatImage:
    stored = pixel_array(dataset)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        return _luminance(stored, float(np.iinfo(stored.dtype).max))
    if stored.ndim == 3:
        return _luminance(stored, float(2 ** int(dataset.BitsStored) - 1))
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {photometric} is not supported")
    values, low, high = _modality_transform(stored, dataset)
    unit = _voi_transform(values, dataset)
    if unit is None:
        unit = (values - low) / (high - low)
    if photometric == "MONOCHROME1":
        unit = 1 - unit
    unit = np.where(_padding(stored, dataset), 0, unit)
    return np.clip(unit, 0, 1).astype(np.float32)


def _luminance(colour: npt.NDArray[Any], full_scale: float) -> FloatImage:
    return np.asarray(np.clip(colour @ _LUMINANCE / full_scale, 0, 1), dtype=np.float32)


def _modality_transform(
    stored: npt.NDArray[Any], dataset: FileDataset
) -> tuple[FloatArray, float, float]:
    """Return values after modality LUT or rescale, and the lowest and highest they can take."""
    if dataset.get("ModalityLUTSequence"):
        values, full_scale = _look_up(stored, dataset.ModalityLUTSequence[0], dataset)
        return values, 0.0, full_scale
    bits = int(dataset.BitsStored)
    signed = int(dataset.get("PixelRepresentation", 0) or 0) == 1
    limits = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    if slope == 0:
        raise ValueError("rescale slope is 0")
    limits = np.sort(limits * slope + intercept)
    return stored * slope + intercept, float(limits[0]), float(limits[1])


def _voi_transform(values: FloatArray, dataset: FileDataset) -> FloatArray | None:
    """Apply the first VOI LUT or window, scaled to [0, 1]; None when the file has neither."""
    if dataset.get("VOILUTSequence"):
        shown, full_scale = _look_up(values, dataset.VOILUTSequence[0], dataset)
        return shown / full_scale
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None:
        return None
    return window(values, centre, width, str(dataset.get("VOILUTFunction", "") or "LINEAR"))


def window(values: FloatArray, centre: float, width: float, function: str) -> FloatArray:
    """Map values through a DICOM window to [0, 1].

    Args:
        values: any shape, after the modality transform.
        centre: window centre.
        width: window width; at least 1 for LINEAR, above 0 for the others.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        Same shape, float64 in [0, 1].

    Raises:
        ValueError: an unknown function or an impossible width.

    Source:
        DICOM PS3.3 2024, C.11.2.1.2 and C.11.2.1.3.
    """
    function = function.upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOI LUT function {function} is not known")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"window width {width:g} is too small for {function}")
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - centre) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.asarray(values > centre, dtype=np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _look_up(values: npt.NDArray[Any], item: Any, dataset: FileDataset) -> tuple[FloatArray, float]:
    """Apply a LUT item; values beyond its ends take its end entries."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    # PS3.3 C.11.1.1: the first mapped value is signed when the pixels are, whatever its VR.
    if first >= 2**15 and int(dataset.get("PixelRepresentation", 0) or 0) == 1:
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        kind = "u1" if len(data) < 2 * entries else "u2"
        table = np.frombuffer(data, dtype=f"{order}{kind}", count=entries)
    else:
        table = np.atleast_1d(np.asarray(data))
    if len(table) < entries or entries < 1 or not 1 <= bits <= 16:
        raise ValueError(f"look-up table of {len(table)} entries, {entries} declared")
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return table.astype(np.float64)[index], float(2**bits - 1)


def _padding(stored: npt.NDArray[Any], dataset: FileDataset) -> npt.NDArray[np.bool_]:
    value = _first(dataset.get("PixelPaddingValue"))
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = _first(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers, None for an empty element."""
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    return float(value)


def _pixel_spacing_mm(dataset: FileDataset) -> tuple[float, float] | None:
    spacing = _pair_mm(dataset.get("PixelSpacing"))
    if spacing is not None:
        return spacing
    # At the detector a hand is magnified; the factor brings it back to the plane of the hand.
    spacing = _pair_mm(dataset.get("ImagerPixelSpacing"))
    factor = _first(dataset.get("EstimatedRadiographicMagnificationFactor"))
    if spacing is None or factor is None or factor <= 0:
        return spacing
    return spacing[0] / factor, spacing[1] / factor


def _pair_mm(value: Any) -> tuple[float, float] | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        return None
    row, column = float(value[0]), float(value[1])
    return (row, column) if row > 0 and column > 0 else None

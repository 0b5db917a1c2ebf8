"""From the stored values of a DICOM file to grey.

The grey-scale chain is the standard's (PS3.3 C.11): stored values, modality transform, then the
first VOI LUT or window, then the photometric interpretation. Look-ups and windows are computed
here rather than by pydicom because they go straight to [0, 1], where a negative rescale slope
and an 8-bit table over 12-bit values need no special care.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset
from pydicom.pixels.processing import apply_color_lut

from boneage_xai.data.pixel_decoding import stored_values
from boneage_xai.types import FloatImage

FloatArray = npt.NDArray[np.float64]

_STRIP_PIXELS = 2_000_000
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"


def grey(dataset: FileDataset) -> FloatImage:
    """Decode the pixels of a data set and turn them into grey.

    Returns:
        (H, W) in [0, 1], bone bright.

    Raises:
        ValueError: values, tables or windows that the standard does not allow, or a photometric
            interpretation that is not supported; pydicom raises others on damaged pixels.
    """
    # Unused bits of unsigned pixels are 0, else the header lies about the bits, or an overlay hides
    # there; pydicom would clear them. Signed ones need it to extend the sign.
    stored, _ = stored_values(dataset, correct_unused_bits=_is_signed(dataset))
    # In strips of rows: in float64 a whole film would take gigabytes.
    n_rows = max(1, _STRIP_PIXELS // max(1, stored.shape[1]))
    pixels = np.empty(stored.shape[:2], dtype=np.float32)
    for low in range(0, len(stored), n_rows):
        pixels[low : low + n_rows] = _grey_strip(stored[low : low + n_rows], dataset)
    return pixels


def _grey_strip(stored: npt.NDArray[Any], dataset: FileDataset) -> FloatImage:
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        return _luminance(stored, float(np.iinfo(stored.dtype).max))
    if stored.ndim == 3:
        _refuse_unused_bits(stored, dataset)
        return _luminance(stored, float(2 ** int(dataset.BitsStored) - 1))
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {photometric} is not supported")
    padding = padding_of(stored, dataset)
    _refuse_unused_bits(stored[~padding], dataset)
    values, low, high = _modality_transform(stored, dataset)
    unit = _voi_transform(values, dataset)
    if unit is None:
        unit = (values - low) / (high - low)
    if photometric == "MONOCHROME1":
        unit = 1 - unit
    unit = np.where(padding, 0, unit)
    return np.clip(unit, 0, 1).astype(np.float32)


def _is_signed(dataset: FileDataset) -> bool:
    return int(dataset.get("PixelRepresentation", 0) or 0) == 1


def _refuse_unused_bits(stored: npt.NDArray[Any], dataset: FileDataset) -> None:
    bits, highest = int(dataset.BitsStored), int(stored.max(initial=0))
    if highest >= 2**bits:
        raise ValueError(f"a pixel of {highest}, which {bits} bits stored cannot hold")


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
    signed = _is_signed(dataset)
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
    centre, width = (first_number(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
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
    if first >= 2**15 and _is_signed(dataset):
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


def padding_of(stored: npt.NDArray[Any], dataset: FileDataset) -> npt.NDArray[np.bool_]:
    """Return where stored values are the padding value, or in its range; they show nothing."""
    value = first_number(dataset.get("PixelPaddingValue"))
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = first_number(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def first_number(value: Any) -> float | None:
    """Return the first of one or several numbers, None for an empty element."""
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    return float(value)

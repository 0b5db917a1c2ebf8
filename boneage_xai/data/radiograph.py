"""Reading one radiograph file into grey pixels in [0, 1], whatever its format.

The format is told from the content, never from the file's name. Integer pixels are divided by
the range of their type (255 or 65535), also where a 16-bit file uses fewer bits: stretching the
contrast is preprocessing, and a reader that guessed the depth from the values would read the same
scanner's files differently.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from boneage_xai.data.dicom import decode_dicom, is_dicom, read_dicom
from boneage_xai.errors import DataError
from boneage_xai.types import FloatImage, Radiograph

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".dcm", ".dicom", ".dic"}
)
"""Suffixes (lower case) under which radiographs are looked for in a folder."""

MAX_PIXELS = 50_000_000
"""Images of more pixels are refused before they are decoded (a decompression bomb)."""

# Finding each page of a TIFF takes time, and there may be any number.
_MOST_PAGES_COUNTED = 100
_HEAD_BYTES = 132
_TIFF_BITS = 258
_TIFF_SAMPLES = 277
_TIFF_PLANES = 284
_TIFF_PLANES_APART = 2
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0

# What Pillow and its codecs raise on damaged files, one by one: nothing else may be swallowed.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombWarning,
)


def read_radiograph(path: Path | str) -> Radiograph:
    """Read one radiograph as grey pixels in [0, 1], bone bright.

    PNG, JPEG, WebP, TIFF and DICOM are recognised by their first bytes. Colour becomes
    luminance (ITU-R 601), transparent pixels become black, and an EXIF orientation is applied.

    Args:
        path: file to read.

    Returns:
        The radiograph, (H, W) float32 in [0, 1].

    Raises:
        DataError: no such file, not an image of these formats, damaged, more than one page or
            frame, more than ``MAX_PIXELS`` pixels, or values whose range is unknown.
    """
    path = Path(path)
    head = _read_head(path)
    if is_dicom(head):
        return read_dicom(path)
    return Radiograph(pixels=_read_raster(path, _known_format(path, head)), source=path)


def decode_radiograph(content: bytes, name: str = "the radiograph") -> Radiograph:
    """Read one radiograph that is held in memory, as ``read_radiograph`` reads a file.

    Nothing is written anywhere. Errors say what is wrong, but repeat nothing that stands in the
    header of a DICOM object, which may name the patient.

    Args:
        content: the bytes of the file.
        name: what errors call it.

    Returns:
        The radiograph, (H, W) float32 in [0, 1], whose source is ``name``.

    Raises:
        DataError: as for ``read_radiograph``.
    """
    path, head = Path(name), content[:_HEAD_BYTES]
    if not head:
        raise DataError(f"{path}: expected an image file, found an empty file")
    if is_dicom(head):
        return decode_dicom(content, name)
    return Radiograph(
        pixels=_read_raster(path, _known_format(path, head), content=content), source=path
    )


def _known_format(path: Path, head: bytes) -> str:
    file_format = _format_of(head)
    if file_format is None:
        raise DataError(
            f"{path}: expected a PNG, JPEG, WebP, TIFF or DICOM image, found {_describe(head)}"
        )
    return file_format


def _read_head(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: expected an image file, found a folder")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image file, found none") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a readable image file, found {error}") from error
    if not head:
        raise DataError(f"{path}: expected an image file, found an empty file")
    return head


def _format_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    return None


def _describe(head: bytes) -> str:
    for magic, name in (
        (b"GIF8", "a GIF image"),
        (b"BM", "a BMP image"),
        (b"%PDF", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"),
    ):
        if head.startswith(magic):
            return name
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "text"
    return f"a file that begins with bytes {head[:4].hex(' ')}"


def _read_raster(path: Path, file_format: str, *, content: bytes | None = None) -> FloatImage:
    """Decode a file, or its content where that is at hand."""
    try:
        # An open file, not its name: Pillow would map uncompressed TIFFs that it opens by name into
        # memory in the shape that they have after rotation. It also remarks on odd metadata; what
        # matters of it is checked here.
        with (
            warnings.catch_warnings(action="ignore"),
            path.open("rb") if content is None else io.BytesIO(content) as file,
            Image.open(file, formats=[file_format]) as image,
        ):
            _refuse_by_header(path, image, file_format)
            white_is_zero = _is_unhandled_white_is_zero(image)
            image.load()
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                ImageOps.exif_transpose(image, in_place=True)
            pixels = _grey(path, image, file_format)
    except Image.DecompressionBombError as error:
        # Pillow refuses the largest before their size can be asked for.
        raise DataError(
            f"{path}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, found many more"
        ) from error
    except _DECODE_ERRORS as error:
        reason = str(error) or type(error).__name__
        if content is not None and isinstance(error, UnidentifiedImageError):
            # Pillow would name the address of the buffer.
            reason = "no picture in it"
        raise DataError(
            f"{path}: expected a complete {file_format} image, found damage ({reason})"
        ) from error
    return np.subtract(np.float32(1), pixels) if white_is_zero else pixels


def _refuse_by_header(path: Path, image: Image.Image, file_format: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{path}: expected an image with pixels, found {width} x {height}")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, found {width} x {height}"
        )
    tags = getattr(image, "tag_v2", {})
    apart = tags.get(_TIFF_PLANES) == _TIFF_PLANES_APART and tags.get(_TIFF_SAMPLES, 1) > 1
    if apart and max(tags.get(_TIFF_BITS, (8,))) > 8:
        raise DataError(f"{path}: expected colours pixel by pixel, found deep planes of one each")
    # A JPEG of several pictures (MPO) holds previews beside the first, which is the radiograph.
    frames = _count_pages(image) if file_format != "JPEG" else 1
    if frames > 1:
        more = " or more" if frames == _MOST_PAGES_COUNTED else ""
        raise DataError(
            f"{path}: expected one {file_format} image, found {frames}{more} pages or frames"
        )


def _count_pages(image: Image.Image) -> int:
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    # A TIFF tells their number nowhere.
    for page in range(1, _MOST_PAGES_COUNTED):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return page
    return _MOST_PAGES_COUNTED


def _is_unhandled_white_is_zero(image: Image.Image) -> bool:
    """Whether Pillow hands out this TIFF as stored although its zero means white."""
    tags = getattr(image, "tag_v2", None)
    # Pillow inverts such images itself up to 8 bits, and leaves deeper ones as they are.
    return (
        tags is not None
        and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
        and image.mode not in ("1", "L")
    )


def _grey(path: Path, image: Image.Image, file_format: str) -> FloatImage:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and file_format == "PNG"):
        return _scaled(np.asarray(image), 65535)
    if mode == "F":
        return _unit_floats(path, np.asarray(image))
    if mode in ("I", "CMYK", "LAB", "HSV"):
        kind = "32-bit integers, whose range is unknown" if mode == "I" else f"{mode} colour"
        raise DataError(f"{path}: expected 8- or 16-bit grey or RGB pixels, found {kind}")
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        colour = image if mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", colour.size)
        image.paste(colour, mask=colour)
    elif mode == "P":
        # Straight to L would also do, but a palette of 16-bit origin rounds only once this way.
        image = image.convert("RGB")
    return _scaled(np.asarray(image if image.mode == "L" else image.convert("L")), 255)


def _scaled(pixels: npt.NDArray[np.generic], full_scale: int) -> FloatImage:
    return np.asarray(np.divide(pixels, np.float32(full_scale), dtype=np.float32))


def _unit_floats(path: Path, pixels: npt.NDArray[np.float32]) -> FloatImage:
    if not np.isfinite(pixels).all():
        raise DataError(f"{path}: expected finite pixels, found NaN or infinity")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise DataError(
            f"{path}: expected float pixels within [0, 1], found {low:g} to {high:g}, "
            "whose full scale is unknown"
        )
    return np.array(pixels, dtype=np.float32)

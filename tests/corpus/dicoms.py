"""Radiographs in DICOM: sound, odd, damaged and hostile."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from .items import Item, Picture, Plausible, Refused, damaged
from .phantom_pictures import stored, truth

_UID = "1.2.826.0.1.3680043.8.498.1"


def data_set(pixels: np.ndarray | None = None, bits: int = 12, **elements: Any) -> FileDataset:
    """Return a data set that shows the phantom, or other pixels, with elements of one's own."""
    pixels = stored(bits) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _UID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, _UID, "DX"
    ds.PatientSex, ds.PatientAge = "F", "010Y"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


def content_of(ds: FileDataset, syntax: str = ExplicitVRLittleEndian, **options: Any) -> bytes:
    """Return a data set as a file, in a syntax that pydicom can write."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
        dcmwrite(buffer, ds, enforce_file_format=True, **options)
    return buffer.getvalue()


def dicom_items() -> Iterator[Item]:
    """Yield every DICOM item."""
    sound = Picture(truth(12))
    for name, syntax, flipped in (
        ("explicit", ExplicitVRLittleEndian, Plausible()),
        ("implicit", ImplicitVRLittleEndian, Plausible()),
        ("deflated", DeflatedExplicitVRLittleEndian, Plausible()),
        ("rle", RLELossless, Plausible()),
        ("jpeg2000", JPEG2000Lossless, Plausible()),
    ):
        content = content_of(data_set(), syntax)
        yield Item("DICOM: sound", f"{name}.dcm", content, sound)
        yield from damaged("DICOM", name, ".dcm", content, sound, flipped)
    yield from _photometric()
    yield from _no_image()
    yield from _lies()
    yield from _syntaxes()
    yield from _bombs()
    yield from _odd_elements()


def _photometric() -> Iterator[Item]:
    family = "DICOM: photometric interpretation"
    exact = Picture(truth(12))
    inverse = data_set(4095 - stored(12), PhotometricInterpretation="MONOCHROME1")
    yield Item(family, "monochrome1.dcm", content_of(inverse), exact)
    colour = np.repeat(stored(8)[..., None], 3, axis=2)
    near = Picture(truth(8), most=0.01, mean=0.01)
    yield Item(family, "rgb.dcm", content_of(data_set(colour, 8)), near)
    planar = data_set(colour, 8, PlanarConfiguration=1)
    planar.PixelData = np.moveaxis(colour, 2, 0).tobytes()
    yield Item(family, "planar.dcm", content_of(planar), near)
    ybr = colour.copy()
    ybr[..., 1:] = 128
    content = content_of(data_set(ybr, 8, PhotometricInterpretation="YBR_FULL"))
    yield Item(family, "ybr.dcm", content, near)
    for wrong in ("RGB", "YBR_FULL", "PALETTE COLOR", "NEGATIVE", ""):
        name = f"grey-called-{wrong.replace(' ', '-') or 'nothing'}.dcm"
        content = content_of(data_set(PhotometricInterpretation=wrong))
        yield Item(family, name, content, refusal=Refused())
    for wrong in ("MONOCHROME2", "PALETTE COLOR", "HSV"):
        name = f"colour-called-{wrong.replace(' ', '-')}.dcm"
        content = content_of(data_set(colour, 8, PhotometricInterpretation=wrong))
        yield Item(family, name, content, near, Refused())
    for missing in ("PhotometricInterpretation", "SamplesPerPixel", "BitsStored", "Rows"):
        ds = data_set()
        del ds[missing]
        yield Item(family, f"without-{missing}.dcm", content_of(ds), exact, Refused())


def _no_image() -> Iterator[Item]:
    family = "DICOM: no single image"
    ds = data_set()
    del ds.PixelData
    yield Item(family, "no-pixels.dcm", content_of(ds), refusal=Refused("found none"))
    yield Item(family, "empty-pixels.dcm", content_of(data_set(PixelData=b"")), refusal=Refused())
    for frames in (2, 10, 10**6):
        ds = data_set(NumberOfFrames=frames)
        ds.PixelData *= min(frames, 10)
        name = f"frames-{frames}.dcm"
        yield Item(family, name, content_of(ds), refusal=Refused("one DICOM frame"))
    ds = data_set()
    ds.FloatPixelData = truth(12).tobytes()
    del ds.PixelData
    yield Item(family, "float.dcm", content_of(ds), refusal=Refused("integer"))
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = (
        "1.2.840.10008.5.1.4.1.1.88.11",
        _UID,
        "SR",
    )
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, report, enforce_file_format=True)
    yield Item(family, "report.dcm", buffer.getvalue(), refusal=Refused("SR"))
    yield Item(family, "preamble-alone.dcm", bytes(128) + b"DICM", refusal=Refused())
    whole = content_of(data_set())
    bare = whole[whole.index(b"\x08\0\x16\0") :]
    yield Item(family, "no-preamble.dcm", bare, Picture(truth(12)))
    yield Item(family, "no-preamble-meta.dcm", whole[132:], Picture(truth(12)))
    blank = bytes([255]) * 128 + whole[128:]
    yield Item(family, "odd-preamble.dcm", blank, Picture(truth(12)))


def _lies() -> Iterator[Item]:
    family = "DICOM: lying header"
    rows, columns = stored(12).shape
    for tag, value in (
        ("Rows", rows - 1),
        ("Rows", rows + 1),
        ("Rows", rows // 2),
        ("Rows", 2 * rows),
        ("Rows", 0),
        ("Rows", 65535),
        ("Columns", columns - 1),
        ("Columns", columns + 1),
        ("Columns", columns // 2),
        ("Columns", 0),
        ("Columns", 65535),
        ("BitsAllocated", 8),
        ("BitsAllocated", 32),
        ("BitsAllocated", 1),
        ("BitsAllocated", 0),
        ("BitsAllocated", 13),
        ("BitsStored", 8),
        ("BitsStored", 11),
        ("BitsStored", 0),
        ("BitsStored", 17),
        ("BitsStored", 60000),
        ("SamplesPerPixel", 3),
        ("SamplesPerPixel", 0),
        ("SamplesPerPixel", 4),
        ("PixelRepresentation", 2),
    ):
        for syntax in (ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless):
            # Compressed first, then lied about.
            ds = data_set()
            content_of(ds, syntax)
            setattr(ds, tag, value)
            name = f"{tag}-{value}-{_short(syntax)}.dcm"
            lies = _written(ds)
            yield Item(family, name, lies, Picture(truth(12)), Refused())
    swapped = data_set(Rows=columns, Columns=rows)
    name = "rows-and-columns-swapped.dcm"
    # The bytes fit; nothing in the file could tell.
    yield Item(family, name, content_of(swapped), Plausible(), Refused())
    whole = content_of(data_set())
    at = whole.index(b"\xe0\x7f\x10\0") + 8
    for length in (0, 1, 1000, 2**31, 2**32 - 2, 2**32 - 1):
        content = whole[:at] + struct.pack("<I", length) + whole[at + 4 :]
        yield Item(family, f"pixels-{length}.dcm", content, Picture(truth(12)), Refused())
    at = whole.index(b"\x08\0\x60\0CS") + 6
    for length in (0, 3, 65535):
        content = whole[:at] + struct.pack("<H", length) + whole[at + 2 :]
        name = f"modality-{length}.dcm"
        yield Item(family, name, content, Picture(truth(12)), Refused())
    for length in (0, 5, 10**6):
        content = whole[:140] + struct.pack("<I", length) + whole[144:]
        yield Item(family, f"meta-{length}.dcm", content, Picture(truth(12)), Refused())


def _short(syntax: str) -> str:
    return {ExplicitVRLittleEndian: "plain", JPEG2000Lossless: "j2k", RLELossless: "rle"}[syntax]


def _written(ds: FileDataset) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()


def _syntaxes() -> Iterator[Item]:
    family = "DICOM: transfer syntax"
    whole = content_of(data_set())
    old = ExplicitVRLittleEndian.encode()
    for name, uid in (
        ("private-philips", "1.3.46.670589.33.1.4.1"),
        ("private-ge", "1.2.840.113619.5.2"),
        ("unknown", "1.2.840.10008.1.2.4.999"),
        ("no-uid", "not a uid"),
        ("mpeg4", "1.2.840.10008.1.2.4.102"),
        ("jpip", "1.2.840.10008.1.2.4.94"),
        ("rle", RLELossless),
        ("jpeg2000", JPEG2000Lossless),
        ("implicit", ImplicitVRLittleEndian),
        ("big-endian", ExplicitVRBigEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
    ):
        ds = data_set()
        ds.file_meta.TransferSyntaxUID = old.decode()
        at = whole.index(old) - 2
        field = uid.encode() + b"\0" * (len(uid) % 2)
        was = struct.unpack("<H", whole[at : at + 2])[0]
        shift = len(field) - was
        group = struct.unpack("<I", whole[140:144])[0] + shift
        content = (
            whole[:140]
            + struct.pack("<I", group)
            + whole[144:at]
            + struct.pack("<H", len(field))
            + field
            + whole[at + 2 + was :]
        )
        yield Item(family, f"said-{name}.dcm", content, Picture(truth(12)), Refused())
    at = whole.index(b"\x02\0\x10\0UI")
    length = 8 + struct.unpack("<H", whole[at + 6 : at + 8])[0]
    group = struct.unpack("<I", whole[140:144])[0] - length
    unnamed = whole[:140] + struct.pack("<I", group) + whole[144:at] + whole[at + length :]
    yield Item(family, "unnamed.dcm", unnamed, Picture(truth(12)), Refused())


def _bombs() -> Iterator[Item]:
    family = "DICOM: decompression bomb"
    side = 7000
    black = Picture(np.zeros((side, side), dtype=np.float32))
    flat = data_set(np.zeros((8, 8), dtype=np.uint16), 16, Rows=side, Columns=side)
    run = b"\x81\0" * (side * side // 128) + b"\x81\0"
    header = struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13)
    flat.PixelData = encapsulate([header + run + run])
    flat["PixelData"].is_undefined_length = True
    yield Item(family, "black-rle.dcm", content_of_encoded(flat, RLELossless), black)
    inflating = content_of(
        data_set(np.zeros((side, side), dtype=np.uint16), 16), DeflatedExplicitVRLittleEndian
    )
    yield Item(family, "black-deflated.dcm", inflating, black)
    plain = content_of(data_set(), DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(b"\x08\0\x60\0UN\0\0" + struct.pack("<I", 2**31))
    for _ in range(400):
        bomb += packer.compress(bytes(10_000_000))
    bomb += packer.flush()
    yield Item(family, "deflated-4GB.dcm", plain[:start] + bomb, refusal=Refused())
    j2k = data_set()
    content_of(j2k, JPEG2000Lossless)
    stream = bytearray(j2k.PixelData)
    at = stream.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">2I", stream, at + 8, 60_000, 60_000)
    j2k.PixelData = bytes(stream)
    yield Item(family, "declared-j2k.dcm", _written(j2k), refusal=Refused("megapixels"))
    deep = content_of(data_set(np.zeros((side, side), dtype=np.uint16), 16))
    yield Item(family, "black-plain.dcm", deep, black)
    rgb = content_of(data_set(np.zeros((side, side, 3), dtype=np.uint8), 8))
    yield Item(family, "black-rgb.dcm", rgb, black)


def content_of_encoded(ds: FileDataset, syntax: str) -> bytes:
    """Return a data set whose pixels are compressed already."""
    ds.file_meta.TransferSyntaxUID = syntax
    return _written(ds)


def _odd_elements() -> Iterator[Item]:
    family = "DICOM: odd elements"
    exact = Picture(truth(12))
    changes: dict[str, Callable[[FileDataset], Any]] = {
        "slope-0": lambda ds: setattr(ds, "RescaleSlope", 0),
        "slope-nan": lambda ds: _raw(ds, "RescaleSlope", "DS", b"NaN "),
        "slope-text": lambda ds: _raw(ds, "RescaleSlope", "DS", b"steep "),
        "window-0": lambda ds: (setattr(ds, "WindowCenter", 5), setattr(ds, "WindowWidth", 0)),
        "window-text": lambda ds: (
            _raw(ds, "WindowCenter", "DS", b"wide"),
            _raw(ds, "WindowWidth", "DS", b"wide"),
        ),
        "window-huge": lambda ds: (
            _raw(ds, "WindowCenter", "DS", b"1e308 "),
            _raw(ds, "WindowWidth", "DS", b"1e308 "),
        ),
        "voi-function": lambda ds: (
            setattr(ds, "WindowCenter", 2048),
            setattr(ds, "WindowWidth", 4096),
            setattr(ds, "VOILUTFunction", "CURVED"),
        ),
        "empty-lut": lambda ds: setattr(ds, "VOILUTSequence", Sequence([Dataset()])),
        "lying-lut": lambda ds: setattr(ds, "VOILUTSequence", Sequence([_lut(4096, 10)])),
    }
    for name, change in changes.items():
        ds = data_set()
        change(ds)
        yield Item(family, f"{name}.dcm", _written(ds), Plausible(), Refused())
    for name, value in (
        ("sex-O", {"PatientSex": "O"}),
        ("sex-blank", {"PatientSex": ""}),
        ("age-text", {"PatientAge": "ten"}),
        ("age-long", {"PatientAge": "9" * 12 + "Y"}),
        ("birth-impossible", {"PatientAge": "", "PatientBirthDate": "20239999"}),
        ("spacing-0", {"PixelSpacing": [0, 0]}),
        ("spacing-one", {"ImagerPixelSpacing": [0.1]}),
        ("name-markup", {"PatientName": "<script>alert(1)</script>"}),
        ("charset", {"SpecificCharacterSet": "ISO_IR 999"}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Item(family, f"{name}.dcm", content_of(data_set(**value)), exact, Refused())
    nested = Dataset()
    for _ in range(150):
        outer = Dataset()
        outer.ReferencedSeriesSequence = Sequence([nested])
        nested = outer
    ds = data_set()
    ds.ReferencedSeriesSequence = Sequence([nested])
    yield Item(family, "nested-150.dcm", content_of(ds), exact, Refused())
    whole = content_of(data_set())
    at = whole.index(b"\xe0\x7f\x10\0")
    start = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    name = "nested-100000.dcm"
    yield Item(family, name, whole[:at] + start * 100_000, exact, Refused())
    first = whole.index(b"\x08\0\x16\0")
    many = b"".join(
        struct.pack("<HH2sHI", 9, 0x1000 + i % 0xE000, b"UL", 4, i) for i in range(50_000)
    )
    content = whole[:at] + many + whole[at:]
    yield Item(family, "private-elements.dcm", content, exact, Refused())
    yield Item(family, "repeated.dcm", whole[:at] + whole[first:], exact, Refused())


def _raw(ds: FileDataset, keyword: str, vr: str, value: bytes) -> None:
    """Set what pydicom would not: the element is written as these bytes."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
    ds._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _lut(entries: int, stored_entries: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 16])
    item.add_new("LUTData", "OW", bytes(2 * stored_entries))
    return item

"""DICOM files with JPEG and JPEG-LS inside: sound, damaged, and such as crash decoders."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless

from .dicoms import content_of, data_set
from .items import Item, Picture, Plausible, Refused, damaged
from .phantom_pictures import encoded, grey8, stored, truth


def codestream_items() -> Iterator[Item]:
    """Yield every item."""
    jpeg = encoded(grey8(), "JPEG", quality=95)
    for name, content, sound in (
        ("jpeg", _holding(jpeg), Picture(truth(8), most=0.25, mean=0.02)),
        ("jpeg-ls", content_of(data_set(), JPEGLSLossless), Picture(truth(12))),
    ):
        yield Item("DICOM: sound", f"{name}.dcm", content, sound)
        yield from damaged("DICOM", name, ".dcm", content, sound, Plausible())
    family = "DICOM: damaged codestream"
    for name, stream in {
        "png-inside": encoded(grey8(), "PNG"),
        "hollow-jpeg": b"\xff\xd8\xff\xd9",
    }.items():
        yield Item(family, f"{name}.dcm", _holding(stream), refusal=Refused())
    # Most of these make GDCM end its process.
    frame, codes, scan = (jpeg.index(bytes([0xFF, code])) for code in (0xC0, 0xC4, 0xDA))
    for name, stream in {
        "junk-before-frame": jpeg[:frame] + bytes(5) + jpeg[frame:],
        "half-codes": jpeg[: codes + 33] + jpeg[codes + 100 :],
        "codes-into-scan": jpeg[: codes + 33] + jpeg[codes + 60 : codes + 900],
        "no-scan-header": jpeg[:scan] + jpeg[scan + 10 :],
        **{
            f"without-{at}-{n}": jpeg[:at] + jpeg[at + n :]
            for at, n in ((12, 2), (17, 1), (101, 10), (118, 1), (126, 100), (132, 1))
        },
    }.items():
        yield Item(family, f"{name}.dcm", _holding(stream), Plausible(), Refused())


def _holding(stream: bytes) -> bytes:
    """Return a file that says it holds a JPEG."""
    ds = data_set(stored(8), 8, PixelData=encapsulate([stream]))
    ds["PixelData"].is_undefined_length = True
    return content_of(ds, JPEGBaseline8Bit)

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from boneage_xai.data.codestreams import declared_size
from boneage_xai.data.radiograph import decode_radiograph, read_radiograph
from boneage_xai.errors import DataError
from dicom_files import dataset, written

GREY = np.random.default_rng(0).integers(0, 256, (37, 52), dtype=np.uint8)


def _encoded(kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "stream",
    [
        _encoded("JPEG"),
        _encoded("JPEG", progressive=True, comment=b"long" * 90),
        _encoded("JPEG2000", no_jp2=True),
        _encoded("JPEG2000"),
    ],
)
def test_size_is_that_of_the_picture(stream: bytes) -> None:
    assert declared_size(stream) == (52, 37)
    assert declared_size(stream[:20]) is None


def test_what_is_no_codestream_has_no_size() -> None:
    assert declared_size(b"") is None
    assert declared_size(b"\x89PNG\r\n\x1a\n") is None


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_dicom_whose_codestream_is_far_larger_is_refused(tmp_path: Path, kind: str) -> None:
    stream = _encoded(kind, **({} if kind == "JPEG" else {"no_jp2": True}))
    if kind == "JPEG":
        huge = stream.replace(struct.pack(">2H", 37, 52), struct.pack(">2H", 65_000, 65_000))
    else:
        huge = stream.replace(struct.pack(">2I", 52, 37), struct.pack(">2I", 90_000, 90_000), 1)
    for content, is_huge in ((stream, False), (huge, True)):
        ds = dataset(GREY, bits=8)
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
        ds.PixelData = encapsulate([content])
        ds["PixelData"].is_undefined_length = True
        path = written(tmp_path / str(is_huge), ds)
        if is_huge:
            for read in (
                lambda p=path: read_radiograph(p),
                lambda p=path: decode_radiograph(p.read_bytes()),
            ):
                with pytest.raises(DataError, match="at most 50 megapixels"):
                    read()
        else:
            assert read_radiograph(path).pixels.shape == GREY.shape

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from boneage_xai.data.codestreams import declared_shape
from boneage_xai.data.radiograph import decode_radiograph, read_radiograph
from boneage_xai.errors import DataError
from dicom_files import dataset, written

GREY = np.random.default_rng(0).integers(0, 256, (37, 52), dtype=np.uint8)


def _encoded(kind: str, pixels: np.ndarray = GREY, **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def _compressed(path: Path, kind: str, stream: bytes, stated: np.ndarray = GREY) -> Path:
    ds = dataset(stated, bits=8)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    return written(path, ds)


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
    assert declared_shape(stream) == (52, 37, 1)
    assert declared_shape(stream[:20]) is None


def test_what_is_no_codestream_has_no_size() -> None:
    assert declared_shape(b"") is None
    assert declared_shape(b"\x89PNG\r\n\x1a\n") is None


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_dicom_whose_codestream_is_far_larger_is_refused(tmp_path: Path, kind: str) -> None:
    stream = _encoded(kind, **({} if kind == "JPEG" else {"no_jp2": True}))
    if kind == "JPEG":
        huge = stream.replace(struct.pack(">2H", 37, 52), struct.pack(">2H", 65_000, 65_000))
    else:
        huge = stream.replace(struct.pack(">2I", 52, 37), struct.pack(">2I", 90_000, 90_000), 1)
    for content, is_huge in ((stream, False), (huge, True)):
        path = _compressed(tmp_path / str(is_huge), kind, content)
        if is_huge:
            for read in (
                lambda p=path: read_radiograph(p),
                lambda p=path: decode_radiograph(p.read_bytes()),
            ):
                with pytest.raises(DataError, match="at most 50 megapixels"):
                    read()
        else:
            assert read_radiograph(path).pixels.shape == GREY.shape


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (GREY.T.copy(), "of 52 x 37 pixels and 1 component as .* one of 37 x 52 pixels"),
        (np.dstack([GREY] * 3), "1 component as .* found one of 52 x 37 pixels and 3 components"),
    ],
)
def test_dicom_whose_codestream_is_of_another_shape_is_refused(
    tmp_path: Path, kind: str, picture: np.ndarray, message: str
) -> None:
    stream = _encoded(kind, picture, **({} if kind == "JPEG" else {"no_jp2": True}))
    path = _compressed(tmp_path / "a", kind, stream)
    with pytest.raises(DataError, match=message):
        read_radiograph(path)

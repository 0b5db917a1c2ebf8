"""Copies show the same pixels as their originals, and hide nothing in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deidentified_copies import copied
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from boneage_xai.data.dicom import dicom_header, read_dicom
from boneage_xai.errors import DataError
from boneage_xai.export.deidentified_files import deidentify_files
from boneage_xai.types import Sex
from corpus.dicoms import content_of, data_set
from dicom_files import dataset, written

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)


def in_every_encoding() -> Iterator[tuple[str, bytes]]:
    """Yield grey and coloured radiographs, of an odd number of bytes, in every syntax."""
    odd = np.add.outer(np.arange(73), np.arange(49)).astype(np.uint8)
    colour = np.stack([odd, odd.max() - odd, odd // 2], axis=-1)
    for syntax in SYNTAXES:
        for name, pixels, bits, elements in (
            ("twelve-bits", None, 12, {"PhotometricInterpretation": "MONOCHROME1"}),
            ("odd", odd, 8, {"PixelSpacing": [0.1, 0.2]}),
            ("colour", colour, 8, {}),
        ):
            if syntax == RLELossless and pixels is not None:
                continue  # pydicom's encoder ends the process on rows of an odd length
            ds = data_set(pixels, bits, **elements)
            if syntax == ExplicitVRBigEndian and bits > 8:
                ds.PixelData = np.frombuffer(ds.PixelData, np.uint16).byteswap().tobytes()
            content = content_of(ds, syntax)
            yield f"{name}-{syntax.name.replace(' ', '')}.dcm", content


def test_copies_of_every_encoding_show_the_same_picture(tmp_path: Path) -> None:
    n_read = 0
    for name, content in in_every_encoding():
        file, out = tmp_path / name, tmp_path / f"{name}.out"
        file.write_bytes(content)
        shown = read_dicom(file)
        made = deidentify_files(file, out, keep_patient_characteristics=True)
        (copy_name,) = made.copies.values()
        again = read_dicom(out / copy_name)
        np.testing.assert_array_equal(again.pixels, shown.pixels, err_msg=name)
        assert again.pixel_spacing_mm == shown.pixel_spacing_mm
        assert dicom_header(out / copy_name)[:2] == (Sex.FEMALE, 120.0)
        n_read += 1
    assert n_read == 3 * len(SYNTAXES) - 2


def test_a_comment_inside_a_compressed_picture_does_not_stay(tmp_path: Path) -> None:
    ds = dataset()
    ds.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    (frame,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    # The comment of a JPEG 2000 stream goes behind its size marker, which is always first.
    behind = 4 + int.from_bytes(frame[4:6], "big")
    text = b"MARKcomment!"
    marked_frame = (
        frame[:behind] + b"\xff\x64" + (4 + len(text)).to_bytes(2, "big") + b"\0\1" + text
    ) + frame[behind:]
    shown = read_dicom(written(tmp_path / "plain.dcm", ds)).pixels
    ds.PixelData = pydicom.encaps.encapsulate([marked_frame])
    file = written(tmp_path / "hand.dcm", ds)
    np.testing.assert_array_equal(read_dicom(file).pixels, shown)
    made = deidentify_files(file, tmp_path / "out")
    (name,) = made.copies.values()
    assert b"MARK" in file.read_bytes()
    assert b"MARK" not in (tmp_path / "out" / name).read_bytes()
    np.testing.assert_array_equal(read_dicom(tmp_path / "out" / name).pixels, shown)


@pytest.mark.parametrize(("kind", "bits"), [(np.int16, 12), (np.int8, 7)])
def test_an_overlay_in_unused_bits_does_not_stay(
    tmp_path: Path, kind: type[np.signedinteger], bits: int
) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (40, 30)).astype(kind)
    hidden = rng.integers(0, 2, values.shape) << bits
    marked = ((values & (2**bits - 1)) | hidden).astype(kind)
    source = written(tmp_path / "hand.dcm", dataset(marked, bits=bits))
    (made,) = copied(source, tmp_path / "out").values()
    stored = np.frombuffer(made.PixelData, dtype=kind).reshape(values.shape)
    np.testing.assert_array_equal(stored, values)


def test_padding_stays_padding_and_tells_nothing_else(tmp_path: Path) -> None:
    pixels = np.full((40, 30), 700, dtype=np.uint16)
    pixels[:10] = 0x1000 + np.arange(30)
    ds = dataset(pixels, bits=12, PixelPaddingValue=0x1000, PixelPaddingRangeLimit=0x1FFF)
    source = written(tmp_path / "hand.dcm", ds)
    (made,) = copied(source, tmp_path / "out").values()
    stored = np.frombuffer(made.PixelData, dtype=np.uint16).reshape(pixels.shape)
    np.testing.assert_array_equal(stored, np.where(pixels > 0xFFF, 0x1000, pixels))


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3)])
def test_unused_bits_of_unsigned_pixels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 100, dtype=np.uint16)
    pixels[3, 4] |= 1 << 12
    elements = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    ds = dataset(pixels, bits=8, **(elements if len(shape) == 3 else {}))
    with pytest.raises(DataError, match="which 8 bits stored cannot hold"):
        deidentify_files(written(tmp_path / "hand.dcm", ds), tmp_path / "out")

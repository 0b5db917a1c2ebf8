"""Compressed DICOM pixels: another process decodes them, and its end costs one picture only."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from boneage_xai.data import pixel_decoding
from boneage_xai.data.dicom import read_dicom
from boneage_xai.errors import DataError
from dicom_files import STORED, dataset, written


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    compressed = dataset()
    compressed.compress(JPEG2000Lossless, generate_instance_uid=False)
    return written(tmp_path / "sound.dcm", compressed)


@pytest.fixture
def crashing(tmp_path: Path) -> Path:
    """A JPEG with five bytes too many before its frame header."""
    drawn = tmp_path / "drawn.jpg"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(drawn)
    stream = drawn.read_bytes()
    at = stream.index(b"\xff\xc0")
    pixels = np.zeros((64, 64), dtype=np.uint8)
    damaged = dataset(pixels, bits=8, PixelData=encapsulate([stream[:at] + bytes(5) + stream[at:]]))
    damaged["PixelData"].is_undefined_length = True
    damaged.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return written(tmp_path / "crashing.dcm", damaged)


def decoder() -> psutil.Process:
    """The process that decodes for this one."""
    return psutil.Process(pixel_decoding._decoders[os.getpid()].pid)


def test_a_picture_that_crashes_its_decoder_is_refused_and_the_next_one_read(
    sound: Path, crashing: Path
) -> None:
    expected = read_dicom(sound).pixels
    with pytest.raises(DataError, match=r"crashing\.dcm: .* found damage \(decoder crashed\)"):
        read_dicom(crashing)
    np.testing.assert_array_equal(read_dicom(sound).pixels, expected)


def test_one_process_decodes_all_pictures_and_another_takes_over_when_it_dies(sound: Path) -> None:
    read_dicom(sound)
    first = decoder()
    read_dicom(sound)
    assert decoder() == first
    first.send_signal(signal.SIGKILL)
    first.wait()
    read_dicom(sound)
    assert decoder() != first


def test_a_picture_that_takes_too_long_is_refused(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_decoding, "MOST_SECONDS", 0.0)
    with pytest.raises(DataError, match="decoding takes over 0 s"):
        read_dicom(sound)
    monkeypatch.undo()
    read_dicom(sound)


def _decoder_of(path: Path) -> int:
    read_dicom(path)
    return decoder().pid


def test_a_fork_has_a_decoder_of_its_own(sound: Path) -> None:
    read_dicom(sound)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_decoder_of, (sound,)) != decoder().pid


def test_what_was_stored_comes_back_in_its_own_type(sound: Path) -> None:
    values, interpretation = pixel_decoding.stored_values(
        pydicom.dcmread(sound), correct_unused_bits=False
    )
    np.testing.assert_array_equal(values, STORED)
    assert (values.dtype, interpretation) == (np.dtype(np.uint16), "MONOCHROME2")

"""DICOM pixels: transfer syntaxes, the grey-scale chain by hand, and damage."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from boneage_xai.data import dicom as module
from boneage_xai.data.dicom import dicom_header, read_dicom
from boneage_xai.data.dicom_grey import window
from boneage_xai.data.radiograph import decode_radiograph, read_radiograph
from boneage_xai.errors import DataError
from dicom_files import STORED, dataset, written


def _uncompressed(syntax: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        ds = dataset()
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax != ExplicitVRBigEndian:
            ds.save_as(path, enforce_file_format=True)
            return
        ds.PixelData = STORED.byteswap().tobytes()
        dcmwrite(path, ds, implicit_vr=False, little_endian=False, force_encoding=True)

    return write


def _compressed(syntax: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        ds = dataset()
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path, enforce_file_format=True)

    return write


def _by_gdcm(syntax: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        plain = written(path.with_suffix(".plain"), dataset())
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()

    return write


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_uncompressed(ExplicitVRLittleEndian), id="explicit"),
        pytest.param(_uncompressed(ImplicitVRLittleEndian), id="implicit"),
        pytest.param(_uncompressed(ExplicitVRBigEndian), id="big-endian"),
        pytest.param(_uncompressed(DeflatedExplicitVRLittleEndian), id="deflated"),
        pytest.param(_compressed(RLELossless), id="rle"),
        pytest.param(_compressed(JPEG2000Lossless), id="jpeg2000"),
        pytest.param(_by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14), id="jpeg-lossless"),
        pytest.param(_by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1), id="jpeg-lossless-sv1"),
        pytest.param(_by_gdcm(gdcm.TransferSyntax.JPEGLSLossless), id="jpeg-ls"),
    ],
)
def test_every_lossless_transfer_syntax_gives_the_stored_pixels(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "a.dcm")
    read = read_radiograph(tmp_path / "a.dcm")
    np.testing.assert_allclose(read.pixels, STORED / 4095, atol=1e-6)
    assert read.pixels.dtype == np.float32


def test_jpeg_baseline(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (16, 1))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, format="JPEG", quality=95)
    ds = dataset(smooth, bits=8)
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, smooth / 255, atol=0.02)


def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path: Path) -> None:
    two = read_dicom(written(tmp_path / "2", dataset())).pixels
    inverse = dataset(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    one = read_dicom(written(tmp_path / "1", inverse)).pixels
    np.testing.assert_allclose(one, 1 - two, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # c = 100, w = 101: linear is (x - 99.5) / 100 + 0.5, exact is (x - 100) / 101 + 0.5
        ("LINEAR", [0, 0.005, 0.505, 0.995, 1]),
        ("LINEAR_EXACT", [0, 0.5 - 50 / 101, 0.5, 0.5 + 49 / 101, 1]),
        ("SIGMOID", [1 / (1 + np.exp(-4 * (x - 100) / 101)) for x in (0, 50, 100, 149, 1000)]),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_window_functions_by_hand(
    tmp_path: Path, function: str, expected: list[float], several: bool
) -> None:
    pixels = np.array([[0, 50, 100, 149, 1000]], dtype=np.uint16)
    ds = dataset(pixels, VOILUTFunction=function)
    ds.WindowCenter = [100, 2000] if several else 100
    ds.WindowWidth = [101, 50] if several else 101
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, [expected], atol=1e-6)
    # pydicom's own, scaled from its output range 0 to 4095
    np.testing.assert_allclose(read, apply_voi_lut(pixels, ds) / 4095, atol=1e-6)


def test_a_window_of_width_one_is_a_step() -> None:
    np.testing.assert_array_equal(
        window(np.array([9.0, 10.0]), 10, 1, "LINEAR"), np.array([0.0, 1.0])
    )


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1000), (-1, 4095)])
def test_rescale_comes_before_the_window(tmp_path: Path, slope: int, intercept: int) -> None:
    pixels = np.array([[0, 500, 1000, 4095]], dtype=np.uint16)
    ds = dataset(pixels, RescaleSlope=slope, RescaleIntercept=intercept)
    values = pixels.astype(float) * slope + intercept
    whole = read_dicom(written(tmp_path / "a", ds)).pixels
    span = 4095 * abs(slope)
    np.testing.assert_allclose(whole, (values - min(intercept, 4095 * slope + intercept)) / span)
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 1000, 2000, "LINEAR_EXACT"
    read = read_dicom(written(tmp_path / "b", ds)).pixels
    np.testing.assert_allclose(read, np.clip(values / 2000, 0, 1), atol=1e-6)


def test_signed_pixels_use_the_signed_range(tmp_path: Path) -> None:
    pixels = np.array([[-2048, 0, 2047]], dtype=np.int16)
    read = read_dicom(written(tmp_path / "a", dataset(pixels))).pixels
    np.testing.assert_allclose(read, [[0, 2048 / 4095, 1]], atol=1e-6)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_an_eight_bit_voi_lut_over_twelve_bits(tmp_path: Path, vr: str) -> None:
    table = np.minimum(np.arange(4096) // 8, 255).astype(np.uint16)
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 8]
    item.add_new("LUTData", vr, table.tobytes() if vr == "OW" else table.tolist())
    item["LUTDescriptor"].VR = "US"
    ds = dataset(VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, table[STORED] / 255, atol=1e-6)


def test_modality_lut_clamps_beyond_its_ends(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [3, 10, 8]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "US", [51, 102, 255])
    item.ModalityLUTType = "US"
    pixels = np.array([[0, 10, 11, 12, 4000]], dtype=np.uint16)
    ds = dataset(pixels, ModalityLUTSequence=[item])
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, [[0.2, 0.2, 0.4, 1, 1]], atol=1e-6)


def test_padding_is_black_on_inverted_images_too(tmp_path: Path) -> None:
    pixels = np.array([[0, 5, 4095]], dtype=np.uint16)
    ds = dataset(pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, [[0, 1 - 5 / 4095, 0]], atol=1e-6)


def test_rgb_becomes_luminance(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (255, 0, 0), (80, 80, 80)
    ds = dataset(pixels, bits=8, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, [[0.299, 0], [0, 80 / 255]], atol=1e-6)


def test_palette_colour_is_looked_up(tmp_path: Path) -> None:
    pixels = np.array([[0, 1], [2, 2]], dtype=np.uint8)
    ds = dataset(pixels, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        data = np.array([65535, 0, 13107], dtype="<u2").tobytes()
        setattr(ds, f"{name}PaletteColorLookupTableData", data)
    read = read_dicom(written(tmp_path / "a", ds)).pixels
    np.testing.assert_allclose(read, [[1, 0], [0.2, 0.2]], atol=1e-5)


@pytest.mark.parametrize("implicit", [True, False])
def test_without_preamble(tmp_path: Path, implicit: bool) -> None:
    path = tmp_path / "a.dcm"
    bare = Dataset(dataset())
    bare.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_allclose(read_radiograph(path).pixels, STORED / 4095, atol=1e-6)


def _no_pixels(ds: FileDataset) -> None:
    del ds.PixelData
    ds.Modality = "SR"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_no_pixels, "found none .modality SR"),
        (lambda ds: setattr(ds, "NumberOfFrames", 3), "one DICOM frame, found 3"),
        (lambda ds: setattr(ds, "Rows", 0), "49 x 0"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:100]), "damage"),
        (lambda ds: delattr(ds, "Rows"), "49 x 0"),
        (lambda ds: delattr(ds, "PhotometricInterpretation"), "damage"),
        (lambda ds: setattr(ds, "PhotometricInterpretation", "ARGB"), "damage"),
        (lambda ds: ds.update({"WindowCenter": 5, "WindowWidth": 0}), "width 0 is too small"),
        (lambda ds: ds.update({"RescaleSlope": 0, "RescaleIntercept": 0}), "slope is 0"),
    ],
)
def test_unusable_dicom_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[FileDataset], object], found: str
) -> None:
    ds = dataset()
    change(ds)
    path = written(tmp_path / "a.dcm", ds)
    with pytest.raises(DataError, match=found) as caught:
        read_dicom(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


def test_a_dicom_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 50)
    with pytest.raises(DataError, match="megapixels, found 49 x 72"):
        read_dicom(written(tmp_path / "a", dataset()))


def test_a_file_too_large_to_be_one_image_is_refused_unread(tmp_path: Path) -> None:
    path = written(tmp_path / "a", dataset())
    with path.open("r+b") as file:
        file.truncate(400_000_001)
    for read in (read_dicom, dicom_header):
        with pytest.raises(DataError, match="at most 400 MB, found 400 MB"):
            read(path)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_uncompressed(ExplicitVRLittleEndian), id="explicit"),
        pytest.param(_uncompressed(DeflatedExplicitVRLittleEndian), id="deflated"),
        pytest.param(_compressed(RLELossless), id="rle"),
        pytest.param(_compressed(JPEG2000Lossless), id="jpeg2000"),
        pytest.param(_by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1), id="jpeg-lossless"),
    ],
)
def test_truncated_files_are_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    for keep in (140, 200, len(content) // 2, len(content) - 60):
        (tmp_path / "b").write_bytes(content[:keep])
        with pytest.raises(DataError):
            read_dicom(tmp_path / "b")


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_read_or_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", dataset(PatientAge="012Y", WindowCenter=100, WindowWidth=50))
    content = (tmp_path / "a").read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(132, len(damaged), 3):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "b").write_bytes(damaged)
        for read in (read_radiograph, dicom_header):
            with contextlib.suppress(DataError):
                read(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"\x08\x00 some text that begins like one " * 9])
def test_other_files_are_not_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError):
        read_dicom(tmp_path / "a")
    with pytest.raises(DataError):
        dicom_header(tmp_path / "a")


def test_the_file_is_left_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "a", dataset())
    before = path.read_bytes()
    read_dicom(path)
    assert path.read_bytes() == before
    assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN


def test_content_in_memory_is_read_as_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "hand", dataset(PatientSex="F", PixelSpacing=[0.2, 0.1]))
    held, read = decode_radiograph(path.read_bytes()), read_radiograph(path)
    np.testing.assert_array_equal(held.pixels, read.pixels)
    assert (held.sex, held.pixel_spacing_mm) == (read.sex, read.pixel_spacing_mm)


def test_errors_on_content_in_memory_repeat_nothing_of_the_header(tmp_path: Path) -> None:
    named = {"PatientName": "Doe^John", "PatientID": "77-SECRET", "PatientBirthDate": "20200101"}
    whole = written(tmp_path / "whole", dataset(**named)).read_bytes()
    strange = dataset(PhotometricInterpretation="SECRET", **named)
    other = written(tmp_path / "other", strange).read_bytes()
    without = dataset(Modality="SECRET", **named)
    del without.PixelData
    none = written(tmp_path / "none", without).read_bytes()
    for content in (whole[:600], other, none):
        with pytest.raises(DataError) as caught:
            decode_radiograph(content)
        assert not {"Doe", "SECRET", "2020"} & {
            word for word in ("Doe", "SECRET", "2020") if word in str(caught.value)
        }


def test_a_deflated_object_in_memory_is_refused(tmp_path: Path) -> None:
    ds = dataset()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = written(tmp_path / "deflated", ds)
    assert read_radiograph(path).pixels.shape == STORED.shape
    with pytest.raises(DataError, match="found a deflated object"):
        decode_radiograph(path.read_bytes())

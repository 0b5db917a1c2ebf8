"""Every raster format by its content, and every way a file can be wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile, TiffImagePlugin

from boneage_xai.data import radiograph as module
from boneage_xai.data.radiograph import decode_radiograph, read_radiograph
from boneage_xai.errors import DataError

GREY = np.array([[0, 10, 20, 30], [40, 128, 200, 220], [230, 240, 254, 255]], dtype=np.uint8)
UNIT = GREY / np.float32(255)
LEVELS_16 = np.array([[0, 1, 257], [4095, 32768, 65535]], dtype=np.uint16)


def _palette() -> Image.Image:
    # Palette entry k is grey 255 - k: indices must not be taken for levels.
    image = Image.fromarray(255 - GREY).convert("P")
    image.putdata((255 - GREY).ravel().tolist())
    image.putpalette([value for k in range(256) for value in (255 - k,) * 3])
    return image


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_eight_bit_modes_read_as_the_same_grey(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).convert(mode).save(path)
    read = read_radiograph(path)
    assert read.pixels.dtype == np.float32
    assert read.source == path
    np.testing.assert_allclose(read.pixels, UNIT, atol=1e-6)


def test_palette_entries_are_looked_up(tmp_path: Path) -> None:
    _palette().save(tmp_path / "a.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.png").pixels, UNIT, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / f"a{suffix}")
    read = read_radiograph(tmp_path / f"a{suffix}").pixels
    np.testing.assert_array_equal(read, (GREY > 127).astype(np.float32))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_is_scaled_by_its_type(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(LEVELS_16).save(tmp_path / f"a{suffix}")
    read = read_radiograph(tmp_path / f"a{suffix}").pixels
    np.testing.assert_allclose(read, LEVELS_16 / 65535, atol=1e-7)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    read = read_radiograph(tmp_path / "a.png").pixels
    np.testing.assert_allclose(read, [[0.299, 0.587]], atol=0.5 / 255)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    rgba = np.full((2, 2, 4), 200, dtype=np.uint8)
    rgba[..., 3] = [[0, 255], [255, 0]]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = read_radiograph(tmp_path / "a.png").pixels
    np.testing.assert_allclose(read, np.array([[0, 200], [200, 0]]) / 255, atol=1e-6)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_whose_zero_is_white_is_inverted(tmp_path: Path, depth: type) -> None:
    stored = np.array([[0, 1], [100, 250]], dtype=depth)
    full_scale = int(np.iinfo(depth).max)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    # Pillow inverts 8-bit pixels on writing such a file, and writes 16-bit ones as they are.
    handed = full_scale - stored if depth is np.uint8 else stored
    Image.fromarray(handed).save(tmp_path / "a.tif", tiffinfo=tags)
    assert stored.tobytes() in (tmp_path / "a.tif").read_bytes()
    expected = 1 - stored / full_scale
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.tif").pixels, expected, atol=1e-6)


def test_float_tiff_within_unit_range(tmp_path: Path) -> None:
    Image.fromarray(UNIT).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "a.tif").pixels, UNIT)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.array([[0, 4095]], dtype=np.float32), "0 to 4095"),
        (np.array([[-0.5, 1]], dtype=np.float32), "-0.5 to 1"),
        (np.array([[0, np.nan]], dtype=np.float32), "NaN"),
        (np.array([[0, np.inf]], dtype=np.float32), "infinity"),
        (np.array([[0, 70000]], dtype=np.int32), "32-bit integers"),
    ],
)
def test_tiff_of_unknown_range_is_refused(tmp_path: Path, pixels: np.ndarray, found: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=found):
        read_radiograph(tmp_path / "a.tif")


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 95}), (".webp", {})])
def test_lossy_formats_are_close(tmp_path: Path, suffix: str, options: dict[str, int]) -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    Image.fromarray(smooth).save(tmp_path / f"a{suffix}", **options)
    np.testing.assert_allclose(
        read_radiograph(tmp_path / f"a{suffix}").pixels, smooth / 255, atol=0.03
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_honoured(tmp_path: Path, suffix: str) -> None:
    upright = np.zeros((32, 16), dtype=np.uint8)
    upright[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90° clockwise for display
    stored = Image.fromarray(np.rot90(upright).copy())
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    np.testing.assert_allclose(
        read_radiograph(tmp_path / f"a{suffix}").pixels, upright / 255, atol=0.1
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_orientation_of_a_tiff_is_honoured(
    tmp_path: Path, orientation: int, compression: str, bits: int
) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(5).integers(0, 2**bits, (32, 16)).astype(kind)
    image = Image.fromarray(stored)
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={0x0112: orientation})
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: np.rot90(stored.T, 2),
        8: np.rot90(stored),
    }[orientation]
    content = (tmp_path / "a.tif").read_bytes()
    for read in (read_radiograph(tmp_path / "a.tif"), decode_radiograph(content)):
        np.testing.assert_allclose(read.pixels, turned / (2**bits - 1), atol=1e-6)


def test_one_deep_plane_is_grey(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 2**16, (20, 30)).astype(np.uint16)
    image = Image.fromarray(grey)
    image.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={284: 2})
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.tif").pixels, grey / 65535, atol=1e-6)


def test_deep_colours_in_planes_are_refused(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 2**16, (3, 20, 30)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", metadata=None
    )
    with pytest.raises(DataError, match="expected colours pixel by pixel, found deep planes"):
        read_radiograph(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a", "a.dcm", "a.txt"])
def test_the_name_does_not_matter(tmp_path: Path, name: str) -> None:
    Image.fromarray(GREY).save(tmp_path / name, format="TIFF")
    np.testing.assert_allclose(read_radiograph(tmp_path / name).pixels, UNIT, atol=1e-6)


def _text(path: Path) -> None:
    path.write_text("id,boneage,male\n1,120,True\n")


def _pages(path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])


def _animation(path: Path) -> None:
    pages = [Image.fromarray(GREY).convert("RGB"), Image.fromarray(255 - GREY).convert("RGB")]
    pages[0].save(path, format="WEBP", save_all=True, append_images=pages[1:])


def _cmyk(path: Path) -> None:
    Image.fromarray(GREY).convert("CMYK").save(path, format="JPEG")


def _gif(path: Path) -> None:
    Image.fromarray(GREY).save(path, format="GIF")


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda path: None, "found none"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.mkdir(), "a folder"),
        (_text, "found text"),
        (lambda path: path.write_bytes(b"\x00\xff\x01\xfe" * 9), "bytes 00 ff 01 fe"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "damage"),
        (_gif, "a GIF image"),
        (_pages, "2 pages"),
        (_animation, "2 pages or frames"),
        (_cmyk, "CMYK"),
    ],
)
def test_what_is_no_radiograph_is_refused_in_one_sentence(
    tmp_path: Path, write: Callable[[Path], object], found: str
) -> None:
    path = tmp_path / "4711.png"
    write(path)
    with pytest.raises(DataError, match=found) as caught:
        read_radiograph(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, file_format: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "a"
    Image.fromarray(noise).save(path, format=file_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match="damage"):
        read_radiograph(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_flipped_bytes_read_or_are_refused(tmp_path: Path, file_format: str) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(
        tmp_path / "a", format=file_format
    )
    content = (tmp_path / "a").read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(damaged), 400), 3):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "b").write_bytes(damaged)
        try:
            pixels = read_radiograph(tmp_path / "b").pixels
        except DataError:
            continue
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_a_decompression_bomb_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 11)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="megapixels, found 4 x 3"):
        read_radiograph(tmp_path / "a.png")


def test_what_pillow_refuses_as_a_bomb_is_told(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 20000, 20000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="at most 50 megapixels, found many more"):
        read_radiograph(tmp_path / "a.png")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("pattern", "step"), [("rsna-half-res/*.png", 5), ("rsna-299/*/*.jpg", 300)]
)
def test_real_radiographs_have_contrast(real_data: Path, pattern: str, step: int) -> None:
    files = sorted(real_data.glob(pattern))[::step]
    assert len(files) >= 20
    for file in files:
        pixels = read_radiograph(file).pixels
        assert min(pixels.shape) >= 299
        assert pixels.std() > 0.02
        assert 0 <= pixels.min() < 0.3
        assert pixels.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_content_in_memory_is_read_as_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hand{suffix}"
    grey = np.random.default_rng(0).integers(0, 256, (31, 22), dtype=np.uint8)
    Image.fromarray(grey).save(path)
    held = decode_radiograph(path.read_bytes())
    np.testing.assert_array_equal(held.pixels, read_radiograph(path).pixels)
    assert str(held.source) == "the radiograph"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an image file, found an empty file"),
        (b"<script>", "expected a PNG, JPEG, WebP, TIFF or DICOM image, found text"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "expected a complete PNG image, found damage"),
        (b"\xff\xd8\xff" + b"\0" * 200, "expected a complete JPEG image, found damage"),
    ],
)
def test_content_that_is_no_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode_radiograph(content)
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)

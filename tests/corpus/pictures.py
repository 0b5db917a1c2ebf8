"""Radiographs in PNG, JPEG, WebP and TIFF: sound, odd, damaged and hostile."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from .items import Item, Picture, Plausible, Refused, damaged
from .phantom_pictures import encoded, grey8, grey16, stored, truth

_LOSSY = {"most": 0.25, "mean": 0.02}


def picture_items() -> Iterator[Item]:
    """Yield every item that is no DICOM and no table."""
    exact, deep = Picture(truth(8)), Picture(truth(16))
    lossy = Picture(truth(8), **_LOSSY)
    sound = [
        ("png8", ".png", encoded(grey8(), "PNG"), exact, None),
        ("png16", ".png", encoded(grey16(), "PNG"), deep, None),
        ("jpeg", ".jpg", encoded(grey8(), "JPEG", quality=95), lossy, Plausible()),
        (
            "jpeg-progressive",
            ".jpg",
            encoded(grey8(), "JPEG", quality=95, progressive=True),
            lossy,
            Plausible(),
        ),
        ("webp", ".webp", encoded(grey8(), "WEBP", quality=95), lossy, Plausible()),
        ("webp-lossless", ".webp", encoded(grey8(), "WEBP", lossless=True), exact, Plausible()),
        ("tiff", ".tif", encoded(grey8(), "TIFF"), exact, Plausible()),
        ("tiff16", ".tif", encoded(grey16(), "TIFF"), deep, Plausible()),
        (
            "tiff-deflate",
            ".tif",
            encoded(grey8(), "TIFF", compression="tiff_adobe_deflate"),
            exact,
            Plausible(),
        ),
        (
            "tiff-lzw",
            ".tif",
            encoded(grey8(), "TIFF", compression="tiff_lzw"),
            exact,
            Plausible(),
        ),
    ]
    for stem, suffix, content, picture, flipped in sound:
        family = stem.partition("-")[0].rstrip("0123456789").upper()
        yield Item(f"{family}: sound", f"{stem}{suffix}", content, picture)
        yield from damaged(family, stem, suffix, content, picture, flipped)
    yield from _modes()
    yield from _shapes()
    yield from _rotated()
    yield from _misnamed()
    yield from _unusual_tiff()
    yield from _bombs()
    yield from _odd_chunks()


def _modes() -> Iterator[Item]:
    family = "raster: colour and depth"
    exact = Picture(truth(8))
    rounded = Picture(truth(8), most=1.01 / 255, mean=1.01 / 255)
    for mode in ("RGB", "RGBA", "LA", "P"):
        for file_format in ("PNG", "TIFF", "WEBP"):
            if file_format == "WEBP" and mode in ("LA", "P"):
                continue
            options = {"lossless": True} if file_format == "WEBP" else {}
            content = encoded(grey8().convert(mode), file_format, **options)
            yield Item(family, f"{mode}.{file_format.lower()}", content, rounded)
    rng = np.random.default_rng(5)
    order = rng.permutation(256)
    shuffled = Image.fromarray(np.argsort(order)[stored(8)].astype(np.uint8), "P")
    shuffled.putpalette(np.repeat(order, 3).astype(np.uint8).tobytes())
    yield Item(family, "shuffled-palette.png", encoded(shuffled, "PNG"), exact)

    half = np.full(stored(8).shape, 255, dtype=np.uint8)
    half[:, : half.shape[1] // 2] = 0
    seen = truth(8) * (half / 255).astype(np.float32)
    veiled = Image.merge("LA", (grey8(), Image.fromarray(half)))
    yield Item(family, "half-transparent.png", encoded(veiled, "PNG"), Picture(seen))
    bits = Image.fromarray(stored(8) > 127)
    yield Item(
        family, "one-bit.png", encoded(bits, "PNG"), Picture((stored(8) > 127).astype(np.float32))
    )
    cmyk = grey8().convert("CMYK")
    for file_format in ("JPEG", "TIFF"):
        yield Item(
            family,
            f"cmyk.{file_format.lower()}",
            encoded(cmyk, file_format),
            refusal=Refused("CMYK"),
        )
    yield Item(
        family,
        "lab.tif",
        encoded(Image.new("LAB", (8, 8)), "TIFF"),
        refusal=Refused("LAB"),
    )


def _shapes() -> Iterator[Item]:
    family = "raster: size and content"
    for width, height in ((1, 1), (1, 20000), (20000, 1), (2, 3)):
        values = (np.arange(width * height) % 256).astype(np.uint8).reshape(height, width)
        for file_format in ("PNG", "TIFF"):
            yield Item(
                family,
                f"{width}x{height}.{file_format.lower()}",
                encoded(Image.fromarray(values), file_format),
                Picture((values / 255).astype(np.float32)),
            )
    for level in (0, 255):
        flat = np.full((40, 30), level, dtype=np.uint8)
        for file_format, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif")):
            yield Item(
                family,
                f"all-{level}.{suffix}",
                encoded(Image.fromarray(flat), file_format),
                Picture((flat / 255).astype(np.float32), most=0.01, mean=0.01),
            )


def _rotated() -> Iterator[Item]:
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, 1),
    }
    for orientation, turn in turned.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        for file_format in ("PNG", "JPEG"):
            allowed = _LOSSY if file_format == "JPEG" else {}
            options = {"quality": 95} if file_format == "JPEG" else {}
            yield Item(
                "raster: EXIF rotated",
                f"turned-{orientation}.{file_format.lower()}",
                encoded(grey8(), file_format, exif=exif, **options),
                Picture(np.ascontiguousarray(turn(truth(8))), **allowed),
            )
    for number, damage in enumerate(
        (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" * 99)
    ):
        yield Item(
            "raster: EXIF rotated",
            f"broken-exif-{number}.jpg",
            encoded(grey8(), "JPEG", quality=95, exif=damage),
            Picture(truth(8), **_LOSSY),
            Refused(),
        )


def _misnamed() -> Iterator[Item]:
    family = "raster: wrong suffix"
    formats = {"png": "PNG", "webp": "WEBP", "tif": "TIFF"}
    for suffix in ("png", "jpg", "webp", "tif", "dcm", "bmp", "txt"):
        for inner, file_format in formats.items():
            options = {"lossless": True} if file_format == "WEBP" else {}
            if inner != suffix:
                content = encoded(grey8(), file_format, **options)
                yield Item(family, f"{inner}-named.{suffix}", content, Picture(truth(8)))
    for name, content, why in (
        ("text.png", b"this is no image", "found text"),
        ("page.png", b"<html><body>404</body></html>", "found text"),
        ("document.jpg", b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        ("archive.tif", b"PK\x03\x04" + bytes(60), "ZIP"),
        ("packed.png", b"\x1f\x8b\x08" + bytes(60), "gzip"),
        ("gif.png", encoded(grey8(), "GIF"), "GIF"),
        ("bmp.png", encoded(grey8(), "BMP"), "BMP"),
        ("zeros.png", bytes(4000), "begins with bytes"),
        ("zeros.dcm", bytes(4000), "begins with bytes"),
        ("one-byte.png", b"\x89", "expected a PNG"),
        ("empty.png", b"", "empty file"),
        ("empty.jpg", b"", "empty file"),
        ("empty.webp", b"", "empty file"),
        ("empty.tif", b"", "empty file"),
        ("empty.dcm", b"", "empty file"),
    ):
        yield Item(family, name, content, refusal=Refused(why))


def _unusual_tiff() -> Iterator[Item]:
    family = "TIFF: unusual"
    levels = truth(8)
    yield Item(family, "float.tif", encoded(Image.fromarray(levels), "TIFF"), Picture(levels))
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        spoilt = levels.copy()
        spoilt[3, 4] = value
        content = encoded(Image.fromarray(spoilt), "TIFF")
        yield Item(family, f"{name}.tif", content, refusal=Refused("finite"))
    for name, values in (("hounsfield", levels * 4000 - 1000), ("percent", levels * 100)):
        content = encoded(Image.fromarray(values), "TIFF")
        yield Item(family, f"{name}.tif", content, refusal=Refused("full scale is unknown"))
    whole = Image.fromarray(stored(8).astype(np.int32))
    yield Item(family, "int32.tif", encoded(whole, "TIFF"), refusal=Refused("32-bit"))
    for n in (2, 3, 50):
        pages = encoded(grey8(), "TIFF", save_all=True, append_images=[grey8()] * (n - 1))
        yield Item(family, f"pages-{n}.tif", pages, refusal=Refused(f"{n} pages"))
    yield Item(family, "many-pages.tif", _chain(100_000), refusal=Refused("pages"))
    yield Item(family, "looped.tif", _chain(3, loop=True), refusal=Refused())
    for file_format in ("PNG", "WEBP"):
        frames = encoded(
            grey8(), file_format, save_all=True, append_images=[Image.new("L", grey8().size)]
        )
        name = f"animated.{file_format.lower()}"
        yield Item(family, name, frames, refusal=Refused("2 pages or frames"))


def _chain(n: int, *, loop: bool = False) -> bytes:
    """Return a TIFF of n directories of one grey pixel each."""
    tags = ((256, 1), (257, 1), (258, 8), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1))
    body = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", t, 4, 1, v) for t, v in tags
    )
    size, first = len(body) + 4, 10
    nexts = [first + size * (i + 1) for i in range(n)]
    nexts[-1] = first if loop else 0
    return (
        b"II*\0"
        + struct.pack("<I", first)
        + b"\x80\0"
        + b"".join(body + struct.pack("<I", at) for at in nexts)
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, depth: int, colour: int, lines: bytes) -> bytes:
    """Return a PNG that declares a size, whatever its compressed lines hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", lines)
        + png_chunk(b"IEND", b"")
    )


def _bombs() -> Iterator[Item]:
    family = "raster: decompression bomb"
    for side in (10_001, 50_000, 100_000, 2**31 - 1):
        yield Item(
            family,
            f"declared-{side}.png",
            png_of(side, side, 8, 0, zlib.compress(bytes(1000))),
            refusal=Refused("megapixels"),
        )
    # Lines of filter byte and zeros, all alike: 64 MB to 250 MB out of some 100 kB.
    side = 7000
    for name, depth, colour, samples in (
        ("grey8", 8, 0, 1),
        ("grey16", 16, 0, 2),
        ("rgb", 8, 2, 3),
        ("rgba", 8, 6, 4),
        ("rgba16", 16, 6, 8),
    ):
        packer = zlib.compressobj(9)
        lines = b"".join(packer.compress(bytes(1 + samples * side)) for _ in range(side))
        content = png_of(side, side, depth, colour, lines + packer.flush())
        black = Picture(np.zeros((side, side), dtype=np.float32))
        yield Item(family, f"black-{name}.png", content, black)
    for file_format, suffix in (("JPEG", "jpg"), ("WEBP", "webp")):
        limit = 16383 if file_format == "WEBP" else 20000
        content = encoded(Image.new("L", (limit, limit // 2)), file_format)
        name = f"black-{limit}.{suffix}"
        yield Item(family, name, content, refusal=Refused("megapixels"))
    tiff = bytearray(_chain(1))
    struct.pack_into("<I", tiff, 10 + 2 + 8, 60_000)
    struct.pack_into("<I", tiff, 10 + 2 + 12 + 8, 60_000)
    yield Item(family, "declared.tif", bytes(tiff), refusal=Refused("megapixels"))
    struct.pack_into("<I", tiff, 10 + 2 + 8, 6_000)
    struct.pack_into("<I", tiff, 10 + 2 + 12 + 8, 6_000)
    yield Item(family, "hollow.tif", bytes(tiff), refusal=Refused("damage"))


def _odd_chunks() -> Iterator[Item]:
    family = "raster: hostile metadata"
    sound = encoded(grey8(), "PNG")
    bomb = zlib.compress(bytes(200_000_000))
    for kind, head in (
        (b"zTXt", b"note\0\0"),
        (b"iCCP", b"profile\0\0"),
        (b"iTXt", b"n\0\1\0\0\0"),
    ):
        content = sound[:33] + png_chunk(kind, head + bomb) + sound[33:]
        name = f"{kind.decode()}-bomb.png"
        yield Item(family, name, content, Picture(truth(8)), Refused())
    many = b"".join(png_chunk(b"tEXt", b"k%d\0v" % i) for i in range(20_000))
    yield Item(
        family, "many-texts.png", sound[:33] + many + sound[33:], Picture(truth(8)), Refused()
    )
    markup = PngImagePlugin.PngInfo()
    markup.add_text("Comment", "<script>alert(1)</script>\n\x1b[31m")
    yield Item(family, "markup.png", encoded(grey8(), "PNG", pnginfo=markup), Picture(truth(8)))
    jpeg = encoded(grey8(), "JPEG", quality=95)
    filler = b"\xff\xfe\xff\xff" + bytes(65533)
    padded = jpeg[:2] + filler * 300 + jpeg[2:]
    yield Item(family, "comments.jpg", padded, Picture(truth(8), **_LOSSY))
    trailing = sound + bytes(1_000_000)
    yield Item(family, "trailing.png", trailing, Picture(truth(8)), Refused())
    swapped = io.BytesIO(sound)
    swapped.seek(8)
    yield Item(
        family,
        "two-headers.png",
        sound[:33] + sound[8:33] + sound[33:],
        Picture(truth(8)),
        Refused(),
    )

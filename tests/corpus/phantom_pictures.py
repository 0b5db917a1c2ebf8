"""The phantom that every picture of the corpus shows, and the sound files made of it."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from boneage_xai.phantom.cohorts import draw_case, render_case
from boneage_xai.phantom.settings import PhantomSettings


@cache
def phantom() -> npt.NDArray[np.float64]:
    """Return (96, W) in [0, 1], of another width."""
    case = draw_case(7, seed=20)
    pixels = render_case(case, PhantomSettings(size_px=96)).pixels.astype(np.float64)
    return pixels[:, : pixels.shape[1] - pixels.shape[1] % 2]


def stored(bits: int) -> npt.NDArray[Any]:
    """Return the phantom as integers of so many bits."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.rint(phantom() * (2**bits - 1)).astype(dtype)


def truth(bits: int) -> npt.NDArray[np.float32]:
    """Return what a reader makes of ``stored(bits)`` at full scale."""
    return (stored(bits) / (2**bits - 1)).astype(np.float32)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def grey8() -> Image.Image:
    """Return the phantom as an 8-bit image."""
    return Image.fromarray(stored(8))


def grey16() -> Image.Image:
    """Return the phantom as a 16-bit image."""
    return Image.fromarray(stored(16))

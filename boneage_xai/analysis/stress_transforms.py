"""Changes of appearance that a radiograph may undergo before it reaches a network.

Each acts on the pixels as read, before preprocessing, so that what preprocessing tolerates counts
for the network. Seven families are those of Santomartino et al.; the rest are this toolkit's.
Every function returns a new float32 image in [0, 1] and is the identity at its neutral parameter.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from boneage_xai.errors import ConfigError
from boneage_xai.types import FloatImage

Corner = Literal["upper left", "upper right", "lower left", "lower right"]

MARKER_HEIGHT = 0.07
MARKER_MARGIN = 0.03
_NOISE_SEED = 0
_MID_GREY = np.float32(0.5)


def rotate(pixels: FloatImage, degrees: float) -> FloatImage:
    """Turn the hand within its frame, counter-clockwise, bilinearly; new corners are black.

    Quarter turns turn the frame as well and are exact.
    """
    if degrees % 90 == 0:
        return np.rot90(pixels, round(degrees / 90)).copy()
    return _turned(pixels, degrees, grown=False)


def rotate_plate(pixels: FloatImage, degrees: float) -> FloatImage:
    """Turn the whole plate counter-clockwise on a larger black frame, so that nothing is lost."""
    return pixels.copy() if degrees % 360 == 0 else _turned(pixels, degrees, grown=True)


def _turned(pixels: FloatImage, degrees: float, *, grown: bool) -> FloatImage:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    turned = picture.rotate(degrees, Image.Resampling.BILINEAR, expand=grown, fillcolor=0)
    return np.clip(np.asarray(turned, dtype=np.float32), 0, 1)


def flip(pixels: FloatImage, axis: Literal["none", "left-right", "up-down"]) -> FloatImage:
    """Mirror the image."""
    if axis == "none":
        return pixels.copy()
    return (pixels[:, ::-1] if axis == "left-right" else pixels[::-1]).copy()


def brighten(pixels: FloatImage, offset: float) -> FloatImage:
    """Add to every pixel and clip: what leaves [0, 1] is lost, as on a wrongly windowed image."""
    return np.asarray(np.clip(pixels + np.float32(offset), 0, 1))


def change_contrast(pixels: FloatImage, factor: float) -> FloatImage:
    """Multiply the distance of every pixel from mid-grey, and clip."""
    if factor == 1:
        return pixels.copy()
    return np.asarray(np.clip((pixels - _MID_GREY) * np.float32(factor) + _MID_GREY, 0, 1))


def invert(pixels: FloatImage, share: float = 1.0) -> FloatImage:
    """Mix the image with its negative: at 1 bone is dark, at 0 nothing changes."""
    return np.asarray(np.clip(pixels + np.float32(share) * (1 - 2 * pixels), 0, 1))


def append_marker(
    pixels: FloatImage, letter: str, corner: Corner, height: float = MARKER_HEIGHT
) -> FloatImage:
    """Write a bright laterality marker into a corner.

    Args:
        pixels: (H, W) in [0, 1].
        letter: L or R; anything that the font has.
        corner: where.
        height: of the letter, as a share of the longer side; 0 writes nothing.

    Returns:
        (H, W) with the letter at 1 where it covers the image.
    """
    longer = max(pixels.shape)
    size = round(height * longer)
    if size < 1:
        return pixels.copy()
    # Pillow's built-in font: letters are a third smaller than their nominal size.
    font = ImageFont.load_default(max(1.4 * size, 4.0))
    picture = Image.new("L", (pixels.shape[1], pixels.shape[0]), 0)
    draw = ImageDraw.Draw(picture)
    margin = round(MARKER_MARGIN * longer)
    at = (
        margin if corner.endswith("left") else pixels.shape[1] - margin,
        margin if corner.startswith("upper") else pixels.shape[0] - margin,
    )
    anchor = ("l" if corner.endswith("left") else "r") + (
        "t" if corner.startswith("upper") else "b"
    )
    draw.text(at, letter, fill=255, font=font, anchor=anchor, stroke_width=max(1, size // 16))
    cover = np.asarray(picture, dtype=np.float32) / np.float32(255)
    return np.asarray(np.maximum(pixels, cover))


def reduce_resolution(pixels: FloatImage, share: float) -> FloatImage:
    """Shrink the image to a share of its width and height, at least 8 pixels (area average)."""
    height, width = pixels.shape
    small = tuple(max(min(8, side), round(share * side)) for side in (width, height))
    if small == (width, height):
        return pixels.copy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.clip(np.asarray(picture.resize(small, Image.Resampling.BOX), np.float32), 0, 1)


def crop(pixels: FloatImage, share: float) -> FloatImage:
    """Cut a share of width and height away at each side; at least one pixel is left."""
    rows, columns = (min(round(share * side), (side - 1) // 2) for side in pixels.shape)
    height, width = pixels.shape
    return pixels[rows : height - rows, columns : width - columns].copy()


def compress(pixels: FloatImage, quality: int | None) -> FloatImage:
    """Store the image as 8-bit grey JPEG and read it again; None leaves it."""
    if quality is None:
        return pixels.copy()
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    with Image.open(io.BytesIO(buffer.getvalue())) as stored:
        return np.asarray(np.asarray(stored, dtype=np.float32) / np.float32(255))


def blur(pixels: FloatImage, share: float) -> FloatImage:
    """Blur with a Gaussian whose sd is a share of the longer side; edges are continued."""
    sigma_px = share * max(pixels.shape)
    if sigma_px <= 0:
        return pixels.copy()
    return np.asarray(np.clip(gaussian_filter(pixels, sigma_px, mode="nearest"), 0, 1))


def add_noise(pixels: FloatImage, sd: float) -> FloatImage:
    """Add white Gaussian noise of this sd, the same for images of the same size, and clip."""
    if sd == 0:
        return pixels.copy()
    noise = np.random.default_rng(_NOISE_SEED).standard_normal(pixels.shape, dtype=np.float32)
    return np.asarray(np.clip(pixels + np.float32(sd) * noise, 0, 1))


@dataclass(frozen=True)
class StressTransform:
    """One change of appearance.

    Args:
        family: changes of one kind share it.
        parameter: what is done, as it is shown to people, with its unit.
        apply: pixels (H, W) in [0, 1] to changed pixels, perhaps of another shape.
    """

    family: str
    parameter: str
    apply: Callable[[FloatImage], FloatImage]


def _table() -> Iterator[tuple[str, StressTransform]]:
    def entry(
        family: str, value: object, parameter: str, apply: Callable[[FloatImage], FloatImage]
    ) -> tuple[str, StressTransform]:
        name = f"{family}_{value}".replace(" ", "_").replace("-", "minus_")
        # A minus sign where a number is negative; the hyphen stays in words.
        return name, StressTransform(family, re.sub(r"^-(?=\d)", "−", parameter), apply)

    for degrees in (-30, -20, -10, 10, 20, 30, 45, 90, 180, 270):
        yield entry("rotation", degrees, f"{degrees:+d}°", partial(rotate, degrees=degrees))
    axis: Literal["left-right", "up-down"]
    for axis in ("left-right", "up-down"):
        yield entry("flip", axis.replace("-", "_"), axis, partial(flip, axis=axis))
    for percent in (-30, -20, -10, 10, 20, 30):
        change = partial(brighten, offset=percent / 100)
        yield entry("brightness", percent, f"{percent:+d}%", change)
    for percent in (25, 50, 75, 125, 150, 200):
        change = partial(change_contrast, factor=percent / 100)
        yield entry("contrast", percent, f"{percent}%", change)
    yield entry("inversion", 100, "negative", invert)
    corner: Corner
    for letter, corner in (
        ("L", "upper left"),
        ("R", "upper right"),
        ("R", "lower left"),
        ("L", "lower right"),
    ):
        change = partial(append_marker, letter=letter, corner=corner)
        yield entry("marker", f"{letter} {corner}", f"{letter}, {corner}", change)
    for divisor in (2, 4, 8, 16):
        change = partial(reduce_resolution, share=1 / divisor)
        yield entry("resolution", divisor, f"1/{divisor} of the side", change)
    for percent in (5, 10, 20):
        change = partial(crop, share=percent / 100)
        yield entry("crop", percent, f"{percent}% at each side", change)
    for degrees in (-15, 15, 45):
        change = partial(rotate_plate, degrees=degrees)
        yield entry("plate", degrees, f"{degrees:+d}°, frame grown", change)
    for quality in (50, 20, 10):
        yield entry("jpeg", quality, f"quality {quality}", partial(compress, quality=quality))
    for permille in (2, 5, 10):
        change = partial(blur, share=permille / 1000)
        yield entry("blur", permille, f"sd {permille}‰ of the side", change)
    for percent in (2, 5, 10):
        change = partial(add_noise, sd=percent / 100)
        yield entry("noise", percent, f"sd {percent}% of full scale", change)


STRESS_TRANSFORMS: Mapping[str, StressTransform] = dict(_table())
"""Every transform by name.

The first seven families hold 33, as in Santomartino et al., Radiology: Artificial Intelligence,
2024. Public text names the families and the number; the parameters within them are ours, and so
are the families after them: crop, plate, jpeg, blur and noise.
"""

PUBLISHED_FAMILIES = (
    "rotation",
    "flip",
    "brightness",
    "contrast",
    "inversion",
    "marker",
    "resolution",
)
"""Families of Santomartino et al., 2024."""


def chosen_transforms(names: Sequence[str] | None) -> dict[str, StressTransform]:
    """Return transforms by name or family, in the order of the table; None returns all.

    Raises:
        ConfigError: a name that is neither a transform nor a family, or no name.
    """
    if names is None:
        return dict(STRESS_TRANSFORMS)
    families = tuple(dict.fromkeys(one.family for one in STRESS_TRANSFORMS.values()))
    for name in names:
        if name not in STRESS_TRANSFORMS and name not in families:
            raise ConfigError(
                f"transform {name}: expected a family ({', '.join(families)}) or one of "
                f"{', '.join(STRESS_TRANSFORMS)}, found neither"
            )
    if not names:
        raise ConfigError("transforms: expected at least one, found none")
    wanted = set(names)
    return {
        name: one
        for name, one in STRESS_TRANSFORMS.items()
        if name in wanted or one.family in wanted
    }

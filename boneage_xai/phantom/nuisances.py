"""Nuisances of a radiograph: what differs between images and says nothing about age.

Each has its own random stream, derived from the seed and the nuisance's place in
``_STREAMS``; switching one off leaves the draws of all others as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field, Frame
from boneage_xai.phantom.skeleton import Pose
from boneage_xai.phantom.windows import Window

# The order is part of what a seed means: append only.
_STREAMS = (
    "pose",
    "framing",
    "texture",
    "exposure",
    "blur",
    "noise",
    "heel_effect",
    "collimation",
    "marker",
    "shape",
)

_NORMAL_ASPECT = 0.774
_INITIALS = "ABCDEFGHJKLMNPRSTW"


@dataclass(frozen=True)
class Framing:
    """How much the image shows: zoom (over 1 shows more), aspect, shift (shares of size)."""

    zoom: float = 1.0
    aspect: float = _NORMAL_ASPECT
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Exposure:
    """Tone and sharpness of the image.

    Args:
        soft: attenuation of soft tissue against its median, by the energy of the beam.
        bone: attenuation of bone likewise.
        scatter: scattered against direct radiation.
        enhancement: weight of the edge enhancement that image processing adds.
        edge_sd: width of what it takes for an edge, in shares of the image's longer side.
        window: attenuation shown as white, for an adult's hand.
        gamma: exponent of the tone curve.
        brightness: grey of the unattenuated beam.
        contrast: range of grey above it.
        blur_px: unsharpness of focus and detector at 256 pixels.
    """

    soft: float = 1.0
    bone: float = 1.0
    scatter: float = 0.0
    enhancement: float = 0.0
    edge_sd: float = 0.012
    window: float = 1.45
    gamma: float = 0.95
    brightness: float = 0.0
    contrast: float = 1.0
    blur_px: float = 0.45


@dataclass(frozen=True, eq=False)
class Irregularity:
    """What makes one hand's outlines unlike the next's; every field is (2H, 2W) float32.

    Args:
        shift_x: displacement of the bones along x, in shares of the image's longer side.
        shift_y: displacement along y.
        thickness: thickness of the soft tissue against an even one.
        reach: largest displacement.
    """

    shift_x: Field
    shift_y: Field
    thickness: Field
    reach: float


@dataclass(frozen=True)
class Marker:
    """A lead marker: its picture's upper left corner on the fine grid, and what it says."""

    left_px: int
    top_px: int
    letter_px: int
    initials: str
    turn_deg: float
    plate: float
    side: str = "L"


def stream(seed: int, nuisance: str) -> np.random.Generator:
    """Return the random stream of one nuisance.

    Args:
        seed: seed of the image.
        nuisance: name of its switch in ``PhantomSettings``.
    """
    key = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAMS.index(nuisance),))
    return np.random.default_rng(key)


def draw_pose(settings: PhantomSettings, seed: int) -> Pose:
    """Draw how the hand lies."""
    if not settings.pose:
        return Pose()
    rng = stream(seed, "pose")
    rotation = math.radians(float(np.clip(rng.normal(0, 8), -28, 28)))
    spread = float(np.clip(rng.normal(1.0, 0.25), 0.3, 1.6))
    fingers = np.radians(np.clip(rng.normal(0, 2.5, 5), -5, 5))
    bend = 1.0 - np.abs(rng.normal(0, 0.04, 5))
    thumb = math.radians(float(np.clip(rng.normal(0, 9), -22, 14)))
    forearm = math.radians(float(np.clip(rng.normal(0, 6), -14, 14)))
    return Pose(
        rotation,
        spread,
        tuple(fingers.tolist()),
        tuple(np.clip(bend, 0.86, 1.0).tolist()),
        thumb,
        forearm,
    )


def draw_framing(settings: PhantomSettings, seed: int) -> Framing:
    """Draw zoom, aspect and shift of the image."""
    if not settings.framing:
        return Framing()
    rng = stream(seed, "framing")
    zoom = float(np.exp(np.clip(rng.normal(-0.04, 0.16), -0.2, 0.6)))
    aspect = float(np.clip(rng.normal(_NORMAL_ASPECT, 0.1), 0.5, 1.2))
    shift = np.clip(rng.normal(0, (0.025, 0.035)), -0.08, 0.08)
    return Framing(zoom, aspect, (float(shift[0]), float(shift[1])))


def draw_exposure(settings: PhantomSettings, seed: int) -> Exposure:
    """Draw tone and unsharpness."""
    neutral = Exposure()
    tone = stream(seed, "exposure")
    blur = stream(seed, "blur")
    blur_px = float(blur.uniform(0.2, 0.65)) if settings.blur else neutral.blur_px
    if not settings.exposure:
        return Exposure(blur_px=blur_px)
    energy = float(tone.normal(0, 0.22))
    contrast = float(tone.uniform(0.55, 1.0))
    brightness = float(tone.uniform(0.0, 1.0) ** 3 * 0.35)
    return Exposure(
        soft=math.exp(0.5 * energy + float(tone.normal(0, 0.12))),
        bone=math.exp(energy),
        scatter=float(tone.uniform(0.0, 0.6)),
        enhancement=float(tone.uniform(0.0, 1.0) ** 1.5 * 1.8),
        edge_sd=float(tone.uniform(0.003, 0.013)),
        window=float(np.exp(tone.normal(math.log(1.45), 0.14))),
        gamma=float(np.exp(tone.normal(math.log(0.95), 0.25))),
        brightness=brightness,
        contrast=min(contrast, 1.0 - brightness),
        blur_px=blur_px,
    )


def heel_gradient(settings: PhantomSettings, seed: int, shape: tuple[int, int]) -> Field:
    """Return (H, W) or (1, 1) beam intensity relative to its mean."""
    if not settings.heel_effect:
        return np.ones((1, 1), dtype=np.float32)
    rng = stream(seed, "heel_effect")
    angle = float(rng.uniform(0, 2 * math.pi))
    strength = float(abs(rng.normal(0, 0.03)))
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :] * np.float32(math.cos(angle))
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] * np.float32(math.sin(angle))
    return np.exp(np.float32(strength) * (x + y)).astype(np.float32)


def noise_field(settings: PhantomSettings, seed: int, shape: tuple[int, int]) -> Field | None:
    """Return (H, W) quantum noise for unit intensity, None when off."""
    if not settings.noise:
        return None
    rng = stream(seed, "noise")
    sd = np.float32(np.exp(rng.normal(math.log(0.004), 0.6)))
    return rng.standard_normal(shape, dtype=np.float32) * sd


def irregularity(settings: PhantomSettings, seed: int, frame: Frame) -> Irregularity | None:
    """Draw a hand's own irregular outlines and tissue, None when off.

    Args:
        settings: which nuisances are on.
        seed: seed of the image.
        frame: the image's grid.
    """
    if not settings.shape:
        return None
    rng = stream(seed, "shape")
    amount = rng.uniform(0.6, 1.4)
    # Wave lengths of a palm, a finger and a joint; displacements in shares of the image.
    shifts = []
    for _ in range(2):
        shift = np.zeros((2 * frame.height_px, 2 * frame.width_px), dtype=np.float32)
        for cells, size in ((6, 0.0045), (16, 0.0016), (40, 0.0008)):
            shift += np.float32(amount * size) * _smooth_field(rng, cells, frame)
        shifts.append(shift)
    shift_x, shift_y = shifts
    thickness = np.float32(1) + np.float32(0.07) * _smooth_field(rng, 7, frame)
    reach = float(max(np.abs(shift_x).max(), np.abs(shift_y).max()))
    return Irregularity(shift_x, shift_y, np.maximum(thickness, np.float32(0.7)), reach)


def _smooth_field(rng: np.random.Generator, cells: int, frame: Frame) -> Field:
    """Return (2H, 2W) smooth noise of unit spread, the same in the overlap of two shapes."""
    size = 2 * max(frame.height_px, frame.width_px)
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    width, height = 2 * frame.width_px, 2 * frame.height_px
    box = (0.0, 0.0, (cells + 1) * width / size, (cells + 1) * height / size)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC, box)
    return np.asarray(smooth)


def texture_field(settings: PhantomSettings, seed: int, frame: Frame) -> Field | None:
    """Return relative density of bone on the grid twice as fine, None when off.

    Trabeculae of two sizes, two and three pixels; they follow no bone's direction.
    """
    if not settings.texture:
        return None
    rng = stream(seed, "texture")
    amount = np.float32(rng.uniform(0.05, 0.20))
    # The grain must not depend on the shape of the image: it is drawn for a full square.
    size = max(frame.height_px, frame.width_px)
    fine, coarse = rng.standard_normal((2, size, size), dtype=np.float32)
    grain = ndimage.uniform_filter(fine, 2) + 1.2 * ndimage.uniform_filter(coarse, 3)
    grain = grain[: frame.height_px, : frame.width_px]
    grain = np.maximum(np.float32(1) + amount * grain, np.float32(0.2))
    return np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)


def draw_marker(
    settings: PhantomSettings, seed: int, depth_mm: Field, frame: Frame, always: bool = False
) -> Marker | None:
    """Draw a marker and put it where it covers the hand least.

    Args:
        settings: which nuisances are on.
        seed: seed of the image.
        depth_mm: (2H, 2W) depth below the skin on the fine grid.
        frame: the image's grid.
        always: whether also the images that would have none get theirs.

    Returns:
        The marker, None when off or when this image has none.
    """
    if not settings.marker:
        return None
    rng = stream(seed, "marker")
    absent = rng.uniform() < 0.04
    letter = int(2 * frame.height_px * rng.uniform(0.055, 0.09))
    initials = "".join(rng.choice(list(_INITIALS), int(rng.integers(2, 4))).tolist())
    turn = float(rng.normal(0, 12) if rng.uniform() < 0.8 else rng.uniform(-80, 80))
    plate = float(rng.uniform(0.04, 0.22))
    places = rng.uniform(0.01, 0.99, (14, 2))
    places[:7, 0] *= 0.3
    if absent and not always:
        return None
    side = settings.side[0].upper()
    marker = Marker(0, 0, letter, initials, turn, plate, side)
    height, width = marker_field(marker).shape
    room = depth_mm.shape[0] - height, depth_mm.shape[1] - width
    if min(room) <= 0:
        return None
    best, least = (0, 0), math.inf
    for across, down in places:
        left, top = int(across * room[1]), int(down * room[0])
        covered = float(np.mean(depth_mm[top : top + height : 4, left : left + width : 4] > 0))
        if covered < least:
            best, least = (left, top), covered
    return replace(marker, left_px=best[0], top_px=best[1])


def marker_field(marker: Marker) -> Field:
    """Return (h, w) in [0, 1] how much of the beam the marker takes: letters 1, plate less."""
    return _marker_picture(
        marker.letter_px, marker.initials, marker.turn_deg, marker.plate, marker.side
    )


def marker_window(marker: Marker) -> Window:
    """Return rows and columns of a marker's picture on the fine grid."""
    height, width = marker_field(marker).shape
    return (
        slice(marker.top_px, marker.top_px + height),
        slice(marker.left_px, marker.left_px + width),
    )


@lru_cache(maxsize=8)
def _marker_picture(
    letter_px: int, initials: str, turn_deg: float, plate: float, side: str
) -> Field:
    width, height = int(1.1 * letter_px), int(1.75 * letter_px)
    picture = Image.new("L", (width, height), round(255 * plate))
    draw = ImageDraw.Draw(picture)
    bar = max(2, round(0.19 * letter_px))
    left, top = round(0.27 * letter_px), round(0.14 * letter_px)
    draw.rectangle((left, top, left + bar, top + letter_px), fill=255)
    foot = round(0.6 * letter_px)
    if side == "L":
        draw.rectangle((left, top + letter_px - bar, left + foot, top + letter_px), fill=255)
    else:
        half = top + letter_px // 2
        bowl = (left, top, left + foot, half + bar // 2)
        draw.rounded_rectangle(bowl, radius=bar, outline=255, width=bar)
        draw.line((left + bar, half, left + foot, top + letter_px), fill=255, width=bar)
    font = ImageFont.load_default(max(6.0, 0.42 * letter_px))
    draw.text((0.2 * letter_px, 1.2 * letter_px), initials, fill=255, font=font)
    turned = picture.rotate(turn_deg, Image.Resampling.BILINEAR, expand=True)
    field = np.asarray(turned, dtype=np.float32) / np.float32(255)
    field.setflags(write=False)
    return field

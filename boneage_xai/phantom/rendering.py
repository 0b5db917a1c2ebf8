"""A hand on film: bones and soft tissue projected, exposed and disturbed as radiographs are.

Rays are attenuated by the thickness they meet (Beer-Lambert), the image shows the attenuation
through the detector's tone curve. Every nuisance draws from a random stream of its own that
is derived from the seed, so two renderings that share a seed differ only in what was asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from boneage_xai import anatomy
from boneage_xai.anatomy import REGION_LABELS, REGION_NAMES
from boneage_xai.phantom.growth import Hand, maturities
from boneage_xai.phantom.nuisances import (
    Exposure,
    Framing,
    Irregularity,
    Marker,
    collimate,
    draw_collimation,
    draw_exposure,
    draw_framing,
    draw_marker,
    draw_pose,
    heel_gradient,
    irregularity,
    marker_field,
    noise_field,
    texture_field,
)
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field, Frame, locate, mineral_mm
from boneage_xai.phantom.skeleton import Landmark, Skeleton, build_skeleton
from boneage_xai.phantom.soft_tissue import soft_tissue
from boneage_xai.types import FloatImage, LabelImage, RegionMap

# Attenuation at hand-film energies, per mm: soft tissue, cortical bone beyond soft tissue.
_SOFT_PER_MM = 0.0175
_BONE_PER_MM = 0.060
_MARKER_ATTENUATION = 1.9
_FINER = 2
# Gaussians of scattered radiation and of the edge enhancement, in shares of the longer side.
_SCATTER_SPREAD = 0.06
_ENHANCED_SPREAD = 0.012
# Height of the image in mm for an adult man's hand, and where its carpus lies.
_IMAGE_HEIGHT_MM = 292.0
_CARPUS_AT = (0.495, 0.695)


@dataclass(frozen=True)
class RegionBox:
    """The box that a reader would draw around a joint, the wrist or a forearm bone.

    Args:
        region: ``DIP``, ``PIP``, ``MCP``, ``wrist``, ``radius`` or ``ulna``.
        finger: 1 to 5, None for wrist and forearm.
        x_px: x of the centre.
        y_px: y of the centre.
        width_px: width.
        height_px: height.
    """

    region: str
    finger: int | None
    x_px: float
    y_px: float
    width_px: float
    height_px: float


@dataclass(frozen=True, eq=False)
class PhantomImage:
    """One rendered radiograph with the truth about its regions.

    Args:
        pixels: (H, W) float32 in [0, 1], bone bright.
        regions: (H, W) labels on the same grid, see ``anatomy.REGION_NAMES``.
        boxes: joints, wrist and distal forearm bones.
        mm_per_px: size of a pixel in the plane of the hand.
    """

    pixels: FloatImage
    regions: RegionMap
    boxes: tuple[RegionBox, ...]
    mm_per_px: float


def render(
    hand: Hand,
    settings: PhantomSettings | None = None,
    seed: int = 0,
    region_ages: Mapping[str, float] | None = None,
) -> PhantomImage:
    """Draw the radiograph of a hand.

    Args:
        hand: the individual, which sets size and shape.
        settings: size and nuisances, the default includes all.
        seed: of the nuisances.
        region_ages: region name to age in months for regions whose ossification is moved
            away from the hand's own age; size and everything else stay.

    Returns:
        Pixels, label map and boxes.

    Raises:
        ConfigError: a region without ossification centres, or an age that is negative.
    """
    settings = settings or PhantomSettings()
    skeleton = build_skeleton(hand, maturities(hand, region_ages), draw_pose(settings, seed))
    framing = draw_framing(settings, seed)
    frame = _frame(skeleton, framing, settings.size_px)
    fine = frame.finer(_FINER)

    depth, thickness = soft_tissue(hand, skeleton, fine)
    uneven = irregularity(settings, seed, frame)
    if uneven is not None:
        thickness = thickness * uneven.thickness
    texture = texture_field(settings, seed, frame)
    mineral, labels = _draw_bones(skeleton, fine, depth, texture, uneven)
    exposure = draw_exposure(settings, seed)
    attenuation = (exposure.soft * _SOFT_PER_MM) * thickness
    attenuation += (exposure.bone * _BONE_PER_MM) * mineral
    marker = draw_marker(settings, seed, depth, frame)
    if marker is not None:
        _add_marker(attenuation, labels, marker)
    pixels = _expose(attenuation, exposure, settings, seed, _room(skeleton, frame))
    return PhantomImage(
        pixels=pixels,
        regions=RegionMap(_coarse_labels(labels), dict(REGION_NAMES)),
        boxes=tuple(_box(landmark, frame) for landmark in skeleton.landmarks),
        mm_per_px=frame.mm_per_px,
    )


def _frame(skeleton: Skeleton, framing: Framing, size_px: int) -> Frame:
    """Return the grid that shows the whole hand, fingers up."""
    height_mm = _IMAGE_HEIGHT_MM * skeleton.scale * framing.zoom
    width_mm = height_mm * framing.aspect
    tips = [point for ray in skeleton.rays.values() for point in ray]
    margin = 13.0 * skeleton.scale
    x_at = _CARPUS_AT[0] + framing.shift[0]
    y_at = _CARPUS_AT[1] + framing.shift[1]
    # Nobody cuts fingers off on purpose: the plate grows with the reach of the hand.
    reach_left = margin - min(x for x, _ in tips)
    reach_right = margin + max(x for x, _ in tips)
    reach_up = margin + max(y for _, y in tips)
    width_mm = max(width_mm, reach_left / x_at, reach_right / (1 - x_at))
    height_mm = max(height_mm, reach_up / y_at)
    mm_per_px = max(height_mm, width_mm) / size_px
    # Whole multiples of two keep the coarse grids inside aligned.
    height_px = min(size_px, 2 * round(height_mm / mm_per_px / 2))
    width_px = min(size_px, 2 * round(width_mm / mm_per_px / 2))
    return Frame(
        height_px,
        width_px,
        mm_per_px,
        left_mm=-x_at * width_px * mm_per_px,
        top_mm=y_at * height_px * mm_per_px,
    )


def _draw_bones(
    skeleton: Skeleton,
    frame: Frame,
    depth: Field,
    texture: Field | None,
    uneven: Irregularity | None,
) -> tuple[Field, LabelImage]:
    """Return mineral in mm of cortical bone and labels, both on the fine grid."""
    mineral = np.zeros((frame.height_px, frame.width_px), dtype=np.float32)
    labels = (depth > 0).astype(np.uint8) * np.uint8(REGION_LABELS[anatomy.SOFT_TISSUE])
    skin = depth > 0
    side = frame.mm_per_px * max(frame.height_px, frame.width_px)
    # Zones first, so that bones keep their own names where they reach into one.
    zone_of = {"wrist": anatomy.CARPALS}
    for landmark in skeleton.landmarks:
        if landmark.finger is None:
            region = zone_of.get(landmark.region, landmark.region)
            _label_zone(labels, skin, frame, landmark, REGION_LABELS[region])
    for part in skeleton.parts:
        window = frame.window(part.solid.reach_mm(), 0.0 if uneven is None else uneven.reach * side)
        if window is None:
            continue
        rows, columns, x, y = window
        if uneven is not None:
            x = x + np.float32(side) * uneven.shift_x[rows, columns]
            y = y + np.float32(side) * uneven.shift_y[rows, columns]
        inside = locate(part.solid, x, y)
        grain = None if texture is None else texture[rows, columns]
        # Bones lie side by side more than on top of each other: where their outlines meet,
        # a plain sum would be too bright. A fusing bone is a blend of two drawings.
        drawn = mineral_mm(part.solid, inside, grain)
        mineral[rows, columns] += np.float32(part.presence) * drawn * drawn
        labels[rows, columns][inside.edge_mm > 0] = REGION_LABELS[part.region]
    for landmark in skeleton.landmarks:
        if landmark.finger is not None:
            _label_zone(labels, skin, frame, landmark, REGION_LABELS[landmark.region])
    return np.sqrt(mineral), labels


def _label_zone(
    labels: LabelImage, skin: np.ndarray, frame: Frame, landmark: Landmark, value: int
) -> None:
    reach = math.hypot(landmark.half_across_mm, landmark.half_along_mm)
    window = frame.window(
        (
            landmark.x_mm - reach,
            landmark.x_mm + reach,
            landmark.y_mm - reach,
            landmark.y_mm + reach,
        )
    )
    if window is None:
        return
    rows, columns, x, y = window
    sine, cosine = math.sin(landmark.angle_rad), math.cos(landmark.angle_rad)
    dx, dy = x - np.float32(landmark.x_mm), y - np.float32(landmark.y_mm)
    across = np.abs(dx * np.float32(cosine) - dy * np.float32(sine))
    along = np.abs(dx * np.float32(sine) + dy * np.float32(cosine))
    inside = (across <= landmark.half_across_mm) & (along <= landmark.half_along_mm)
    labels[rows, columns][inside & skin[rows, columns]] = value


def _add_marker(attenuation: Field, labels: LabelImage, marker: Marker) -> None:
    """Lay the marker over attenuation and labels, in place: both are the rendering's own."""
    cover = marker_field(marker)
    rows = slice(marker.top_px, marker.top_px + cover.shape[0])
    columns = slice(marker.left_px, marker.left_px + cover.shape[1])
    attenuation[rows, columns] += np.float32(_MARKER_ATTENUATION) * cover
    labels[rows, columns][cover > 0] = REGION_LABELS[anatomy.MARKER]


def _expose(
    attenuation: Field,
    exposure: Exposure,
    settings: PhantomSettings,
    seed: int,
    room: tuple[float, float, float, float],
) -> FloatImage:
    """Return the image that detector and display make of the attenuation."""
    height, width = attenuation.shape[0] // _FINER, attenuation.shape[1] // _FINER
    fine = np.exp(-attenuation)
    passed = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
    passed *= heel_gradient(settings, seed, (height, width))
    if exposure.scatter:
        passed = passed + np.float32(exposure.scatter) * _blurred(passed, _SCATTER_SPREAD)
        passed /= np.float32(1 + exposure.scatter)
    passed = ndimage.gaussian_filter(
        passed, exposure.blur_px * settings.size_px / 256, truncate=3.0
    )
    noise = noise_field(settings, seed, (height, width))
    if noise is not None:
        passed += noise * np.sqrt(np.maximum(passed, np.float32(0)))
    shown = -np.log(np.maximum(passed, np.float32(1e-3))) / np.float32(exposure.window)
    if exposure.enhancement:
        shown += np.float32(exposure.enhancement) * (shown - _blurred(shown, _ENHANCED_SPREAD))
    shown = np.clip(shown + np.float32(0.04), 0, 1.0) ** np.float32(exposure.gamma)
    shown = np.float32(exposure.brightness) + np.float32(exposure.contrast) * shown
    collimation = draw_collimation(settings, seed)
    if collimation is not None:
        shown = collimate(shown, collimation, room)
    pixels: FloatImage = np.clip(shown, 0, 1).astype(np.float32)
    return pixels


def _blurred(image: Field, spread: float) -> Field:
    """Return the image under a Gaussian of this spread (share of its longer side), coarsely."""
    height, width = image.shape
    sigma_px = spread * max(height, width)
    step = max(1, int(sigma_px / 1.5))
    size = max(1, width // step), max(1, height // step)
    coarse = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    coarse = ndimage.gaussian_filter(coarse, sigma_px * size[1] / height, truncate=3.0)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _room(skeleton: Skeleton, frame: Frame) -> tuple[float, float, float, float]:
    """Return the free space left, right, above and below the hand in shares of the image."""
    margin = 9.0 * skeleton.scale
    points = [frame.to_px(x, y) for ray in skeleton.rays.values() for x, y in ray]
    free = margin / frame.mm_per_px
    xs, ys = zip(*points, strict=True)
    left, right = min(xs) - free, frame.width_px - max(xs) - free
    return (
        max(0.0, left / frame.width_px),
        max(0.0, right / frame.width_px),
        max(0.0, (min(ys) - free) / frame.height_px),
        0.06,
    )


def _coarse_labels(labels: LabelImage) -> LabelImage:
    """Return labels on the image's grid: the highest of each block, so that thin bone stays."""
    rows = np.maximum(labels[::2], labels[1::2])
    coarse: LabelImage = np.maximum(rows[:, ::2], rows[:, 1::2])
    return coarse


def _box(landmark: Landmark, frame: Frame) -> RegionBox:
    x, y = frame.to_px(landmark.x_mm, landmark.y_mm)
    # Readers draw upright boxes around what is turned.
    sine, cosine = abs(math.sin(landmark.angle_rad)), abs(math.cos(landmark.angle_rad))
    across, along = landmark.half_across_mm, landmark.half_along_mm
    turned = landmark.finger is not None
    half_x = across * cosine + 0.5 * along * sine if turned else across
    half_y = along * cosine + 0.5 * across * sine if turned else along
    return RegionBox(
        landmark.region,
        landmark.finger,
        x,
        y,
        2 * half_x / frame.mm_per_px,
        2 * half_y / frame.mm_per_px,
    )

"""A hand on film: bones and soft tissue projected, exposed and disturbed as radiographs are.

Rays are attenuated by the thickness they meet (Beer-Lambert), the image shows the attenuation
through the detector's tone curve. Every nuisance draws from a random stream of its own that
is derived from the seed, so two renderings that share a seed differ only in what was asked.

Three stages: the scene (skeleton, grid, soft tissue, mineral of every piece of bone), its
attenuation, and the film that shows it. The last two work on any window of the image, pixel by
pixel but for blur and edge enhancement, so that a part of an image can be drawn again by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.phantom.boxes import RegionBox, box_of
from boneage_xai.phantom.collimation import collimate
from boneage_xai.phantom.faults import NOTHING, Planted
from boneage_xai.phantom.film import BLUR_TRUNCATE, ENHANCED_TRUNCATE, SOFT_PER_MM, Film, draw_film
from boneage_xai.phantom.framing import frame_of, room_beside
from boneage_xai.phantom.growth import Hand, maturities
from boneage_xai.phantom.labelling import Outline, label_parts, label_regions, outline
from boneage_xai.phantom.nuisances import (
    Exposure,
    Irregularity,
    Marker,
    draw_framing,
    draw_marker,
    draw_pose,
    irregularity,
    marker_field,
    marker_window,
    texture_field,
)
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field, Frame, mineral_mm
from boneage_xai.phantom.skeleton import Skeleton, build_skeleton
from boneage_xai.phantom.soft_tissue import soft_tissue
from boneage_xai.phantom.windows import Window, mirror, overlap, whole
from boneage_xai.types import FloatImage, RegionMap

# Attenuation at hand-film energies, per mm of cortical bone beyond soft tissue.
_BONE_PER_MM = 0.060
_MARKER_ATTENUATION = 1.9
# What a detector still tells from nothing, and the grey of an unattenuated beam.
_LEAST_PASSED = np.float32(1e-3)
_FOG = np.float32(0.04)
FINER = 2
"""Rows and columns of the grid that is drawn on, for each of the image's."""


@dataclass(frozen=True, eq=False)
class PhantomImage:
    """One rendered radiograph with the truth about its regions.

    Args:
        pixels: (H, W) float32 in [0, 1], bone bright.
        boxes: joints, wrist and distal forearm bones.
        mm_per_px: size of a pixel in the plane of the hand.
        regions: (H, W) labels on the same grid, see ``anatomy.REGION_NAMES``.
        parts: (H, W) labels of every bone and epiphysis, see ``anatomy.PART_NAMES``.
    """

    pixels: FloatImage
    boxes: tuple[RegionBox, ...]
    mm_per_px: float
    regions: RegionMap
    parts: RegionMap


@dataclass(frozen=True, eq=False)
class DrawnBone:
    """A piece of bone on the fine grid.

    Args:
        outline: where it lies.
        squared_mineral: (h, w) square of its mineral in mm of cortical bone, in its window.
    """

    outline: Outline
    squared_mineral: Field


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn hand with all that went into it, so that a part of it can be drawn again.

    The scene is that of a left hand; ``marker``, ``film`` and ``pixels`` are as seen.

    Args:
        hand: the individual.
        settings: size and nuisances.
        seed: of the nuisances.
        planted: faults of the image.
        maturity: centre id to maturity in [0, 1], as drawn.
        skeleton: the placed bones.
        frame: the image's grid.
        uneven: irregular outlines and tissue, None for even ones.
        texture: (2H, 2W) relative density of bone, None for an even one.
        depth_mm: (2H, 2W) depth below the skin.
        thickness_mm: (2H, 2W) thickness of the soft tissue.
        bones: every piece of bone that lies in the image, in the order of drawing.
        marker: the lead marker, None where there is none.
        film: what exposes it.
        pixels: (H, W) float32 in [0, 1].
    """

    hand: Hand
    settings: PhantomSettings
    seed: int
    planted: Planted
    maturity: Mapping[str, float]
    skeleton: Skeleton
    frame: Frame
    uneven: Irregularity | None
    texture: Field | None
    depth_mm: Field
    thickness_mm: Field
    bones: tuple[DrawnBone, ...]
    marker: Marker | None
    film: Film
    pixels: FloatImage

    @property
    def mirrored(self) -> bool:
        """Whether the image shows the scene the other way round."""
        return self.settings.side == "right"

    def on_hand(self) -> npt.NDArray[np.bool_]:
        """Return (H, W) True on the hand and its forearm, False beside it and on the marker."""
        regions = self.regions()
        outside = [label for label, name in regions.names.items() if name in OUTSIDE_HAND]
        return ~np.isin(regions.labels, outside)

    def regions(self) -> RegionMap:
        """Return (H, W) labels of the regions, see ``anatomy.REGION_NAMES``."""
        return label_regions(
            [bone.outline for bone in self.bones],
            self.skeleton.landmarks,
            self.depth_mm,
            self.frame.finer(FINER),
            self.marker,
            self.mirrored,
        )

    def parts(self) -> RegionMap:
        """Return (H, W) labels of every bone and epiphysis, see ``anatomy.PART_NAMES``."""
        outlines = [bone.outline for bone in self.bones]
        return label_parts(outlines, self.depth_mm, self.marker, self.mirrored)

    def boxes(self) -> tuple[RegionBox, ...]:
        """Return the boxes of joints, wrist and distal forearm bones."""
        return tuple(box_of(one, self.frame, self.mirrored) for one in self.skeleton.landmarks)


def render(
    hand: Hand,
    settings: PhantomSettings | None = None,
    seed: int = 0,
    region_ages: Mapping[str, float] | None = None,
    *,
    planted: Planted = NOTHING,
) -> PhantomImage:
    """Draw the radiograph of a hand with the truth about it; ``draw`` is quicker for pixels alone.

    Args:
        hand: the individual, which sets size and shape.
        settings: size, side and nuisances, the default includes all nuisances.
        seed: of the nuisances.
        region_ages: region name to age in months for regions whose ossification is moved
            away from the hand's own age; size and everything else stay.
        planted: faults of the image.

    Returns:
        Pixels, boxes and the maps of regions and parts.

    Raises:
        ConfigError: a region without ossification centres, or an age that is negative.
    """
    drawing = draw(hand, settings, seed, region_ages, planted)
    return PhantomImage(
        drawing.pixels,
        drawing.boxes(),
        drawing.frame.mm_per_px,
        drawing.regions(),
        drawing.parts(),
    )


def draw(
    hand: Hand,
    settings: PhantomSettings | None = None,
    seed: int = 0,
    region_ages: Mapping[str, float] | None = None,
    planted: Planted = NOTHING,
) -> Drawing:
    """Draw a hand and keep what went into it.

    Args:
        hand: as for ``render``, like all that follow.
        settings: size, side and nuisances.
        seed: of the nuisances.
        region_ages: region name to age in months.
        planted: faults of the image.

    Raises:
        ConfigError: as ``render``.
    """
    settings = settings or PhantomSettings()
    maturity = maturities(hand, region_ages)
    skeleton = build_skeleton(hand, maturity, draw_pose(settings, seed))
    frame = frame_of(skeleton, draw_framing(settings, seed), settings.size_px)
    mirrored = settings.side == "right"
    uneven = irregularity(settings, seed, frame)
    depth, thickness = soft_tissue(hand, skeleton, frame.finer(FINER), uneven)
    texture = texture_field(settings, seed, frame)
    bones = draw_bones(skeleton, frame.finer(FINER), texture, uneven)
    seen_depth, seen_thickness = (f[:, ::-1] if mirrored else f for f in (depth, thickness))
    marker = draw_marker(settings, seed, seen_depth, frame, always=planted.marker_grey is not None)
    room = room_beside(skeleton, frame, mirrored)
    film = draw_film(settings, seed, seen_thickness, room, marker, planted)
    shadow = attenuation(thickness, bones, marker, film.exposure, mirrored, whole(film.shape))
    pixels = expose(shadow, film, whole(film.shape))
    return Drawing(
        hand,
        settings,
        seed,
        planted,
        maturity,
        skeleton,
        frame,
        uneven,
        texture,
        depth,
        thickness,
        bones,
        marker,
        film,
        pixels,
    )


def draw_bones(
    skeleton: Skeleton, fine: Frame, texture: Field | None, uneven: Irregularity | None
) -> tuple[DrawnBone, ...]:
    """Return every piece of bone that lies in the image, on the fine grid."""
    found = [outline(part, fine, uneven) for part in skeleton.parts]
    return tuple(draw_bone(one, texture) for one in found if one is not None)


def draw_bone(place: Outline, texture: Field | None) -> DrawnBone:
    """Return a piece of bone with its mineral.

    Args:
        place: where it lies on the fine grid.
        texture: (2H, 2W) relative density of bone, None for an even one.
    """
    grain = None if texture is None else texture[place.rows, place.columns]
    drawn = mineral_mm(place.part.solid, place.inside, grain)
    # A fusing bone is a blend of two drawings.
    return DrawnBone(place, np.float32(place.part.presence) * drawn * drawn)


def attenuation(
    thickness_mm: Field,
    bones: Sequence[DrawnBone],
    marker: Marker | None,
    exposure: Exposure,
    mirrored: bool,
    at: Window,
) -> Field:
    """Return the attenuation in a window of the image.

    Args:
        thickness_mm: (2H, 2W) thickness of the soft tissue, of a left hand.
        bones: pieces of bone, of a left hand.
        marker: the marker as seen.
        exposure: energy of the beam.
        mirrored: whether the image shows the hand the other way round.
        at: (h, w) rows and columns of the image.

    Returns:
        (2h, 2w) on the fine grid, as seen.
    """
    rows, seen = slice(2 * at[0].start, 2 * at[0].stop), slice(2 * at[1].start, 2 * at[1].stop)
    columns = mirror(seen, thickness_mm.shape[1]) if mirrored else seen
    squared = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32)
    for bone in bones:
        place = bone.outline
        both = overlap((rows, columns), (place.rows, place.columns))
        if both is not None:
            squared[both[0]] += bone.squared_mineral[both[1]]
    # Bones lie side by side more than on top of each other: where their outlines meet, a
    # plain sum would be too bright.
    soft, bone_mm = thickness_mm[rows, columns], np.sqrt(squared)
    shadow: Field = np.float32(SOFT_PER_MM * exposure.soft) * soft
    shadow += np.float32(_BONE_PER_MM * exposure.bone) * bone_mm
    if mirrored:
        shadow = shadow[:, ::-1].copy()
    if marker is not None:
        cover = marker_field(marker)
        both = overlap((rows, seen), marker_window(marker))
        if both is not None:
            shadow[both[0]] += np.float32(_MARKER_ATTENUATION) * cover[both[1]]
    return shadow


def expose(shadow: Field, film: Film, at: Window) -> FloatImage:
    """Return a window of the image that detector and display make of the attenuation.

    Args:
        shadow: (2h, 2w) attenuation of the window.
        film: the film.
        at: rows and columns of the window. Within ``film.reach_px`` of an edge that is not
            the image's own, the result is not that of the whole image.

    Returns:
        (h, w) float32 in [0, 1].
    """
    exposure = film.exposure
    fine = np.exp(-shadow)
    # Column by column, so that the mirror image is the same to the last bit.
    pairs = fine[::2] + fine[1::2]
    passed = (pairs[:, ::2] + pairs[:, 1::2]) / 4
    if film.scattered is not None:
        passed = passed / np.float32(1 + exposure.scatter) + film.scattered[at]
    passed *= np.broadcast_to(film.heel, film.shape)[at]
    passed = ndimage.gaussian_filter(passed, film.blur_sd_px, truncate=BLUR_TRUNCATE)
    if film.noise is not None:
        passed += film.noise[at] * np.sqrt(np.maximum(passed, np.float32(0)))
    shown = -np.log(np.maximum(passed, _LEAST_PASSED)) / np.float32(film.white)
    if exposure.enhancement:
        blurred = ndimage.gaussian_filter(shown, film.enhanced_sd_px, truncate=ENHANCED_TRUNCATE)
        shown += np.float32(exposure.enhancement) * (shown - blurred)
    shown = np.clip(shown + _FOG, 0, 1.0) ** np.float32(exposure.gamma)
    shown = np.float32(exposure.brightness) + np.float32(exposure.contrast) * shown
    if film.collimation is not None:
        shown = collimate(shown, film.collimation, film.shape, at)
    if film.lift:
        shown = np.float32(film.lift) + np.float32(1 - film.lift) * shown
    pixels: FloatImage = np.clip(shown, 0, 1).astype(np.float32)
    if film.overlay is not None:
        share, grey = (field[at] for field in film.overlay)
        pixels = pixels * (1 - share) + grey * share
    return pixels

"""The film: everything that comes between the attenuation of a hand and its image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from boneage_xai.phantom.collimation import Collimation, draw_collimation
from boneage_xai.phantom.faults import NOTHING, Planted, overlay
from boneage_xai.phantom.nuisances import (
    Exposure,
    Marker,
    draw_exposure,
    heel_gradient,
    noise_field,
)
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field

SOFT_PER_MM = 0.0175
"""Attenuation of soft tissue per mm at hand-film energies."""

BLUR_TRUNCATE = 3.0
"""Radius of the blur in standard deviations."""

ENHANCED_TRUNCATE = 2.5
"""Radius of the edge enhancement in standard deviations."""

# Soft tissue of an adult's forearm attenuates so much; thinner hands are exposed the less.
_USUAL_SOFT = 0.62
_THICK_PERCENTILE = 90.0
# Gaussian of scattered radiation, in shares of the longer side.
_SCATTER_SD = 0.06


@dataclass(frozen=True, eq=False)
class Film:
    """What comes between attenuation and image, drawn once for an image.

    Args:
        shape: (H, W) of the image.
        exposure: tone.
        blur_sd_px: unsharpness.
        enhanced_sd_px: width of what the edge enhancement takes for an edge.
        white: attenuation shown as white.
        scattered: (H, W) scattered share of unit intensity, None for none. It comes from
            the soft tissue, so that bones change nothing far from themselves.
        heel: (H, W) or (1, 1) beam intensity.
        noise: (H, W) quantum noise for unit intensity, None for none.
        collimation: the plate, None for none.
        lift: planted move of every grey towards white.
        overlay: planted (H, W) share and (H, W) grey laid over the image, None for none.
    """

    shape: tuple[int, int]
    exposure: Exposure
    blur_sd_px: float
    enhanced_sd_px: float
    white: float
    scattered: Field | None
    heel: Field
    noise: Field | None
    collimation: Collimation | None
    lift: float = 0.0
    overlay: tuple[Field, Field] | None = None

    @property
    def reach_px(self) -> int:
        """How far a pixel's attenuation is felt in the image, by blur and edge enhancement."""
        reach = int(BLUR_TRUNCATE * self.blur_sd_px + 0.5)
        if self.exposure.enhancement:
            reach += int(ENHANCED_TRUNCATE * self.enhanced_sd_px + 0.5)
        return reach


def draw_film(
    settings: PhantomSettings,
    seed: int,
    thickness_mm: Field,
    room: tuple[float, float, float, float],
    marker: Marker | None = None,
    planted: Planted = NOTHING,
) -> Film:
    """Draw what comes between attenuation and image.

    Args:
        settings: which nuisances are on.
        seed: seed of the image.
        thickness_mm: (2H, 2W) thickness of the soft tissue as seen.
        room: free space left, right, above and below the hand, in shares of the image.
        marker: its marker, which a fault may brighten.
        planted: faults of the image.
    """
    exposure = draw_exposure(settings, seed)
    shape = thickness_mm.shape[0] // 2, thickness_mm.shape[1] // 2
    plate = draw_collimation(settings, seed)
    if plate is not None:
        left, right, top, bottom = (s * r for s, r in zip(plate.inset, room, strict=True))
        plate = replace(plate, inset=(left, right, top, bottom))
    return Film(
        shape=shape,
        exposure=exposure,
        blur_sd_px=exposure.blur_px * settings.size_px / 256,
        enhanced_sd_px=exposure.edge_sd * settings.size_px,
        white=white_attenuation(thickness_mm, exposure),
        scattered=scattered_share(thickness_mm, exposure),
        heel=heel_gradient(settings, seed, shape),
        noise=noise_field(settings, seed, shape),
        collimation=plate,
        lift=planted.lift,
        overlay=overlay(shape, marker, planted),
    )


def white_attenuation(thickness_mm: Field, exposure: Exposure) -> float:
    """Return the attenuation shown as white: exposure follows the thickness of the hand.

    It is read from soft tissue, so that it does not change with the age of any bone.

    Args:
        thickness_mm: (2H, 2W) thickness of the soft tissue as seen.
        exposure: window of the exposure.
    """
    tissue = thickness_mm[::4]
    tissue = tissue[tissue > 0]
    if not tissue.size:
        return exposure.window
    thick = SOFT_PER_MM * float(np.percentile(tissue, _THICK_PERCENTILE))
    return exposure.window * thick / _USUAL_SOFT


def scattered_share(thickness_mm: Field, exposure: Exposure) -> Field | None:
    """Return (H, W) radiation scattered by soft tissue, for unit intensity; None without scatter.

    Args:
        thickness_mm: (2H, 2W) thickness of the soft tissue as seen.
        exposure: energy of the beam and amount of scatter.
    """
    if not exposure.scatter:
        return None
    # Whole pairs of columns, so that the mirror image is the same but for rounding.
    pairs = thickness_mm[::2, ::2] + thickness_mm[::2, 1::2]
    direct = np.exp(np.float32(-0.5 * SOFT_PER_MM * exposure.soft) * pairs)
    height, width = direct.shape
    sd_px = _SCATTER_SD * max(height, width)
    # So smooth a field loses nothing on a grid as coarse as half its spread.
    step = max(1, int(sd_px / 2))
    size = max(1, width // step), max(1, height // step)
    coarse = np.asarray(Image.fromarray(direct).resize(size, Image.Resampling.BOX))
    coarse = ndimage.gaussian_filter(coarse, sd_px * size[1] / height)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.float32(exposure.scatter / (1 + exposure.scatter)) * np.asarray(smooth)

"""The film: everything that comes between the attenuation of a hand and its image."""

from __future__ import annotations

from dataclasses import dataclass

from boneage_xai.phantom.faults import NOTHING, Planted, overlay
from boneage_xai.phantom.nuisances import (
    Collimation,
    Exposure,
    Marker,
    draw_collimation,
    draw_exposure,
    heel_gradient,
    noise_field,
)
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field

BLUR_TRUNCATE = 3.0
"""Radius of the blur in standard deviations."""


@dataclass(frozen=True, eq=False)
class Film:
    """What comes between attenuation and image, drawn once for an image.

    Args:
        shape: (H, W) of the image.
        exposure: tone.
        blur_sd_px: unsharpness.
        heel: (H, W) or (1, 1) beam intensity.
        noise: (H, W) quantum noise for unit intensity, None for none.
        collimation: the plate, None for none.
        lift: planted move of every grey towards white.
        overlay: planted (H, W) share and (H, W) grey laid over the image, None for none.
    """

    shape: tuple[int, int]
    exposure: Exposure
    blur_sd_px: float
    heel: Field
    noise: Field | None
    collimation: Collimation | None
    lift: float = 0.0
    overlay: tuple[Field, Field] | None = None

    @property
    def reach_px(self) -> int:
        """How far a pixel's attenuation is felt in the image: the radius of the blur."""
        return int(BLUR_TRUNCATE * self.blur_sd_px + 0.5)


def draw_film(
    settings: PhantomSettings,
    seed: int,
    shape: tuple[int, int],
    marker: Marker | None = None,
    planted: Planted = NOTHING,
) -> Film:
    """Draw what comes between attenuation and image.

    Args:
        settings: which nuisances are on.
        seed: seed of the image.
        shape: (H, W) of the image.
        marker: its marker, which a fault may brighten.
        planted: faults of the image.
    """
    exposure = draw_exposure(settings, seed)
    return Film(
        shape=shape,
        exposure=exposure,
        blur_sd_px=exposure.blur_px * settings.size_px / 256,
        heel=heel_gradient(settings, seed, shape),
        noise=noise_field(settings, seed, shape),
        collimation=draw_collimation(settings, seed),
        lift=planted.lift,
        overlay=overlay(shape, marker, planted),
    )

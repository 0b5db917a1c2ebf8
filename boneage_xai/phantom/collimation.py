"""Collimated plates: what of the image was exposed, its rim, and what lies outside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from boneage_xai.phantom.nuisances import stream
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.shapes import Field


@dataclass(frozen=True)
class Collimation:
    """A collimated plate.

    Args:
        inset: its edges, left, right, top and bottom, in shares of the image; as drawn, in
            shares of the room beside the hand.
        tilt_rad: its turn.
        inside_grey: scatter inside.
        outside_grey: grey outside.
        rim_grey: grey of its rim.
        rim: width of the rim in shares of the image's height.
        softness: width over which its edge fades, likewise.
    """

    inset: tuple[float, float, float, float]
    tilt_rad: float
    inside_grey: float
    outside_grey: float
    rim_grey: float
    rim: float
    softness: float


def draw_collimation(settings: PhantomSettings, seed: int) -> Collimation | None:
    """Draw a collimated plate, None when off or when this image shows none."""
    if not settings.collimation:
        return None
    rng = stream(seed, "collimation")
    present = rng.uniform() < 0.5
    inset = rng.uniform(0, 1, 4) ** (0.7 if rng.uniform() < 0.4 else 3.0)
    tilt = math.radians(float(np.clip(rng.normal(0, 2.0), -5, 5)))
    inside = float(rng.uniform(0, 1) ** 2 * 0.35)
    outside = 0.0 if rng.uniform() < 0.65 else float(rng.uniform(0.1, 1.0))
    rim = float(rng.uniform(0.002, 0.02)) if rng.uniform() < 0.5 else 0.0
    rim_grey = float(rng.uniform(0.3, 1.0))
    softness = float(rng.uniform(0, 1) ** 3 * 0.02)
    if not present:
        return None
    low, right, top, bottom = (float(v) for v in inset)
    return Collimation((low, right, top, bottom), tilt, inside, outside, rim_grey, rim, softness)


def collimate(
    shown: Field, collimation: Collimation, shape: tuple[int, int], at: tuple[slice, slice]
) -> Field:
    """Return a part of the image with scatter inside the plate and what lies outside covered.

    Args:
        shown: (h, w) the part.
        collimation: the plate.
        shape: (H, W) of the whole image.
        at: rows and columns of the part.
    """
    height, width = shape
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5))[None, :] / np.float32(width) - 0.5
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5))[:, None] / np.float32(height) - 0.5
    x, y = x[:, at[1]], y[at[0]]
    sine, cosine = math.sin(collimation.tilt_rad), math.cos(collimation.tilt_rad)
    ratio = width / height
    turned_x = x * cosine - y * (sine / ratio)
    turned_y = y * cosine + x * (sine * ratio)
    left, right, top, bottom = collimation.inset
    # Distance to the nearest edge as a share of the image, softened over a pixel or more.
    edge = np.minimum(
        np.minimum(turned_x + 0.5 - left, 0.5 - right - turned_x),
        np.minimum(turned_y + 0.5 - top, 0.5 - bottom - turned_y),
    )
    sharpness = 1 / max(1 / height, collimation.softness)
    inside = np.clip(edge * sharpness + 0.5, 0, 1).astype(np.float32)
    lit = collimation.inside_grey + (1 - collimation.inside_grey) * shown
    if collimation.rim:
        on_rim = np.clip((collimation.rim - edge) * sharpness + 0.5, 0, 1)
        lit = lit + (collimation.rim_grey - lit) * on_rim
    result: Field = (inside * lit + (1 - inside) * collimation.outside_grey).astype(np.float32)
    return result

"""Planted faults: ways in which an image betrays a label that no bone shows.

They test the tools that look for shortcuts. A fault changes nothing of the hand: it is laid
over the finished image, or shifts its tone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from boneage_xai.phantom.nuisances import Marker, marker_field, marker_window
from boneage_xai.phantom.shapes import Field
from boneage_xai.types import Sex

SECOND_SITE_FROM = 10001
"""First id of the second site; the first site counts from 1."""

BORDER_SHARE = 0.012
"""Width of a planted border as a share of the image's longer side."""

_BORDER_GREY = 0.94
_MARKER_GREY = (0.25, 0.95)
_OLDEST_MONTHS = 228.0
# The first site's images are lifted so far towards white.
_SITE_LIFT = {"first": 0.14, "second": 0.0}
# Its share falls from nearly all of the youngest to nearly none of the oldest.
_SITE_AGE_MONTHS = 118.0
_SITE_SLOPE_MONTHS = 22.0


class Fault(StrEnum):
    """What a cohort's images betray."""

    MARKER_BRIGHTNESS_ENCODES_AGE = "marker_brightness_encodes_age"
    BORDER_ENCODES_SEX = "border_encodes_sex"
    ID_ENCODES_BRIGHTNESS = "id_encodes_brightness"


@dataclass(frozen=True)
class Planted:
    """What the faults do to one image.

    Args:
        marker_grey: grey of the marker's letters in [0, 1], None for an ordinary marker; an
            image with a planted marker always has one.
        border_grey: grey of a thin border in [0, 1], None for no border.
        lift: how far every grey is moved towards white, in [0, 1].
    """

    marker_grey: float | None = None
    border_grey: float | None = None
    lift: float = 0.0


NOTHING = Planted()
"""An image without faults."""


def draw_site(number: int, seed: int, age_months: float) -> str:
    """Draw the site that a case comes from: the younger come more often from the first.

    The proportions imitate the RSNA training set, whose ids up to 2000 are brighter and
    younger than the rest; they are stronger here, so that tools can be seen to find them.

    Args:
        number: number of the case in its cohort.
        seed: seed of the cohort.
        age_months: true bone age.

    Returns:
        ``first`` or ``second``.
    """
    # A stream beside the case's own: with the fault or without, the hand is the same.
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(number, 1)))
    share = 1 / (1 + math.exp((age_months - _SITE_AGE_MONTHS) / _SITE_SLOPE_MONTHS))
    return "first" if rng.uniform() < share else "second"


def id_at_site(number: int, site: str) -> str:
    """Return the id of a case: its number, counted from ``SECOND_SITE_FROM`` at the second."""
    return str(number if site == "first" else number + SECOND_SITE_FROM - 1)


def plant(
    faults: tuple[Fault, ...], sex: Sex, label_months: float, site: str | None = None
) -> Planted:
    """Return what the faults do to one case's image.

    Args:
        faults: the cohort's faults.
        sex: sex of the case.
        label_months: its label.
        site: where it comes from, None without ``ID_ENCODES_BRIGHTNESS``.
    """
    dark, bright = _MARKER_GREY
    age = min(max(label_months / _OLDEST_MONTHS, 0.0), 1.0)
    marked = Fault.MARKER_BRIGHTNESS_ENCODES_AGE in faults
    bordered = Fault.BORDER_ENCODES_SEX in faults and sex.is_male
    return Planted(
        marker_grey=dark + (bright - dark) * age if marked else None,
        border_grey=_BORDER_GREY if bordered else None,
        lift=_SITE_LIFT[site] if site is not None else 0.0,
    )


def overlay(
    shape: tuple[int, int], marker: Marker | None, planted: Planted
) -> tuple[Field, Field] | None:
    """Return what is planted over an image.

    Args:
        shape: (H, W) of the image.
        marker: its marker.
        planted: the faults.

    Returns:
        (H, W) share in [0, 1] of what lies over the image, and (H, W) its grey; None for none.
    """
    if planted.marker_grey is None and planted.border_grey is None:
        return None
    share: Field = np.zeros(shape, dtype=np.float32)
    grey: Field = np.zeros(shape, dtype=np.float32)
    if planted.marker_grey is not None and marker is not None:
        cover = marker_field(marker)
        fine: Field = np.zeros((2 * shape[0], 2 * shape[1]), dtype=np.float32)
        fine[marker_window(marker)] = cover
        mean = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
        # The plate is half as bright as the letters, whatever the exposure.
        letters = np.clip((mean - marker.plate) / (1 - marker.plate), 0, 1)
        # Strokes thinner than a pixel are as bright as others.
        letters /= max(float(letters.max()), 1e-6)
        share[:] = mean > 0
        grey[:] = planted.marker_grey * (0.5 + 0.5 * letters)
    if planted.border_grey is not None:
        width = max(2, round(BORDER_SHARE * max(shape)))
        edge = np.ones(shape, dtype=np.bool_)
        edge[width:-width, width:-width] = False
        share[edge], grey[edge] = 1, planted.border_grey
    return share, grey

"""Where and how much a phantom's image changes with age: the truth for maps of attribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.faults import NOTHING, Planted
from boneage_xai.phantom.growth import Hand
from boneage_xai.phantom.redrawing import draw_at_age, draw_with_region_ages
from boneage_xai.phantom.rendering import Drawing, draw
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import FloatImage

DELTA_MONTHS = 3.0
"""Default step in age to either side."""

_GREY_LEVELS = 255.0


@dataclass(frozen=True, eq=False)
class AgeSensitivity:
    """How much every pixel changes with age, in grey levels (of 255) per month.

    Args:
        whole: (H, W) float32, when the whole hand ages: ossification and growth of bones and
            soft tissue, at a magnification that keeps the size of the hand and an exposure that
            follows its thickness. 0 beside the hand, where the exposure differs and, within a few
            pixels of the skin, the outline.
        by_region: region to (H, W) float32, when only the ossification of that region ages.
        delta_months: step in age to either side.
    """

    whole: FloatImage
    by_region: Mapping[str, FloatImage]
    delta_months: float


def age_sensitivity(
    hand: Hand,
    settings: PhantomSettings | None = None,
    seed: int = 0,
    delta_months: float = DELTA_MONTHS,
    planted: Planted = NOTHING,
) -> AgeSensitivity:
    """Return |change of the image per month of age| by drawing it younger and older.

    Pose, nuisances, noise and marker are the same in all drawings. An age below 0 is taken as
    0, and the difference divided by the true distance in age.

    Args:
        hand: the individual.
        settings: size, side and nuisances.
        seed: of the nuisances.
        delta_months: step in age to either side, in months.
        planted: faults of the image.

    Raises:
        ConfigError: a step that is not above 0.
    """
    return sensitivity_of(draw(hand, settings, seed, planted=planted), delta_months)


def sensitivity_of(drawing: Drawing, delta_months: float = DELTA_MONTHS) -> AgeSensitivity:
    """Return the sensitivity to age of a hand that is already drawn.

    Args:
        drawing: the hand at its own age.
        delta_months: step in age to either side, in months.

    Raises:
        ConfigError: a step that is not above 0.
    """
    if not 0 < delta_months < math.inf:
        raise ConfigError(f"age sensitivity: expected a step over 0 months, found {delta_months}")
    own = drawing.hand.age_months
    younger, older = max(own - delta_months, 0.0), own + delta_months

    def per_month(before: FloatImage, after: FloatImage) -> FloatImage:
        change: FloatImage = np.abs(after - before)
        change *= np.float32(_GREY_LEVELS / (older - younger))
        return change

    whole = per_month(draw_at_age(drawing, younger), draw_at_age(drawing, older))
    whole[~drawing.on_hand()] = 0
    return AgeSensitivity(
        whole=whole,
        by_region={
            region: per_month(
                draw_with_region_ages(drawing, {region: younger}),
                draw_with_region_ages(drawing, {region: older}),
            )
            for region in AGE_REGIONS
        },
        delta_months=delta_months,
    )

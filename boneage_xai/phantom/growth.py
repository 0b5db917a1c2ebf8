"""Growth of the phantom's hand: maturity of every ossification centre, and bone size, by age.

A hand is an individual: it keeps its own pace per centre, its own proportions and its own
width, and is then read at any age. Everything here is monotone in age. So is the bone that is drawn
from it, but for the plates of bone on either side of a growth plate, which go as it fuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from boneage_xai.anatomy import (
    AGE_REGIONS,
    BONES,
    CENTRES,
    BySex,
    OssificationCentre,
    centres_of,
)
from boneage_xai.errors import ConfigError
from boneage_xai.types import Sex

MATURITY_AT_PUBERTY = 0.55
"""Maturity when puberty begins: the epiphysis is as wide as its metaphysis."""

MATURITY_AT_FUSION = 0.8
"""Maturity when the epiphysis caps its metaphysis and fusion begins; it ends at 1."""

PUBERTY_ONSET_MONTHS = BySex(boys=108, girls=84)
"""Bone age at which early puberty begins and epiphyses begin to cap (approximate).

Source: the stages of Gilsanz and Ratib, Hand Bone Age, 2005.
"""

# Spread of the ages at which a centre reaches a stage, as a share of the age: common to a
# row of bones, and of the single centre on top.
_ROW_PACE_SD = 0.035
_CENTRE_PACE_SD = 0.025
_PACE_LIMIT = 3.0

# Share of the adult length by age in months. Anchors: the second metacarpal has about half
# its adult length at 4 years and three quarters at 10; growth ends with fusion.
_LENGTH_MONTHS = {
    Sex.MALE: (0, 12, 48, 84, 120, 144, 162, 180, 204),
    Sex.FEMALE: (0, 12, 48, 84, 108, 120, 138, 156, 186),
}
_LENGTH_SHARE = {
    Sex.MALE: (0.30, 0.375, 0.52, 0.65, 0.76, 0.835, 0.91, 0.97, 1.0),
    Sex.FEMALE: (0.31, 0.39, 0.54, 0.68, 0.77, 0.825, 0.92, 0.98, 1.0),
}
# Metacarpals lengthen more than the rest: against them, phalanges and above all the carpus are
# large in the young. By the metacarpals' share of their adult length, after joints annotated
# on radiographs of 1 to 18 years.
_METACARPAL_SHARE = (0.30, 0.375, 0.52, 0.65, 0.76, 0.84, 1.0)
_RELATIVE_PHALANX = (1.18, 1.15, 1.06, 1.025, 1.01, 1.0, 1.0)
_RELATIVE_SPACE = (1.32, 1.27, 1.15, 1.10, 1.06, 1.03, 1.0)
# Bones of the young are plump: width lags behind length less than one for one.
_WIDTH_EXPONENT = 0.88
_PHALANGES = ("distal", "middle", "proximal")
_GIRLS_WIDTH = 0.86


@dataclass(frozen=True)
class Hand:
    """One individual's hand at one bone age.

    Args:
        sex: sex, which sets pubertal timing and adult size.
        age_months: its true maturity, as the bone age a perfect reader would state.
        pace: centre id to relative pace; a pace of 0.05 means that the centre reaches every
            stage at an age 1/1.05 of the median.
        length_scale: bone id to length relative to the median.
        width_scale: width of all bones relative to the median.
        soft_tissue_scale: width of fingers, palm and forearm relative to the median.
        mineral_scale: density of bone relative to the median.
        cortex_scale: thickness of the cortex relative to the median.
        waist_scale: width of the shafts' waists relative to the median.
        joint_scale: width of the joint spaces relative to the median.
        plate_scale: width of the growth plates relative to the median.
        interlock: share of bone that shows through a growth plate when fusion begins.
        end_plate: thickness of the plates of bone that close the ends, in shares of the cortex.
        scar: how dense the line is that a fused growth plate leaves, in [0, 1].
    """

    sex: Sex
    age_months: float
    pace: Mapping[str, float]
    length_scale: Mapping[str, float]
    width_scale: float = 1.0
    soft_tissue_scale: float = 1.0
    mineral_scale: float = 1.0
    cortex_scale: float = 1.0
    waist_scale: float = 1.0
    joint_scale: float = 1.0
    plate_scale: float = 1.0
    interlock: float = 0.15
    end_plate: float = 0.65
    scar: float = 0.15


def median_hand(sex: Sex, age_months: float) -> Hand:
    """Return the hand without individual variation.

    Args:
        sex: sex.
        age_months: bone age in months.

    Raises:
        ConfigError: the age is negative or not a number.
    """
    _check_age(age_months)
    return Hand(
        sex=sex,
        age_months=float(age_months),
        pace=MappingProxyType(dict.fromkeys(CENTRES, 0.0)),
        length_scale=MappingProxyType(dict.fromkeys(BONES, 1.0)),
    )


def sample_hand(sex: Sex, age_months: float, rng: np.random.Generator) -> Hand:
    """Draw an individual around the medians, with rows of bones that vary together.

    Args:
        sex: sex.
        age_months: bone age in months.
        rng: source of randomness; the same number of draws is used at every age and sex,
            so the same generator state at another age is the same individual.

    Raises:
        ConfigError: the age is negative or not a number.
    """
    _check_age(age_months)
    rows = list(dict.fromkeys(bone.row for bone in BONES.values()))
    row_pace = dict(zip(rows, rng.standard_normal(len(rows)), strict=True))
    own_pace = dict(zip(CENTRES, rng.standard_normal(len(CENTRES)), strict=True))
    row_length = dict(zip(rows, rng.standard_normal(len(rows)), strict=True))
    own_length = dict(zip(BONES, rng.standard_normal(len(BONES)), strict=True))
    size, width, soft, mineral, cortex, waist, joint, plate, interlock = rng.standard_normal(9)
    end_plate, scar = rng.uniform(size=2)

    def pace(centre_id: str) -> float:
        row = BONES[CENTRES[centre_id].bone_id].row
        common = float(np.clip(row_pace[row], -_PACE_LIMIT, _PACE_LIMIT))
        own = float(np.clip(own_pace[centre_id], -_PACE_LIMIT, _PACE_LIMIT))
        return _ROW_PACE_SD * common + _CENTRE_PACE_SD * own

    def length(bone_id: str) -> float:
        row = row_length[BONES[bone_id].row]
        return float(np.exp(0.05 * size + 0.03 * row + 0.015 * own_length[bone_id]))

    return Hand(
        sex=sex,
        age_months=float(age_months),
        pace=MappingProxyType({centre_id: pace(centre_id) for centre_id in CENTRES}),
        length_scale=MappingProxyType({bone_id: length(bone_id) for bone_id in BONES}),
        width_scale=float(np.exp(0.05 * size + 0.10 * width)),
        soft_tissue_scale=float(np.exp(0.05 * size + 0.05 * width + 0.11 * soft)),
        mineral_scale=float(np.exp(0.10 * mineral)),
        cortex_scale=float(np.exp(0.20 * cortex)),
        waist_scale=float(np.exp(0.09 * waist)),
        joint_scale=float(np.exp(0.15 * joint)),
        plate_scale=float(np.exp(0.12 * plate)),
        interlock=float(np.clip(0.15 + 0.05 * interlock, 0.0, 0.3)),
        end_plate=float(0.4 + 0.5 * end_plate),
        scar=float(0.3 * scar),
    )


def centre_maturity(
    centre: OssificationCentre, sex: Sex, age_months: float, pace: float = 0.0
) -> float:
    """Return how far a centre has come, from 0 (not yet seen) to 1 (fused, or adult).

    Between appearance and completion the curve is piecewise linear through
    ``MATURITY_AT_PUBERTY`` at the onset of puberty and ``MATURITY_AT_FUSION`` when fusion
    begins. Centres that appear about or after the onset reach the first knot after a third
    of their own span.

    Args:
        centre: the ossification centre.
        sex: sex.
        age_months: bone age in months.
        pace: relative pace of this centre in this individual.
    """
    appears = centre.appears_months.of(sex)
    complete = centre.complete_months.of(sex)
    span = complete - appears
    puberty = max(PUBERTY_ONSET_MONTHS.of(sex), appears + span / 3)
    fusion = puberty + 0.6 * (complete - puberty)
    return float(
        np.interp(
            age_months * (1.0 + pace),
            (appears, puberty, fusion, complete),
            (0.0, MATURITY_AT_PUBERTY, MATURITY_AT_FUSION, 1.0),
        )
    )


def maturities(hand: Hand, region_ages: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the maturity of every centre of a hand.

    Args:
        hand: the individual.
        region_ages: region name to age in months for regions moved away from the hand's own
            age; the others keep it.

    Returns:
        Centre id to maturity in [0, 1].

    Raises:
        ConfigError: a region without ossification centres, or an age that is negative or
            not a number.
    """
    age_of = dict.fromkeys(CENTRES, hand.age_months)
    for region, age_months in (region_ages or {}).items():
        if region not in AGE_REGIONS:
            raise ConfigError(
                f"region ages: expected regions among {', '.join(AGE_REGIONS)}, found {region!r}"
            )
        _check_age(age_months)
        age_of.update((centre.centre_id, age_months) for centre in centres_of(region))
    return {
        centre_id: centre_maturity(centre, hand.sex, age_of[centre_id], hand.pace[centre_id])
        for centre_id, centre in CENTRES.items()
    }


def region_maturities(
    hand: Hand, region_ages: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the maturity of every region: the mean over its ossification centres.

    Args:
        hand: the individual.
        region_ages: as for ``maturities``.

    Returns:
        Region to maturity in [0, 1], in the order of ``anatomy.AGE_REGIONS``.

    Raises:
        ConfigError: as ``maturities``.
    """
    maturity = maturities(hand, region_ages)
    return {
        region: float(np.mean([maturity[centre.centre_id] for centre in centres_of(region)]))
        for region in AGE_REGIONS
    }


def region_ages_months(hand: Hand) -> dict[str, float]:
    """Return the age that every region of a hand shows: the mean over its ossification centres.

    A centre shows the age at which the median hand of the same sex has it as mature. Before it
    appears and once it is complete nothing changes: it shows the age at which that begins.

    Args:
        hand: the individual.

    Returns:
        Region to age in months, in the order of ``anatomy.AGE_REGIONS``.
    """

    def shown(centre: OssificationCentre) -> float:
        age_months = hand.age_months * (1.0 + hand.pace[centre.centre_id])
        appears, complete = centre.appears_months, centre.complete_months
        return float(np.clip(age_months, appears.of(hand.sex), complete.of(hand.sex)))

    return {
        region: float(np.mean([shown(centre) for centre in centres_of(region)]))
        for region in AGE_REGIONS
    }


def length_share(sex: Sex, age_months: float) -> float:
    """Return the share of its adult length that a bone has at an age, in (0, 1]."""
    return float(np.interp(age_months, _LENGTH_MONTHS[sex], _LENGTH_SHARE[sex]))


def bone_length_mm(hand: Hand, bone_id: str) -> float:
    """Return the length of a bone with its epiphysis, cartilage included, in mm."""
    bone = BONES[bone_id]
    share = length_share(hand.sex, hand.age_months)
    if bone.row in _PHALANGES:
        share *= float(np.interp(share, _METACARPAL_SHARE, _RELATIVE_PHALANX))
    return bone.adult_length_mm.of(hand.sex) * hand.length_scale[bone_id] * share


def space_scale(hand: Hand) -> float:
    """Return the size of carpus and joint spaces against the median adult man's."""
    share = length_share(hand.sex, hand.age_months)
    relative = float(np.interp(share, _METACARPAL_SHARE, _RELATIVE_SPACE))
    return relative * bone_length_mm(hand, "MC3") / BONES["MC3"].adult_length_mm.boys


def bone_width_scale(hand: Hand) -> float:
    """Return the width of the bones against the median adult man's."""
    share = length_share(hand.sex, hand.age_months) ** _WIDTH_EXPONENT
    slender = 1.0 if hand.sex is Sex.MALE else _GIRLS_WIDTH
    return float(hand.width_scale * slender * share)


def _check_age(age_months: float) -> None:
    if not age_months >= 0:
        raise ConfigError(f"phantom: expected an age of 0 months or more, found {age_months}")

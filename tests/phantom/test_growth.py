from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai import anatomy
from boneage_xai.anatomy import CENTRES, centres_of
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.growth import (
    Hand,
    bone_length_mm,
    bone_width_scale,
    centre_maturity,
    length_share,
    maturities,
    median_hand,
    sample_hand,
)
from boneage_xai.types import Sex

ages = st.floats(0, 240)
sexes = st.sampled_from(list(Sex))


def hand_of(sex: Sex, age_months: float, seed: int) -> Hand:
    return sample_hand(sex, age_months, np.random.default_rng(seed))


@given(sexes, ages, ages, st.integers(0, 10_000))
def test_older_is_never_less_ossified(sex: Sex, one: float, other: float, seed: int) -> None:
    younger, older = (hand_of(sex, age, seed) for age in sorted((one, other)))
    before, after = maturities(younger), maturities(older)
    assert all(0 <= before[centre] <= after[centre] <= 1 for centre in CENTRES)
    assert bone_length_mm(younger, "MC2") <= bone_length_mm(older, "MC2")
    assert bone_width_scale(younger) <= bone_width_scale(older)


@pytest.mark.parametrize("sex", Sex)
@pytest.mark.parametrize("centre", CENTRES.values(), ids=lambda centre: centre.centre_id)
def test_median_hand_keeps_the_table(centre: anatomy.OssificationCentre, sex: Sex) -> None:
    appears, complete = centre.appears_months.of(sex), centre.complete_months.of(sex)
    assert centre_maturity(centre, sex, appears) == 0
    assert centre_maturity(centre, sex, appears + 0.5) > 0
    assert centre_maturity(centre, sex, complete - 0.5) < 1
    assert centre_maturity(centre, sex, complete) == 1


def test_individuals_vary_around_the_medians_and_rows_vary_together() -> None:
    paces = np.array([list(hand_of(Sex.FEMALE, 100, seed).pace.values()) for seed in range(400)])
    order = list(CENTRES)
    # Share of the age at which a centre appears, against the table's median.
    appearance = np.median(1 / (1 + paces), axis=0)
    assert np.abs(appearance - 1).max() < 0.02
    correlation = np.corrcoef(paces.T)
    within = correlation[order.index("MP2"), order.index("MP4")]
    between = correlation[order.index("MP2"), order.index("radius")]
    # Row variance 0.035² of 0.035² + 0.025² in all: 0.66.
    assert within == pytest.approx(0.66, abs=0.1)
    assert abs(between) < 0.15


def test_same_individual_at_another_age() -> None:
    young, old = hand_of(Sex.MALE, 30, 7), hand_of(Sex.MALE, 190, 7)
    assert young.pace == old.pace
    assert young.length_scale == old.length_scale
    assert young.width_scale == old.width_scale


def test_growth_reaches_its_anchors() -> None:
    for sex in Sex:
        assert length_share(sex, 48) == pytest.approx(0.5, abs=0.05)
        assert length_share(sex, 120) == pytest.approx(0.75, abs=0.1)
        assert length_share(sex, 228) == 1
    # Girls' puberty comes first.
    assert length_share(Sex.FEMALE, 138) > length_share(Sex.MALE, 138)
    assert bone_length_mm(median_hand(Sex.MALE, 216), "MC2") == 68


def test_region_ages_move_their_centres_only() -> None:
    hand = hand_of(Sex.MALE, 132, 3)
    own, moved = maturities(hand), maturities(hand, {anatomy.CARPALS: 60, anatomy.RADIUS: 260})
    carpals = {centre.centre_id for centre in centres_of(anatomy.CARPALS)}
    assert all(moved[c] < own[c] or own[c] == 0 for c in carpals)
    assert moved["radius"] == 1 > own["radius"]
    assert {c for c in CENTRES if own[c] != moved[c]} <= carpals | {"radius"}


@pytest.mark.parametrize("age", [-1.0, float("nan")])
def test_impossible_ages_are_refused(age: float) -> None:
    with pytest.raises(ConfigError, match="age"):
        median_hand(Sex.MALE, age)
    with pytest.raises(ConfigError, match="age"):
        maturities(median_hand(Sex.MALE, 100), {anatomy.CARPALS: age})


def test_regions_without_centres_are_refused() -> None:
    with pytest.raises(ConfigError, match="soft_tissue"):
        maturities(median_hand(Sex.MALE, 100), {anatomy.SOFT_TISSUE: 60})

"""Drawing a part of an image again is drawing the whole image again, to the bit."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.cohorts import PhantomCase, draw_cases
from boneage_xai.phantom.faults import Planted
from boneage_xai.phantom.growth import median_hand, sample_hand
from boneage_xai.phantom.redrawing import draw_at_age, draw_with_region_ages
from boneage_xai.phantom.rendering import Drawing, draw, render
from boneage_xai.phantom.sensitivity import age_sensitivity
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.phantom.windows import grow, join, mirror, overlap, whole
from boneage_xai.types import Sex

PLANTED = Planted(marker_grey=0.8, border_grey=0.9, lift=0.1)


@cache
def _drawings(side: str) -> list[tuple[PhantomCase, Drawing]]:
    on = PhantomSettings(side=side)  # type: ignore[arg-type]
    return [
        (case, draw(case.hand, on, case.seed, planted=PLANTED))
        for case in draw_cases(5, seed=11, ages="uniform")
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("region", AGE_REGIONS)
def test_a_moved_region_is_that_of_the_whole_rendering(region: str, side: str) -> None:
    on = PhantomSettings(side=side)  # type: ignore[arg-type]
    changed = 0
    for case, drawing in _drawings(side):
        for age in (max(case.hand.age_months - 12, 0.0), case.hand.age_months + 12):
            ages = {region: age}
            slow = render(case.hand, on, case.seed, ages, planted=PLANTED).pixels
            fast = draw_with_region_ages(drawing, ages)
            assert np.array_equal(fast, slow)
            changed += not np.array_equal(fast, drawing.pixels)
    assert changed >= 2


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(st.sampled_from(AGE_REGIONS), st.floats(0, 240), max_size=7),
    st.dictionaries(st.sampled_from(AGE_REGIONS), st.floats(0, 240), max_size=3),
    st.integers(0, 2**40),
    st.sampled_from([64, 150, 258]),
)
def test_any_regions_from_any_drawing(
    ages: dict[str, float], own: dict[str, float], seed: int, size_px: int
) -> None:
    on = PhantomSettings(size_px=size_px)
    hand = sample_hand(Sex.FEMALE, 100, np.random.default_rng(seed))
    drawing = draw(hand, on, seed, own)
    slow = render(hand, on, seed, ages).pixels
    assert np.array_equal(draw_with_region_ages(drawing, ages), slow)


@pytest.mark.parametrize("region", AGE_REGIONS)
def test_nothing_changes_farther_away_than_the_blur_reaches(region: str) -> None:
    on = PhantomSettings(size_px=384)
    for case in draw_cases(4, seed=2, ages="uniform"):
        hand = dataclasses.replace(case.hand, age_months=100.0)
        one, other = (draw(hand, on, case.seed, {region: age}) for age in (92.0, 108.0))
        # What the region consists of, at either age, where pieces of bone differ.
        differing = {b.outline.part for b in one.bones} ^ {b.outline.part for b in other.bones}
        place = np.zeros(one.depth_mm.shape, dtype=bool)
        for bone in (*one.bones, *other.bones):
            if bone.outline.part in differing:
                place[bone.outline.rows, bone.outline.columns] |= bone.outline.inside.edge_mm > 0
        coarse = place.reshape(place.shape[0] // 2, 2, -1, 2).any(axis=(1, 3))
        away = ndimage.distance_transform_cdt(~coarse, metric="chessboard")
        changed = one.pixels != other.pixels
        assert changed.any()
        assert one.film.reach_px <= 18
        assert away[changed].max() <= one.film.reach_px


def test_whole_hand_at_its_own_age_is_the_drawing() -> None:
    drawing = draw(median_hand(Sex.MALE, 90), PhantomSettings(side="right"), 5)
    assert np.array_equal(draw_at_age(drawing, 90), drawing.pixels)


def test_whole_hand_keeps_its_size_and_grows() -> None:
    clean = PhantomSettings.clean(256)
    drawing = draw(median_hand(Sex.MALE, 90), clean)
    other = draw_at_age(drawing, 102)
    # At a held magnification the hand covers nearly the same pixels.
    covers = [pixels > 0.1 for pixels in (drawing.pixels, other)]
    assert np.mean(covers[0] ^ covers[1]) < 0.02 < np.mean(covers[0])
    # Ageing the ossification alone leaves the soft tissue; growing changes it, too.
    moved = draw_with_region_ages(drawing, dict.fromkeys(AGE_REGIONS, 102.0))
    assert np.count_nonzero(other != drawing.pixels) > np.count_nonzero(moved != drawing.pixels)


@pytest.mark.parametrize("age_months", [1.0, 70.0, 150.0])
def test_sensitivity_is_the_difference_of_plain_renderings(age_months: float) -> None:
    hand = sample_hand(Sex.MALE, age_months, np.random.default_rng(1))
    on = PhantomSettings()
    found = age_sensitivity(hand, on, seed=7, delta_months=3)
    low, high = max(age_months - 3, 0.0), age_months + 3
    assert tuple(found.by_region) == AGE_REGIONS
    for region, values in found.by_region.items():
        assert values.dtype == np.float32
        one, other = (
            render(hand, on, 7, {region: age}).pixels.astype(np.float64) for age in (low, high)
        )
        expected = 255 * np.abs(other - one) / (high - low)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    drawing = draw(hand, on, 7)
    change = draw_at_age(drawing, high).astype(np.float64) - draw_at_age(drawing, low)
    expected = np.where(drawing.on_hand(), 255 * np.abs(change) / (high - low), 0)
    np.testing.assert_allclose(found.whole, expected, rtol=1e-4, atol=1e-4)
    assert found.whole.max() > 0
    assert found.delta_months == 3


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("age_months", [6.0, 24.0, 120.0])
def test_ageing_shows_what_whole_renderings_show_and_no_drift_of_the_exposure(
    age_months: float, side: str
) -> None:
    on = PhantomSettings.clean(192).model_copy(update={"side": side, "exposure": True})
    hand = sample_hand(Sex.FEMALE, age_months, np.random.default_rng(2))
    drawing = draw(hand, on, 3)
    assert drawing.film.scattered is not None
    found = age_sensitivity(hand, on, 3).whole
    inside = drawing.on_hand()
    assert 0.05 < inside.mean() < 0.6
    before, after = (
        render(dataclasses.replace(hand, age_months=age), on, 3).pixels
        for age in (age_months - 3, age_months + 3)
    )
    change = (after - before) * 255 / 6
    np.testing.assert_allclose(found[inside], np.abs(change)[inside], atol=0.02)
    assert not found[~inside].any()
    assert abs(change[inside].mean()) < 0.5 * np.abs(change[inside]).mean()


def test_sensitivity_follows_the_stages() -> None:
    def sums(age_months: float) -> dict[str, float]:
        clean = PhantomSettings.clean(192)
        found = age_sensitivity(median_hand(Sex.MALE, age_months), clean)
        return {region: float(values.sum()) for region, values in found.by_region.items()}

    infant, adult = sums(8), sums(210)
    # Capitate and hamate grow while no ulna is there; at 17 years only the forearm changes.
    assert infant["carpals"] > 0
    assert infant["ulna"] == infant["DIP"] == 0
    assert adult["radius"] > 0
    assert adult["carpals"] == adult["DIP"] == adult["MCP"] == 0


def test_a_step_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="step"):
        age_sensitivity(median_hand(Sex.MALE, 90), delta_months=0)


windows = st.builds(
    lambda top, left, height, width: (slice(top, top + height), slice(left, left + width)),
    *(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9)),
)


@given(windows, windows)
def test_windows_meet_where_their_pixels_do(
    one: tuple[slice, slice], other: tuple[slice, slice]
) -> None:
    image = np.arange(900).reshape(30, 30)
    both = overlap(one, other)
    common = set(image[one].ravel().tolist()) & set(image[other].ravel().tolist())
    if both is None:
        assert not common
    else:
        assert np.array_equal(image[one][both[0]], image[other][both[1]])
        assert set(image[one][both[0]].ravel().tolist()) == common
    assert set(image[join(one, other)].ravel().tolist()) >= set(image[one].ravel().tolist())
    flipped = (one[0], mirror(one[1], 30))
    assert np.array_equal(image[:, ::-1][flipped], image[one][:, ::-1])
    assert grow(one, 50, (30, 30)) == whole((30, 30))

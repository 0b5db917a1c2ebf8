"""Scores against a truth that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.attribution.truth import (
    amounts_on_input,
    localisation,
    read_sensitivity,
    region_agreement,
)
from boneage_xai.data.preprocess import PreprocessSettings, SourceMap, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings


def square() -> tuple[np.ndarray, np.ndarray]:
    truth, hand = np.zeros((20, 20)), np.zeros((20, 20), dtype=np.bool_)
    truth[5:10, 5:10] = 2.0
    hand[:, 2:12] = True
    return truth, hand


def test_the_perfect_map_scores_1_and_its_complement_0() -> None:
    truth, hand = square()
    perfect = localisation(-truth, truth, hand, share=1.0)
    assert (perfect.mass_accuracy, perfect.rank_accuracy, perfect.n_true_px) == (1, 1, 25)
    wrong = localisation(2 - truth, truth, hand, share=1.0)
    assert (wrong.mass_accuracy, wrong.rank_accuracy) == (0, 0)
    # 25 of 400 pixels of the image, 25 of 200 of the hand.
    assert perfect.chance_image == pytest.approx(25 / 400)
    assert perfect.chance_hand_mass == perfect.chance_hand_rank == pytest.approx(25 / 200)


def test_noise_and_zeros_score_at_chance() -> None:
    truth, hand = square()
    rng = np.random.default_rng(0)
    image = [localisation(rng.normal(size=(20, 20)), truth, hand, 1.0) for _ in range(300)]
    inside = [localisation(rng.random((20, 20)) * hand, truth, hand, 1.0) for _ in range(300)]
    for score in ("mass_accuracy", "rank_accuracy"):
        assert np.mean([getattr(s, score) for s in image]) == pytest.approx(1 / 16, abs=0.01)
        assert np.mean([getattr(s, score) for s in inside]) == pytest.approx(1 / 8, abs=0.015)
    nothing = localisation(np.zeros((20, 20)), truth, hand, 1.0)
    assert np.isnan(nothing.mass_accuracy)
    assert nothing.rank_accuracy == pytest.approx(nothing.chance_image)


@st.composite
def source_maps(draw: st.DrawFn) -> SourceMap:
    height, width = draw(st.integers(5, 60)), draw(st.integers(5, 60))
    size = draw(st.integers(8, 40))
    left, top = draw(st.integers(0, width - 3)), draw(st.integers(0, height - 3))
    crop = left, top, draw(st.integers(1, width - left)), draw(st.integers(1, height - top))
    across, down = draw(st.integers(1, size)), draw(st.integers(1, size))
    content = (size - across) // 2, (size - down) // 2, across, down
    return SourceMap((height, width), size, crop, content)


@given(source_maps())
@settings(max_examples=60, deadline=None)
def test_the_sum_of_what_was_used_is_kept(source_map: SourceMap) -> None:
    values = np.random.default_rng(1).random(source_map.source_shape)
    moved = amounts_on_input(values, source_map)
    left, top, width, height = source_map.crop_px
    assert moved.sum() == pytest.approx(values[top : top + height, left : left + width].sum())
    left, top, width, height = source_map.content_px
    assert moved.sum() == pytest.approx(moved[top : top + height, left : left + width].sum())


def test_a_sensitivity_on_disk_lands_where_the_picture_does(tmp_path: Path) -> None:
    folder = write_cohort(
        tmp_path / "c", 1, seed=4, settings=PhantomSettings(size_px=96), workers=1, sensitivity=True
    )
    found = read_sensitivity(folder / "sensitivity" / "1.npz")
    assert set(found.by_region) == set(AGE_REGIONS)
    radiograph = read_radiograph(folder / "boneage-training-dataset" / "1.png")
    prepared = preprocess(radiograph, PreprocessSettings(size_px=48))
    moved = amounts_on_input(found.whole, prepared.source_map)
    assert moved.sum() == pytest.approx(found.whole.sum(), rel=1e-6)
    # The centre of the amounts goes where the source map sends it.
    y, x = np.indices(found.whole.shape)
    centre = [(found.whole * axis).sum() / found.whole.sum() for axis in (x, y)]
    y, x = np.indices(moved.shape)
    np.testing.assert_allclose(
        [(moved * axis).sum() / moved.sum() for axis in (x, y)],
        prepared.source_map.to_input(centre),
        atol=0.1,
    )
    with pytest.raises(DataError, match="expected maps of sensitivity"):
        read_sensitivity(folder / "truth.csv")
    with pytest.raises(DataError, match="source's shape"):
        amounts_on_input(found.whole[1:], prepared.source_map)


def tables(signs: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    maps, effects = [], []
    for case, sign in enumerate(signs):
        size = rng.permutation(len(AGE_REGIONS)) + 1.0
        for region, value in zip(AGE_REGIONS, size, strict=True):
            maps.append((str(case), region, value))
            # The sign of an effect plays no part.
            effects.append((str(case), region, -value if sign > 0 else 20 - value))
        maps.append((str(case), "soft_tissue", 99.0))
        effects.append((str(case), "all_regions", 5.0))
    keys = ["case_id", "region"]
    return (
        pd.DataFrame(maps, columns=[*keys, "absolute_months"]),
        pd.DataFrame(effects, columns=[*keys, "slope_months_per_month"]),
    )


def test_agreement_of_regions() -> None:
    perfect = region_agreement(*tables([1, 1, 1]))
    assert (perfect.spearman, perfect.low, perfect.high, perfect.n) == (
        pytest.approx(1),
        pytest.approx(1),
        pytest.approx(1),
        3,
    )
    assert (perfect.by_case["n_regions"] == len(AGE_REGIONS)).all()
    mixed = region_agreement(*tables([1, 1, 1, -1]))
    assert mixed.spearman == pytest.approx(0.5)
    assert mixed.low < 0.5 < mixed.high <= 1
    maps, effects = tables([1, 1])
    effects.loc[effects["case_id"] == "0", "slope_months_per_month"] = 0.0
    left = region_agreement(maps, effects)
    assert (left.n, np.isnan(left.low)) == (1, True)


def test_agreement_is_spearmans() -> None:
    rng = np.random.default_rng(5)
    maps, effects = tables([1])
    maps["absolute_months"] = rng.integers(0, 4, len(maps)).astype(float)
    effects["slope_months_per_month"] = rng.normal(size=len(effects))
    expected = spearmanr(maps["absolute_months"][:-1], effects["slope_months_per_month"][:-1].abs())
    assert region_agreement(maps, effects).spearman == pytest.approx(expected.statistic)


def test_tables_that_do_not_fit_are_refused() -> None:
    maps, effects = tables([1])
    with pytest.raises(DataError, match="no absolute_months"):
        region_agreement(effects, effects)
    with pytest.raises(DataError, match="more than once"):
        region_agreement(pd.concat([maps, maps]), effects)
    with pytest.raises(DataError, match="found none"):
        region_agreement(maps.assign(case_id="x"), effects)

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.analysis import conformal
from boneage_xai.analysis.conformal import (
    Conformal,
    IntervalMethod,
    conformal_quantile,
    fit_conformal,
)
from boneage_xai.analysis.intervals import MIN_CASES, halves, interval_results
from boneage_xai.analysis.stored_calibration import fit_calibration
from boneage_xai.errors import ConfigError, DataError

METHODS = get_args(IntervalMethod)


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cases whose errors grow towards the young, and are half as large again for boys."""
    rng = np.random.default_rng(seed)
    is_male = rng.random(n) < 0.5
    reference = np.clip(rng.normal(127.0, 40.0, n), 5.0, 228.0)
    scale = np.where(is_male, 1.5, 1.0) * (5.0 + 12.0 * np.exp(-reference / 60.0))
    return reference, reference + scale * rng.standard_t(5, n), is_male


@pytest.mark.parametrize(
    ("n", "coverage", "expected"),
    [(9, 0.9, 9.0), (8, 0.9, np.inf), (19, 0.9, 18.0), (99, 0.5, 50.0), (0, 0.9, np.inf)],
)
def test_quantile_by_hand(n: int, coverage: float, expected: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert conformal_quantile(scores, coverage) == expected


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_quantile_leaves_enough_scores_below(scores: list[float], coverage: float) -> None:
    quantile = conformal_quantile(scores, coverage)
    below = sum(score <= quantile for score in scores)
    assert not np.isfinite(quantile) or below >= coverage * (len(scores) + 1) - 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_coverage_is_as_promised(method: IntervalMethod) -> None:
    # 40 calibrations on 800 cases, each checked on 4,000 new ones: the mean scatters by 0.2 points.
    shares = []
    for seed in range(40):
        found = fit_conformal(*simulated(800, seed), method=method, seed=seed)
        reference, predicted, is_male = simulated(4000, 1000 + seed)
        low, high = found.interval(predicted, is_male)
        shares.append(((reference >= low) & (reference <= high)).mean())
    assert 0.895 <= np.mean(shares) <= 0.92


def test_mondrian_keeps_its_promise_in_every_group_and_absolute_does_not() -> None:
    shares: dict[str, list[float]] = {"absolute": [], "mondrian": []}
    reference, predicted, is_male = simulated(200_000, 5)
    cells = np.clip(predicted // 48, 0, 3).astype(int) + 4 * is_male
    for method, worst in shares.items():
        found = fit_conformal(*simulated(20_000, 1), method=method)  # type: ignore[arg-type]
        hit = np.abs(predicted - reference) <= found.half_width(predicted, is_male)
        worst.extend(hit[cells == cell].mean() for cell in np.unique(cells))
    assert np.abs(np.array(shares["mondrian"]) - 0.9).max() < 0.04
    assert np.abs(np.array(shares["absolute"]) - 0.9).max() > 0.08


def test_scaled_widths_follow_the_difficulty() -> None:
    found = fit_conformal(*simulated(5000, 0), method="scaled")
    young_boy, old_boy = found.half_width([30.0, 180.0], [True, True])
    young_girl, old_girl = found.half_width([30.0, 180.0], [False, False])
    assert young_boy > 1.3 * old_boy
    assert young_girl > 1.3 * old_girl
    assert old_boy > 1.2 * old_girl


def test_absolute_by_hand() -> None:
    reference = np.full(19, 100.0)
    predicted = reference + np.arange(1.0, 20.0)
    found = fit_conformal(reference, predicted, np.zeros(19, dtype=bool), method="absolute")
    low, high = found.interval([50.0, 250.0, -5.0], [False, True, True])
    assert low.tolist() == [32.0, 232.0, -23.0]
    assert high.tolist() == [68.0, 268.0, 13.0]


def test_small_bins_share_with_their_neighbours() -> None:
    # 0 joins 200, 3 joins 60, 5 joins 10, and these 15 the smaller of 63 and 80.
    counts = np.array([3, 60, 10, 5, 80, 200, 0])
    assert conformal._joined(counts, 50) == [(0, 4), (4, 5), (5, 7)]
    assert conformal._joined(np.array([1, 2, 3]), 50) == [(0, 3)]
    assert conformal._joined(np.array([50, 50]), 50) == [(0, 1), (1, 2)]


def test_too_few_cases_promise_nothing() -> None:
    found = fit_conformal([1.0, 2.0], [1.0, 3.0], [False, True], method="mondrian")
    assert np.isinf(found.half_width([10.0], [True])).all()
    json.dumps(found.to_dict(), allow_nan=False)
    assert Conformal.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("method", METHODS)
def test_storing_and_loading_is_identity(method: IntervalMethod) -> None:
    found = fit_conformal(*simulated(300, 0), method=method)
    assert Conformal.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "change",
    [
        {"method": "guess"},
        {"quantiles": [[1.0]]},
        {"difficulty": [[1.0], [1.0]]},
        {"n": None},
        {"more": 1},
        {"difficulty_limits": [1.0]},
    ],
)
def test_damaged_intervals_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="intervals: expected what was stored"):
        Conformal.from_dict(fit_conformal(*simulated(50, 0)).to_dict() | change)


def test_unusable_cases_are_refused() -> None:
    reference, predicted, is_male = simulated(30, 0)
    with pytest.raises(DataError, match="same cases"):
        fit_conformal(reference, predicted[1:], is_male)
    with pytest.raises(DataError, match="at least one"):
        fit_conformal([], [], [])
    with pytest.raises(DataError, match="finite"):
        fit_conformal(reference, predicted * np.nan, is_male)
    with pytest.raises(ConfigError, match="found 'guess'"):
        fit_conformal(reference, predicted, is_male, method="guess")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fit_conformal(reference, predicted, is_male, coverage=1.0)


def frame(n: int = 600, seed: int = 0) -> pd.DataFrame:
    reference, predicted, is_male = simulated(n, seed)
    return pd.DataFrame(
        {
            "case_id": [f"c{index}" for index in range(n)],
            "sex": np.where(is_male, "M", "F"),
            "reference_months": reference,
            "predicted_months": predicted,
        }
    )


def test_halves_share_no_case() -> None:
    one, other = halves(101, seed=4)
    assert sorted([*one, *other]) == list(range(101))
    assert len(one) == 50
    assert not np.array_equal(one, halves(101, seed=5)[0])


def test_results_are_those_of_the_half_that_was_not_calibrated_on() -> None:
    predictions = frame()
    found = interval_results(predictions, seed=3, n_splits=5)
    assert found is not None
    results, table = found
    json.dumps(results, allow_nan=False)
    one, other = halves(600, 3)
    assert table["case_id"].tolist() == predictions["case_id"].iloc[other].tolist()
    part = predictions.iloc[one]
    again = fit_conformal(
        part["reference_months"], part["predicted_months"], part["sex"] == "M", seed=3
    )
    assert Conformal.from_dict(results["calibration"]) == again
    reference = predictions["reference_months"].iloc[other].to_numpy()
    inside = (table["low_months"] <= reference) & (reference <= table["high_months"])
    assert results["overall"]["coverage"]["value"] == pytest.approx(inside.mean())
    width = (table["high_months"] - table["low_months"]).mean()
    assert results["overall"]["width_months"] == pytest.approx(width)
    for by in ("sex", "age", "sex×age"):
        assert sum(row["n"] for row in results["groups"] if row["by"] == by) == 300
    assert set(METHODS) < set(results["repeated"])
    for method in METHODS:
        assert results["repeated"][method]["coverage"]["value"] == pytest.approx(0.9, abs=0.04)


def test_few_cases_have_no_intervals() -> None:
    assert interval_results(frame(MIN_CASES - 1)) is None
    assert interval_results(frame(MIN_CASES), n_splits=2) is not None


def test_who_gets_no_interval_does_not_count_as_inside() -> None:
    predictions = frame(400).sort_values("sex", kind="stable")
    boys = predictions[predictions["sex"] == "M"].head(10)
    few = pd.concat([predictions[predictions["sex"] == "F"].head(110), boys])
    found = interval_results(few, seed=1, n_splits=3)
    assert found is not None
    results, table = found
    json.dumps(results, allow_nan=False)
    given = np.isfinite(table["high_months"])
    overall = results["overall"]
    assert 0 < overall["n_without_interval"] == int((~given).sum())
    assert overall["coverage"]["value"] == pytest.approx(table.loc[given, "covered"].mean())
    assert [row["sex"] for row in results["groups"] if row["by"] == "sex"] == ["F"]
    assert np.isfinite(results["repeated"]["mondrian"]["width_months"])


@pytest.mark.parametrize("seed", range(20))
def test_each_half_has_its_share_of_a_rarer_sex(seed: int) -> None:
    predictions = frame(500)
    girls, boys = (predictions[predictions["sex"] == sex] for sex in "FM")
    assert fit_calibration(pd.concat([girls.head(40), boys.head(195)]), seed=seed)
    with pytest.raises(DataError, match="at least 40 girls, 20 for the line of each half"):
        fit_calibration(pd.concat([girls.head(39), boys.head(195)]), seed=seed)


def test_intervals_around_corrected_predictions_keep_their_promise() -> None:
    shares = []
    for seed in range(20):
        fitted = fit_calibration(frame(800, seed), against="reference", seed=seed)
        reference, predicted, is_male = simulated(4000, 1000 + seed)
        corrected = fitted.correction.apply(predicted, is_male)
        half = fitted.corrected_intervals.half_width(corrected, is_male)
        shares.append((np.abs(corrected - reference) <= half).mean())
    assert 0.89 <= np.mean(shares) <= 0.925

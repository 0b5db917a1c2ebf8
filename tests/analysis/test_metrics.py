from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from boneage_xai.analysis import metrics as metrics_module
from boneage_xai.analysis.metrics import (
    METRICS,
    bootstrap,
    error_metrics,
    paired_difference,
    share_estimate,
)
from boneage_xai.errors import ConfigError, DataError

RESAMPLED = [name for name in METRICS if not name.startswith("within_")]
ERRORS = [-30.0, -12.0, -6.0, 0.0, 3.0, 6.5, 20.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae_months", 77.5 / 7),
        ("rmse_months", (1531.25 / 7) ** 0.5),
        ("bias_months", -18.5 / 7),
        ("median_absolute_error_months", 6.5),
        ("within_6_months", 3 / 7),
        ("within_12_months", 5 / 7),
        ("within_24_months", 6 / 7),
    ],
)
def test_metric_by_hand(name: str, expected: float) -> None:
    table = error_metrics(ERRORS, n_resamples=50)
    assert table["n"] == 7
    assert table["few_cases"] is True
    assert table[name]["value"] == pytest.approx(expected)
    assert table[name]["low"] <= expected <= table[name]["high"]


@pytest.mark.parametrize("name", list(METRICS))
def test_interval_equals_scipy_percentile_bootstrap(name: str) -> None:
    errors = np.random.default_rng(3).normal(2.0, 11.0, 60)
    ours = bootstrap(errors, {name: METRICS[name]}, seed=5, n_resamples=700)[name]
    theirs = stats.bootstrap(
        (errors,),
        lambda sample, axis: METRICS[name](np.moveaxis(sample, axis, -1)),
        n_resamples=700,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(5),  # scipy draws the same index matrix from it
    ).confidence_interval
    assert ours["low"] == pytest.approx(theirs.low, rel=1e-9)
    assert ours["high"] == pytest.approx(theirs.high, rel=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 300 samples of 80 from N(1, 10): 95% nominal, binomial sd 1.3 points, and percentile
    # intervals of n = 80 fall about one point short.
    rng = np.random.default_rng(11)
    truth = {"bias_months": 1.0, "mae_months": stats.foldnorm(0.1, scale=10.0).mean()}
    hits = dict.fromkeys(truth, 0)
    for _ in range(300):
        estimates = bootstrap(
            rng.normal(1.0, 10.0, 80), {name: METRICS[name] for name in truth}, n_resamples=400
        )
        for name, value in truth.items():
            low, high = estimates[name]["low"], estimates[name]["high"]
            assert low is not None
            assert high is not None
            hits[name] += low <= value <= high
    for count in hits.values():
        assert 0.90 <= count / 300 <= 0.98


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 17), (17, 17)])
def test_share_equals_statsmodels(count: int, n: int) -> None:
    low, high = proportion_confint(count, n, method="wilson")
    estimate = share_estimate(count, n)
    assert estimate == pytest.approx({"value": count / n, "low": low, "high": high}, abs=1e-12)


@pytest.mark.parametrize("n", [30, 200, 6000])
def test_all_cases_within_a_limit_do_not_make_it_certain(n: int) -> None:
    errors = np.random.default_rng(0).uniform(-5.0, 5.0, n)
    low, high = proportion_confint(n, n, method="wilson")
    expected = {"value": 1.0, "low": low, "high": high}
    assert error_metrics(errors, n_resamples=50)["within_6_months"] == pytest.approx(expected)
    assert low < 1


def test_share_interval_covers_the_truth_near_one() -> None:
    # 97% of these lie within 6 months; all of 50 do so in 22% of samples.
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(300):
        errors = np.where(rng.random(50) < 0.97, 1.0, 7.0)
        found = error_metrics(errors, n_resamples=1)["within_6_months"]
        hits += found["low"] <= 0.97 <= found["high"]
    assert 0.90 <= hits / 300 <= 0.98


def test_all_metrics_see_the_same_resamples() -> None:
    errors = np.random.default_rng(0).normal(0.0, 9.0, 50)
    together = error_metrics(errors, seed=4, n_resamples=300)
    for name in RESAMPLED:
        alone = bootstrap(errors, {name: METRICS[name]}, seed=4, n_resamples=300)[name]
        assert together[name] == alone


def test_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = np.random.default_rng(0).normal(0.0, 9.0, 37)
    whole = error_metrics(errors, n_resamples=200)
    monkeypatch.setattr(metrics_module, "_BLOCK_ELEMENTS", 5 * 37)
    assert error_metrics(errors, n_resamples=200) == whole


def test_one_case_has_no_interval_and_is_valid_json() -> None:
    table = error_metrics([4.0])
    assert table["mae_months"] == {"value": 4.0, "low": None, "high": None}
    json.dumps(table, allow_nan=False)


def test_few_cases_is_said_up_to_nineteen() -> None:
    assert error_metrics(np.arange(19.0), n_resamples=5)["few_cases"] is True
    assert error_metrics(np.arange(20.0), n_resamples=5)["few_cases"] is False


@pytest.mark.parametrize("errors", [[], [[1.0, 2.0]], [1.0, float("nan")], [float("inf")]])
def test_unusable_errors_are_refused(errors: list[float]) -> None:
    with pytest.raises(DataError, match="expected"):
        error_metrics(errors)


@pytest.mark.parametrize("options", [{"n_resamples": 0}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        bootstrap([1.0, 2.0], METRICS, **options)  # type: ignore[arg-type]


def test_input_and_global_random_state_are_left_alone() -> None:
    errors = np.array(ERRORS)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    error_metrics(errors, n_resamples=20)
    assert np.array_equal(errors, ERRORS)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index,arg-type]


@given(st.lists(st.floats(-200, 200), min_size=1, max_size=30), st.integers(0, 3))
def test_relations_between_metrics(errors: list[float], seed: int) -> None:
    table = error_metrics(errors, seed=seed, n_resamples=20)
    value = {name: table[name]["value"] for name in METRICS}
    assert abs(value["bias_months"]) <= value["mae_months"] + 1e-9
    assert value["mae_months"] <= value["rmse_months"] + 1e-9
    assert 0 <= value["within_6_months"] <= value["within_12_months"] <= 1
    assert value["within_12_months"] <= value["within_24_months"] <= 1
    mirrored = error_metrics([-error for error in errors], seed=seed, n_resamples=20)
    assert mirrored["mae_months"] == table["mae_months"]


def test_paired_difference_by_hand_and_against_scipy() -> None:
    a = np.array([1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, 8.0])
    b = np.array([2.0, 2.5, -3.0, 5.0, -7.0, 6.5, 9.0, -8.5])
    result = paired_difference(a, b, n_resamples=500)
    assert result["n"] == 8
    assert result["mae_difference_months"]["value"] == pytest.approx(36 / 8 - 43.5 / 8)
    assert result["mae_difference_months"]["high"] < 0
    assert result["wilcoxon_p"] == pytest.approx(stats.wilcoxon(np.abs(a), np.abs(b)).pvalue)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(0.0, 12.0, 200)
    b = np.sign(a) * (np.abs(a) + rng.normal(0.6, 1.0, 200))
    result = paired_difference(a, b, n_resamples=500)
    assert result["mae_difference_months"]["high"] < 0
    assert result["wilcoxon_p"] < 0.001
    one, two = (error_metrics(errors, n_resamples=500)["mae_months"] for errors in (a, b))
    assert one["high"] > two["low"]


def test_paired_difference_of_a_model_with_itself() -> None:
    result = paired_difference(ERRORS, ERRORS, n_resamples=20)
    assert result["mae_difference_months"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert result["wilcoxon_p"] == 1.0


def test_paired_difference_of_one_case_tests_nothing() -> None:
    result = paired_difference([3.0], [5.0])
    assert result["mae_difference_months"] == {"value": -2.0, "low": None, "high": None}
    assert result["wilcoxon_p"] is None


def test_paired_difference_refuses_different_cases() -> None:
    with pytest.raises(DataError, match="found 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])

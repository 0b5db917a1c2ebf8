from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS, add_constant

from boneage_xai.analysis.agreement import (
    agreement,
    lin_concordance,
    pearson_correlation,
    regression_slope,
)
from boneage_xai.analysis.calibration import calibration_line
from boneage_xai.errors import DataError


def simulated(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(127.0, 40.0, n)
    return reference, 20.0 + 0.85 * reference + rng.normal(0.0, 9.0, n)


def test_equal_values_have_no_slope_and_no_correlation() -> None:
    equal = np.full(37, 99.6)
    assert equal.std() > 0  # rounding
    predicted = equal + np.random.default_rng(0).normal(0, 9, 37)
    assert regression_slope(equal, predicted)["value"] is None
    assert pearson_correlation(equal, predicted)["value"] is None
    assert pearson_correlation(predicted, equal)["value"] is None
    line = calibration_line(equal, predicted)
    assert line["sd_ratio"] is None
    assert line["regression_to_the_mean"]["value"] is None


def test_bland_altman_by_hand() -> None:
    # Differences 1, 2, 3, 6: mean 3, sum of squares 14, sd sqrt(14/3); t(0.975, 3) = 3.18245.
    result = agreement([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 46.0])
    sd = (14 / 3) ** 0.5
    assert result["n"] == 4
    assert result["bias_months"] == pytest.approx(3.0)
    assert result["sd_months"] == pytest.approx(sd)
    assert result["lower_months"] == pytest.approx(3 - 1.96 * sd)
    assert result["upper_months"] == pytest.approx(3 + 1.96 * sd)
    bias = result["intervals"]["bias_months"]
    assert bias["high"] == pytest.approx(3 + 3.18245 * sd / 2, rel=1e-5)
    upper = result["intervals"]["upper_months"]
    assert upper["high"] - upper["value"] == pytest.approx(
        3.18245 * (3 * sd**2 / 4) ** 0.5, rel=1e-5
    )
    lower = result["intervals"]["lower_months"]
    assert lower["value"] - lower["low"] == pytest.approx(upper["high"] - upper["value"])


def test_slopes_equal_statsmodels_and_say_what_they_are_on() -> None:
    reference, predicted = simulated()
    result = agreement(reference, predicted)
    for key, x, on in [
        ("slope", (reference + predicted) / 2, "mean of both"),
        ("slope_on_reference", reference, "reference"),
    ]:
        fit = OLS(predicted - reference, add_constant(x)).fit(cov_type="HC3", use_t=True)
        slope = result[key]
        assert slope["on"] == on
        assert slope["value"] == pytest.approx(fit.params[1])
        assert slope["intercept_months"] == pytest.approx(fit.params[0])
        assert [slope["low"], slope["high"]] == pytest.approx(fit.conf_int(0.05)[1])


def test_a_slopes_interval_holds_where_errors_spread_with_age() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        age = rng.normal(127.0, 40.0, 60)
        fit = regression_slope(age, rng.normal(0.0, 0.002 * np.square(age - 127.0) + 1.0))
        covered += fit["low"] <= 0 <= fit["high"]
    # The interval for even spread holds in three fifths of such samples.
    assert covered / 400 == pytest.approx(0.95, abs=0.04)


def test_a_slope_that_one_case_decides_is_none() -> None:
    fit = regression_slope(np.array([5.0, 5.0, 5.0, 9.0]), np.array([0.0, 1.0, 2.0, 8.0]))
    assert set(fit.values()) == {None}


def test_regression_to_the_mean_is_a_negative_slope() -> None:
    result = agreement(*simulated())
    assert result["slope_on_reference"]["value"] == pytest.approx(-0.15, abs=0.02)
    assert result["slope_on_reference"]["high"] < 0
    assert result["slope"]["value"] > result["slope_on_reference"]["value"]


def test_equal_spread_has_no_slope_on_the_mean_but_one_on_the_reference() -> None:
    # cov(p - r, (p + r) / 2) = (var p - var r) / 2, zero for exchangeable readings.
    rng = np.random.default_rng(1)
    truth = rng.normal(127.0, 40.0, 40_000)
    reference, predicted = (truth + rng.normal(0.0, 15.0, truth.size) for _ in range(2))
    result = agreement(reference, predicted)
    # Standard error 21 / (41 * 200) = 0.0026.
    assert result["slope"]["value"] == pytest.approx(0.0, abs=0.01)
    assert result["slope_on_reference"]["value"] == pytest.approx(
        -(15**2) / (40**2 + 15**2), abs=0.02
    )


def test_correlation_and_fisher_interval_equal_scipy() -> None:
    reference, predicted = simulated(60)
    expected = stats.pearsonr(reference, predicted)
    interval = expected.confidence_interval(0.95)
    result = agreement(reference, predicted)["correlation"]
    assert result["value"] == pytest.approx(expected.statistic)
    assert result["low"] == pytest.approx(interval.low)
    assert result["high"] == pytest.approx(interval.high)


def test_concordance_by_hand() -> None:
    # x = 1, 2, 3 and y = 2, 3, 4: variances 2/3 each, covariance 2/3, shift 1.
    assert lin_concordance(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]))[
        "value"
    ] == pytest.approx((4 / 3) / (4 / 3 + 1))


def test_concordance_interval_matches_its_sampling_distribution() -> None:
    # Fisher's z of Lin's coefficient over 3,000 samples spreads as the closed form says.
    rng = np.random.default_rng(5)
    z_values, widths = [], []
    for _ in range(3000):
        x = rng.normal(0.0, 1.0, 80)
        y = 0.4 + 0.8 * x + rng.normal(0.0, 0.5, 80)
        result = lin_concordance(x, y)
        assert result["value"] is not None
        assert result["low"] is not None
        assert result["high"] is not None
        z_values.append(np.arctanh(result["value"]))
        widths.append(np.arctanh(result["high"]) - np.arctanh(result["low"]))
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(z_values), rel=0.06)


def test_concordance_never_exceeds_correlation() -> None:
    for seed in range(20):
        result = agreement(*simulated(12, seed))
        assert result["concordance"]["value"] <= result["correlation"]["value"]


@pytest.mark.parametrize(
    ("reference", "predicted"),
    [
        ([5.0], [6.0]),
        ([5.0, 9.0], [6.0, 9.0]),
        ([5.0] * 6, [7.0] * 6),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_what_few_or_constant_cases_do_not_give_is_none(
    reference: list[float], predicted: list[float]
) -> None:
    result = agreement(reference, predicted)
    json.dumps(result, allow_nan=False)
    if len(reference) == 1:
        assert result["sd_months"] is None
        assert result["lower_months"] is None
        assert result["intervals"]["bias_months"]["low"] is None
    if len(reference) == 2:
        assert result["sd_months"] is not None
        assert result["slope"]["value"] is None
    if len(set(reference)) == 1:
        assert result["slope"]["value"] is None
        assert result["correlation"]["value"] is None


def test_slope_through_exact_points_has_a_point_interval() -> None:
    fit = regression_slope(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0, 7.0]))
    assert fit == pytest.approx({"value": 2.0, "low": 2.0, "high": 2.0, "intercept": 1.0})


@pytest.mark.parametrize(
    ("reference", "predicted"), [([], []), ([1.0, 2.0], [1.0]), ([1.0, float("nan")], [1.0, 2.0])]
)
def test_unusable_ages_are_refused(reference: list[float], predicted: list[float]) -> None:
    with pytest.raises(DataError, match="agreement: expected"):
        agreement(reference, predicted)

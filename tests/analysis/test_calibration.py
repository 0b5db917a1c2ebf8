from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS, add_constant

from boneage_xai.analysis.calibration import calibration_curve, calibration_line
from boneage_xai.errors import ConfigError, DataError


def simulated(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(127.0, 40.0, n)
    return reference, 25.0 + 0.8 * reference + rng.normal(0.0, 10.0, n)


def test_curve_by_hand() -> None:
    rows = calibration_curve([10.0, 20.0, 30.0, 50.0], [11.0, 12.0, 40.0, 44.0], n_bins=2)
    assert [row["n"] for row in rows] == [2, 2]
    assert [row["predicted_months"] for row in rows] == [11.5, 42.0]
    assert [row["from_months"] for row in rows] == [11.0, 40.0]
    mean = rows[1]["reference_months"]
    # sd of 30 and 50 is sqrt(200); t(0.975, 1) = 12.7062.
    assert mean["value"] == 40.0
    assert mean["high"] == pytest.approx(40.0 + 12.7062 * (200 / 2) ** 0.5, rel=1e-4)


def test_curve_partitions_the_cases_and_its_intervals_are_students() -> None:
    reference, predicted = simulated()
    rows = calibration_curve(reference, predicted)
    assert sum(row["n"] for row in rows) == 500
    total = sum(row["n"] * row["reference_months"]["value"] for row in rows)
    assert total == pytest.approx(reference.sum())
    part = reference[(predicted >= rows[4]["from_months"]) & (predicted <= rows[4]["to_months"])]
    expected = stats.ttest_1samp(part, 0.0).confidence_interval(0.95)
    assert rows[4]["reference_months"]["low"] == pytest.approx(expected.low)
    assert rows[4]["reference_months"]["high"] == pytest.approx(expected.high)
    for row in rows:
        distance = row["predicted_months"] - row["reference_months"]["value"]
        assert row["error_months"]["value"] == pytest.approx(distance)
        # The spread of predictions within a bin is no uncertainty of the error.
        assert row["error_months"]["high"] < distance + 10.0 * 2.2 / 0.8 / row["n"] ** 0.5


def test_equal_predictions_stay_together() -> None:
    rows = calibration_curve([1.0, 2.0, 3.0], [7.0, 7.0, 7.0])
    assert [(row["n"], row["few_cases"]) for row in rows] == [(3, True)]
    (row,) = calibration_curve([1.0], [7.0])
    assert row["reference_months"] == {"value": 1.0, "low": None, "high": None}


def test_line_equals_statsmodels_and_finds_regression_to_the_mean() -> None:
    reference, predicted = simulated()
    line = calibration_line(reference, predicted)
    fit, back = (
        OLS(y, add_constant(x)).fit(cov_type="HC3", use_t=True)
        for x, y in ((predicted, reference), (reference, predicted))
    )
    assert line["slope"]["value"] == pytest.approx(fit.params[1])
    assert line["slope"]["low"] == pytest.approx(fit.conf_int(0.05)[1, 0])
    assert line["intercept_months"] == pytest.approx(fit.params[0])
    assert line["sd_ratio"] == pytest.approx(predicted.std() / reference.std())
    lost = line["regression_to_the_mean"]
    assert lost["value"] == pytest.approx(1 - back.params[1])
    assert lost["high"] == pytest.approx(1 - back.conf_int(0.05)[1, 0])
    assert lost["low"] < 0.2 < lost["high"]


def test_what_constant_values_do_not_give_is_none() -> None:
    line = calibration_line([5.0, 5.0, 5.0], [1.0, 2.0, 3.0])
    assert line["sd_ratio"] is None
    assert line["regression_to_the_mean"]["value"] is None


@pytest.mark.parametrize(
    ("reference", "predicted"), [([], []), ([1.0, 2.0], [1.0]), ([1.0, float("nan")], [1.0, 2.0])]
)
def test_unusable_ages_are_refused(reference: list[float], predicted: list[float]) -> None:
    with pytest.raises(DataError, match="calibration: expected"):
        calibration_curve(reference, predicted)
    with pytest.raises(DataError, match="calibration: expected"):
        calibration_line(reference, predicted)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        calibration_curve([1.0], [1.0], n_bins=0)

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from boneage_xai.analysis.agreement import agreement
from boneage_xai.analysis.correction import Correction, Line, fit_correction
from boneage_xai.errors import ConfigError, DataError


def simulated(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions that keep to the middle, more so for boys."""
    rng = np.random.default_rng(seed)
    is_male = rng.random(n) < 0.5
    reference = rng.normal(127.0, 40.0, n)
    slope, intercept = np.where(is_male, 0.7, 0.9), np.where(is_male, 30.0, 18.0)
    return reference, intercept + slope * reference + rng.normal(0.0, 8.0, n), is_male


def test_against_prediction_is_the_regression_of_errors_on_predictions() -> None:
    reference, predicted, is_male = simulated()
    corrected = fit_correction(reference, predicted, is_male).apply(predicted, is_male)
    for sex in (False, True):
        own = is_male == sex
        fit = LinearRegression().fit(predicted[own, None], (predicted - reference)[own])
        expected = predicted[own] - fit.predict(predicted[own, None])
        np.testing.assert_allclose(corrected[own], expected)
        # Errors no longer depend on the prediction.
        again = np.polyfit(corrected[own], corrected[own] - reference[own], 1)
        np.testing.assert_allclose(again, 0.0, atol=1e-9)


def test_against_reference_removes_regression_to_the_mean() -> None:
    reference, predicted, is_male = simulated()
    before = agreement(reference, predicted)["slope_on_reference"]
    assert before["high"] < -0.1
    found = fit_correction(reference, predicted, is_male, against="reference")
    corrected = found.apply(predicted, is_male)
    for sex in (False, True):
        own = is_male == sex
        after = agreement(reference[own], corrected[own])
        assert after["slope_on_reference"]["value"] == pytest.approx(0.0, abs=1e-9)
        assert after["bias_months"] == pytest.approx(0.0, abs=1e-9)
    best = fit_correction(reference, predicted, is_male).apply(predicted, is_male)
    assert np.square(best - reference).mean() < np.square(corrected - reference).mean()


def test_new_cases_of_the_same_kind_are_corrected_too() -> None:
    fitted = fit_correction(*simulated(2000, 1), against="reference")
    reference, predicted, is_male = simulated(2000, 2)
    after = agreement(reference, fitted.apply(predicted, is_male))["slope_on_reference"]
    assert after["value"] == pytest.approx(0.0, abs=0.03)


def test_pooled_lines_are_one_line() -> None:
    found = fit_correction(*simulated(), per_sex=False)
    assert found.girls == found.boys
    assert found.n == 600


@given(st.floats(0.5, 2.0), st.floats(-40.0, 40.0))
def test_an_exact_line_is_undone(slope: float, intercept: float) -> None:
    reference = np.linspace(10.0, 220.0, 50)
    predicted = intercept + slope * reference
    is_male = np.arange(50) % 2 == 0
    for against in ("prediction", "reference"):
        found = fit_correction(reference, predicted, is_male, against=against)
        np.testing.assert_allclose(found.apply(predicted, is_male), reference, atol=1e-8)


def test_storing_and_loading_is_identity() -> None:
    found = fit_correction(*simulated(), against="reference")
    assert Correction.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Correction("prediction", False, 3, Line(1.0, 2.0), Line(0.0, 1.0)).apply(
        [10.0, 10.0], [False, True]
    ).tolist() == [21.0, 10.0]


@pytest.mark.parametrize(
    "change",
    [
        {"girls": {"slope": 1.0}},
        {"against": "wishes"},
        {"n": "many"},
        {"more": 1},
        {"boys": {"intercept_months": float("nan"), "slope": 1.0}},
    ],
)
def test_damaged_corrections_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="correction: expected"):
        Correction.from_dict(fit_correction(*simulated()).to_dict() | change)


def test_unusable_cases_are_refused() -> None:
    reference, predicted, is_male = simulated(60)
    with pytest.raises(DataError, match="at least 20 girls to fit a line, found 0"):
        fit_correction(reference, predicted, np.ones(60, dtype=bool))
    with pytest.raises(DataError, match="grow with the reference among the girls"):
        fit_correction(reference, -predicted, is_male)
    with pytest.raises(DataError, match="grow with the reference"):
        fit_correction(reference, np.full(60, 100.0), is_male)
    # The standard deviation of so many of these is not 0.
    with pytest.raises(DataError, match="grow with the reference"):
        fit_correction(reference, np.full(60, 132.7), is_male, per_sex=False)
    with pytest.raises(DataError, match="same cases"):
        fit_correction(reference, predicted[:-1], is_male)
    with pytest.raises(DataError, match="finite"):
        fit_correction(reference, np.full(60, np.nan), is_male)
    with pytest.raises(ConfigError, match="prediction, reference"):
        fit_correction(reference, predicted, is_male, against="both")  # type: ignore[arg-type]

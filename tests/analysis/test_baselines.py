from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from boneage_xai.analysis.baselines import BASELINES, Baselines, fit_baselines
from boneage_xai.errors import DataError


def training(n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    male = rng.random(n) < 0.55
    intensity = rng.random((n, 4)) * [1.0, 0.1, 50.0, 0.0] + 0.5  # the last is constant
    ages = 120.0 + 15.0 * male - 60.0 * intensity[:, 0] + rng.normal(0.0, 20.0, n)
    return ages, male, intensity


def test_means_by_hand() -> None:
    fitted = fit_baselines(
        [10.0, 20.0, 60.0, 90.0], [True, True, False, True], np.arange(8.0).reshape(4, 2)
    )
    assert fitted.predict("mean", [True, False], np.zeros((2, 2))).tolist() == [45.0, 45.0]
    assert fitted.predict("sex_mean", [True, False], np.zeros((2, 2))).tolist() == [40.0, 60.0]


def test_ridge_equals_sklearn_pipeline() -> None:
    ages, male, intensity = training()
    fitted = fit_baselines(ages, male, intensity)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13)))
    pipeline.fit(intensity, ages)
    new = training(50)[2] * 1.3
    ours = fitted.predict("intensity_ridge", np.ones(50, dtype=bool), new)
    np.testing.assert_allclose(ours, pipeline.predict(new), rtol=1e-9)
    assert fitted.ridge_alpha == pytest.approx(pipeline[-1].alpha_)


def test_ridge_beats_the_mean_where_intensity_tells_age() -> None:
    ages, male, intensity = training()
    fitted = fit_baselines(ages, male, intensity)
    error = {
        name: np.abs(fitted.predict(name, male, intensity) - ages).mean() for name in BASELINES
    }
    assert error["intensity_ridge"] < error["mean"] - 2.0
    assert error["sex_mean"] < error["mean"]


def test_scale_of_a_statistic_does_not_matter() -> None:
    ages, male, intensity = training()
    scaled = intensity * [1000.0, 0.001, 7.0, 1.0]
    one = fit_baselines(ages, male, intensity).predict("intensity_ridge", male, intensity)
    two = fit_baselines(ages, male, scaled).predict("intensity_ridge", male, scaled)
    np.testing.assert_allclose(one, two, rtol=1e-8)


def test_json_and_back_is_identity() -> None:
    ages, male, intensity = training()
    fitted = fit_baselines(ages, male, intensity)
    again = Baselines.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert again == fitted
    for name in BASELINES:
        np.testing.assert_array_equal(
            again.predict(name, male, intensity), fitted.predict(name, male, intensity)
        )


def test_a_sex_without_training_cases_gets_the_overall_mean() -> None:
    fitted = fit_baselines([10.0, 20.0], [True, True], [[1.0], [2.0]])
    assert fitted.female_mean_months == fitted.mean_months == 15.0


@pytest.mark.parametrize(
    ("ages", "male", "intensity"),
    [
        ([1.0], [True], [[1.0]]),
        ([1.0, 2.0], [True], [[1.0], [2.0]]),
        ([1.0, 2.0], [True, False], [[1.0]]),
        ([1.0, 2.0], [True, False], [1.0, 2.0]),
        ([1.0, float("nan")], [True, False], [[1.0], [2.0]]),
        ([1.0, 2.0], [True, False], [[1.0], [float("nan")]]),
        ([1.0, 2.0], [True, False], np.zeros((2, 0))),
    ],
)
def test_unusable_training_cases_are_refused(ages: list, male: list, intensity: list) -> None:
    with pytest.raises(DataError, match="baselines: expected"):
        fit_baselines(ages, male, intensity)


def test_unknown_name_and_wrong_shape_are_refused() -> None:
    fitted = fit_baselines(*training())
    with pytest.raises(DataError, match="found 'median'"):
        fitted.predict("median", [True], np.zeros((1, 4)))
    with pytest.raises(DataError, match=r"expected statistics of shape \(1, 4\)"):
        fitted.predict("intensity_ridge", [True], np.zeros((1, 3)))


@pytest.mark.parametrize(
    "change", [{"extra": 1.0}, {"mean_months": "much"}, {"intensity_sd": [None]}]
)
def test_a_damaged_record_is_refused(change: dict[str, object]) -> None:
    data = {**fit_baselines(*training()).to_dict(), **change}
    with pytest.raises(DataError, match="baselines: expected"):
        Baselines.from_dict(data)

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from boneage_xai.analysis import metrics as metrics_module
from boneage_xai.analysis.large_samples import mean_interval, median_interval
from boneage_xai.analysis.metrics import METRICS, bootstrap, bootstrap_mean, error_metrics


@pytest.fixture(scope="module")
def errors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random(1501) < 0.05, 40.0, 0.0) + rng.gamma(2.0, 5.0, 1501) - 8.0


@pytest.mark.parametrize("name", [one for one in METRICS if not one.startswith("within_")])
def test_closed_forms_are_what_resampling_comes_to(
    errors: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = bootstrap(errors, {name: METRICS[name]}, seed=1, n_resamples=8000)[name]
    monkeypatch.setattr(metrics_module, "LARGE_SAMPLE", 1500)
    closed = error_metrics(errors)[name]
    assert closed["value"] == drawn["value"]
    assert drawn["low"] is not None
    assert drawn["high"] is not None
    # The 2.5th percentile of 8,000 draws scatters by 0.03 of the interval's half width.
    margin = 0.06 * (drawn["high"] - drawn["low"])
    assert closed["low"] == pytest.approx(drawn["low"], abs=margin)
    assert closed["high"] == pytest.approx(drawn["high"], abs=margin)


def test_mean_interval_follows_the_skewness_of_the_exact_distribution() -> None:
    # Resamples of Bernoulli values have a binomial mean, known exactly.
    values = np.repeat([0.0, 1.0], [380, 20])
    low, high = mean_interval(values, 0.95)
    exact = stats.binom.ppf([0.025, 0.975], 400, 0.05) / 400
    assert abs(low - exact[0]) < 1 / 400
    assert abs(high - exact[1]) < 1 / 400
    assert high - 0.05 > 0.05 - low


def test_median_by_hand() -> None:
    # P(Bin(9, k/9) >= 5) passes 0.025 first at k = 2 and 0.975 first at k = 8.
    tails = stats.binom.sf(4, 9, np.arange(10) / 9)
    assert (tails >= 0.025).argmax() == 2
    assert (tails >= 0.975).argmax() == 8
    assert median_interval(np.arange(1.0, 10.0), 0.95) == (2.0, 8.0)


def test_large_samples_are_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, metrics_module.LARGE_SAMPLE + 1)
    assert error_metrics(values, seed=0) == error_metrics(values, seed=1, n_resamples=1)
    mean = bootstrap_mean(values)
    margin = 1.96 * values.std() / values.size**0.5
    assert mean["low"] == pytest.approx(values.mean() - margin, abs=0.01 * margin)


def test_constant_values_have_a_point_interval() -> None:
    assert mean_interval(np.full(10, 4.0), 0.95) == (4.0, 4.0)
    assert median_interval(np.full(10, 4.0), 0.95) == (4.0, 4.0)

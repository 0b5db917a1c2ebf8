from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from boneage_xai.analysis.agreement import agreement
from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.analysis.metrics import METRICS, error_metrics
from boneage_xai.errors import DataError


def predictions(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    reference = rng.uniform(1.0, 228.0, n)
    return pd.DataFrame(
        {
            "case_id": [str(1000 + i) for i in range(n)],
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "reference_months": reference,
            "predicted_months": reference + rng.normal(1.0, 9.0, n),
        }
    )


def test_metrics_file_holds_every_part_and_is_json() -> None:
    frame = predictions()
    before = frame.copy()
    mean = np.full(60, 120.0)
    result = evaluate(frame, {"mean": mean}, seed=2, n_resamples=50, age_bins=[0, 100, 240])
    json.dumps(result, allow_nan=False)
    reference = frame["reference_months"].to_numpy()
    predicted = frame["predicted_months"].to_numpy()
    assert result["overall"] == error_metrics(predicted - reference, seed=2, n_resamples=50)
    assert result["baselines"] == {"mean": error_metrics(mean - reference, seed=2, n_resamples=50)}
    assert result["agreement"] == agreement(reference, predicted)
    assert {tuple(g["age_months"]) for g in result["subgroups"] if g["by"] == "age"} == {
        (0.0, 100.0),
        (100.0, 240.0),
    }
    assert all(set(METRICS) < set(group) for group in result["subgroups"])
    assert result["settings"]["seed"] == 2
    pd.testing.assert_frame_equal(frame, before)


def test_radiologists_are_quoted_and_not_comparable() -> None:
    (value,) = evaluate(predictions(), {}, n_resamples=5)["reference_values"]
    assert value["name"] == "radiologists"
    assert value["mae_months"] == 6.0
    assert value["quoted"] is True
    assert value["comparable"] is False
    assert "200" in value["source"]
    assert "quoted" in value["source"]


def test_same_seed_same_file_and_another_seed_another() -> None:
    one, two, other = (evaluate(predictions(), {}, seed=seed, n_resamples=50) for seed in (1, 1, 2))
    assert one == two
    assert one["overall"]["mae_months"] != other["overall"]["mae_months"]


def test_row_order_changes_values_by_nothing() -> None:
    frame = predictions()
    shuffled = frame.sample(frac=1.0, random_state=0)
    one, two = (evaluate(f, {}, n_resamples=5) for f in (frame, shuffled))
    for name in METRICS:
        assert one["overall"][name]["value"] == pytest.approx(two["overall"][name]["value"])


def damaged(**columns: object) -> pd.DataFrame:
    return predictions(3).assign(**columns)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (predictions(3).drop(columns="sex"), "found no sex"),
        (predictions(3).iloc[:0], "at least one case"),
        (damaged(case_id=["a", "b", "a"]), "found case a again"),
        (damaged(predicted_months=[1.0, np.nan, 2.0]), "case 1001: expected predicted_months"),
        (damaged(reference_months=[1.0, 2.0, np.nan]), "case 1002: expected reference_months"),
        (damaged(sex=["F", "M", "U"]), "case 1002: expected sex F or M"),
    ],
)
def test_unusable_predictions_are_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(frame, {})


def test_a_baseline_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="baseline mean: expected 60 predictions"):
        evaluate(predictions(), {"mean": np.zeros(59)})

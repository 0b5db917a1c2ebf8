from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from boneage_xai.analysis.clinical import (
    CHRONOLOGICAL,
    PROXY,
    clinical_results,
    maturity_classes,
    skeletal_age_scores,
)
from boneage_xai.analysis.skeletal_age_table import BRUSH_SD_MONTHS, skeletal_age_sd_months

# As printed, by sex.
BOYS = (
    "0.69 1.13 1.43 1.97 3.52 3.92 4.52 5.08 5.40 6.66 8.36 8.79 "
    "9.17 8.91 9.10 9.00 9.79 10.09 10.38 10.44 10.72 11.32 12.86 13.05"
)
GIRLS = (
    "0.72 1.16 1.36 1.77 3.49 4.64 5.37 5.97 7.48 8.98 10.73 11.65 "
    "10.23 9.64 10.23 10.74 11.73 11.94 10.24 10.67 11.30 9.23 7.31"
)


def test_table_has_the_published_ages_and_ends() -> None:
    ages = [3, 6, 9, 12, 18, 24, 30, 36, 42, 48, 54, 60, *range(72, 205, 12)]
    assert list(BRUSH_SD_MONTHS) == ages
    assert BRUSH_SD_MONTHS[36] == (5.08, 5.97)
    assert BRUSH_SD_MONTHS[192] == (12.86, 7.31)
    assert BRUSH_SD_MONTHS[204] == (13.05, None)
    assert [boys for boys, _ in BRUSH_SD_MONTHS.values()] == [float(sd) for sd in BOYS.split()]
    assert [girls for _, girls in BRUSH_SD_MONTHS.values()][:-1] == list(map(float, GIRLS.split()))


@pytest.mark.parametrize(
    ("age", "male", "expected"),
    [
        *[(3, True, 0.69), (204, True, 13.05), (192, False, 7.31), (24, False, 4.64)],
        # Half way between 60 and 72 months, and a third of the way from 6 to 9.
        *[(66, True, (8.79 + 9.17) / 2), (7, False, 1.16 + 0.2 / 3)],
        *[(2.9, True, np.nan), (204.1, True, np.nan), (192.1, False, np.nan)],
        (np.nan, True, np.nan),
    ],
)
def test_deviation_is_interpolated_and_never_extrapolated(
    age: float, male: bool, expected: float
) -> None:
    assert skeletal_age_sd_months([age], [male])[0] == pytest.approx(expected, nan_ok=True)


def test_scores_and_classes_by_hand() -> None:
    # A girl of 120 months (SD 11.73) whose bones are 96, 143.46 and 144 months old.
    scores = skeletal_age_scores([96.0, 143.46, 144.0], [120.0] * 3, [False] * 3)
    assert scores == pytest.approx([-24 / 11.73, 2.0, 24 / 11.73])
    assert maturity_classes([*scores[[0, 2]], 2.0, -2.0, np.nan]).tolist() == [0, 2, 1, 1, -1]


def cases(n: int = 500, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20.0, 190.0, n)
    reference = np.clip(age + rng.normal(0.0, 14.0, n), 1.0, 228.0)
    return pd.DataFrame(
        {
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "chronological_age_months": age,
            "reference_months": reference,
            "predicted_months": reference + rng.normal(0.0, 9.0, n),
        }
    )


def test_confusion_equals_scikit_learn() -> None:
    frame = cases()
    result = clinical_results(frame)
    male = (frame["sex"] == "M").to_numpy()
    sd = skeletal_age_sd_months(frame["chronological_age_months"], male)
    labels = [
        np.digitize((frame[name] - frame["chronological_age_months"]) / sd, [-2.0, 2.0])
        for name in ("reference_months", "predicted_months")
    ]
    assert result["basis"] == CHRONOLOGICAL
    assert result["confusion"] == confusion_matrix(*labels, labels=[0, 1, 2]).tolist()
    assert result["class_changed"]["value"] == pytest.approx((labels[0] != labels[1]).mean())
    abnormal = labels[0] != 1
    assert result["missed_abnormal"]["value"] == pytest.approx((labels[1][abnormal] == 1).mean())
    error = frame["predicted_months"] - frame["reference_months"]
    assert result["significant_errors"]["value"] == pytest.approx((error.abs() > 2 * sd).mean())
    assert result["score_error_sd"]["mean"] == pytest.approx((error / sd).mean())
    json.dumps(result, allow_nan=False)


def test_without_chronological_age_it_is_a_proxy_and_says_so() -> None:
    frame = cases().drop(columns="chronological_age_months")
    result = clinical_results(frame)
    assert result["basis"] == PROXY
    assert "proxy" in result["basis"]
    assert "confusion" not in result
    sd = skeletal_age_sd_months(frame["reference_months"], frame["sex"] == "M")
    error = (frame["predicted_months"] - frame["reference_months"]).abs()
    judged = ~np.isnan(sd)
    assert result["n"] == judged.sum()
    assert result["n_outside_table"] == (~judged).sum() > 0
    assert result["significant_errors"]["value"] == pytest.approx((error > 2 * sd)[judged].mean())
    by_sex = [row for row in result["significant_by"] if row["by"] == "sex"]
    assert sum(row["n"] for row in by_sex) == result["n"]
    total = sum(row["n"] * row["significant_errors"]["value"] for row in by_sex)
    assert total / result["n"] == pytest.approx(result["significant_errors"]["value"])


def test_cases_without_age_are_left_out_and_counted() -> None:
    frame = cases(100)
    frame.loc[:29, "chronological_age_months"] = np.nan
    frame.loc[30:34, "chronological_age_months"] = 230.0
    result = clinical_results(frame)
    assert (result["n"], result["n_without_age"], result["n_outside_table"]) == (65, 30, 5)
    assert sum(map(sum, result["confusion"])) == 65


def test_no_case_inside_the_table_gives_no_shares() -> None:
    frame = cases(4).drop(columns="chronological_age_months").assign(reference_months=1.0)
    result = clinical_results(frame)
    assert result["n"] == 0
    assert result["significant_errors"]["value"] is None


def test_perfect_predictions_make_no_significant_error() -> None:
    frame = cases()
    result = clinical_results(frame.assign(predicted_months=frame["reference_months"]))
    assert result["significant_errors"]["value"] == 0.0
    assert result["class_changed"]["value"] == 0.0
    counts = np.array(result["confusion"])
    assert counts.sum() == np.trace(counts)

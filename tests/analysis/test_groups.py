from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from statsmodels.stats.multitest import multipletests

from boneage_xai.analysis.comparisons import group_tests
from boneage_xai.analysis.groups import (
    MISSING,
    column_grouping,
    group_metrics,
    standard_groupings,
)
from boneage_xai.analysis.multiplicity import holm_of_known
from boneage_xai.errors import ConfigError, DataError


def simulated(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.0, 228.0, n).round()
    return pd.DataFrame(
        {
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "reference_months": reference,
            "predicted_months": reference + rng.normal(1.0, 9.0, n).round(1),
            "site": rng.choice(["north", "south", ""], n),
        }
    )


@pytest.mark.parametrize("by", ["sex", "age", "sex×age", "year", "stage", "sex×stage", "site"])
def test_groups_equal_fairlearn(by: str) -> None:
    frame = simulated()
    errors = (frame["predicted_months"] - frame["reference_months"]).to_numpy()
    grouping = (
        column_grouping(frame["site"], "site") if by == "site" else standard_groupings(frame)[by]
    )
    ours = group_metrics(errors, [grouping], n_resamples=5)
    theirs = MetricFrame(
        metrics={"mae": mean_absolute_error, "rmse": root_mean_squared_error},
        y_true=frame["reference_months"],
        y_pred=frame["predicted_months"],
        sensitive_features=grouping.codes,
    ).by_group
    assert len(ours) == len(theirs)
    assert sum(group["n"] for group in ours) == len(frame)
    for group, (_, row) in zip(ours, theirs.iterrows(), strict=True):
        assert group["mae_months"]["value"] == pytest.approx(row["mae"])
        assert group["rmse_months"]["value"] == pytest.approx(row["rmse"])


def test_keys_say_what_the_cases_of_a_group_have_in_common() -> None:
    frame = simulated(60)
    for grouping in standard_groupings(frame).values():
        for code, keys in enumerate(grouping.keys):
            part = frame[grouping.codes == code]
            if part.empty:
                continue
            if "sex" in keys:
                assert set(part["sex"]) == {keys["sex"]}
            if "age_months" in keys:
                low, high = keys["age_months"]
                assert part["reference_months"].between(low, high).all()
            if "year" in keys:
                assert (part["reference_months"] // 12 == keys["year"]).all()


def test_columns_group_by_their_text() -> None:
    grouping = column_grouping(pd.Series(["b", " a", None, "", "b"]), "site")
    assert [key["group"] for key in grouping.keys] == ["a", "b", MISSING]
    assert grouping.codes.tolist() == [1, 0, 2, 2, 1]
    with pytest.raises(ConfigError, match="expected at most 40 different values, found 41"):
        column_grouping(pd.Series(range(41)), "id")


def test_a_reference_outside_the_bins_is_refused() -> None:
    frame = simulated(5).assign(reference_months=[1.0, 2.0, 241.0, 3.0, 4.0])
    with pytest.raises(DataError, match="found 241"):
        standard_groupings(frame)


p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


@settings(max_examples=8, deadline=None)
@given(p_values)
def test_holm_equals_statsmodels(values: list[float]) -> None:
    assert holm_of_known(values) == pytest.approx(multipletests(values, method="holm")[1])


def test_holm_passes_over_what_was_not_tested() -> None:
    # 0.01 × 3, 0.02 × 2 and 0.04 × 1, which may not fall below the one before it.
    assert holm_of_known([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm_of_known([]) == []
    with pytest.raises(DataError, match="from 0 to 1"):
        holm_of_known([1.2])


def test_tests_of_groups_equal_scipy() -> None:
    frame = simulated()
    errors = (frame["predicted_months"] - frame["reference_months"]).to_numpy()
    grouping = standard_groupings(frame)["sex×age"]
    rows = group_tests(errors, grouping)
    tested = [row for row in rows if row["bias_p"] is not None]
    assert len(tested) > 5
    for code, keys in enumerate(grouping.keys):
        mask = grouping.codes == code
        (row,) = [row for row in rows if keys.items() <= row.items()]
        assert row["n"] == mask.sum()
        if row["few_cases"]:
            assert row["bias_p"] is row["difference_p"] is row["bias_p_holm"] is None
            continue
        own, rest = np.abs(errors[mask]), np.abs(errors[~mask])
        assert row["mae_difference_months"] == pytest.approx(own.mean() - rest.mean())
        assert row["bias_p"] == pytest.approx(stats.ttest_1samp(errors[mask], 0.0).pvalue)
        expected = stats.ttest_ind(own, rest, equal_var=False).pvalue
        assert row["difference_p"] == pytest.approx(expected)
    raw = [row["bias_p"] for row in tested]
    assert [row["bias_p_holm"] for row in tested] == pytest.approx(
        multipletests(raw, method="holm")[1]
    )


def test_skewed_errors_without_bias_are_called_biased_as_rarely_as_the_level_says() -> None:
    # Signed ranks call two thirds of these biased: their mean is 0 and their median is not.
    rng = np.random.default_rng(5)
    alone = column_grouping(pd.Series(["a"] * 200), "site")
    found = [group_tests(rng.exponential(8.0, 200) - 8.0, alone)[0]["bias_p"] for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.12


def test_constant_errors_have_a_p_value() -> None:
    errors = np.repeat([2.0, 2.0, 0.0], 30)
    rows = group_tests(errors, column_grouping(pd.Series(np.repeat(["a", "b", "c"], 30)), "site"))
    assert [row["bias_p"] for row in rows] == [0.0, 0.0, 1.0]
    assert rows[2]["difference_p"] == 0.0


def test_one_group_has_nothing_to_be_compared_with() -> None:
    (row,) = group_tests(np.zeros(30), column_grouping(pd.Series(["a"] * 30), "site"))
    assert row["mae_difference_months"] is row["difference_p"] is None
    assert row["bias_p"] == 1.0


def test_a_planted_bias_is_found_and_no_other() -> None:
    frame = simulated(2000, seed=3)
    rng = np.random.default_rng(4)
    errors = rng.normal(0.0, 8.0, 2000) + np.where(frame["site"] == "north", 3.0, 0.0)
    rows = group_tests(errors, column_grouping(frame["site"], "site"))
    found = {row["group"]: row["bias_p_holm"] for row in rows}
    assert found["north"] < 1e-6
    assert found["south"] > 0.05
    assert found[MISSING] > 0.05

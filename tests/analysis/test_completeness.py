"""Completeness: gaps and tolerances by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from boneage_xai.analysis.completeness import summarise_completeness, with_tolerance
from boneage_xai.errors import DataError

TABLE = pd.DataFrame(
    {
        "case_id": ["a", "b", "c", "a"],
        "method": ["integrated_gradients"] * 3 + ["gradient"],
        "prediction_months": [120.0, 200.0, 60.0, 120.0],
        "baseline_prediction_months": [100.0, 100.0, 50.0, np.nan],
        "completeness_gap_months": [-0.4, 0.9, 0.75, np.nan],
        "map_error_fraction": [0.01, 0.02, 0.06, np.nan],
        "nodes": [17, 33, 65, None],
        "converged": [True, True, False, None],
    }
)


def test_tolerance_is_the_larger_of_both() -> None:
    before = TABLE.copy()
    found = with_tolerance(TABLE, {"gap_tolerance_months": 0.5, "gap_tolerance_fraction": 0.01})
    # 1% of 20, 100 and 10 months against half a month.
    assert found["tolerance_months"].tolist()[:3] == pytest.approx([0.5, 1.0, 0.5])
    assert found["absolute_gap_months"].tolist()[:3] == pytest.approx([0.4, 0.9, 0.75])
    assert found["within_tolerance"].tolist()[:3] == [True, True, False]
    assert found["within_tolerance"].isna().tolist() == [False, False, False, True]
    pd.testing.assert_frame_equal(TABLE, before)


def test_settings_left_out_count_at_their_defaults() -> None:
    found = with_tolerance(TABLE, {"max_nodes": 33, "of_another_version": 1})
    assert found["tolerance_months"].tolist()[:3] == pytest.approx([0.5, 1.0, 0.5])
    wide = with_tolerance(TABLE, {"gap_tolerance_months": 2.0})
    assert wide["within_tolerance"].dropna().all()


def test_summary_by_method() -> None:
    summary = summarise_completeness(with_tolerance(TABLE, {})).set_index("method")
    ours = summary.loc["integrated_gradients"]
    assert ours["n"] == ours["n_with_gap"] == 3
    assert ours["within"] == pytest.approx(2 / 3)
    # Wilson's interval of 2 of 3.
    assert ours["within_low"] == pytest.approx(0.2077, abs=1e-4)
    assert ours["within_high"] == pytest.approx(0.9385, abs=1e-4)
    assert ours["median_gap_months"] == pytest.approx(0.75)
    assert ours["largest_gap_months"] == pytest.approx(0.9)
    assert ours["median_map_error_fraction"] == pytest.approx(0.02)
    assert ours["largest_map_error_fraction"] == pytest.approx(0.06)
    assert (ours["median_nodes"], ours["largest_nodes"]) == (33, 65)
    assert ours["n_not_converged"] == 1
    assert np.isnan(ours["median_seconds"])
    gradient = summary.loc["gradient"]
    assert gradient["n"] == 1
    assert gradient["n_with_gap"] == 0
    assert gradient[["within", "median_gap_months", "n_not_converged"]].isna().all()


def test_folders_of_earlier_versions_have_fewer_columns() -> None:
    old = TABLE.drop(columns=["map_error_fraction", "nodes", "converged"])
    summary = summarise_completeness(with_tolerance(old, {}))
    assert summary["median_nodes"].isna().all()
    assert summary["within"].iloc[0] == pytest.approx(2 / 3)


def test_no_case_is_refused() -> None:
    with pytest.raises(DataError, match="at least one attributed case"):
        summarise_completeness(with_tolerance(TABLE.head(0), {}))

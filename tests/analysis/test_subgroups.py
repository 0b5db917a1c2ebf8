from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.analysis.metrics import error_metrics
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, age_bin_indices, subgroup_metrics
from boneage_xai.errors import ConfigError, DataError


def table(rows: list[tuple[str, float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["sex", "reference_months", "predicted_months"])
    frame.insert(0, "case_id", [f"case-{index}" for index in range(len(rows))])
    return frame


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        *[(0, 0), (23.99, 0), (24, 1), (60, 2), (96, 3), (132, 4), (168, 5), (204, 6), (240, 6)],
        *[(-0.1, -1), (240.1, -1), (float("nan"), -1)],
    ],
)
def test_bins_are_half_open_and_the_last_is_closed(age: float, expected: int) -> None:
    assert age_bin_indices([age]).tolist() == [expected]


@pytest.mark.parametrize("edges", [[], [24.0], [24.0, 24.0], [48.0, 24.0]])
def test_edges_must_increase(edges: list[float]) -> None:
    with pytest.raises(ConfigError, match="increasing edges"):
        age_bin_indices([3.0], edges)


def test_subgroups_by_hand() -> None:
    frame = table([("F", 10.0, 12.0), ("F", 30.0, 20.0), ("M", 30.0, 33.0), ("M", 40.0, 33.0)])
    groups = subgroup_metrics(frame, n_resamples=20)
    found = {
        (g["by"], g.get("sex"), tuple(g.get("age_months", ()))): (g["n"], g["mae_months"]["value"])
        for g in groups
    }
    assert found == {
        ("sex", "F", ()): (2, 6.0),
        ("sex", "M", ()): (2, 5.0),
        ("age", None, (0.0, 24.0)): (1, 2.0),
        ("age", None, (24.0, 60.0)): (3, pytest.approx(20 / 3)),
        ("sex×age", "F", (0.0, 24.0)): (1, 2.0),
        ("sex×age", "F", (24.0, 60.0)): (1, 10.0),
        ("sex×age", "M", (24.0, 60.0)): (2, 5.0),
    }


def test_a_subgroup_holds_the_whole_metric_table_of_its_cases() -> None:
    rng = np.random.default_rng(0)
    frame = table([("FM"[i % 2], 100.0 + i, 100.0 + i + rng.normal()) for i in range(40)])
    girls = frame[frame["sex"] == "F"]
    group = subgroup_metrics(frame, seed=3, n_resamples=60)[0]
    errors = girls["predicted_months"] - girls["reference_months"]
    expected = error_metrics(errors, seed=3, n_resamples=60)
    assert group == {"by": "sex", "sex": "F", **expected}


cases = st.lists(
    st.tuples(st.sampled_from("FM"), st.floats(0, 240), st.floats(-20, 260)),
    min_size=1,
    max_size=40,
)
inner_edges = st.lists(st.floats(1, 239), max_size=5, unique=True).map(sorted)


@given(cases, inner_edges)
def test_every_kind_of_subgroup_partitions_the_cases(
    rows: list[tuple[str, float, float]], inner: list[float]
) -> None:
    groups = subgroup_metrics(table(rows), age_bins=[0.0, *inner, 240.0], n_resamples=2)
    for by in ("sex", "age", "sex×age"):
        chosen = [group for group in groups if group["by"] == by]
        assert sum(group["n"] for group in chosen) == len(rows)
        total = sum(group["n"] * group["mae_months"]["value"] for group in chosen)
        assert total == pytest.approx(sum(abs(p - r) for _, r, p in rows), abs=1e-6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("female", 30.0, 31.0), "case-1: expected sex F or M, found 'female'"),
        (("F", 251.0, 240.0), r"case-1: expected a reference bone age .* found 251"),
        (("F", float("nan"), 240.0), "case-1: expected a reference bone age"),
    ],
)
def test_a_case_that_fits_no_subgroup_is_named(row: tuple[str, float, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        subgroup_metrics(table([("M", 30.0, 31.0), row]))


def test_default_edges_are_those_of_the_report() -> None:
    assert AGE_BINS_MONTHS == (0, 24, 60, 96, 132, 168, 204, 240)

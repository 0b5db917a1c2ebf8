from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions.aggregation import aggregate, summarise
from boneage_xai.types import RegionMap

NAMES = {0: "background", 1: "radius", 2: "ulna", 5: "carpals"}


def test_hand_computed_sums() -> None:
    values = np.array([[1.0, -2.0, 4.0], [-8.0, 16.0, 32.0]], dtype=np.float32)
    labels = np.array([[0, 1, 1], [2, 0, 2]], dtype=np.uint8)
    table = aggregate(values, RegionMap(labels, NAMES))
    expected = pd.DataFrame(
        {
            "region": ["background", "radius", "ulna", "carpals"],
            "signed_months": [17.0, 2.0, 24.0, 0.0],
            "absolute_months": [17.0, 6.0, 40.0, 0.0],
            "area_fraction": [2 / 6, 2 / 6, 2 / 6, 0.0],
        }
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_labels_that_share_a_name_are_one_region() -> None:
    values = np.array([[1.0, -2.0, 4.0]])
    regions = RegionMap(np.array([[3, 1, 2]]), {1: "PIP", 2: "MCP", 3: "PIP"})
    table = aggregate(values, regions).set_index("region")
    assert list(table.index) == ["PIP", "MCP"]
    assert table.loc["PIP", "signed_months"] == -1
    assert table.loc["PIP", "absolute_months"] == 3
    assert table.loc["PIP", "area_fraction"] == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_regions_sum_to_the_map(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
    values = data.draw(
        hnp.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32, allow_nan=False))
    )
    labels = data.draw(hnp.arrays(np.uint16, shape, elements=st.sampled_from(list(NAMES))))
    before = values.copy()
    table = aggregate(values, RegionMap(labels, NAMES))
    # math.fsum is exact: the sum a person with unlimited digits would write down.
    magnitude = math.fsum(abs(float(value)) for value in values.ravel())
    assert table["signed_months"].sum() == pytest.approx(
        math.fsum(map(float, values.ravel())), rel=0, abs=1e-9 * magnitude
    )
    assert table["absolute_months"].sum() == pytest.approx(magnitude, rel=1e-9)
    assert table["area_fraction"].sum() == pytest.approx(1, rel=1e-12)
    for row in table.itertuples():
        inside = values[np.isin(labels, [k for k, name in NAMES.items() if name == row.region])]
        assert row.signed_months == pytest.approx(
            math.fsum(map(float, inside)), rel=0, abs=1e-9 * max(magnitude, 1e-300)
        )
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), dtype=int), r"expected the shape .* found \(3, 2\)"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), dtype=int), "found NaN"),
        (np.zeros((1, 1)), np.full((1, 1), -1), "labels from 0 up, found -1"),
    ],
)
def test_maps_that_cannot_be_summed(values: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        aggregate(values, RegionMap(labels, {0: "background", -1: "odd"}))


def cohort_frame(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    signed = rng.normal([3.0, -1.0], [2.0, 0.5], size=(n, 2))
    return pd.DataFrame(
        {
            "case_id": np.repeat([str(case) for case in range(n)], 2),
            "method": "integrated_gradients",
            "region": ["radius", "ulna"] * n,
            "signed_months": signed.ravel(),
            "absolute_months": np.abs(signed).ravel() + 1,
            "area_fraction": [0.2, 0.1] * n,
        }
    )


def test_summary_against_a_plain_bootstrap() -> None:
    n = 60
    frame = cohort_frame(n)
    summary = summarise(frame, resamples=4000, seed=1).set_index("region")
    rng = np.random.default_rng(99)
    for region in ("radius", "ulna"):
        values = frame.loc[frame["region"] == region, "signed_months"].to_numpy()
        plain = [rng.choice(values, n).mean() for _ in range(4000)]
        row = summary.loc[region]
        assert row["n"] == n
        assert row["signed_months"] == pytest.approx(values.mean(), rel=1e-12)
        low, high = np.percentile(plain, [2.5, 97.5])
        width = high - low
        assert row["signed_low_months"] == pytest.approx(low, abs=0.08 * width)
        assert row["signed_high_months"] == pytest.approx(high, abs=0.08 * width)
        assert row["absolute_low_months"] < row["absolute_months"] < row["absolute_high_months"]
    assert summary.loc["radius", "area_fraction"] == pytest.approx(0.2)


def test_summary_by_group_ignores_row_order_and_other_groups() -> None:
    frame = cohort_frame(12)
    frame["sex"] = np.where(frame["case_id"].astype(int) < 6, "F", "M")
    both = summarise(frame, by=["method", "sex"], resamples=50)
    assert list(both["sex"]) == ["F", "F", "M", "M"]
    girls = frame[frame["sex"] == "F"]
    alone = summarise(girls.sample(frac=1, random_state=3), resamples=50).set_index("region")
    columns = ["signed_months", "signed_low_months", "signed_high_months"]
    for region in ("radius", "ulna"):
        row = both[(both["sex"] == "F") & (both["region"] == region)].iloc[0]
        np.testing.assert_allclose(
            row[columns].astype(float), alone.loc[region, columns].astype(float), rtol=1e-12
        )


def test_a_region_that_some_cases_lack_is_averaged_over_those_that_have_it() -> None:
    frame = cohort_frame(10)
    lacking = frame[(frame["region"] == "radius") | (frame["case_id"].astype(int) < 4)]
    summary = summarise(lacking, resamples=200).set_index("region")
    ulna = lacking[lacking["region"] == "ulna"]
    assert summary.loc["ulna", "n"] == 4
    assert summary.loc["ulna", "signed_months"] == pytest.approx(ulna["signed_months"].mean())
    assert ulna["signed_months"].min() <= summary.loc["ulna", "signed_low_months"]
    assert summary.loc["ulna", "signed_high_months"] <= ulna["signed_months"].max()


def test_one_case_has_no_interval_and_no_case_no_row() -> None:
    summary = summarise(cohort_frame(1))
    assert summary["n"].tolist() == [1, 1]
    assert summary[["signed_low_months", "absolute_high_months"]].isna().all(axis=None)
    assert summary["signed_months"].notna().all()
    empty = summarise(cohort_frame(1).iloc[:0], by=["method"])
    assert len(empty) == 0
    assert list(empty.columns) == ["method", *summary.columns]


def test_wrong_tables_and_options_are_refused() -> None:
    frame = cohort_frame(2)
    with pytest.raises(DataError, match="found no"):
        summarise(frame.drop(columns="region"))
    with pytest.raises(DataError, match="case 0"):
        summarise(pd.concat([frame, frame]))
    with pytest.raises(ConfigError, match="confidence"):
        summarise(frame, confidence=1.5)

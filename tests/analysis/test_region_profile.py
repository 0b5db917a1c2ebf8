"""Profiles against sums by hand, properties, the one rule of verdicts, and paired controls."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.analysis.region_profile import (
    ALL,
    FEW_CASES,
    against_literature,
    compare_with_control,
    region_profile,
)
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions.aggregation import summarise

QUICK = {"resamples": 200}


def rows_of(
    case_id: str, regions: dict[str, tuple[float, float, float]]
) -> list[dict[str, object]]:
    return [
        {
            "case_id": case_id,
            "method": "integrated_gradients",
            "region": region,
            "signed_months": signed,
            "absolute_months": absolute,
            "area_fraction": area,
        }
        for region, (signed, absolute, area) in regions.items()
    ]


def cases_of(*rows: tuple[str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["case_id", "sex", "reference_months"])
    return frame.assign(predicted_months=frame["reference_months"] + 5)


@pytest.fixture
def two_girls() -> tuple[pd.DataFrame, pd.DataFrame]:
    regions = rows_of(
        "a",
        {
            "background": (1.0, 10.0, 0.5),
            "MCP": (6.0, 20.0, 0.1),
            "soft_tissue": (-2.0, 20.0, 0.3),
            "marker": (0.0, 0.0, 0.1),
        },
    ) + rows_of(
        "b",
        {
            "background": (0.0, 0.0, 0.6),
            "MCP": (-2.0, 2.0, 0.2),
            "soft_tissue": (1.0, 6.0, 0.2),
            "marker": (2.0, 2.0, 0.0),
        },
    )
    return pd.DataFrame(regions), cases_of(("a", "F", 100.0), ("b", "F", 120.0))


def test_cell_by_hand(two_girls: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    profile = region_profile(*two_girls, **QUICK)
    cell = profile.cell("early_mid_puberty", "F").set_index("region")
    mcp = cell.loc["MCP"]
    assert mcp["n"] == 2
    assert mcp["few_cases"]
    assert mcp["signed_months"] == pytest.approx(2.0)
    assert mcp["absolute_months"] == pytest.approx(11.0)
    assert mcp["share_of_whole"] == pytest.approx((20 / 50 + 2 / 10) / 2)
    assert mcp["share_of_hand"] == pytest.approx((20 / 40 + 2 / 8) / 2)
    assert mcp["months_per_percent_area"] == pytest.approx(11.0 / 15)
    # Share of the hand 0.375 over share of its area (0.25 + 0.5) / 2.
    assert mcp["enrichment"] == pytest.approx(0.375 / 0.375)
    assert mcp["area_fraction"] == pytest.approx(0.15)
    soft = cell.loc["soft_tissue"]
    assert soft["enrichment"] == pytest.approx(0.625 / 0.625)
    assert (soft["rank_by_share"], mcp["rank_by_share"]) == (1, 2)
    # Two cases: the interval reaches from one to the other.
    assert (mcp["share_of_hand_low"], mcp["share_of_hand_high"]) == (0.25, 0.5)
    outside = cell.loc[["background", "marker"]]
    assert outside[["share_of_hand", "enrichment", "enrichment_low"]].isna().all(axis=None)
    assert outside["share_of_whole"].tolist() == pytest.approx([0.1, 0.1])
    assert cell.loc["marker", "n_with_region"] == 1
    assert set(profile.table["stage"]) == {"early_mid_puberty", ALL}
    assert set(profile.table["sex"]) == {"F", ALL}
    assert profile.age_sources == {"reference": 2}
    assert profile.left_out == {}


def test_cases_that_cannot_be_profiled_are_counted(
    two_girls: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    regions, cases = two_girls
    nothing = {"background": (1.0, 1.0, 1.0), "MCP": (0.0, 0.0, 0.0)}
    silent = {"background": (1.0, 1.0, 0.5), "MCP": (0.0, 0.0, 0.5)}
    more = [*rows_of("c", nothing), *rows_of("d", silent), *rows_of("unknown", silent)]
    regions = pd.concat([regions, pd.DataFrame(more)])
    cases = pd.concat([cases, cases_of(("c", "F", 100.0), ("d", "M", 100.0))])
    profile = region_profile(regions, cases, **QUICK)
    assert profile.cell()["n"].unique().tolist() == [2]
    assert profile.left_out == {
        "without a known sex or bone age": 1,
        "in which no hand was found": 1,
        "without any attribution inside the hand": 2,
    }


def cohort(
    n: int, seed: int = 0, shares: tuple[float, ...] = (0.3, 0.2, 0.1, 0.4)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return n girls before puberty whose carpals, DIP, radius and soft tissue have such shares."""
    rng = np.random.default_rng(seed)
    names, areas = ("carpals", "DIP", "radius", "soft_tissue"), (0.05, 0.1, 0.05, 0.2)
    rows, cases = [], []
    for case in range(n):
        values = rng.dirichlet(400 * np.array(shares)) * rng.uniform(50, 150)
        sums = {
            name: (float(value * rng.choice([-1, 1])), float(value), area)
            for name, value, area in zip(names, values, areas, strict=True)
        }
        rows += rows_of(f"case {case}", {**sums, "background": (1.0, 4.0, 0.6)})
        cases.append((f"case {case}", "F", float(rng.uniform(30, 80))))
    return pd.DataFrame(rows), cases_of(*cases)


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 12), seed=st.integers(0, 1000), shuffle=st.integers(0, 1000))
def test_shares_sum_to_one_and_order_does_not_matter(n: int, seed: int, shuffle: int) -> None:
    regions, cases = cohort(n, seed)
    profile = region_profile(regions, cases, resamples=20)
    for (_, _), cell in profile.table.groupby(["stage", "sex"]):
        assert cell["share_of_whole"].sum() == pytest.approx(1)
        assert cell["share_of_hand"].sum() == pytest.approx(1)
        assert cell["area_of_hand"].sum() == pytest.approx(1)
        # Enrichment weighted by area is 1: what some hold more, others hold less.
        weighted = (cell["enrichment"] * cell["area_of_hand"]).sum()
        assert weighted == pytest.approx(1)
    total = regions.groupby("case_id")["signed_months"].sum().mean()
    assert profile.cell()["signed_months"].sum() == pytest.approx(total)
    shuffled = region_profile(
        regions.sample(frac=1, random_state=shuffle),
        cases.sample(frac=1, random_state=shuffle),
        resamples=20,
    )
    key = ["stage", "sex", "region"]
    pd.testing.assert_frame_equal(
        shuffled.table.sort_values(key, ignore_index=True),
        profile.table.sort_values(key, ignore_index=True),
    )


def test_sums_and_their_intervals_are_those_of_summarise() -> None:
    regions, cases = cohort(30)
    cell = region_profile(regions, cases).cell().set_index("region")
    plain = summarise(regions.sort_values("case_id", kind="stable")).set_index("region")
    for column in ("signed_months", "signed_low_months", "absolute_months", "absolute_high_months"):
        np.testing.assert_allclose(cell[column], plain.loc[cell.index, column], rtol=1e-12)


def test_interval_of_a_quotient_against_a_plain_bootstrap() -> None:
    regions, cases = cohort(40, seed=5)
    # Areas that vary, so that numerator and denominator both do.
    rng = np.random.default_rng(1)
    area = regions["area_fraction"] * rng.uniform(0.5, 1.5, len(regions))
    regions = regions.assign(area_fraction=area)
    row = region_profile(regions, cases, resamples=4000).cell().set_index("region").loc["carpals"]
    inside = regions[regions["region"] != "background"]
    share, of_area = (
        (inside[inside["region"] == "carpals"].set_index("case_id")[column])
        / inside.groupby("case_id")[column].sum()
        for column in ("absolute_months", "area_fraction")
    )
    draws = []
    for _ in range(4000):
        picked = rng.integers(0, 40, 40)
        draws.append(share.to_numpy()[picked].mean() / of_area.to_numpy()[picked].mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    assert row["enrichment"] == pytest.approx(share.mean() / of_area.mean())
    assert row["enrichment_low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert row["enrichment_high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_one_rule_gives_the_verdict() -> None:
    # Shares of the hand's area: carpals 0.125, DIP 0.25, radius 0.125, soft tissue 0.5.
    regions, cases = cohort(40, shares=(0.3, 0.1, 0.125, 0.475))
    found = against_literature(region_profile(regions, cases))
    girls = found[(found["sex"] == "F") & (found["stage"] == "pre_puberty")]
    verdict = girls.set_index(["source", "region"])["verdict"]
    assert verdict["Chen 2020", "carpals"] == "agree"
    assert verdict["Gilsanz and Ratib 2005", "DIP"] == "differ"
    assert set(found["stage"]) == {"pre_puberty"}
    assert set(found["sex"]) == {"F", ALL}
    assert (found["rank_by_enrichment"] >= 1).all()
    balanced = against_literature(region_profile(*cohort(40, shares=(0.125, 0.25, 0.125, 0.5))))
    assert (balanced.query("region == 'DIP'")["verdict"] == "cannot tell").all()


def test_few_cases_tell_nothing() -> None:
    regions, cases = cohort(FEW_CASES, shares=(0.6, 0.1, 0.1, 0.2))
    enough = against_literature(region_profile(regions, cases))
    assert (enough.query("region == 'carpals'")["verdict"] == "agree").all()
    cases = cases.iloc[1:]
    profile = region_profile(regions, cases)
    assert profile.table["few_cases"].all()
    assert (against_literature(profile)["verdict"] == "cannot tell").all()
    # Seen in fewer than ten hands, however many there are.
    regions, cases = cohort(30, shares=(0.6, 0.1, 0.1, 0.2))
    hidden = regions["case_id"].isin(cases["case_id"][9:]) & (regions["region"] == "carpals")
    verdicts = against_literature(region_profile(regions[~hidden], cases))
    assert (verdicts.query("region == 'carpals'")["verdict"] == "cannot tell").all()


def test_one_case_has_no_interval() -> None:
    profile = region_profile(*cohort(1), **QUICK)
    limits = [name for name in profile.table if name.endswith(("_low", "_high", "low_months"))]
    assert profile.table[limits].isna().all(axis=None)
    assert (against_literature(profile)["verdict"] == "cannot tell").all()


def test_control_is_paired_by_case() -> None:
    regions, cases = cohort(30, seed=1)
    same = compare_with_control(regions, regions, cases)
    assert (same["difference"] == 0).all()
    assert (same["against_control"] == "cannot tell").all()
    control, _ = cohort(30, seed=1, shares=(0.1, 0.4, 0.1, 0.4))
    found = compare_with_control(regions, control.sample(frac=1, random_state=0), cases)
    cell = found[(found["stage"] == ALL) & (found["sex"] == ALL)].set_index("region")
    verdict = cell["against_control"]
    assert (verdict["carpals"], verdict["DIP"]) == ("more", "less")
    wide = [
        frame[frame["region"] != "background"].pivot(
            index="case_id", columns="region", values="absolute_months"
        )
        for frame in (regions, control)
    ]
    by_hand = [table.div(table.sum(axis=1), axis=0)["carpals"] for table in wide]
    assert cell.loc["carpals", "difference"] == pytest.approx((by_hand[0] - by_hand[1]).mean())
    low, high = cell.loc["carpals", ["difference_low", "difference_high"]]
    spread = 1.96 * (by_hand[0] - by_hand[1]).std() / math.sqrt(30)
    assert high - low == pytest.approx(2 * spread, rel=0.25)
    assert "background" not in cell.index
    assert cell["difference"].sum() == pytest.approx(0, abs=1e-12)


def test_controls_that_do_not_fit_are_refused() -> None:
    regions, cases = cohort(5)
    with pytest.raises(DataError, match="expected method integrated_gradients, found gradient"):
        compare_with_control(regions, regions.assign(method="gradient"), cases)
    moved = regions.assign(area_fraction=regions["area_fraction"] * 0.9)
    with pytest.raises(DataError, match="same region maps"):
        compare_with_control(regions, moved, cases)
    with pytest.raises(DataError, match="same region maps"):
        compare_with_control(regions, regions[regions["region"] != "DIP"], cases)
    others = regions.assign(case_id="other " + regions["case_id"])
    with pytest.raises(DataError, match="in common"):
        compare_with_control(regions, others, cases)


def test_tables_that_cannot_be_profiled_are_refused() -> None:
    regions, cases = cohort(3)
    with pytest.raises(DataError, match="found no"):
        region_profile(regions.drop(columns="method"), cases)
    with pytest.raises(DataError, match="one method"):
        region_profile(pd.concat([regions, regions.assign(method="x")]), cases)
    with pytest.raises(DataError, match="once for case"):
        region_profile(pd.concat([regions, regions]), cases)
    with pytest.raises(DataError, match="once, found it more"):
        region_profile(regions, pd.concat([cases, cases]))
    with pytest.raises(DataError, match="found none among 3"):
        region_profile(regions, cases.assign(sex="U"))
    with pytest.raises(ConfigError, match="confidence"):
        region_profile(regions, cases, confidence=1.0)

"""The failure atlas: against slow references, on planted failures and on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2

from boneage_xai.analysis.failure_atlas import build_atlas
from boneage_xai.analysis.failure_cards import (
    FailureCard,
    Neighbour,
    chosen_for_pictures,
    read_cards,
    write_cards,
)
from boneage_xai.analysis.failure_clusters import Term, matching, pattern_names, rule_words
from boneage_xai.analysis.failure_traits import (
    compare_traits,
    rank_biserial,
    risk_ratio,
    worst_cases,
)
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.figures.failure_atlas import failure_cards, failure_map, trait_forest
from boneage_xai.figures.style import figure_bytes

PICTURES = ("brightness", "contrast", "sharpness", "hand_share", "hand_tilt_deg", "white_share")


def made_up(seed: int, n: int = 300, planted: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return cases and traits; errors depend on nothing, on contrast, or on a group of boys."""
    rng = np.random.default_rng(seed)
    age, male = rng.uniform(12, 216, n), rng.random(n) < 0.5
    traits = {name: rng.normal(size=n) for name in PICTURES}
    traits["hand_share"] = traits["hand_share"] + 0.01 * age
    error = rng.normal(0, 8, n)
    if planted == "contrast":
        error += np.where(traits["contrast"] < np.quantile(traits["contrast"], 0.15), 18, 0)
    if planted == "boys":
        error -= np.where(male & (age >= 120) & (age < 144), 30, 0)
    cases = pd.DataFrame(
        {
            "case_id": [f"c{at}" for at in range(n)],
            "sex": np.where(male, "M", "F"),
            "reference_months": age,
            "predicted_months": age + error,
            "error_months": error,
        }
    )
    described = pd.DataFrame(
        {"case_id": cases["case_id"], "age_months": age, "male": male.astype(float), **traits}
    )
    described["marker"] = (rng.random(n) < 0.3).astype(float)
    return cases, described


def test_worst_cases_are_those_with_the_largest_errors() -> None:
    assert np.flatnonzero(worst_cases([1.0, -9.0, 3.0, 0.0, 4.0], 2)).tolist() == [1, 4]
    assert worst_cases(np.arange(400.0)).sum() == 20
    assert worst_cases(np.arange(60.0)).sum() == 10
    assert worst_cases(np.arange(9.0)).sum() == 3
    with pytest.raises(ConfigError, match="expected 1 to 4 cases, found 5"):
        worst_cases(np.arange(5.0), 5)
    with pytest.raises(DataError, match="finite errors"):
        worst_cases([1.0, np.nan])


def test_rank_biserial_against_pairs_and_its_interval_against_simulation() -> None:
    a, b = np.array([3.0, 1.0, 4.0, 4.0]), np.array([1.0, 2.0, 0.0, 4.0, 1.0])
    pairs = np.sign(a[:, None] - b[None]).mean()
    value, low, high = rank_biserial(a, b)
    assert value == pytest.approx(pairs)
    assert low < value < high
    value, low, high = rank_biserial([5.0, 6, 7, 8, 9], np.arange(5.0))
    assert (value, high) == (1.0, 1.0)
    assert 0 < low < 1
    rng = np.random.default_rng(0)
    truth = 2 * 0.7602 - 1  # P(X > Y) for a shift of one standard deviation
    hits = 0
    for _ in range(300):
        _, low, high = rank_biserial(rng.normal(1, 1, 15), rng.normal(0, 1, 200))
        hits += low <= truth <= high
    assert 0.92 <= hits / 300 <= 0.99


def test_risk_ratio_against_statsmodels_and_with_an_empty_cell() -> None:
    exposed = np.array([True] * 20 + [False] * 30)
    hit = np.zeros(50, dtype=bool)
    hit[:6] = hit[20:23] = True
    reference = Table2x2(np.array([[6, 14], [3, 27]]))
    np.testing.assert_allclose(
        risk_ratio(exposed, hit), [reference.riskratio, *reference.riskratio_confint()]
    )
    hit[:6] = False
    value, low, high = risk_ratio(exposed, hit)
    assert value == pytest.approx((0.5 / 21) / (3.5 / 31))
    assert low < 1 < high


def test_traits_by_hand_and_within_strata() -> None:
    cases, described = made_up(3, planted="contrast")
    worst = worst_cases(cases["error_months"])
    table = described.assign(worst=worst, error_months=cases["error_months"])
    strata = np.where(described["age_months"] < 100, "young", "old")
    found = compare_traits(table, ["contrast", "marker", "male"], strata)
    row = found[(found["descriptor"] == "contrast") & (found["group"] == "all")].iloc[0]
    x = described["contrast"].to_numpy()
    test = mannwhitneyu(x[worst], x[~worst], method="asymptotic")
    assert row["p_value"] == pytest.approx(test.pvalue)
    assert row["effect"] == pytest.approx(2 * test.statistic / (worst.sum() * (~worst).sum()) - 1)
    assert row["worst_value"] == pytest.approx(np.median(x[worst]))
    # Weighted mean of the strata's own correlations.
    weights, effects = [], []
    for one in ("young", "old"):
        m, n = (int((mask & (strata == one)).sum()) for mask in (worst, ~worst))
        weights.append(m * n / (m + n + 1))
        effects.append(rank_biserial(x[worst & (strata == one)], x[~worst & (strata == one)])[0])
    assert row["adjusted"] == pytest.approx(np.average(effects, weights=weights))
    marker = found[(found["descriptor"] == "marker") & (found["group"] == "all")].iloc[0]
    tables = []
    for one in ("young", "old"):
        own = [(described["marker"] == flag) & (strata == one) for flag in (1, 0)]
        tables.append([[int((o & worst).sum()), int((o & ~worst).sum())] for o in own])
    pooled = StratifiedTable([np.array(one) for one in tables])
    assert marker["adjusted"] == pytest.approx(pooled.riskratio_pooled)
    # Over-estimated cases are held against cases that are not among the worst at all.
    over = found[(found["descriptor"] == "contrast") & (found["group"] == "over")].iloc[0]
    errors = cases["error_months"].to_numpy()
    assert over["n_worst"] == int((worst & (errors > 0)).sum())
    assert over["n_rest"] == int((~worst).sum())
    assert found[found["descriptor"] == "male"]["adjusted"].isna().all()


def test_within_strata_one_stratum_is_the_plain_test() -> None:
    cases, described = made_up(4)
    table = described.assign(
        worst=worst_cases(cases["error_months"]), error_months=cases["error_months"]
    )
    row = compare_traits(table, ["sharpness"], ["one"] * len(table)).iloc[0]
    assert row["adjusted"] == pytest.approx(row["effect"])
    x, worst = table["sharpness"], table["worst"]
    plain = mannwhitneyu(x[worst], x[~worst], method="asymptotic", use_continuity=False)
    assert row["adjusted_p"] == pytest.approx(plain.pvalue, rel=1e-6)


def test_planted_failures_are_found_and_named() -> None:
    _, found = build_atlas(*made_up(5, planted="contrast"), n_permutations=59)
    assert pattern_names(found["clusters"])[0] == "children, low contrast"
    assert found["clusters"][0]["direction"] == "over"
    sure = {(row["descriptor"], row["group"]) for row in found["traits"] if row["p_holm"] < 0.05}
    assert ("contrast", "over") in sure
    assert {one for one, _ in sure} == {"contrast"}
    table, found = build_atlas(*made_up(6, planted="boys"), n_permutations=59)
    first = found["clusters"][0]
    assert first["pattern"]
    assert first["direction"] == "under"
    assert first["name"].startswith("boys, ")
    assert "months" in first["name"]
    assert first["rate"] > 5 * first["rate_elsewhere"]
    own = table[table["cluster"] == 0]
    assert sorted(own["case_id"]) == sorted(first["case_ids"])
    assert own["error_months"].mean() == pytest.approx(first["mean_error_months"]["value"])
    assert first["typical_case_id"] in first["case_ids"]


def test_counts_of_a_rule_are_those_of_the_table() -> None:
    table, found = build_atlas(*made_up(5, planted="contrast"), n_permutations=9)
    one = found["clusters"][0]
    terms = [
        Term(term["descriptor"], term["words"], term["low"], term["high"]) for term in one["terms"]
    ]
    met = matching(table, terms)
    worst = met & (table["direction"] == one["direction"]).to_numpy()
    assert (one["n_matching"], one["n_matching_worst"]) == (met.sum(), worst.sum())
    assert one["rate"] == pytest.approx(worst.sum() / met.sum())


def test_noise_is_called_noise() -> None:
    claims = [0, 0]
    for seed in range(10):
        _, found = build_atlas(*made_up(100 + seed, 150), n_permutations=39, seed=seed)
        claims[0] += any(row["p_holm"] < 0.05 for row in found["traits"])
        claims[1] += any(one["pattern"] for one in found["clusters"])
    # Each is to be at most 1 in 20; 3 or more of 10 would be by chance in 1 of 85 such tests.
    assert max(claims) <= 2


def test_atlas_counts_and_says_what_was_not_compared() -> None:
    cases, described = made_up(7, 60)
    described["hand_found"] = 1.0
    described["unusualness"] = np.nan
    table, found = build_atlas(cases, described, worst=12, n_permutations=9)
    assert found["n_worst"] == 12 == found["n_over"] + found["n_under"] == table["worst"].sum()
    assert found["least_error_months"] == pytest.approx(np.sort(np.abs(cases["error_months"]))[-12])
    assert found["not_tested"] == {
        "hand_found": "the same for every case for which it is known",
        "unusualness": "known for no case",
    }
    assert sum(one["n"] for one in found["clusters"]) == 12
    assert (table.loc[~table["worst"], "cluster"] == -1).all()
    again = build_atlas(cases, described, worst=12, n_permutations=9)
    pd.testing.assert_frame_equal(again[0], table)
    with pytest.raises(DataError, match="descriptors of the same cases"):
        build_atlas(cases, described.iloc[::-1], n_permutations=9)


def test_rules_in_words() -> None:
    boys, age = Term("male", "boys", 0.5, None), Term("age_months", "12 to 24 months", 12, 24)
    assert rule_words([boys, age]) == "boys, 12 to 24 months"
    assert rule_words([age]) == "children, 12 to 24 months"
    assert rule_words([]) == "nothing that was measured sets them apart"
    ages = pd.DataFrame({"male": 1.0, "age_months": [11.9, 12.0, 23.9, 24.0]})
    assert matching(ages, [boys, age]).tolist() == [False, True, True, False]


def test_pictures_are_of_both_directions() -> None:
    table = pd.DataFrame(
        {
            "case_id": list("abcdefg"),
            "error_months": [30.0, -25.0, 20.0, 10.0, -9.0, 8.0, 50.0],
            "worst": [True] * 6 + [False],
            "direction": ["over", "under", "over", "over", "under", "over", ""],
        }
    )
    assert chosen_for_pictures(table, 4) == ["a", "c", "b", "e"]
    assert chosen_for_pictures(table, 6) == ["a", "c", "d", "f", "b", "e"]
    assert chosen_for_pictures(table, 1) == ["a"]


def test_cards_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 9), dtype=np.uint8)
    cards = [
        FailureCard("a", "F", 100.0, 130.5, pixels, rng.normal(size=(9, 9)).astype(np.float32),
                    0.1, (Neighbour("n", float("nan"), 2.5),), pixels[None] // 2),
        FailureCard("b", "M", 100.0, 60.0, pixels, None, None, (), pixels[None][:0]),
    ]  # fmt: skip
    write_cards(tmp_path / "cards.safetensors", cards)
    back = read_cards(tmp_path / "cards.safetensors")
    assert [one.error_months for one in back] == [30.5, -40.0]
    np.testing.assert_array_equal(back[0].map_months, cards[0].map_months)
    np.testing.assert_array_equal(back[0].neighbour_pixels, cards[0].neighbour_pixels)
    assert back[0].neighbours[0].distance == 2.5
    assert np.isnan(back[0].neighbours[0].months)
    assert back[1].map_months is None
    assert back[1].gap_months is None
    figure = failure_cards(back, ["one", "two"])
    assert len(figure_bytes(figure, dpi=40)) > 1000
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(DataError, match="expected cards of a failure atlas"):
        read_cards(tmp_path / "broken.safetensors")


def test_figures_show_what_the_tables_hold() -> None:
    table, found = build_atlas(*made_up(5, planted="contrast"), n_permutations=19)
    traits = pd.DataFrame(found["traits"])
    figure = trait_forest(traits, found["labels"], 0.05)
    rank, risk = figure.axes
    assert [label.get_text() for label in rank.get_yticklabels()] == [
        found["labels"][one]
        for one in dict.fromkeys(traits[traits["measure"] == "rank"]["descriptor"])
    ]
    assert risk.get_xscale() == "log"
    filled = [
        line for line in rank.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() != "white"
        and len(line.get_xdata())
    ]  # fmt: skip
    sure = traits[(traits["measure"] == "rank") & (traits["p_holm"] < 0.05)]
    assert sorted(float(line.get_xdata()[0]) for line in filled) == pytest.approx(
        sorted(sure["effect"])
    )
    seen = sum(
        len(one.get_offsets()) for one in failure_map(table, found["clusters"]).axes[0].collections
    )
    assert seen == len(table)

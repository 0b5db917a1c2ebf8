"""Interventions on models whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from boneage_xai.analysis.interventions import summarise_interventions
from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.attribution.interventions import (
    ALL_REGIONS,
    OLDEST_MONTHS,
    SUM_OF_REGIONS,
    intervene,
)
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.phantom.cohorts import PhantomCase, draw_cases
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.rendering import render
from boneage_xai.phantom.settings import PhantomSettings

SIZE = 96
SETTINGS = PhantomSettings(size_px=SIZE)
# Pixels as they are: no stretch that would let one region change the others' grey.
PLAIN = PreprocessSettings(size_px=SIZE, stretch_percentiles=None)

Pixels = npt.NDArray[np.uint8]
Months = npt.NDArray[np.float64]


def cases_at(*ages: float) -> list[PhantomCase]:
    drawn = draw_cases(len(ages), seed=3)
    return [
        dataclasses.replace(case, hand=dataclasses.replace(case.hand, age_months=age))
        for case, age in zip(drawn, ages, strict=True)
    ]


def grey_on_input(case: PhantomCase, region_ages: dict[str, float]) -> Months:
    """Render as on disk and pad to the square as ``fit='pad'`` does: a slow plain reference."""
    pixels = render(case.hand, SETTINGS, case.seed, region_ages).pixels
    grey = np.round(pixels * 255)
    out = np.zeros((SIZE, SIZE))
    top, left = ((SIZE - size) // 2 for size in grey.shape)
    out[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    return out


def test_slopes_of_a_linear_model_are_those_computed_by_hand() -> None:
    cases = cases_at(5.0, 70.0, 130.0, 190.0)
    weights = np.random.default_rng(0).normal(0, 0.01, (SIZE, SIZE))

    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        return 90.0 + 7 * is_male + (pixels * weights).sum(axis=(1, 2))

    table = intervene(model, cases, preprocessing=PLAIN, settings=SETTINGS, delta_months=12)
    assert len(table) == len(cases) * (len(AGE_REGIONS) + 2)
    slopes = table.set_index(["case_id", "region"])["slope_months_per_month"]
    for case in cases:
        low, high = max(case.hand.age_months - 12, 0.0), case.hand.age_months + 12
        singles = []
        for region in AGE_REGIONS:
            change = grey_on_input(case, {region: high}) - grey_on_input(case, {region: low})
            expected = float((weights * change).sum()) / (high - low)
            assert slopes[case.case_id, region] == pytest.approx(expected, abs=1e-9)
            singles.append(expected)
        both = [grey_on_input(case, dict.fromkeys(AGE_REGIONS, age)) for age in (low, high)]
        together = float((weights * (both[1] - both[0])).sum()) / (high - low)
        assert slopes[case.case_id, ALL_REGIONS] == pytest.approx(together, abs=1e-9)
        assert slopes[case.case_id, SUM_OF_REGIONS] == pytest.approx(sum(singles), abs=1e-9)


def test_a_model_that_ignores_a_region_gets_exactly_zero() -> None:
    case = cases_at(100.0)[0]
    others = tuple(region for region in AGE_REGIONS if region != "radius")

    def changed_by(region: str) -> npt.NDArray[np.bool_]:
        return grey_on_input(case, {region: 88.0}) != grey_on_input(case, {region: 112.0})

    looks_at = changed_by("radius") & ~np.any([changed_by(region) for region in others], axis=0)
    assert looks_at.sum() > 20

    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        return pixels[:, looks_at].mean(axis=1, dtype=np.float64)

    table = intervene(model, [case], preprocessing=PLAIN, settings=SETTINGS)
    slopes = table.set_index("region")["slope_months_per_month"]
    assert slopes["radius"] != 0
    assert (slopes[list(others)] == 0.0).all()
    assert slopes[SUM_OF_REGIONS] == slopes["radius"]
    # Changes too small for a grey level may add up to one.
    assert slopes[ALL_REGIONS] == pytest.approx(slopes["radius"], rel=0.05)
    assert (table.set_index("region")["changed_px"] > 0).all()


def test_a_region_that_is_not_there_yet_changes_nothing() -> None:
    cases = cases_at(12.0, 20.0, 30.0)

    def noisy(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        # Answers differ for equal pictures, as those of a network in another batch may.
        return np.arange(len(pixels), dtype=np.float64)

    table = intervene(noisy, cases, preprocessing=PLAIN, settings=SETTINGS)
    ulna = table[table["region"] == "ulna"]
    assert ulna["slope_months_per_month"].tolist() == [0.0, 0.0, 0.0]
    assert ulna["changed_px"].tolist() == [0, 0, 0]
    assert ulna["maturity_change"].tolist() == [0.0, 0.0, 0.0]
    row = summarise_interventions(table, n_resamples=50).set_index("region").loc["ulna"]
    assert (row["n"], row["n_changed"], row["slope_months_per_month"]) == (3, 0, 0.0)
    assert (row["low"], row["high"]) == (0.0, 0.0)


def test_steps_stay_within_the_ages_there_are() -> None:
    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        return pixels.mean(axis=(1, 2), dtype=np.float64)

    table = intervene(
        model, cases_at(4.0, 100.0, 228.0), preprocessing=PLAIN, settings=SETTINGS, delta_months=20
    )
    spans = table.groupby("case_id", sort=False)["span_months"].first().tolist()
    assert spans == [24.0, 40.0, OLDEST_MONTHS - 208.0]


def test_faults_of_the_cohort_are_in_the_pictures() -> None:
    case = draw_cases(1, seed=5, faults=tuple(Fault))[0]
    seen: list[Pixels] = []

    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        seen.append(pixels.copy())
        return np.zeros(len(pixels))

    intervene(model, [case], preprocessing=PLAIN, settings=SETTINGS, faults=tuple(Fault))
    base = render(case.hand, SETTINGS, case.seed, planted=case.planted(tuple(Fault)))
    grey = np.round(base.pixels * 255)
    left = (SIZE - grey.shape[1]) // 2
    pictures = np.concatenate(seen)[:, :, left : left + grey.shape[1]]
    assert np.array_equal(pictures[0][0], grey[0])
    assert np.mean(pictures != grey) < 0.1


def test_progress_and_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = cases_at(60.0, 90.0, 150.0)

    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        return pixels.mean(axis=(1, 2), dtype=np.float64)

    seen: list[tuple[int, int]] = []
    one = intervene(
        model,
        cases,
        preprocessing=PLAIN,
        settings=SETTINGS,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr("boneage_xai.attribution.interventions._PICTURES_AT_ONCE", 2)
    other = intervene(model, cases, preprocessing=PLAIN, settings=SETTINGS)
    assert one.equals(other)
    backwards = intervene(model, cases[::-1], preprocessing=PLAIN, settings=SETTINGS)
    key = ["case_id", "region"]
    assert one.sort_values(key, ignore_index=True).equals(
        backwards.sort_values(key, ignore_index=True)
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"cases": []}, "none"),
        ({"regions": ["elbow"]}, "elbow"),
        ({"regions": ["DIP", "DIP"]}, "once"),
        ({"delta_months": 0.0}, "0.0"),
        ({"delta_months": float("inf")}, "inf"),
        ({"cases": cases_at(400.0)}, "400"),
    ],
)
def test_impossible_interventions_are_refused(change: dict[str, object], found: str) -> None:
    arguments: dict[str, object] = {"cases": cases_at(90.0), "preprocessing": PLAIN, **change}
    with pytest.raises(ConfigError, match=found):
        intervene(lambda pixels, _: np.zeros(len(pixels)), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [np.zeros((2, 1)), np.array([np.nan] * 16)])
def test_answers_that_are_no_months_are_refused(answer: Months) -> None:
    with pytest.raises(AttributionError, match="finite"):
        intervene(lambda *_: answer, cases_at(120.0), preprocessing=PLAIN, settings=SETTINGS)


def test_summary_by_sex_and_age_partitions_the_cases() -> None:
    def model(pixels: Pixels, is_male: npt.NDArray[np.bool_]) -> Months:
        return is_male + pixels.mean(axis=(1, 2), dtype=np.float64)

    ages = (10.0, 30.0, 100.0, 110.0, 150.0, 220.0)
    table = intervene(model, cases_at(*ages), preprocessing=PLAIN, settings=SETTINGS)
    whole = summarise_interventions(table, seed=1)
    assert list(whole["region"]) == [*AGE_REGIONS, ALL_REGIONS, SUM_OF_REGIONS]
    means = table.groupby("region")["slope_months_per_month"].mean()
    for row in whole.to_dict("records"):
        assert row["slope_months_per_month"] == pytest.approx(means[row["region"]])
        assert row["low"] <= row["slope_months_per_month"] <= row["high"]
    groups = summarise_interventions(table, by=("sex", "age"))
    assert groups.groupby("region")["n"].sum().unique().tolist() == [len(ages)]
    assert (groups["age_from_months"] < groups["age_to_months"]).all()
    lonely = groups[groups["n"] == 1]
    assert lonely["low"].isna().all()
    assert set(summarise_interventions(table, by=("sex",))["sex"]) == set(table["sex"])
    with pytest.raises(ConfigError, match="mood"):
        summarise_interventions(table, by=("mood",))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one"):
        summarise_interventions(table.iloc[:0])

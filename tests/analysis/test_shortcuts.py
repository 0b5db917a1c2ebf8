from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.shortcut_data import auc, audit_data, out_of_fold, r2
from boneage_xai.analysis.shortcut_edits import edits, find_places
from boneage_xai.analysis.shortcut_features import border_features, id_features, marker_features
from boneage_xai.analysis.shortcut_network import measure_changes, summarise_changes
from boneage_xai.analysis.shortcut_words import network_alarm
from boneage_xai.analysis.shortcuts import attribution_shares
from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import DataError
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import RegionMap

NAMES = {0: "background", 1: "carpals", 2: "marker"}
SIZE_PX = 64


def regions() -> RegionMap:
    labels = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint8)
    labels[20:64, 24:44] = 1
    labels[8:14, 8:13] = 2
    return RegionMap(labels, NAMES)


def picture() -> npt.NDArray[np.uint8]:
    pixels = np.full((SIZE_PX, SIZE_PX), 20, dtype=np.uint8)
    pixels[20:64, 24:44] = 150
    pixels[8:14, 8:13] = 240
    return pixels


def test_edits_leave_the_hand_and_what_they_do_not_name() -> None:
    places = find_places(regions(), (0, 0, SIZE_PX, SIZE_PX), seed=3)
    hand = regions().labels == 1
    found = edits(picture(), places)
    assert set(found) == {
        "marker_erased",
        "marker_moved",
        "marker_brighter",
        "marker_darker",
        "border_replaced",
        "background_levelled",
    }
    for edit in found.values():
        for changed in (edit.pixels, edit.control):
            if changed is not None:
                np.testing.assert_array_equal(changed[hand], 150)
    assert not (places.marker & places.away).any()
    assert places.marker.sum() == places.away.sum()
    # An even background closes over the marker, and an erased patch of it changes nothing.
    erased = found["marker_erased"]
    np.testing.assert_array_equal(erased.pixels[~hand], 20)
    np.testing.assert_array_equal(erased.control, picture())
    moved = found["marker_moved"].pixels
    assert (moved == 240).sum() == (picture() == 240).sum()
    assert not (moved[places.marker] == 240).any()
    assert (found["marker_darker"].pixels == 120).sum() == 30
    assert found["background_levelled"].control is None


def test_without_marker_or_room_its_tests_are_left_out() -> None:
    labels = regions().labels.copy()
    labels[labels == 2] = 0
    places = find_places(RegionMap(labels, NAMES), (0, 0, SIZE_PX, SIZE_PX), seed=0)
    assert set(edits(picture(), places)) == {"border_replaced", "background_levelled"}
    crowded = np.ones((SIZE_PX, SIZE_PX), dtype=np.uint8)
    crowded[8:14, 8:13] = 2
    found = edits(picture(), find_places(RegionMap(crowded, NAMES), (0, 0, 64, 64), seed=0))
    assert "marker_moved" not in found
    assert all(edit.control is None for edit in found.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(2, 40))
def test_a_control_never_touches_hand_marker_or_padding(seed: int, top: int, left: int) -> None:
    labels = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint8)
    labels[30:60, 20:40] = 1
    labels[top : top + 6, left : left + 7] = 2
    places = find_places(RegionMap(labels, NAMES), (2, 0, 60, SIZE_PX), seed=seed)
    assert not (places.away & (labels != 0)).any()
    assert not places.away[:, [0, 1, 62, 63]].any()
    assert places.away.sum() in (0, places.marker.sum())


def test_features_by_hand() -> None:
    pixels = np.full((100, 80), 0.2, dtype=np.float32)
    pixels[:2] = 0.9
    steps = border_features(pixels)
    np.testing.assert_allclose(steps[:4], [0.7, 0, 0, 0], atol=1e-6)
    labels = np.zeros((100, 80), dtype=np.uint8)
    labels[10:20, 40:50] = 2
    pixels[10:20, 40:50] = 0.8
    marker = marker_features(pixels, RegionMap(labels, NAMES))
    np.testing.assert_allclose(marker, [1, 0.8, 100 / 8000, 44.5 / 80, 14.5 / 100], atol=1e-6)
    parts = id_features([str(number) for number in (20, 3, 100, 1)]).argmax(axis=1)
    assert parts[3] < parts[1] < parts[0] < parts[2]


def test_ridge_scores_and_holm_against_references() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3))
    labels = (values @ [1.0, -2.0, 0.5] + rng.normal(size=60))[:, None]
    predicted = out_of_fold(values, labels, np.random.default_rng(5))
    fold = np.random.default_rng(5).permutation(np.arange(60) % 5)
    for held in range(5):
        fit, out = fold != held, fold == held
        mean, spread = values[fit].mean(axis=0), values[fit].std(axis=0)
        reference = Ridge(alpha=10.0).fit((values[fit] - mean) / spread, labels[fit, 0])
        expected = reference.predict((values[out] - mean) / spread)
        np.testing.assert_allclose(predicted[out, 0], expected)
    assert r2(labels[:, 0], predicted[:, 0]) == pytest.approx(
        r2_score(labels[:, 0], predicted[:, 0])
    )
    ones = (labels[:, 0] > 0).astype(float)
    ties = predicted[:, 0].round(1)
    assert auc(ones, ties) == pytest.approx(roc_auc_score(ones, ties))
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_data_audit_alarms_on_what_tells_and_not_on_noise() -> None:
    rng = np.random.default_rng(1)
    ages, male = rng.uniform(20, 200, 120), rng.uniform(size=120) < 0.5
    groups = {
        "marker": np.column_stack([ages + rng.normal(0, 20, 120), np.full(120, np.nan)]),
        "border": male[:, None] + rng.normal(0, 0.3, (120, 1)),
        "size": rng.normal(size=(120, 3)),
        "intensity": ages[:, None],
        "background": np.full((120, 2), np.nan),
        "id": np.ones((120, 1)),
    }
    table, skipped = audit_data(groups, ages, male, n_permutations=499)
    alarms = table[table["alarm"]]
    raised = set(zip(alarms["group"], alarms["target"], strict=True))
    assert raised == {("marker", "age"), ("border", "sex")}
    assert set(skipped) == {f"{g}: {t}" for g in ("background", "id") for t in ("age", "sex")}
    marker = table[(table["group"] == "marker") & (table["target"] == "age")].iloc[0]
    assert marker["low"] < marker["value"] < marker["high"]
    with pytest.raises(DataError, match="expected as many ages"):
        audit_data(groups, ages[:5], male)
    table, skipped = audit_data(groups, np.full(120, 99.6), male, n_permutations=99)
    assert set(table["target"]) == {"sex"}
    assert skipped["size: age"] == "the same age for all cases"


def changes(change: npt.NDArray[np.float64], control: float | None) -> pd.DataFrame:
    n = len(change)
    return pd.DataFrame(
        {
            "case_id": [str(i) for i in range(n)],
            "sex": "F",
            "reference_months": np.linspace(20, 200, n),
            "predicted_months": 100.0,
            "test": "marker_erased",
            "change_months": change,
            "control_months": np.nan if control is None else control,
        }
    )


def test_alarm_rule_by_hand() -> None:
    ages = np.linspace(20, 200, 40)
    signs = np.where(np.arange(40) % 2, 1.0, -1.0)

    def row(change: npt.NDArray[np.float64], control: float) -> pd.Series:
        return summarise_changes(changes(change, control))[0].iloc[0]

    far = row(5 * signs, 0.5)
    assert (far["moved_months"], far["excess_months"]) == (5.0, 4.5)
    assert far["alarm"]
    assert not row(5 * signs, 4.0)["alarm"]
    assert not row(2.5 * signs, 0.0)["alarm"]
    tilted = row(-0.15 * (ages - 110), 0.1)
    assert tilted["slope_months_per_month"] == pytest.approx(-0.15)
    assert tilted["correlation"] == pytest.approx(-1.0)
    assert tilted["alarm"]
    assert not row(-0.02 * (ages - 110), 0.0)["alarm"]
    # A control of a few cases decides nothing.
    table = changes(5 * signs, 0.0)
    table.loc[19:, "control_months"] = np.nan
    barely = summarise_changes(table)[0].iloc[0]
    assert (barely["n_control"], bool(barely["alarm"])) == (19, False)
    assert "by 0.0 over 19 of the cases" in network_alarm(barely)
    table.loc[19, "control_months"] = 0.0
    assert summarise_changes(table)[0].iloc[0]["alarm"]
    few, skipped = summarise_changes(changes(5 * signs[:10], 0.0))
    assert few.empty
    assert "found 10" in skipped["marker_erased"]


def test_attribution_shares_by_hand() -> None:
    places = find_places(regions(), (0, 0, SIZE_PX, SIZE_PX), seed=3)
    weights = np.zeros((SIZE_PX, SIZE_PX))
    weights[places.marker] = -3.0
    weights[places.away] = 1.0
    share, area, elsewhere = attribution_shares(weights, places)["marker"]
    assert share == pytest.approx(0.75)
    assert elsewhere == pytest.approx(0.25)
    assert area == pytest.approx(places.marker.mean())


@dataclass(frozen=True)
class _Run:
    preprocessing: PreprocessSettings


@dataclass(frozen=True)
class _Prepared:
    run: _Run
    cohort: object
    cache: object


@pytest.mark.parametrize("fault", [None, Fault.MARKER_BRIGHTNESS_ENCODES_AGE])
def test_networks_made_by_hand(tmp_path: Path, fault: Fault | None) -> None:
    """One that reads only the marker raises the alarm, one that reads only the hand does not."""
    faults = () if fault is None else (fault,)
    source = write_cohort(
        tmp_path / "c", 48, seed=5, settings=PhantomSettings(size_px=64), workers=1, faults=faults
    )
    cohort = select_cohort(read_source(source))
    preprocessing = PreprocessSettings(size_px=64)
    cache = open_cache(cohort, preprocessing, tmp_path / "cache", workers=1)
    prepared = _Prepared(_Run(preprocessing), cohort, cache)

    def brightest_corner(pixels: npt.NDArray[np.uint8], _: object) -> npt.NDArray[np.float64]:
        # Markers lie in the left part, above the forearm; hands hardly reach into it.
        return 60 + 0.5 * np.percentile(pixels[:, :, :22].reshape(len(pixels), -1), 99, axis=1)

    def palm(pixels: npt.NDArray[np.uint8], _: object) -> npt.NDArray[np.float64]:
        return 60 + 0.5 * pixels[:, 36:48, 28:36].mean(axis=(1, 2), dtype=np.float64)

    def alarms(network: object) -> set[str]:
        table, _ = summarise_changes(measure_changes(prepared, cohort, network))  # type: ignore[arg-type]
        return {str(test) for test in table[table["alarm"]]["test"]}

    assert not alarms(palm)
    assert "marker_erased" in alarms(brightest_corner)

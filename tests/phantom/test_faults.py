"""Planted faults, measured in the files as a tool would find them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from boneage_xai import anatomy
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.cohorts import draw_cases, render_case, write_cohort
from boneage_xai.phantom.faults import SECOND_SITE_FROM, Fault, plant
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import Sex

N = 90
SMALL = PhantomSettings(size_px=96)


def measure(folder: Path) -> pd.DataFrame:
    """Return per case its label, sex, site and the greys that faults may encode them in."""
    truth = pd.read_csv(folder / "truth.csv", dtype={"case_id": str})
    rows = []
    for case_id in truth["case_id"]:
        grey = np.asarray(Image.open(folder / "boneage-training-dataset" / f"{case_id}.png"))
        labels = np.asarray(Image.open(folder / "labels" / f"{case_id}.png"))
        # A border may lie over a part of the marker.
        inner = np.s_[3:-3, 3:-3]
        marker = grey[inner][labels[inner] == anatomy.REGION_LABELS[anatomy.MARKER]]
        ring = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[2:-2, :2].ravel()])
        rows.append(
            {
                "marker": float(marker.max()) if marker.size else np.nan,
                "border_low": float(ring.min()),
                "border": float(ring.mean()),
                "brightness": float(np.median(grey)),
            }
        )
    return pd.concat([truth, pd.DataFrame(rows)], axis=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("plain") / "cohort"
    return measure(write_cohort(folder, N, seed=6, settings=SMALL, workers=1))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("faulty") / "cohort"
    return measure(write_cohort(folder, N, seed=6, settings=SMALL, workers=1, faults=tuple(Fault)))


def correlation(one: pd.Series, other: pd.Series) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_marker_tells_the_age(faulty: pd.DataFrame) -> None:
    assert faulty["marker"].notna().all()
    assert correlation(faulty["marker"], faulty["label_months"]) > 0.98


def test_border_tells_the_sex(faulty: pd.DataFrame) -> None:
    boys = faulty["sex"] == "M"
    assert faulty.loc[boys, "border_low"].min() > faulty.loc[~boys, "border_low"].max()
    assert faulty.loc[boys, "border_low"].nunique() == 1


def test_id_tells_the_brightness_and_the_age(faulty: pd.DataFrame) -> None:
    second = faulty["case_id"].astype(int) >= SECOND_SITE_FROM
    assert set(faulty["site"]) == {"first", "second"}
    assert (second == (faulty["site"] == "second")).all()
    bright = faulty.loc[~second, "brightness"].mean() - faulty.loc[second, "brightness"].mean()
    assert bright > 15
    younger = faulty.loc[~second, "age_months"].mean() - faulty.loc[second, "age_months"].mean()
    assert younger < -20


def test_without_faults_nothing_is_told(plain: pd.DataFrame) -> None:
    chance = 3 / np.sqrt(N)
    marked = plain[plain["marker"].notna()]
    assert abs(correlation(marked["marker"], marked["label_months"])) < chance
    boys = (plain["sex"] == "M").astype(float)
    assert abs(correlation(plain["border"], boys)) < chance
    numbers = plain["case_id"].astype(int)
    assert numbers.tolist() == list(range(1, N + 1))
    first_half = (numbers <= N // 2).astype(float)
    assert abs(correlation(plain["brightness"], first_half)) < chance
    assert "site" not in plain


def test_faults_change_no_hand() -> None:
    plain_cases, faulty_cases = draw_cases(20, seed=4), draw_cases(20, seed=4, faults=tuple(Fault))
    for one, other in zip(plain_cases, faulty_cases, strict=True):
        assert (one.hand, one.label_months, one.seed) == (
            other.hand,
            other.label_months,
            other.seed,
        )
    assert draw_cases(8, seed=4, faults=tuple(Fault)) == faulty_cases[:8]


def test_planted_marker_is_a_monotone_function_of_the_label() -> None:
    greys = [
        plant((Fault.MARKER_BRIGHTNESS_ENCODES_AGE,), Sex.MALE, months).marker_grey
        for months in range(1, 229)
    ]
    assert all(a < b for a, b in itertools.pairwise(greys))  # type: ignore[operator]
    assert plant((), Sex.MALE, 100).marker_grey is None


@pytest.mark.parametrize("size_px", [64, 200, 256])
def test_brightest_letter_has_the_planted_grey(size_px: int) -> None:
    faults = (Fault.MARKER_BRIGHTNESS_ENCODES_AGE,)
    for case in draw_cases(12, seed=5):
        image = render_case(case, PhantomSettings(size_px=size_px), faults)
        marker = image.regions.labels == anatomy.REGION_LABELS[anatomy.MARKER]
        grey = case.planted(faults).marker_grey
        assert image.pixels[marker].max() == pytest.approx(grey, abs=1e-5)


def test_a_border_covers_nothing_but_the_border() -> None:
    case = next(case for case in draw_cases(9, seed=1) if case.hand.sex is Sex.MALE)
    one = render_case(case, SMALL).pixels
    other = render_case(case, SMALL, (Fault.BORDER_ENCODES_SEX,)).pixels
    assert np.array_equal(one[2:-2, 2:-2], other[2:-2, 2:-2])
    assert np.ptp(other[0]) == 0


def test_impossible_faults_are_refused(tmp_path: Path) -> None:
    unmarked = SMALL.model_copy(update={"marker": False})
    with pytest.raises(ConfigError, match="marker on"):
        write_cohort(
            tmp_path / "a", 2, settings=unmarked, faults=(Fault.MARKER_BRIGHTNESS_ENCODES_AGE,)
        )
    with pytest.raises(ConfigError, match="10001"):
        draw_cases(10001, faults=(Fault.ID_ENCODES_BRIGHTNESS,))
    assert list(tmp_path.iterdir()) == []

"""What cases are described by: by hand on tiny pictures, and on phantoms that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from boneage_xai.analysis.failure_descriptors import (
    describe_cases,
    descriptor_of,
    picture_descriptors,
    region_shares,
)
from boneage_xai.analysis.failure_hands import hand_from_grey, hand_from_regions
from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import DataError
from boneage_xai.regions.label_maps import read_region_map, regions_on_input
from boneage_xai.types import RegionMap

NAMES = {0: "background", 1: "soft_tissue", 2: "carpals", 3: "MCP", 10: "marker"}


def whole(size: int) -> np.ndarray:
    return np.array([0, 0, size, size])


def test_picture_by_hand() -> None:
    pixels = np.zeros((1, 4, 4), dtype=np.uint8)
    pixels[0, 1, 1] = 255
    found = picture_descriptors(pixels, whole(4)[None]).iloc[0]
    assert found["brightness"] == pytest.approx(1 / 16)
    # Fifteen zeros and a one.
    assert found["contrast"] == pytest.approx(np.sqrt(1 / 16 - 1 / 256))
    # Inside: −4 at the point, 1 at its two neighbours within, 0 at the corner.
    assert found["sharpness"] == pytest.approx(
        np.sqrt((16 + 1 + 1 + 0) / 4) / np.sqrt(1 / 16 - 1 / 256)
    )
    assert (found["white_share"], found["black_share"]) == (1 / 16, 15 / 16)


def test_padding_changes_nothing_and_a_level_picture_has_no_sharpness() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (12, 8), dtype=np.uint8)
    padded = np.zeros((1, 12, 12), dtype=np.uint8)
    padded[0, :, 2:10] = picture
    found = picture_descriptors(padded, np.array([[2, 0, 8, 12]])).iloc[0]
    grey = picture / 255
    laplacian = ndimage.laplace(grey)[1:-1, 1:-1]
    assert found["brightness"] == pytest.approx(grey.mean())
    assert found["contrast"] == pytest.approx(grey.std())
    assert found["sharpness"] == pytest.approx(np.sqrt(np.mean(laplacian**2)) / grey.std())
    level = picture_descriptors(np.full((1, 5, 5), 7, dtype=np.uint8), whole(5)[None]).iloc[0]
    assert level["contrast"] == 0
    assert np.isnan(level["sharpness"])


def test_contrast_does_not_pass_for_sharpness() -> None:
    rng = np.random.default_rng(1)
    faint = rng.integers(100, 120, (1, 30, 30)).astype(np.uint8)
    strong = (12 * (faint - 100)).astype(np.uint8)
    soft = ndimage.gaussian_filter(strong.astype(float), (0, 1, 1)).astype(np.uint8)
    sharpness = picture_descriptors(
        np.concatenate([faint, strong, soft]), np.stack([whole(30)] * 3)
    )["sharpness"]
    assert sharpness[0] == pytest.approx(sharpness[1])
    assert sharpness[2] < 0.6 * sharpness[1]


def test_hand_from_regions_by_hand() -> None:
    labels = np.zeros((10, 10), dtype=np.uint8)
    labels[2:8, 4:6] = 1
    labels[7, 4:6] = 2
    # Knuckles as far to the right of the carpals as above them.
    labels[7, 8:10] = 1
    labels[3, 8:10] = 3
    found = hand_from_regions(RegionMap(labels, NAMES), whole(10))
    assert found["hand_share"] == pytest.approx(16 / 100)
    assert found["hand_tilt_deg"] == pytest.approx(45.0)
    assert (found["hand_found"], found["marker"]) == (1.0, 0.0)
    rows, columns = np.nonzero(labels)
    away = np.hypot(rows.mean() - 4.5, columns.mean() - 4.5)
    assert found["hand_offset"] == pytest.approx(away / 10)
    labels[0, 0] = 10
    upside_down = RegionMap(np.ascontiguousarray(labels[::-1, ::-1]), NAMES)
    turned = hand_from_regions(upside_down, whole(10))
    assert turned["hand_tilt_deg"] == pytest.approx(135.0)
    assert turned["marker"] == 1.0
    missing = hand_from_regions(None, whole(10))
    assert missing["hand_found"] == 0
    assert np.isnan([missing["hand_share"], missing["hand_tilt_deg"], missing["marker"]]).all()


@pytest.mark.parametrize("angle", [0, 30, -60])
def test_hand_from_grey_finds_size_tilt_and_marker(angle: int) -> None:
    y, x = np.mgrid[:101, :101] - 50.0
    turn = np.radians(angle)
    along = -y * np.cos(turn) + x * np.sin(turn)
    across = x * np.cos(turn) + y * np.sin(turn)
    # A palm with two fingers: a plain bar would be taken for a plate.
    fingers = (along > 0) & (np.abs(across) >= 7)
    hand = (np.abs(along) <= 35) & (np.abs(across) <= 12) & ((along <= 0) | fingers)
    pixels = np.where(hand, 150, 10).astype(np.uint8)
    found = hand_from_grey(pixels, whole(101))
    assert found["hand_tilt_deg"] == pytest.approx(abs(angle), abs=1.5)
    assert found["hand_share"] == pytest.approx(hand.mean(), rel=0.3)
    rows, columns = np.nonzero(hand)
    away = np.hypot(rows.mean() - 50, columns.mean() - 50) / 101
    assert found["hand_offset"] == pytest.approx(away, abs=0.03)
    assert (found["hand_found"], found["marker"]) == (1, 0)
    pixels[4:10, 90:94] = 250
    assert hand_from_grey(pixels, whole(101))["marker"] == 1


def test_bright_surroundings_are_no_hand() -> None:
    pixels = np.full((60, 60), 220, dtype=np.uint8)
    pixels[20:40, 25:35] = 40
    assert hand_from_grey(pixels, whole(60))["hand_found"] == 0
    assert hand_from_grey(np.zeros((60, 60), np.uint8), whole(60))["hand_found"] == 0


def test_shares_are_of_the_hand_alone() -> None:
    regions = pd.DataFrame(
        {
            "case_id": ["a"] * 3 + ["b"] * 3,
            "method": "integrated_gradients",
            "region": ["background", "carpals", "MCP"] * 2,
            "absolute_months": [90.0, 1.0, 3.0, 5.0, 0.0, 0.0],
        }
    )
    shares = region_shares(regions)
    assert list(shares.index) == ["a"]
    assert shares.loc["a"].to_dict() == {"share_MCP": 0.75, "share_carpals": 0.25}


def test_cases_of_a_cohort(phantoms: Path, tmp_path: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    cache = open_cache(cohort, PreprocessSettings(size_px=64), tmp_path, workers=1)
    cases = pd.DataFrame(
        {
            "case_id": [case.case_id for case in cohort],
            "sex": [case.sex.value for case in cohort],
            "reference_months": cohort.bone_ages_months(),
            "predicted_months": cohort.bone_ages_months(),
        }
    )

    def regions_of(case_id: str) -> RegionMap:
        file = cohort[case_id].region_file
        assert file is not None
        return regions_on_input(read_region_map(file), cache.source_map(case_id), 64)

    neighbours = pd.DataFrame(
        {"case_id": [cases["case_id"][0]], "rank": [1], "distance_percentile": [97.0]}
    )
    table, source = describe_cases(cases, cache, regions_of=regions_of, neighbours=neighbours)
    assert source == "regions"
    assert list(table["case_id"]) == list(cases["case_id"])
    stages = table.filter(like="stage_")
    assert (stages.sum(axis=1) == 1).all()
    assert (table["hand_found"] == 1).all()
    assert table["unusualness"].tolist()[:1] == [97.0]
    assert table["unusualness"][1:].isna().all()
    by_grey, source = describe_cases(cases, cache)
    assert source == "threshold"
    # Two ways to the same hand agree on phantoms, whose background is dark.
    assert (by_grey["hand_found"] == 1).mean() >= 0.8
    seen = by_grey["hand_share"].notna()
    assert np.corrcoef(by_grey["hand_share"][seen], table["hand_share"][seen])[0, 1] > 0.6
    for column in table.columns[1:]:
        assert descriptor_of(column).label


def test_unknown_descriptor_is_refused() -> None:
    with pytest.raises(DataError, match="descriptor shoe_size: expected one of"):
        descriptor_of("shoe_size")

"""Overlays at the size of the radiographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.export.analysis_export import export_analysis
from boneage_xai.export.cases import ExportedCase
from boneage_xai.export.overlays import OverlayWriter
from boneage_xai.figures.overlay import analysis_limit_months, laid_over
from boneage_xai.files import read_json
from export_fixture import CASE_IDS, Explained


def test_overlays_have_the_size_of_their_radiographs_and_one_scale(
    explained: Explained, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_analysis(explained.analysis, explained.cohort, out, "png")
    index = read_json(out / "export.json")
    maps = explained.analysis.maps()
    assert maps is not None
    for method, limit in index["scale"]["limit_months_per_input_pixel"].items():
        assert limit == analysis_limit_months(maps, method)
    for case_id in CASE_IDS:
        pixels = read_radiograph(explained.cohort[case_id].image).pixels
        for file in index["cases"][case_id]["files"].values():
            with Image.open(out / file) as image:
                assert image.mode == "RGB"
                assert image.size == pixels.shape[::-1]
    listed = {file for one in index["cases"].values() for file in one["files"].values()}
    assert {path.name for path in out.iterdir()} == listed | {"export.json"}


def test_older_is_orange_younger_blue_and_nothing_leaves_the_radiograph(
    explained: Explained, tmp_path: Path
) -> None:
    case = explained.cohort["plain"]
    radiograph = read_radiograph(case.image)
    source_map = preprocess(radiograph, PreprocessSettings(size_px=48)).source_map
    values = np.zeros((48, 48), dtype=np.float32)
    values[8:16, 20:28], values[32:40, 20:28] = 1.0, -1.0
    write = OverlayWriter(explained.analysis, [case], ["gradient"])
    exported = ExportedCase(case, radiograph, source_map, {"gradient": values}, None, {})
    file = tmp_path / write(exported, tmp_path, "x")["gradient"]
    drawn = np.asarray(Image.open(file)).astype(int)
    x, (y_older, y_younger) = 47 - 12, (23, 71)
    red, _, blue = drawn[y_older, x]
    assert red > blue + 100
    red, _, blue = drawn[y_younger, x]
    assert blue > red + 100
    far = drawn[:, :8]
    assert (far == far[..., :1]).all()
    low, high = np.percentile(radiograph.pixels, (0.5, 99.5))
    stretched = np.clip((radiograph.pixels - low) / (high - low), 0, 1)
    np.testing.assert_allclose(far[..., 0], 255 * stretched[:, :8], atol=1)


def test_a_map_of_nothing_changes_nothing() -> None:
    grey = np.random.default_rng(0).uniform(size=(5, 7))
    drawn = laid_over(grey, np.zeros((5, 7)), 1.0)
    np.testing.assert_array_equal(drawn, np.round(255 * grey)[..., None].repeat(3, axis=2))
    assert laid_over(grey, np.full((5, 7), 0.5), 1.0, opacity=0.0) == pytest.approx(drawn)

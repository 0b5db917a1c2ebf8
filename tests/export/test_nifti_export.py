"""NIfTI images from an analysis: pixels, geometry, and what the JSON says of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage_xai.errors import ConfigError
from boneage_xai.export.analysis_export import export_analysis
from boneage_xai.files import read_json
from boneage_xai.regions.label_maps import read_region_map
from export_fixture import CASE_IDS, SPACING_MM, Explained

nibabel: Any = pytest.importorskip("nibabel", reason="boneage-xai[nifti] is not installed")


@pytest.fixture(scope="module")
def exported(explained: Explained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nifti") / "out"
    export_analysis(explained.analysis, explained.cohort, out, "nifti")
    return out


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_maps_add_up_and_labels_are_the_regions(
    exported: Path, explained: Explained, case_id: str
) -> None:
    files = read_json(exported / "export.json")["cases"][case_id]["files"]
    described = read_json(exported / files["description"])
    assert described["case_id"] == case_id
    stored = explained.analysis.maps()
    assert stored is not None
    row = list(stored.attrs["case_ids"]).index(case_id)  # type: ignore[arg-type]
    for method in ("integrated_gradients", "gradient"):
        image = nibabel.load(exported / files[method])
        assert image.get_data_dtype() == np.float32
        values = np.asarray(image.dataobj)
        assert values.min() < 0 < values.max()
        on_input = np.asarray(stored[method][row], dtype=np.float64)  # type: ignore[index]
        said = described["maps"][method]
        assert values.sum(dtype=np.float64) + said["in_padding"] == pytest.approx(
            on_input.sum(), abs=1e-6 * np.abs(on_input).sum()
        )
        assert said["file"] == files[method]
        assert said["unit"].startswith("months")
    region_file = explained.cohort[case_id].region_file
    assert region_file is not None
    regions = read_region_map(region_file)
    labels = nibabel.load(exported / files["regions"])
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(labels.dataobj)[:, :, 0].T, regions.labels)
    assert {int(k): v for k, v in described["regions"]["labels"].items()} == regions.names
    assert {path.parent for path in exported.rglob("*")} == {exported}


def test_spacing_is_the_sources_or_said_to_be_assumed(exported: Path) -> None:
    index = read_json(exported / "export.json")["cases"]
    for case_id, (row_mm, column_mm), words in (
        ("plain", SPACING_MM, "pixel spacing of the source"),
        (CASE_IDS[1], (1.0, 1.0), "spacing unknown, 1 mm assumed"),
    ):
        files = index[case_id]["files"]
        image = nibabel.load(exported / files["gradient"])
        assert image.header.get_zooms() == (column_mm, row_mm, 1.0)
        np.testing.assert_allclose(image.affine, np.diag([-column_mm, -row_mm, 1, 1]))
        assert image.header.get_xyzt_units()[0] == "mm"
        assert words in bytes(image.header["descrip"]).decode()
        described = read_json(exported / files["description"])
        assert described["pixel_spacing_assumed"] is (case_id != "plain")
    assert described["pixel_spacing_mm"] is None


def test_without_nibabel_the_extra_is_named(
    explained: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match=r"install boneage-xai\[nifti\]"):
        export_analysis(explained.analysis, explained.cohort, tmp_path / "out", "nifti")

"""Networks as ONNX: the same predictions in another runtime, and what the file says of itself."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.errors import ConfigError
from boneage_xai.export import onnx_network
from boneage_xai.export.onnx_network import OnnxExport, comparison_images, export_onnx
from boneage_xai.models.checkpoint import TrainedRun, load_run
from boneage_xai.models.ensemble import Views, write_ensemble
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor
from boneage_xai.predict import predict_pixels

_REASON = "boneage-xai[onnx] is not installed"
pytest.importorskip("onnx", reason=_REASON)
pytest.importorskip("onnxscript", reason=_REASON)
onnxruntime: Any = pytest.importorskip("onnxruntime", reason=_REASON)


def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def made(sex_run: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxExport:
    return export_onnx(load_run(sex_run), tmp_path_factory.mktemp("onnx") / "network.onnx")


def test_other_images_give_the_same_months_in_any_batch(sex_run: Path, made: OnnxExport) -> None:
    run = load_run(sex_run)
    assert made.n_compared == 24
    assert 0 <= made.largest_difference_months < 0.01
    session = _session(made.path)
    shapes = {one.name: one.shape for one in session.get_inputs()}
    assert shapes["image"][1:] == [1, 48, 48]
    assert isinstance(shapes["image"][0], str)
    assert shapes["image"][0] == shapes["is_male"][0]
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (7, 48, 48), dtype=np.uint8)
    is_male = np.arange(7) % 2 == 1
    expected = predict_pixels(run.network, pixels, is_male)
    for part in (slice(0, 7), slice(2, 3)):
        feed = {
            "image": (pixels[part, None] / np.float32(255)).astype(np.float32),
            "is_male": is_male[part].astype(np.float32),
        }
        (months,) = session.run(None, feed)
        np.testing.assert_allclose(months, expected[part], atol=0.01)
    swapped = session.run(None, {**feed, "is_male": 1 - feed["is_male"]})[0]
    np.testing.assert_allclose(
        swapped, predict_pixels(run.network, pixels[2:3], ~is_male[2:3]), atol=0.01
    )


def test_the_file_says_how_radiographs_must_be_prepared(sex_run: Path, made: OnnxExport) -> None:
    run = load_run(sex_run)
    found = _session(made.path).get_modelmeta().custom_metadata_map
    assert found["boneage_xai.model_id"] == run.model_id
    assert json.loads(found["boneage_xai.preprocessing"]) == run.preprocessing.model_dump(
        mode="json"
    )
    assert "1 = male, 0 = female" in found["boneage_xai.is_male"]
    assert "bone age in months" in found["boneage_xai.months"]
    compared = json.loads(found["boneage_xai.compared"])
    assert compared["largest_difference_months"] == made.largest_difference_months
    assert [path.name for path in made.path.parent.iterdir()] == ["network.onnx"]


def test_a_network_without_the_sex_keeps_both_inputs(image_run: Path, tmp_path: Path) -> None:
    made = export_onnx(load_run(image_run), tmp_path / "network.onnx")
    assert [one.name for one in _session(made.path).get_inputs()] == ["image", "is_male"]


def test_ensembles_over_views_are_exported_too(
    sex_run: Path, image_run: Path, tmp_path: Path
) -> None:
    views = Views(flip=True)
    ensemble = write_ensemble([sex_run, image_run], tmp_path / "both", views=views)
    made = export_onnx(ensemble, tmp_path / "network.onnx")
    assert made.largest_difference_months < 0.01


def test_turned_views_are_refused_before_the_export(sex_run: Path, tmp_path: Path) -> None:
    ensemble = write_ensemble([sex_run], tmp_path / "turned", views=Views(rotation_degrees=5))
    with pytest.raises(ConfigError, match=r"expected no turned views.*found turns by 5 degrees"):
        export_onnx(ensemble, tmp_path / "network.onnx")
    assert not (tmp_path / "network.onnx").exists()


def test_a_file_that_the_runtime_cannot_load_is_refused(
    sex_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(network: nn.Module, size_px: int, path: Path) -> int:
        return path.write_bytes(b"no graph")

    monkeypatch.setattr(onnx_network, "_write", damaged)
    with pytest.raises(ConfigError, match="expected a file that ONNX Runtime can load"):
        export_onnx(load_run(sex_run), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_predicts_a_single_value_is_exported_too(
    sex_run: Path, tmp_path: Path
) -> None:
    settings = ArchitectureSettings(backbone="squeezenet1_1", output="value")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BoneAgeRegressor(settings, age_mean_months=120.0, age_sd_months=40.0).eval()
    run = TrainedRun(sex_run, network.requires_grad_(False), load_run(sex_run).manifest)
    made = export_onnx(run, tmp_path / "network.onnx")
    pixels = comparison_images(run.preprocessing)[:1]
    feed = {
        "image": (pixels[:, None] / np.float32(255)).astype(np.float32),
        "is_male": np.zeros(1, dtype=np.float32),
    }
    (months,) = _session(made.path).run(None, feed)
    expected = predict_pixels(network, pixels, np.zeros(1, dtype=bool))
    assert expected[0] > 60
    np.testing.assert_allclose(months, expected, atol=0.01)


def test_an_export_that_predicts_something_else_is_not_kept(
    sex_run: Path, made: OnnxExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_another(network: nn.Module, size_px: int, path: Path) -> int:
        shutil.copyfile(made.path, path)
        return made.opset

    monkeypatch.setattr(onnx_network, "_write", of_another)
    run = load_run(sex_run)
    run.network.age_bins_months += 0.02
    out = tmp_path / "network.onnx"
    with pytest.raises(ConfigError, match=r"within 0\.01 months .* found a difference of 0\.02"):
        export_onnx(run, out)
    assert not list(tmp_path.iterdir())
    kept = export_onnx(run, out, tolerance_months=0.1)
    assert kept.largest_difference_months == pytest.approx(0.02, abs=1e-3)


def test_a_network_that_cannot_be_exported_is_refused(sex_run: Path, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            if float(image.sum()) > 3:
                return self.scale * is_male
            return self.scale - is_male

    run = replace(load_run(sex_run), network=Branching())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a network that PyTorch can export"):
        export_onnx(run, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_extra_is_named(
    sex_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime, found none; install boneage-xai\[onnx\]"):
        export_onnx(load_run(sex_run), tmp_path / "network.onnx")

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Run = Callable[..., int]


@pytest.mark.usefixtures("unrendered")
def test_an_ensemble_is_measured_explained_and_reported(
    cli: Run,
    phantoms: Path,
    sex_run: Path,
    image_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, out = tmp_path / "both", tmp_path / "analysis"
    assert cli("ensemble", sex_run, image_run, "--flip", "--out", model, "--name", "pair") == 0
    printed = capsys.readouterr()
    assert "pair" in printed.out
    assert not printed.err
    assert cli("evaluate", model, "--data", phantoms, "--out", out) == 0
    assert len(pd.read_parquet(out / "predictions.parquet")) == 8
    attribute = ("attribute", model, "--data", phantoms, "--out", out, "--limit", 2)
    assert cli(*attribute, "--tolerance-percent", 5, "--map-tolerance-percent", 100) == 0
    assert cli(*attribute, "--method", "grad_cam", "--resume") == 2
    assert "an average" in capsys.readouterr().err
    manifest = json.loads((out / "analysis.json").read_text())
    assert [one["recipe"] for one in manifest["run"]["members"]] == ["demo", "demo"]
    assert cli("report", out) == 0
    assert "Average of" in (out / "report.html").read_text()


@pytest.mark.parametrize(("mirrored", "said"), [(0.1, True), (False, True), (True, False)])
def test_it_says_where_mirror_images_are_strange(
    mirrored: float,
    said: bool,
    cli: Run,
    sex_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sex_run, run)
    manifest = json.loads((run / "run.json").read_text())
    manifest["recipe"]["augmentation"]["horizontal_flip"] = mirrored
    (run / "run.json").write_text(json.dumps(manifest))
    assert cli("ensemble", run, "--flip", "--out", tmp_path / "views") == 0
    assert ("1 run saw few mirror images" in capsys.readouterr().err) == said
    assert cli("ensemble", run, "--rotate", "5", "--out", tmp_path / "turned") == 0
    assert not capsys.readouterr().err

from __future__ import annotations

import json
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
    assert "pair" in capsys.readouterr().out
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

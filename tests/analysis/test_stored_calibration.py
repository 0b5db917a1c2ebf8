"""Correction and intervals kept with a run, and applied by the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apps.cli import main
from boneage_xai.analysis.predictions import prediction_table
from boneage_xai.analysis.run_analysis import prepare_run
from boneage_xai.analysis.stored_calibration import (
    CALIBRATION_FILE,
    calibrate_run,
    read_calibration,
    stored_calibration,
)
from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.files import read_json, write_json
from boneage_xai.models.checkpoint import TrainedRun, load_run
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.recipe import load_recipe

TINY = (
    "preprocessing.size_px=32",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=32",
    "training.epochs=1",
    "training.stages=[]",
    "training.precision=float32",
    "training.validation_fraction=0.6",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return 200 phantoms and a run that reads them well, but with far too little spread.

    What so small a network has learnt is no age: the table is then written anew, with bone ages
    that follow its predictions, a site and a chronological age.
    """
    folder = tmp_path_factory.mktemp("sites")
    source = folder / "cohort"
    write_cohort(source, 200, seed=3, settings=PhantomSettings(size_px=64), workers=1)
    cohort = select_cohort(read_source(source))
    run = train(load_recipe("demo", TINY), cohort, folder / "run", cache_folder=cache)
    predicted = prediction_table(run, cohort, open_cache(cohort, run.preprocessing, cache))
    spread = predicted.groupby("sex")["predicted_months"].transform(
        lambda x: (x - x.mean()) / x.std()
    )
    rng = np.random.default_rng(0)
    ages = np.clip(115.0 + 35.0 * spread + rng.normal(0.0, 10.0, 200), 5.0, 225.0).to_numpy()
    labels = pd.DataFrame(
        {
            "id": predicted["case_id"],
            "boneage": ages.round(2),
            "male": predicted["sex"] == "M",
            "Site": np.where(np.arange(200) % 3 == 0, "north", "south"),
            "Chronological age (months)": np.clip(ages - 1.0, 3.0, 190.0).round(2),
        }
    )
    labels.to_csv(source / "boneage-training-dataset.csv", index=False)
    return source, run.path


@pytest.fixture(scope="module")
def source(trained: tuple[Path, Path]) -> Path:
    return trained[0]


@pytest.fixture(scope="module")
def cohort(source: Path) -> Cohort:
    return select_cohort(read_source(source))


@pytest.fixture
def run(trained: tuple[Path, Path], tmp_path: Path) -> TrainedRun:
    copy = tmp_path / "run"
    shutil.copytree(trained[1], copy, ignore=shutil.ignore_patterns("engine"))
    return load_run(copy)


def test_cases_carry_the_columns_of_their_table(cohort: Cohort) -> None:
    assert {case.attributes["Site"] for case in cohort} == {"north", "south"}
    assert all(case.chronological_age_months is not None for case in cohort)


def test_what_is_kept_is_what_was_fitted(run: TrainedRun, cohort: Cohort, cache: Path) -> None:
    assert read_calibration(run) is None
    with pytest.raises(ConfigError, match="calibrate"):
        stored_calibration(run)
    prepared = prepare_run(run, cohort, split="validation", cache_folder=cache)
    found = calibrate_run(prepared, against="reference", per_sex=False, seed=2)
    assert read_calibration(run) == found
    assert found.correction.n == 120
    stored = read_json(run.path / CALIBRATION_FILE)
    assert stored["data"]["split"] == "validation"
    assert stored["seed"] == 2
    with pytest.raises(
        ConfigError, match="expected the validation cases of a run, found split all"
    ):
        calibrate_run(prepare_run(run, cohort, split="all", cache_folder=cache))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": "000000000000"}, "found .*000000000000"),
        ({"version": 9}, "found .*9"),
        ({"correction": {}}, "damaged"),
        ({"intervals": None}, "damaged"),
    ],
)
def test_a_calibration_of_another_model_or_a_damaged_one_is_refused(
    run: TrainedRun, cohort: Cohort, cache: Path, change: dict[str, object], message: str
) -> None:
    calibrate_run(prepare_run(run, cohort, split="validation", cache_folder=cache))
    file = run.path / CALIBRATION_FILE
    write_json(file, read_json(file) | change)
    with pytest.raises(CheckpointError, match=message):
        read_calibration(run)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        read_calibration(run)


@pytest.mark.usefixtures("unrendered")
def test_the_command_line_from_calibration_to_a_corrected_report(
    run: TrainedRun,
    source: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cli(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["boneage-xai", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    common = [run.path, "--data", source, "--cache", cache]
    out, image = tmp_path / "analysis", next(source.rglob("*.png"))
    assert cli("evaluate", *common, "--out", out, "--corrected") == 2
    assert "boneage-xai calibrate" in capsys.readouterr().err
    assert cli("predict", run.path, image, "--sex", "F", "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert (before["interval"], before["corrected"]) == (None, False)

    assert cli("calibrate", *common) == 0
    assert "fitted on 120 validation cases, with 90% intervals" in capsys.readouterr().out
    calibration = stored_calibration(run)
    assert cli("predict", run.path, image, "--sex", "F", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["predicted_months"] == before["predicted_months"]
    half = calibration.intervals.half_width([plain["predicted_months"]], [False])[0]
    assert plain["interval"]["high_months"] - plain["predicted_months"] == pytest.approx(half)
    assert cli("predict", run.path, image, "--sex", "F", "--json", "--corrected") == 0
    corrected = json.loads(capsys.readouterr().out)
    expected = calibration.correction.apply([plain["predicted_months"]], [False])[0]
    assert corrected["predicted_months"] == pytest.approx(expected)
    assert corrected["interval"]["low_months"] < expected < corrected["interval"]["high_months"]
    assert cli("predict", run.path, image, "--sex", "F") == 0
    assert "90% interval" in capsys.readouterr().out

    arguments = ["evaluate", *common, "--out", out, "--by", "site", "--corrected"]
    assert cli(*arguments) == 0
    assert "the correction was fitted on 120 of the 120 cases" in capsys.readouterr().err
    folder = AnalysisFolder.open(out)
    step = folder.manifest["steps"]["evaluate"]
    assert step["corrected"] == {**calibration.correction.to_dict(), "n_fitted_on": 120}
    assert step["by"] == ["site"]
    predictions, metrics = folder.predictions(), folder.metrics()
    again = calibration.correction.apply(
        predictions["uncorrected_months"], predictions["sex"] == "M"
    )
    np.testing.assert_allclose(predictions["predicted_months"], again)
    error = predictions["predicted_months"] - predictions["reference_months"]
    raw = predictions["uncorrected_months"] - predictions["reference_months"]
    assert error.abs().mean() < 0.7 * raw.abs().mean()
    np.testing.assert_allclose(predictions["error_months"], error)
    sites = {row["group"]: row for row in metrics["groups"] if row["by"] == "column site"}
    for site, row in sites.items():
        own = error[predictions["site"] == site]
        assert row["mae_months"]["value"] == pytest.approx(own.abs().mean())
    assert metrics["clinical"]["basis"] == "chronological age"
    assert folder.intervals() is not None
    assert cli("report", out, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "corrected by a line that was fitted on 120 validation cases" in page
    assert "By site" in page
    assert "(proxy)" not in page
    capsys.readouterr()
    assert cli("evaluate", *common, "--out", tmp_path / "b", "--by", "Device") == 2
    assert "expected one such column" in capsys.readouterr().err
    assert cli("evaluate", *common, "--out", tmp_path / "b", "--by", "sex") == 2
    assert "meanings of their own" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()

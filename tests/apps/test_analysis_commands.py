"""The commands that ask more of a trained network: what they write, print and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage_xai.analysis.failure_cards import CARDS_FILE, read_cards
from boneage_xai.analysis.sex_effect import GIVEN
from boneage_xai.analysis.stress import EXAMPLES_FILE, read_examples
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.files import read_json, read_table
from boneage_xai.models.checkpoint import load_run
from boneage_xai.phantom.cohorts import TABLE_FILE
from boneage_xai.predict import predict_pixels
from boneage_xai.store import AnalysisFolder
from reports.commands import commands
from reports.failure_section import failures as failure_section
from reports.report import render_report
from reports.stress_section import stress as stress_section

Run = Callable[..., int]


@pytest.mark.usefixtures("unrendered")
def test_stress(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    command = ["stress", sex_run, "--data", phantoms, "--out", out]
    assert cli(*command, "--transform", "rotation_180", "--transform", "flip", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = ["rotation_180", "flip_left_right", "flip_up_down"]
    assert found["n"] == 8
    assert [row["transform"] for row in found["transforms"]] == names
    folder = AnalysisFolder.open(out)
    table = folder.stress()
    assert table is not None
    assert list(table.columns[:3]) == ["case_id", "sex", "reference_months"]
    assert len(table) == 24
    np.testing.assert_allclose(
        table["delta_months"], table["predicted_months"] - table["original_months"]
    )
    examples = read_examples(out / EXAMPLES_FILE)
    assert [one.family for one in examples] == ["rotation", "flip"]
    assert examples[0].original.shape == (48, 48)
    image = select_cohort(read_source(phantoms))[examples[0].case_id].image
    radiograph = read_radiograph(image)
    turned = replace(radiograph, pixels=np.rot90(radiograph.pixels, 2).copy())
    settings = load_run(sex_run).preprocessing
    np.testing.assert_array_equal(examples[0].changed, preprocess(turned, settings).pixels)
    assert "--transform rotation_180 --transform flip_left_right" in commands(folder)["stress"]
    section = stress_section(folder)
    assert section is not None
    assert "8 radiographs were changed in 3 ways" in section.blocks[0].paragraphs[0]  # type: ignore[union-attr]
    assert 'id="stress"' in render_report(folder)


def test_stress_of_a_folder_of_another_network_is_refused(
    cli: Run,
    sex_run: Path,
    image_run: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "analysis"
    options = ["--data", phantoms, "--out", out, "--limit", "2", "--transform", "inversion"]
    assert cli("stress", sex_run, *options) == 0
    assert "MAE change" in capsys.readouterr().out
    assert read_json(out / "analysis.json")["steps"]["stress"]["n"] == 2
    assert cli("stress", image_run, *options) == 2
    assert "holds the analysis of another run" in capsys.readouterr().err
    assert cli("stress", sex_run, *options, "--transform", "spin") == 2
    assert "transform spin: expected a family" in capsys.readouterr().err


def test_compare_an_arm_with_the_sex_and_one_without(
    cli: Run,
    sex_run: Path,
    image_run: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, run in (("sexed", sex_run), ("image", image_run)):
        assert cli("evaluate", run, "--data", phantoms, "--out", tmp_path / name) == 0
    capsys.readouterr()
    folders = [tmp_path / "sexed", tmp_path / "image"]
    assert cli("compare", *folders, "--out", tmp_path / "compared", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["models"], found["n"]) == (["sexed", "image"], 8)
    errors = [AnalysisFolder.open(one).predictions()["error_months"].abs() for one in folders]
    np.testing.assert_allclose(
        found["groups"][0]["mae_difference_months"], errors[0].mean() - errors[1].mean()
    )
    page = (tmp_path / "compared" / "comparison.html").read_text(encoding="utf-8")
    assert "Comparison: sexed, image" in page
    assert "not given" in page
    assert len(read_table(tmp_path / "compared" / "comparison.parquet")) == 16
    assert cli("compare", tmp_path / "sexed", "--out", tmp_path / "other") == 2
    assert "expected two or more analyses" in capsys.readouterr().err


@pytest.mark.usefixtures("unrendered")
def test_sex_effect(
    cli: Run,
    sex_run: Path,
    image_run: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "analysis"
    assert cli("sex-effect", sex_run, "--data", phantoms, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == sum(row["n"] for row in found["by_age"]) == 8
    assert [row["given"] for row in found["errors"] if row["sex"] is None] == list(GIVEN)
    assert "read twice" in render_report(AnalysisFolder.open(out))
    blind = tmp_path / "blind"
    assert cli("sex-effect", image_run, "--data", phantoms, "--out", blind) == 0
    assert "sex withheld: MAE +0.00" in capsys.readouterr().out
    assert "this network does not use the sex" in render_report(AnalysisFolder.open(blind))


def test_neighbours(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    command = ["neighbours", sex_run, "--data", phantoms, "--out", out, "--k", "2"]
    assert cli(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["k"], len(found["cases"])) == (2, 8)
    percentiles = [row["distance_percentile"] for row in found["cases"]]
    assert percentiles == sorted(percentiles, reverse=True)
    assert commands(AnalysisFolder.open(out))["neighbours"].endswith("--k 2")
    assert cli(*command[:-1], "99") == 0
    assert "The most unusual of 8 cases (held-out)" in capsys.readouterr().out


def test_failures(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    source = [sex_run, "--data", phantoms, "--out", out]
    assert cli("evaluate", *source) == 0
    capsys.readouterr()
    before = {one.name: one.read_bytes() for one in out.iterdir() if one.name != "analysis.json"}
    assert cli("failures", *source, "--worst", "3", "--pictures", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["n_worst"], found["hand_from"]) == (8, 3, "regions")
    folder = AnalysisFolder.open(out)
    assert {name: (out / name).read_bytes() for name in before} == before
    errors = folder.predictions().set_index("case_id")["error_months"].abs()
    table = folder.failures()
    assert table is not None
    assert set(table.loc[table["worst"], "case_id"]) == set(errors.nlargest(3).index)
    assert table["unusualness"].between(0, 100).all()
    cards = read_cards(out / CARDS_FILE)
    assert len(cards) == 2
    run = load_run(sex_run)
    cohort = select_cohort(read_source(phantoms))
    for card in cards:
        image = preprocess(read_radiograph(cohort[card.case_id].image), run.preprocessing).pixels
        np.testing.assert_array_equal(card.pixels, image)
        is_male = np.full(2, card.sex == "M")
        months = predict_pixels(run.network, np.stack([image, np.zeros_like(image)]), is_male)
        assert card.map_months is not None
        assert card.gap_months is not None
        total = float(card.map_months.sum(dtype=np.float64))
        assert total - (months[0] - months[1]) == pytest.approx(card.gap_months, abs=0.01)
        assert abs(card.gap_months) <= max(0.5, 0.01 * abs(months[0] - months[1]))
        ages = [cohort[one.case_id].bone_age_months for one in card.neighbours]
        assert [one.months for one in card.neighbours] == ages
        assert all(cohort[one.case_id].sex.value == card.sex for one in card.neighbours)
    assert commands(folder)["failures"].endswith("--seed 0 --worst 3 --pictures 2")
    assert failure_section(folder) is not None
    assert cli("failures", *source, "--no-neighbours", "--pictures", "0") == 0
    assert "Groups of worst cases" in capsys.readouterr().out
    assert not (out / CARDS_FILE).exists()
    assert cli("failures", *source, "--worst", "8") == 2
    assert "worst: expected 1 to 7 cases, found 8" in capsys.readouterr().err


def relabelled(
    phantoms: Path, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> Path:
    """Return a copy of phantoms, files as old as before, with another label table."""
    shutil.copytree(phantoms, folder)
    table = folder / TABLE_FILE
    change(pd.read_csv(table)).to_csv(table, index=False)
    return folder


def test_results_on_other_labels_are_not_mixed(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    older = relabelled(
        phantoms, tmp_path / "older", lambda table: table.assign(boneage=table["boneage"] + 12)
    )
    assert cli("evaluate", sex_run, "--data", phantoms, "--out", out) == 0
    assert cli("sex-effect", sex_run, "--data", phantoms, "--out", out) == 0
    capsys.readouterr()
    assert cli("failures", sex_run, "--data", older, "--out", out) == 2
    assert "same radiographs with other bone ages or sexes" in capsys.readouterr().err


def test_shortcuts_among_cases_of_one_age(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = relabelled(phantoms, tmp_path / "one", lambda table: table.assign(boneage=120))
    command = ["shortcuts", sex_run, "--data", source, "--out", tmp_path / "analysis"]
    assert cli(*command, "--split", "all") == 0
    assert "per month of age" in capsys.readouterr().out
    found = AnalysisFolder.open(tmp_path / "analysis").shortcuts()
    assert found is not None
    assert None in [row["slope_months_per_month"] for row in found["network"]]


def test_failures_of_boys_need_no_girls(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = relabelled(phantoms, tmp_path / "boys", lambda table: table[table["male"]])
    out = tmp_path / "analysis"
    command = ["failures", sex_run, "--data", source, "--out", out, "--pictures", "0"]
    assert cli(*command, "--worst", "1") == 0
    assert "no neighbours" not in capsys.readouterr().err
    assert read_json(out / "failures.json")["with_neighbours"]

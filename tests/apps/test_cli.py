"""The command line: the main job end to end, and mistakes as one sentence with exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from command_line import TINY, Run, assert_one_sentence, trained
from PIL import Image
from scipy.stats import spearmanr

from apps.runs import attribute
from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.attribution.methods import METHODS
from boneage_xai.files import read_json

__all__ = ["trained"]


def test_the_main_job(
    cli: Run, trained: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    assert cli("evaluate", trained, "--data", phantoms, "--out", out, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == read_json(out / "metrics.json")
    assert metrics["overall"]["n"] == 8
    attribute = ["attribute", trained, "--data", phantoms, "--out", out, "--max-nodes", "33"]
    assert cli(*attribute, "--limit", "2", "--layer", "backbone.features.5") == 0
    assert "2 cases, integrated_gradients: median gap" in capsys.readouterr().out
    summary = read_json(out / "analysis.json")["steps"]["attribute"]
    assert summary["settings"]["max_nodes"] == 33
    assert "float32" in summary["integration"]["integrated_gradients"]["precision"]
    assert cli(*attribute) == 2
    assert "--replace" not in capsys.readouterr().out
    assert cli(*attribute, "--seed", "1", "--replace") == 2
    assert "--random-weights" in capsys.readouterr().err
    random = ["--random-weights", "--limit", "2", "--method", "input_x_gradient"]
    assert cli(*attribute, *random, "--replace") == 2
    assert "another run" in capsys.readouterr().err
    attribute[attribute.index(out)] = out / "random-weights"
    assert cli(*attribute, *random, "--seed", "1") == 0
    control = read_json(out / "random-weights" / "analysis.json")["run"]
    assert control["random_weights"]["seed"] == 1
    assert control["model_id"] != read_json(out / "analysis.json")["run"]["model_id"]
    capsys.readouterr()
    intervene = ["intervene", trained, "--data", phantoms, "--out", out, "--limit", "3"]
    assert cli(*intervene, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["delta_months"]) == (3, 12.0)
    assert all(row["n"] == 3 and 0 <= row["n_changed"] <= 3 for row in found["regions"])
    assert sum(row["n"] for row in found["by_sex_and_age"]) == 3 * len(found["regions"])
    assert [row["region"] for row in found["regions"]][-2:] == ["all_regions", "sum_of_regions"]
    assert read_json(out / "analysis.json")["steps"]["intervene"]["limit"] == 3
    assert cli(*intervene) == 0
    assert "pictures changed" in capsys.readouterr().out
    assert cli("report", out, "--out", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert cli("report", out, "--cases", "--out", tmp_path / "cases") == 0
    assert "index.html" in capsys.readouterr().out
    assert cli("report", out, "--cases", "--pdf") == 2
    image = next((phantoms / "boneage-training-dataset").glob("*.png"))
    capsys.readouterr()
    assert cli("predict", trained, image, "--sex", "F", "--json") == 0
    girl = json.loads(capsys.readouterr().out)
    assert np.isfinite(girl["predicted_months"])
    assert (girl["hand"]["found"], girl["hand"]["usually_months"]) == (True, None)
    turned = tmp_path / "turned.png"
    Image.open(image).transpose(Image.Transpose.ROTATE_270).save(turned)
    assert cli("predict", trained, turned, "--sex", "F", "--json") == 0
    said = capsys.readouterr()
    assert "warning: The hand seems to be turned (fingers pointing to the right)" in said.err
    hand = json.loads(said.out)["hand"]
    assert hand["pose"]["turned_degrees"] == pytest.approx(90, abs=30)
    assert hand["usually_months"] == pytest.approx(girl["predicted_months"], abs=0.05)


@pytest.mark.usefixtures("unrendered")
def test_scoreboard_of_methods_on_phantoms(
    cli: Run,
    trained: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "scores"
    benchmark = ["benchmark-methods", trained, "--data", phantoms, "--out", out, "--limit", "4"]
    chosen = ["--method", "gradient", "--method", "integrated_gradients"]
    assert cli(*benchmark, *chosen, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["refused"]) == (4, {})
    scores = pd.read_parquet(out / "scoreboard.parquet")
    assert scores.groupby("method").size().to_dict() == {"gradient": 4, "integrated_gradients": 4}
    assert scores["mass_accuracy"].dropna().between(0, 1).all()
    assert scores["randomised_similarity"].notna().any()
    # Against the tables that it rests on, by another road.
    row = scores[scores["method"] == "integrated_gradients"].iloc[1]
    regions = pd.read_parquet(out / "regions.parquet")
    own = regions[(regions["case_id"] == row["case_id"]) & (regions["method"] == row["method"])]
    effects = pd.read_parquet(out / "interventions.parquet")
    effects = effects[effects["case_id"] == row["case_id"]].set_index("region")
    own = own[own["region"].isin(AGE_REGIONS)]
    true = effects["slope_months_per_month"].abs().loc[own["region"]].to_numpy()
    expected = spearmanr(own["absolute_months"], true).statistic
    np.testing.assert_allclose(row["region_correlation"], expected)
    assert cli("report", out, "--out", tmp_path / "r.html") == 0
    assert "How far the methods can be trusted" in (tmp_path / "r.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli(*benchmark, *chosen) == 2
    assert_one_sentence(capsys.readouterr().err, "found one")


@pytest.mark.usefixtures("unrendered")
def test_regions_are_removed_and_methods_held_against_it(
    cli: Run,
    trained: Path,
    phantoms: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "analysis"
    on = [trained, "--data", phantoms, "--out", out, "--limit", "3"]
    assert cli("attribute", *on, "--method", "gradient", "--layer", "backbone.features.5") == 0
    assert cli("intervene", *on) == 0
    caches = sorted(tmp_path_factory.getbasetemp().glob("cli-cache/*/pixels.npy"))
    before = [cache.read_bytes() for cache in caches]
    capsys.readouterr()
    assert cli("occlude", *on, "--fill", "mean", "--fill", "inpaint", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [cache.read_bytes() for cache in caches] == before
    assert (found["n"], found["fills"]) == (3, ["inpaint", "mean"])
    table = pd.read_parquet(out / "occlusion.parquet")
    assert table["case_id"].nunique() == 3
    assert not table.duplicated(["case_id", "fill", "region"]).any()
    assert {"carpals", "carpals (moved)", "whole_hand", "all_joints"} <= set(table["region"])
    mean = table[(table["fill"] == "mean") & (table["region"] == "radius")]["delta_months"].mean()
    listed = {(row["fill"], row["region"]): row for row in found["regions"]}
    assert listed["mean", "radius"]["delta_months"] == pytest.approx(mean)
    assert [row["method"] for row in found["verdicts"]] == ["gradient"]
    assert "agree" in found["verdicts"][0]["verdict"]
    methods = {row["method"] for row in found["agreement_with_interventions"]}
    assert methods == {"gradient", "area_alone", "occlusion_by_inpaint", "occlusion_by_mean"}
    assert set(read_json(out / "analysis.json")["steps"]) == {"attribute", "intervene", "occlude"}
    assert cli("report", out, "--out", tmp_path / "r.html") == 0
    assert "Does each region matter?" in (tmp_path / "r.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli("occlude", *on, "--fill", "inpaint") == 0
    printed = capsys.readouterr().out
    assert "removed by inpaint" in printed
    assert "gradient: " in printed


def test_occlusion_needs_label_maps_and_known_fillings(
    cli: Run, trained: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli("occlude", trained, "--data", phantoms, "--out", out, "--fill", "noise") == 2
    assert_one_sentence(capsys.readouterr().err, "blur, inpaint, mean")
    copy = shutil.copytree(phantoms, tmp_path / "copy")
    shutil.rmtree(copy / "labels")
    assert cli("occlude", trained, "--data", copy, "--out", out) == 2
    assert_one_sentence(capsys.readouterr().err, "expected cases with region maps")
    assert not out.exists()


def test_cohort_describes_and_lists(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("cohort", phantoms, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sets"][0]["n"] == 40
    assert found["sets"][0]["with_regions"] == 40
    assert all(problem["severity"] == "note" for problem in found["problems"])
    assert cli("cohort", phantoms, "--sheet", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "0 errors" in capsys.readouterr().out
    assert cli("cohort", phantoms, "--sheet", phantoms / "truth.csv") == 2
    assert "ends in .png" in capsys.readouterr().err


def test_phantoms_as_asked_for(
    cli: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hands"
    arguments = ["phantom", out, "--n", "3", "--size", "64", "--side", "right", "--ages", "uniform"]
    arguments += ["--without", "noise", "--without", "pose", "--reader-sd-months", "0"]
    arguments += ["--fault", "border_encodes_sex", "--sensitivity", "--workers", "1"]
    assert cli(*arguments) == 0
    assert "3 phantoms" in capsys.readouterr().out
    manifest = read_json(out / "phantom.json")
    assert manifest["faults"] == ["border_encodes_sex"]
    settings = manifest["settings"]
    assert (settings["side"], settings["noise"], settings["pose"]) == ("right", False, False)
    assert settings["marker"]
    assert len(list((out / "sensitivity").glob("*.npz"))) == 3
    assert (
        cli("phantom", tmp_path / "clean", "--n", "1", "--size", "64", "--nuisances", "none") == 0
    )
    assert not read_json(tmp_path / "clean" / "phantom.json")["settings"]["marker"]
    capsys.readouterr()
    for option, value, told in (
        ("--size", "65", "even"),
        ("--reader-sd-months", "1e308", "0 to 240"),
    ):
        assert cli("phantom", tmp_path / "other", "--n", "1", option, value) == 2
        assert told in capsys.readouterr().err


def test_interventions_need_the_phantoms_that_were_drawn(
    cli: Run, trained: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    for image in (copy / "boneage-training-dataset").glob("*.png"):
        with Image.open(image) as picture:
            turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turned.save(image)
    assert cli("intervene", trained, "--data", copy, "--out", out, "--limit", "2") == 2
    assert_one_sentence(capsys.readouterr().err, "drawn by another version")
    (copy / "phantom.json").unlink()
    assert cli("intervene", trained, "--data", copy, "--out", out) == 2
    assert_one_sentence(capsys.readouterr().err, "no phantom.json")
    assert not out.exists()


def test_doctor_and_recipes(cli: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("doctor", "--json") == 0
    assert {"processor cores", "GPU"} <= {
        row["what"] for row in json.loads(capsys.readouterr().out)
    }
    assert cli("recipes") == 0
    assert "wouters-vgg16" in capsys.readouterr().out


def test_the_demo_from_end_to_end(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainers import recipe

    tiny = recipe.load_recipe("demo", [change for change in TINY if change != "--set"])
    monkeypatch.setattr("apps.demo.load_recipe", lambda _: tiny)
    monkeypatch.setattr("apps.demo.ATTRIBUTED_CASES", 2)
    out = tmp_path / "demo"
    assert cli("demo", "--out", out, "--n", "50") == 0
    assert "Validation MAE" in capsys.readouterr().out
    report = out / "analysis" / "report.html"
    assert report.stat().st_size > 100_000
    assert cli("demo", "--out", out, "--n", "50") == 0  # goes on where it stopped: at the end


def test_help_and_docs_name_every_attribution_method() -> None:
    option = get_type_hints(attribute, include_extras=True)["method"].__metadata__[0]
    words = set(option.help.replace(".", ",").replace(":", ",").replace(", ", ",").split(","))
    page = (Path(__file__).parents[2] / "docs" / "attribution.md").read_text(encoding="utf-8")
    for name in METHODS:
        assert name in words
        assert f"| `{name}` |" in page

"""The command line: the main job end to end, and mistakes as one sentence with exit code 2."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.stats import spearmanr

from apps.cli import main
from apps.runs import attribute
from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.attribution.methods import METHODS
from boneage_xai.store import read_json, write_json

TINY = [
    "--set", "preprocessing.size_px=48",
    "--set", "architecture.backbone=squeezenet1_1",
    "--set", "training.batch_size=8",
    "--set", "training.epochs=1",
    "--set", "training.stages=[]",
    "--set", "training.precision=float32",
]  # fmt: skip

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("BONEAGE_XAI_CACHE", str(tmp_path_factory.getbasetemp() / "cli-cache"))


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", "demo", "--data", str(phantoms), "--out", str(out), *TINY]
    arguments += ["--cache", str(tmp_path_factory.getbasetemp() / "cli-cache")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["boneage-xai", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return out


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
    image = next((phantoms / "boneage-training-dataset").glob("*.png"))
    capsys.readouterr()
    assert cli("predict", trained, image, "--sex", "F", "--json") == 0
    girl = json.loads(capsys.readouterr().out)
    assert np.isfinite(girl["predicted_months"])


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


def test_a_source_with_problems_is_refused_or_skipped_on_request(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "bad"
    shutil.copytree(phantoms, source)
    table = source / "boneage-training-dataset.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "9001,120,maybe", "9002,120,True"]) + "\n")
    out = tmp_path / "run"
    train = ["train", "demo", "--data", source, "--out", out, *TINY]
    assert cli(*train) == 2
    assert_one_sentence(capsys.readouterr().err, "9001")
    assert not out.exists()
    assert cli("cohort", source, "--no-images") == 2
    listed = capsys.readouterr().out
    assert "9001" in listed
    assert "9002" in listed
    assert cli(*train, "--skip-problems") == 0
    assert read_json(out / "run.json")["data"]["skipped_problem_rows"] == 2


def assert_one_sentence(stderr: str, named: str) -> None:
    lines = [line for line in stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, stderr
    assert named in lines[0]
    assert "Traceback" not in stderr


def one_case(folder: Path, suffix: str, sex: str = "True") -> Path:
    images = folder / "boneage-training-dataset"
    images.mkdir(parents=True)
    table = folder / "boneage-training-dataset.csv"
    table.write_text(f"id,boneage,male\n1,120,{sex}\n2,100,False\n3,80,True\n")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for other in (2, 3):
        Image.fromarray(noise).save(images / f"{other}.png")
    return images / f"1{suffix}"


def truncated_png(folder: Path) -> None:
    path = one_case(folder, ".png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def text_named_png(folder: Path) -> None:
    one_case(folder, ".png").write_text("this is not an image")


def dicom_without_pixels(folder: Path) -> None:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientSex = "M"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(one_case(folder, ".dcm"), enforce_file_format=True)


def missing_image(folder: Path) -> None:
    one_case(folder, ".png")


def unknown_sex(folder: Path) -> None:
    path = one_case(folder, ".png", sex="X")
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (truncated_png, "1.png"),
        (text_named_png, "1.png"),
        (dicom_without_pixels, "1.dcm"),
        (missing_image, "case 1"),
        (unknown_sex, "case 1"),
    ],
)
def test_bad_data_is_one_sentence_and_nothing_is_written(
    cli: Run,
    make: Callable[[Path], None],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "data")
    out = tmp_path / "run"
    assert cli("train", "demo", "--data", tmp_path / "data", "--out", out, *TINY) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not out.exists()
    assert cli("cohort", tmp_path / "data") == 2
    assert named in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "cpu-smal", "--data", "PHANTOMS", "--out", "OUT"], "cpu-smal"),
        (
            ["train", "demo", "--data", "PHANTOMS", "--out", "OUT", "--set", "training.epoch=1"],
            "unknown key training.epoch",
        ),
        (["train", "demo", "--data", "nowhere", "--out", "OUT"], "nowhere"),
        (["train", "demo", "--data", "PHANTOMS", "--out", "OUT", "--column", "age"], "ROLE=HEADER"),
        (["evaluate", "nowhere", "--data", "PHANTOMS", "--out", "OUT"], "nowhere"),
        (["predict", "RUN", "nowhere.png", "--sex", "F"], "nowhere.png"),
        (["report", "PHANTOMS"], "analysis"),
        (["report", "RUN", "--out", "RUN"], "analysis"),
        (["demo", "--out", "FILE"], "expected a new folder"),
        (
            ["train", "demo", "--data", "PHANTOMS", "--out", "FILE"],
            "expected a new or empty folder",
        ),
        (["phantom", "PHANTOMS", "--n", "1"], "exists already"),
        (["phantom", "OUT", "--n", "1", "--without", "dust"], "dust"),
        (
            [
                "phantom",
                "OUT",
                "--n",
                "1",
                "--without",
                "marker",
                "--fault",
                "marker_brightness_encodes_age",
            ],
            "marker on",
        ),
        (["intervene", "RUN", "--data", "RUN", "--out", "OUT"], "no phantom.json"),
        (["demo", "--out", "RUN"], "expected a new folder"),
        (
            ["attribute", "RUN", "--data", "PHANTOMS", "--out", "OUT", "--method", "magic"],
            "magic",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    cli: Run,
    arguments: list[str],
    named: str,
    trained: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    places = {
        "PHANTOMS": phantoms,
        "OUT": tmp_path / "out",
        "RUN": trained,
        "FILE": tmp_path / "file",
    }
    assert cli(*[places.get(argument, argument) for argument in arguments]) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_version_is_refused(
    cli: Run, trained: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("engine"))
    write_json(tmp_path / "run" / "run.json", {**read_json(trained / "run.json"), "version": 99})
    out = tmp_path / "out"
    assert cli("evaluate", tmp_path / "run", "--data", phantoms, "--out", out) == 2
    assert_one_sentence(capsys.readouterr().err, "version 99")
    assert not out.exists()


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

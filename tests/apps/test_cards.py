"""The commands on networks from elsewhere, by their model cards; the documentation's example."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.files import read_json
from boneage_xai.models.external import load_external
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.store import AnalysisFolder
from external_networks import (
    MODULE,
    SIZE_PX,
    SOURCES,
    card,
    network_module,
    plain_answer,
    save_in_every_way,
    settle,
)
from reports.commands import commands
from reports.wording import UNRECORDED

DOCUMENT = Path(__file__).parents[2] / "docs" / "external-models.md"

Run = Callable[..., int]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "phantoms"
    return write_cohort(folder, 6, seed=4, settings=PhantomSettings(size_px=64), workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_in_every_way(settle(network_module(folder).build()), folder)
    sys.modules.pop(MODULE, None)
    return folder


@pytest.mark.parametrize("kind", ["factory", "frozen", "fixed at two"])
def test_the_main_job_with_every_kind(
    cli: Run,
    folder: Path,
    few: Path,
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if kind != "factory":
        # The report of that kind has the figures of the others and the activations' besides.
        request.getfixturevalue("unrendered")
    output = {"unit": "z-score", "mean_months": 120, "sd_months": 40}
    path, out = card(folder, SOURCES[kind], output=output), tmp_path / "analysis"
    common = ["--card", path, "--data", few, "--out", out]
    assert cli("evaluate", *common, "--json") == 0
    printed = capsys.readouterr()
    assert "every case counts as held-out" in printed.err
    metrics = json.loads(printed.out)
    assert (metrics["overall"]["n"], metrics["baselines"]) == (6, {})
    attribute = ["attribute", *common, "--limit", "2", "--max-nodes", "129"]
    attribute += ["--map-tolerance-percent", "10"]
    if kind != "factory":
        assert cli(*attribute, "--layer", "network.conv1") == 2
        assert "layers" in capsys.readouterr().err
    assert cli(*attribute) == 0
    assert ("no activation maps" in capsys.readouterr().err) == (kind != "factory")
    assert cli("intervene", *common, "--limit", "1") == 0
    assert cli("report", out) == 0

    analysis = AnalysisFolder.open(out)
    cohort = select_cohort(read_source(few))
    settings = PreprocessSettings(size_px=SIZE_PX, fit="pad", stretch_percentiles=(1, 99))
    plain = settle(network_module(tmp_path).build())
    for row in analysis.predictions().to_dict("records"):
        pixels = preprocess(read_radiograph(cohort[row["case_id"]].image), settings).pixels
        image = torch.from_numpy(pixels / np.float32(255))[None, None]
        score = plain_answer(plain, image, torch.tensor([float(row["sex"] == "M")]))
        assert row["predicted_months"] == pytest.approx(120 + 40 * score.item(), abs=0.01)
    found = analysis.attributions()
    assert found is not None
    assert found["converged"].all()
    summary = analysis.manifest["steps"]["attribute"]
    assert bool(summary["layers"]) == (kind == "factory")
    assert analysis.interventions() is not None

    record = read_json(out / "analysis.json")
    assert record["data"]["split"] == "all"
    assert record["run"]["training"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert UNRECORDED in page
    assert "elsewhere, not recorded" in page
    assert "z-score" in page
    words = commands(analysis)["evaluate"]
    assert f"evaluate --card {path} --data {few}" in words
    image = next((few / "boneage-training-dataset").glob("*.png"))
    capsys.readouterr()
    assert cli("predict", image, "--card", path, "--sex", "M", "--json") == 0
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["model_id"] == record["run"]["model_id"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["evaluate", "--data", "FEW", "--out", "OUT"], "either a run folder RUN or --card FILE"),
        (["evaluate", "RUN", "--card", "CARD", "--data", "FEW", "--out", "OUT"], "found both"),
        (["predict", "IMAGE", "--sex", "F"], "found only"),
        (["predict", "RUN", "IMAGE", "--card", "CARD", "--sex", "F"], "found both"),
        (["predict", "--card", "CARD", "--sex", "F"], "expected a radiograph IMAGE"),
        (["evaluate", "--card", "absent.toml", "--data", "FEW", "--out", "OUT"], "absent.toml"),
        (
            ["evaluate", "--card", "CARD", "--data", "FEW", "--out", "OUT", "--split", "train"],
            "which has none",
        ),
        (
            ["attribute", "--card", "CARD", "--data", "FEW", "--out", "OUT", "--baseline", "mean"],
            "baseline 'mean'",
        ),
        (
            ["attribute", "--card", "CARD", "--data", "FEW", "--out", "OUT", "--method", "magic"],
            "magic",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    cli: Run,
    folder: Path,
    few: Path,
    tmp_path: Path,
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "FEW": few,
        "OUT": tmp_path / "out",
        "RUN": tmp_path,
        "CARD": card(folder, SOURCES["scripted"]),
        "IMAGE": next((few / "boneage-training-dataset").glob("*.png")),
    }
    assert cli(*[places.get(argument, argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


def test_results_of_two_cards_are_not_mixed(
    cli: Run, folder: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    months, years = (
        card(folder, SOURCES["traced"], output={"unit": unit}) for unit in ("months", "years")
    )
    data = ["--data", few, "--out", tmp_path / "a"]
    assert cli("evaluate", "--card", months, *data) == 0
    assert cli("evaluate", "--card", years, *data) == 2
    assert "another run" in capsys.readouterr().err


def _blocks(language: str) -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def test_the_documentation_does_what_it_says(
    cli: Run,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {}
    for block in [*_blocks("python"), *_blocks("toml")]:
        name = block.splitlines()[0].removeprefix("# ")
        files[name] = Path(name)
        # Smaller pictures, which the network takes as well, to save time.
        files[name].write_text(block.replace("224", "64"))
    assert set(files) == {"densenet_bone_age.py", "save_weights.py", "densenet.toml", "export.py"}
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        for name in ("save_weights.py", "export.py"):
            runpy.run_path(name)
    sys.modules.pop("densenet_bone_age")

    image = next((few / "boneage-training-dataset").glob("*.png"))
    places = {"hand.png": str(image), "~/rsna": str(few), "100": "1"}
    lines = [line for block in _blocks("") for line in block.replace("\\\n", "").splitlines()]
    shown = [line for line in lines if line.startswith("boneage-xai ")]
    assert [line.split()[1] for line in shown] == [
        *("predict", "predict", "regions", "evaluate"),
        *("attribute", "attribute", "report", "dashboard"),
    ]
    for line in shown[:-1]:
        words = [places.get(word, word) for word in line.split()[1:]]
        if words[0] == "attribute":
            # The least that can be integrated: a trained network would take some more.
            words += ["--min-nodes", "3", "--max-nodes", "3"]
        assert cli(*words) == 0, capsys.readouterr().err
    summary: dict[str, Any] = read_json(tmp_path / "analyses/densenet/analysis.json")["steps"]
    assert summary["attribute"]["layers"]
    assert (tmp_path / "analyses/densenet/report.html").is_file()

    network = load_external(files["densenet.toml"]).network
    grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    sex = torch.tensor([0.0, 1.0])
    text = files["densenet.toml"].read_text()
    factory = text[text.index("factory") : text.index("\n[preprocessing]")]
    for line in ('exported = "densenet.pt2"', 'torchscript = "densenet.pt"'):
        assert line in DOCUMENT.read_text(encoding="utf-8")
        other = Path("other.toml")
        other.write_text(text.replace(factory, line + "\n"))
        torch.testing.assert_close(
            load_external(other).network(grey, sex), network(grey, sex), rtol=1e-4, atol=1e-3
        )

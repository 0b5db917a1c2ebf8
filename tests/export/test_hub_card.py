"""The card for publishing a run: every number in it is one that was recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from boneage_xai.analysis.baselines import BASELINES
from boneage_xai.errors import ReportError
from boneage_xai.export.hub_card import hub_card
from boneage_xai.files import read_json, read_table, write_json, write_table
from boneage_xai.models.checkpoint import load_run


@pytest.fixture
def analysis(analysis_folder: Path, sex_run: Path) -> Path:
    """The analysis of the tests, as if it were that of the run."""
    content = read_json(analysis_folder / "analysis.json")
    content["run"]["model_id"] = load_run(sex_run).model_id
    content["data"]["cohort"] = "<b>hands</b> | x"
    write_json(analysis_folder / "analysis.json", content)
    return analysis_folder


def _front(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_front_matter_holds_the_metrics_with_their_intervals(sex_run: Path, analysis: Path) -> None:
    card = hub_card(sex_run, analysis)
    front = _front(card)
    assert front["license"] is None
    assert "license:  # to be filled in" in card
    assert front["library_name"] == "boneage_xai"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "<b>hands</b> | x",
        "type": "b-hands-b-x",
        "split": "held-out",
    }
    overall = read_json(analysis / "metrics.json")["overall"]
    found = {one["type"]: one for one in result["metrics"]}
    for kind, key in (("mae", "mae_months"), ("bias", "bias_months"), ("rmse", "rmse_months")):
        assert found[kind]["value"] == overall[key]["value"]
        assert found[kind]["args"] == {
            "n": 120, "confidence": 0.95, "low": overall[key]["low"], "high": overall[key]["high"]
        }  # fmt: skip


@pytest.mark.parametrize(
    ("split", "n_training", "learnt"),
    [("all", 48, True), ("all", 0, False), ("all", None, True), ("train", None, True)],
)
def test_errors_on_cases_that_were_learnt_from_are_no_test(
    sex_run: Path, analysis: Path, split: str, n_training: int | None, learnt: bool
) -> None:
    content = read_json(analysis / "analysis.json")
    content["data"]["split"] = split
    if n_training is not None:
        content["steps"]["evaluate"]["n_training"] = n_training
    write_json(analysis / "analysis.json", content)
    card = hub_card(sex_run, analysis)
    assert ("model-index" not in _front(card)) == learnt
    assert ("**The network was trained on cases among these**" in card) == learnt


def test_cases_that_chose_the_epoch_are_counted(sex_run: Path, analysis: Path) -> None:
    content = read_json(analysis / "analysis.json")
    content["steps"]["evaluate"]["n_validation"] = 17
    write_json(analysis / "analysis.json", content)
    assert "17 of these cases chose the best epoch" in hub_card(sex_run, analysis)


@pytest.mark.parametrize("name", ["metrics.json", "intervals.json", "shortcuts.json"])
def test_json_of_another_form_is_one_sentence(sex_run: Path, analysis: Path, name: str) -> None:
    write_json(analysis / name, {})
    with pytest.raises(ReportError, match="expected in its JSON what this toolkit writes"):
        hub_card(sex_run, analysis)


def test_limitations_are_those_that_were_measured(sex_run: Path, analysis: Path) -> None:
    card = hub_card(sex_run, analysis)
    metrics = read_json(analysis / "metrics.json")
    wrong = 100 * (1 - metrics["overall"]["within_12_months"]["value"])
    assert f"{wrong:.0f}% of cases were read wrong by more than 12 months" in card
    # The half turn adds 40 months to every case, the change of contrast nothing: six are too few.
    assert "None of 2 changes of appearance raised the error beyond chance, over 6 cases." in card
    assert "Shortcut alarm. Network: erasing the marker moves predictions by 11.7 months" in card
    assert "could not check: id: age, marker brighter" in card
    assert "Not measured" not in card
    assert (
        "Predictions are drawn towards the mean: of each month of distance from it 0.10 (" in card
    )
    alarms = read_json(analysis / "shortcuts.json") | {"alarms": []}
    write_json(analysis / "shortcuts.json", alarms)
    again = hub_card(sex_run, analysis)
    assert "raised no alarm" in again
    assert "Shortcut alarm" not in again


def test_changes_that_harm_beyond_chance_are_named(sex_run: Path, analysis: Path) -> None:
    table = read_table(analysis / "stress.parquet")
    copies = [table.assign(case_id=table["case_id"] + str(copy)) for copy in range(4)]
    write_table(analysis / "stress.parquet", pd.concat(copies))
    card = hub_card(sex_run, analysis)
    turned = table[table["transform"] == "rotation_180"]
    before = (turned["original_months"] - turned["reference_months"]).abs().mean()
    after = (turned["predicted_months"] - turned["reference_months"]).abs().mean()
    assert (
        "1 of 2 changes of appearance raised the error beyond chance; most: rotation 180 by "
        f"{after - before:.1f} months ("
    ) in card
    assert "24 cases)" in card
    assert "contrast 50" not in card


def test_what_is_private_or_could_execute_is_not_in_it(sex_run: Path, analysis: Path) -> None:
    card = hub_card(sex_run, analysis)
    manifest = read_json(sex_run / "run.json")
    assert manifest["data"]["fingerprint"] not in card
    for private in (
        "some folder",
        str(sex_run),
        str(analysis),
        "runs/toy",
        "alert(",
        "evil.example",
    ):
        assert private not in card
    body = card.split("---\n", 2)[2]
    assert "<b>" not in body.replace("\\<b\\>", "")
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {7}


def test_without_an_analysis_nothing_is_claimed(sex_run: Path) -> None:
    card = hub_card(sex_run)
    manifest = load_run(sex_run).manifest
    assert "model-index" not in _front(card)
    for command in ("evaluate", "stress", "shortcuts"):
        assert f"Not measured: what `boneage-xai {command}` would tell." in card
    assert f"the MAE was {manifest.val_mae_months:.2f} months" in card
    assert f"{manifest.data.n_train} cases of the set" in card
    assert manifest.weights_sha256 in card
    assert "within 12 months" not in card


def test_a_network_without_the_sex_says_so(image_run: Path, sex_run: Path) -> None:
    assert "from a hand radiograph alone." in hub_card(image_run)
    assert "from a hand radiograph and the sex." in hub_card(sex_run)


def test_the_analysis_of_another_run_is_refused(sex_run: Path, analysis_folder: Path) -> None:
    with pytest.raises(ReportError, match=r"found that of model 000000000003"):
        hub_card(sex_run, analysis_folder)


def test_numbers_are_finite(sex_run: Path, analysis: Path) -> None:
    front = json.dumps(_front(hub_card(sex_run, analysis)))
    assert not re.search(r"NaN|Infinity", front)
    assert "nan" not in hub_card(sex_run, analysis).split("## Measured errors")[1]


def test_every_baseline_of_a_run_is_named_in_words(sex_run: Path, analysis: Path) -> None:
    metrics = read_json(analysis / "metrics.json")
    block = metrics["baselines"]["mean"]
    block["bias_months"] = {"value": -0.01, "low": -1.0, "high": 1.0}
    metrics["baselines"] = dict.fromkeys(BASELINES, block)
    write_json(analysis / "metrics.json", metrics)
    card = hub_card(sex_run, analysis)
    for words in ("mean of the training cases", "mean per sex", "ridge on global image intensity"):
        assert f"| baseline: {words} | 120 |" in card
    assert "| 0.0 (-1.0 to 1.0) |" in card

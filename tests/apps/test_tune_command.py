"""The command that searches: what it prints, and mistakes that are refused at the door."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import TINY, Run, assert_one_sentence

from boneage_xai.files import read_table


def test_a_search_for_programs(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, space = tmp_path / "search", tmp_path / "space.toml"
    space.write_text('[training]\nlearning_rate = "1e-4..1e-2:log"\nbatch_size = [4, 8]\n')
    command = ["tune", "demo", "--data", phantoms, "--out", out, "--trials", 2, *TINY]
    command += ["--space", space, "--search", "training.batch_size=8|16", "--json"]
    assert cli(*command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["n_complete"], said["n_pruned"], said["n_failed"]) == (2, 0, 0)
    assert said["n_validation"] == 8
    assert said["best"]["optimistic"]
    assert said["best"]["values"].keys() == {"training.learning_rate", "training.batch_size"}
    trials = read_table(out / "trials.csv")
    assert [trial["value"] for trial in said["trials"]] == trials["value"].tolist()
    assert said["best"]["val_mae_months"] == trials["value"].min()
    assert set(trials["training.batch_size"]) <= {8, 16}
    # Asked again, in words.
    assert cli(*command[:-1]) == 0
    captured = capsys.readouterr()
    assert "which also chose it: expect more on new cases" in captured.out.replace("\n", " ")
    assert "epoch" not in captured.err
    assert cli(*command[:-1], "--trials", 3, "--data", phantoms, "--set", "training.epochs=2") == 2
    assert_one_sentence(capsys.readouterr().err, "expected the recipe that this search began with")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--search", "training.lr=1e-4..1e-2"], "unknown key training.lr"),
        (["--search", "training.learning_rate=1e-4"], "training.learning_rate"),
        (["--search", "training.loss=l1|l3"], "training.loss"),
        (["--search", "training.epochs=1..3"], "--pruner none"),
        (["--search", "architecture.backbone=resnet18|vit_b_16"], "vit_b_16"),
        (["--space", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    cli: Run,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    named: str,
) -> None:
    out = tmp_path / "search"
    assert cli("tune", "demo", "--data", phantoms, "--out", out, *TINY, *options) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not out.exists()


def test_without_optuna_the_extra_is_named(
    cli: Run,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli("tune", "demo", "--data", phantoms, "--out", tmp_path / "search") == 2
    assert_one_sentence(capsys.readouterr().err, "install boneage-xai[tune]")

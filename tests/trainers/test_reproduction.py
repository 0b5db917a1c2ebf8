"""The reproduction: arms on one split, stopped and resumed, and a page that says what is so."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from reproduction_fixture import cohort, recipes

from apps.cli import main
from boneage_xai.analysis.metrics import paired_difference
from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.models.checkpoint import load_run
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import Cohort
from trainers.reproduction.arms import arm_state, load_arms, train_arm
from trainers.reproduction.measuring import Source, collect

__all__ = ["cohort", "recipes"]


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("test-set") / "twelve"
    return write_cohort(folder, 12, seed=9, settings=PhantomSettings(size_px=96), workers=1)


def command(phantoms: Path, out: Path, recipes: list[str], *more: object) -> list[str]:
    words: list[object] = ["reproduce", "--data", phantoms, "--out", out]
    words += ["--cache", out.parent / "cache"]
    for recipe in recipes:
        words += ["--arms", recipe]
    return [str(word) for word in (*words, *more)]


def run(words: list[str], code: int = 0) -> str:
    """Run the command line in this process and return what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["boneage-xai", *words])
        # Where a download would be tried, nobody listens, and no weights lie around.
        patch.setenv("https_proxy", "http://127.0.0.1:9")
        patch.setenv("TORCH_HOME", "/nowhere")
        with pytest.raises(SystemExit) as end:
            main()
    assert (end.value.code or 0) == code
    return printed.getvalue()


@pytest.fixture(scope="module")
def whole(
    phantoms: Path, recipes: list[str], test_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A reproduction from end to end: two arms, one that cannot begin, a test set, a docs page."""
    folder = tmp_path_factory.mktemp("whole")
    more = ["--test", test_set, "--docs-page", folder / "docs" / "page.md"]
    # The weights of this one cannot be had.
    words = command(phantoms, folder / "out", [*recipes, "wouters-vgg16"], *more)
    (folder / "stdout.txt").write_text(run(words), encoding="utf-8")
    return folder


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Return of a record what another, equal training must give."""
    return {
        "sex": record["sex"],
        "baselines": record["baselines"],
        **{
            arm["name"]: [arm["status"], arm["epochs"], arm["best_epoch"], arm["measured"]]
            for arm in record["arms"]
        },
    }


def close(one: Any, other: Any) -> bool:
    """Compare two results, numbers to a millionth."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float):
        return bool(np.isclose(one, other, rtol=1e-6, atol=1e-6))
    return bool(one == other)


def test_everything_is_written_and_true(whole: Path) -> None:
    out = whole / "out"
    record = read_json(out / "reproduction.json")
    given, withheld, missing = record["arms"]
    assert [arm["status"] for arm in record["arms"]] == ["complete", "complete", "not run"]
    assert (given["with_sex"], withheld["with_sex"]) == (True, False)
    assert "ImageNet weights of vgg16" in missing["reason"]
    for arm in (given, withheld):
        for parent, name, n in (("analyses", "validation", 8), ("analyses-test", "test", 12)):
            table = read_table(out / parent / arm["name"] / "predictions.parquet")
            errors = table["predicted_months"] - table["reference_months"]
            assert arm["measured"][name]["n"] == len(table) == n
            mae = arm["measured"][name]["mae_months"]
            assert mae["value"] == pytest.approx(errors.abs().mean())
            assert mae["low"] < mae["value"] < mae["high"]
        assert arm["devices"] == ["processor"] or "NVIDIA" in arm["devices"][0]
        assert [one["key"] for one in arm["departures"]] == ["training.validation_fraction"]
        assert arm["activations"]["n"] == 8
    assert len(list((out / "figures").glob("own*.png"))) == 4


def test_the_pair_is_measured_on_the_same_cases(whole: Path) -> None:
    out = whole / "out"
    (pair,) = read_json(out / "reproduction.json")["sex"]["validation"]
    tables = [
        read_table(out / "analyses" / name / "predictions.parquet").set_index("case_id")
        for name in ("own", "own-image-only")
    ]
    assert set(tables[0].index) == set(tables[1].index)
    a, b = (table.loc[tables[0].index, "error_months"].to_numpy() for table in tables)
    assert pair["n"] == 8
    assert pair["difference_months"]["value"] == pytest.approx(np.abs(a).mean() - np.abs(b).mean())
    assert pair["p_value"] == pair["p_holm"] == paired_difference(a, b)["wilcoxon_p"]


def test_the_page_says_it_and_the_one_for_publication_shows_no_radiograph(whole: Path) -> None:
    page = (whole / "out" / "reproduction.md").read_text(encoding="utf-8")
    docs = (whole / "docs" / "page.md").read_text(encoding="utf-8")
    record = read_json(whole / "out" / "reproduction.json")
    own = record["arms"][0]["measured"]["validation"]["mae_months"]
    for text in (page, docs):
        assert f"| {own['value']:.1f} ({own['low']:.1f} to {own['high']:.1f}) |" in text
        assert "wouters-vgg16, not run: ImageNet weights of vgg16 are not at" in text
        assert "Of 3 arms: 2 complete; 1 not run." in text
        assert str(whole) not in text
    assert str(whole) not in (whole / "out" / "reproduction.json").read_text(encoding="utf-8")
    assert page.count("![") == 3 + 4
    assert docs.count("![") == 3
    pictures = {path.name for path in (whole / "docs" / "images" / "page").iterdir()}
    assert pictures == {"learning-curves.png", "sex-validation.png", "sex-test.png"}
    for folder, text in ((whole / "out", page), (whole / "docs", docs)):
        for target in [part.split(")")[0] for part in text.split("](")[1:]]:
            assert target.startswith("#") or (folder / target).is_file()
    said = (whole / "stdout.txt").read_text(encoding="utf-8")
    assert said.startswith("Mean absolute errors")
    assert "own, validation cases: with the sex " in said
    assert ", p (Holm) " in said


KILLED = """
import signal
from apps import reproducing
from apps.cli import main

def note(text):
    if text.startswith("own-image-only, epoch 2"):
        signal.raise_signal(signal.SIGKILL)

reproducing.note = note
main()
"""


@pytest.mark.timeout(600)
def test_killed_and_run_again_it_ends_with_the_same_numbers(
    whole: Path, phantoms: Path, recipes: list[str], test_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(phantoms, out, recipes, "--test", test_set)
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, timeout=500)
    assert killed.returncode == -signal.SIGKILL
    unfinished = out / "runs" / "own-image-only"
    assert len(read_table(unfinished / "history.csv")) == 2
    assert not (unfinished / "run.json").exists()
    first = out / "runs" / "own" / "model.safetensors"
    kept = first.stat().st_mtime_ns
    # What was done before the kill is on the page already.
    early = read_json(out / "reproduction.json")
    assert [arm["status"] for arm in early["arms"]] == ["complete", "not begun"]
    write_json(out / "reproduction.json", {**early, "begun": "2001-02-03T04:05+00:00"})
    run(words)
    assert first.stat().st_mtime_ns == kept
    record, uninterrupted = (
        read_json(folder / "reproduction.json") for folder in (out, whole / "out")
    )
    assert record["begun"] == "2001-02-03T04:05+00:00"
    del uninterrupted["arms"][2]
    assert close(numbers(record), numbers(uninterrupted))
    evaluated = (out / "analyses" / "own" / "metrics.json").stat().st_mtime_ns
    run(words)
    assert (out / "analyses" / "own" / "metrics.json").stat().st_mtime_ns == evaluated


def test_a_budget_stops_between_epochs_and_the_rest_is_said(
    phantoms: Path, recipes: list[str], whole: Path, cohort: Cohort, tmp_path: Path
) -> None:
    arms = load_arms(recipes, [])
    folder = tmp_path / "runs" / "own"
    cache = whole / "cache"
    asked: list[bool] = []

    def after_two_epochs() -> bool:
        asked.append(True)
        return len(asked) > 3  # before the arm, before the first epoch, after the first

    state = train_arm(arms[0], cohort, folder, cache_folder=cache, stop=after_two_epochs)
    assert (state.status, state.epochs) == ("partial", 2)
    with pytest.raises(CheckpointError, match="unfinished"):
        load_run(folder)
    assert state.run is not None
    partial = load_run(state.run)
    best = read_table(folder / "history.csv")["val_mae_months"]
    assert len(best) == 2
    assert partial.manifest.val_mae_months == pytest.approx(best.min(), abs=0.01)
    other = train_arm(arms[1], cohort, tmp_path / "other", cache_folder=cache, stop=lambda: True)
    assert other.status == "not begun"
    assert not (tmp_path / "other").exists()
    # A budget of nothing measures what is there, and trains nothing.
    words = command(phantoms, tmp_path, recipes, "--cache", cache)
    run([*words, "--budget-minutes", "0"])
    page = (tmp_path / "reproduction.md").read_text(encoding="utf-8")
    assert "**after 2 of 3 epochs**" in page
    assert "**not begun**" in page
    # Resumed, it ends where the uninterrupted one did, and nothing is left of the stop.
    done = train_arm(arms[0], cohort, folder, cache_folder=cache)
    assert (done.status, done.epochs) == ("complete", 3)
    assert not (folder / "so-far").exists()
    expected = load_run(whole / "out" / "runs" / "own").network.state_dict()
    for name, value in load_run(folder).network.state_dict().items():
        assert np.allclose(value, expected[name], atol=1e-6), name


def test_another_test_set_replaces_the_numbers_of_the_first(
    whole: Path, phantoms: Path, recipes: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    settings = PhantomSettings(size_px=96)
    other = write_cohort(tmp_path / "seven", 7, seed=5, settings=settings, workers=1)
    kept = out / "analyses" / "own" / "metrics.json"
    before = kept.stat().st_mtime_ns
    words = command(phantoms, out, recipes, "--cache", whole / "cache", "--test", other)
    run(words)
    for arm in read_json(out / "reproduction.json")["arms"]:
        table = read_table(out / "analyses-test" / arm["name"] / "predictions.parquet")
        assert arm["measured"]["test"]["n"] == len(table) == 7
        errors = table["predicted_months"] - table["reference_months"]
        assert arm["measured"]["test"]["mae_months"]["value"] == pytest.approx(errors.abs().mean())
    assert kept.stat().st_mtime_ns == before
    # One that was killed before it was whole is made again.
    last = out / "analyses-test" / "own" / "history.csv"
    last.unlink()
    run(words)
    assert last.is_file()


def test_what_was_measured_of_another_state_is_not_shown(
    whole: Path, recipes: list[str], cohort: Cohort, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    states = [arm_state(arm, out / "runs" / arm.name) for arm in load_arms(recipes, [])]
    sources = {"validation": Source(cohort, Path("phantoms"))}
    assert all(arm["measured"] for arm in collect(states, sources, out, about={})["arms"])
    # Trained on since it was measured.
    run_file = out / "runs" / "own" / "run.json"
    manifest = read_json(run_file)
    write_json(run_file, manifest | {"weights_sha256": "0" * 64})
    trained_on, same = collect(states, sources, out, about={})["arms"]
    assert trained_on["measured"] == {}
    assert same["measured"]["validation"]["n"] == 8


def test_what_was_measured_of_the_run_so_far_is_measured_again(
    whole: Path, recipes: list[str], cohort: Cohort, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    states = [arm_state(arm, out / "runs" / arm.name) for arm in load_arms(recipes, [])]
    # As after a budget: the best epoch so far, which has proved the best of all.
    change = read_json(out / "analyses" / "own" / "analysis.json")
    change["run"]["path"] += "/so-far"
    write_json(out / "analyses" / "own" / "analysis.json", change)
    sources = {"validation": Source(cohort, Path("phantoms"))}
    so_far, same = collect(states, sources, out, about={})["arms"]
    assert so_far["measured"] == {}
    assert same["measured"]["validation"]["n"] == 8


def test_settings_do_not_tell_where_home_is(
    phantoms: Path, recipes: list[str], tmp_path: Path
) -> None:
    weights = f"initialisation.weights={Path.home()}/of-mine.pth"
    words = command(phantoms, tmp_path / "out", recipes[:1], "--set", weights)
    docs = tmp_path / "page.md"
    run([*words, "--budget-minutes", "0", f"--docs-page={docs}"], code=2)
    for page in (tmp_path / "out" / "reproduction.md", docs):
        text = page.read_text(encoding="utf-8")
        assert "--set initialisation.weights=~/of-mine.pth" in text
        assert str(Path.home()) not in text


def test_another_recipe_or_seed_in_the_same_folder_is_refused(
    cohort: Cohort, recipes: list[str], whole: Path
) -> None:
    (arm,) = load_arms(recipes[:1], ["training.learning_rate=0.5"])
    with pytest.raises(ConfigError, match="must not change"):
        train_arm(arm, cohort, whole / "out" / "runs" / "own", cache_folder=whole / "cache")


def test_another_recipe_for_one_arm_is_refused_before_any_is_trained(
    phantoms: Path, recipes: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = whole / "out" / "reproduction.md"
    before = page.read_bytes()
    change = ["--set", f"{recipes[1]}:training.learning_rate=0.5"]
    run(command(phantoms, whole / "out", recipes, *change), code=2)
    assert "must not change" in capsys.readouterr().err
    assert page.read_bytes() == before


def test_two_commands_do_not_share_a_folder(
    phantoms: Path, recipes: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = whole / "out" / "reproduction.md"
    before = page.read_bytes()
    with FileLock(whole / "out" / "runs" / ".lock"):
        run(command(phantoms, whole / "out", recipes), code=2)
    assert "no other training at work" in capsys.readouterr().err
    assert page.read_bytes() == before

"""Searches with several workers, kills, failures and interruptions."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import optuna
import pytest
from search_fixture import (
    HALVING,
    KNOBS,
    TINY,
    assert_same_search,
    cache,
    cohort,
    command,
    curves,
    finished,
    recipe,
)

from boneage_xai.files import read_table
from boneage_xai.types import Cohort
from trainers.recipe import Recipe, load_recipe
from trainers.search.results import SearchResult
from trainers.search.run import search
from trainers.search.study import CONTINUES, is_behind, requeue_dead_trials
from trainers.search.worker import SearchSettings, Worker, make_pruner

__all__ = ["cache", "cohort", "finished", "recipe"]


def test_ctrl_c_ends_cleanly_and_the_training_goes_on(
    finished: tuple[Path, SearchResult], cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "search"

    def interrupt(trial: int, row: dict[str, float]) -> None:
        if (trial, row["epoch"]) == (0, 1):
            raise KeyboardInterrupt

    begin = partial(search, recipe, cohort, out, KNOBS, HALVING, cache_folder=cache)
    with pytest.raises(KeyboardInterrupt):
        begin(on_epoch=interrupt)
    assert read_table(out / "trials.csv")["state"].tolist() == ["failed"]
    first = read_table(out / "trials" / "0000" / "history.csv")["seconds"][0]
    result = begin()
    trials = result.trials[result.trials["state"] != "failed"]
    assert trials["trial"].tolist() == [1, 2, 3, 4, 5]
    # The first epoch was not trained again.
    assert read_table(out / "trials" / "0001" / "history.csv")["seconds"][0] == first
    assert_same_search(result, finished[1])


def test_a_resumed_training_competes_with_what_it_had_reached_after_each_epoch(
    cohort: Cohort, cache: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("demo", [*TINY, "training.epochs=4"])

    def interrupt(trial: int, row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    settings = SearchSettings(1, pruner="halving")
    begin = partial(search, recipe, cohort, tmp_path / "out", KNOBS, settings, cache_folder=cache)
    with pytest.raises(KeyboardInterrupt):
        begin(on_epoch=interrupt)
    begin()
    study = optuna.load_study(
        study_name="search", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    )
    _, resumed = study.trials
    reached = resumed.intermediate_values
    assert len(set(reached.values())) == 4
    rungs = {key: value for key, value in resumed.system_attrs.items() if "rung" in key}
    assert rungs == {"completed_rung_0": reached[1], "completed_rung_1": reached[3]}


def test_a_failed_trial_does_not_compete() -> None:
    """Worked out by hand: the best of two goes on, and the second of three does not."""
    for failed, behind in ((True, False), (False, True)):
        study = optuna.create_study()
        for value, state in ((4.0, "FAIL" if failed else "PRUNED"), (6.0, "PRUNED")):
            study.add_trial(
                optuna.create_trial(
                    state=optuna.trial.TrialState[state],
                    intermediate_values={1: value},
                    system_attrs={"completed_rung_0": value},
                )
            )
        trial = study.ask()
        trial.report(5.0, 1)
        assert is_behind(make_pruner("halving", 9), study, 2, lambda _: 48) == behind


def test_values_that_ended_with_an_error_are_not_drawn_again(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    def fail(trial: int, row: dict[str, float]) -> None:
        if trial == 1:
            raise RuntimeError("broken")

    settings = SearchSettings(2, pruner="none")
    begin = partial(search, recipe, cohort, tmp_path / "out", KNOBS, settings, cache_folder=cache)
    with pytest.raises(RuntimeError, match="broken"):
        begin(on_epoch=fail)
    trials = begin().trials
    assert trials["state"].tolist() == ["complete", "failed", "complete"]
    assert trials["training.learning_rate"].nunique() == 3


def test_a_trial_without_values_for_minutes_has_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, first_seen = optuna.create_study(), dict[int, float]()
    study.ask()
    study.ask().suggest_float("rate", 0, 1)
    study.enqueue_trial({"rate": 0.5}, user_attrs={CONTINUES: [7]})
    study.ask()
    requeue_dead_trials(study, tmp_path, first_seen)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 3
    monkeypatch.setattr("trainers.search.study._GRACE_SECONDS", -1)
    requeue_dead_trials(study, tmp_path, first_seen)
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "RUNNING", "FAIL", "WAITING"]
    # What was queued with values is queued again, and goes on with the same trainings.
    again = study.trials[3]
    assert again.system_attrs["fixed_params"] == {"rate": 0.5}
    assert again.user_attrs[CONTINUES] == [7, 2]


def test_who_waits_for_other_workers_says_so_once(
    cohort: Cohort,
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainers.search.worker._POLL_SECONDS", 0)
    study = optuna.create_study()
    others = [study.ask(), study.ask()]
    turns = []

    def end(done: float, total: int) -> None:
        turns.append(done)
        if others and len(turns) > 1:
            study.tell(others.pop(), state=optuna.trial.TrialState.PRUNED)

    settings = SearchSettings(2)
    worker = Worker(study, recipe, cohort, tmp_path, KNOBS, settings, {}, end, None)
    worker.work(lambda: None)
    assert turns == [0, 0, 1, 2]
    said = [line.message for line in caplog.records if line.name == "trainers.search.worker"]
    assert said == ["waiting for trials of other workers: 0, 1"]


def test_a_killed_worker_is_noticed_and_its_trial_goes_on(
    finished: tuple[Path, SearchResult],
    phantoms: Path,
    cohort: Cohort,
    recipe: Recipe,
    cache: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "search"
    options = ("--trials", "5", "--pruner", "halving", "--seed", "3")
    process = subprocess.Popen(
        command(phantoms, out, cache, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    begun = out / "trials" / "0001" / "splits.csv"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and not begun.is_file():
        time.sleep(0.005)
    process.kill()
    _, stderr = process.communicate()
    assert begun.is_file(), stderr.decode()
    before = read_table(out / "trials.csv")
    assert len(before) < 5
    result = search(recipe, cohort, out, KNOBS, HALVING, cache_folder=cache)
    assert_same_search(result, finished[1])
    assert result.n("failed") <= 1
    assert (
        sorted(curves(out))
        == result.trials.loc[result.trials["state"] != "failed", "trial"].tolist()
    )
    assert not [*out.rglob("*.ckpt"), *(out / "trials").glob(".*.lock")]


WORKER = """
import sys, time
from pathlib import Path
from apps import cli, tuning
import trainers.search.run
ready, go = map(Path, sys.argv[1:3])
ready.touch()
while not go.exists():
    time.sleep(0.001)
sys.argv = ["boneage-xai", *sys.argv[3:]]
cli.main()
"""


def test_two_workers_share_the_trials(phantoms: Path, cache: Path, tmp_path: Path) -> None:
    out, go = tmp_path / "search", tmp_path / "go"
    _, _, _, *arguments = command(phantoms, out, cache, "--trials", "5", "--pruner", "none")
    ready = [tmp_path / "first", tmp_path / "second"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(file), str(go), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for file in ready
    ]
    until = time.monotonic() + 120
    while not all(file.exists() for file in ready) and time.monotonic() < until:
        time.sleep(0.01)
    were_ready = [file.exists() for file in ready]
    go.touch()
    said = [worker.communicate(timeout=200) for worker in workers]
    assert were_ready == [True, True], said
    assert [worker.returncode for worker in workers] == [0, 0], said
    trials = read_table(out / "trials.csv")
    assert trials["state"].tolist() == ["complete"] * 5
    assert trials["training.learning_rate"].nunique() == 5
    assert sorted(curves(out)) == trials["trial"].tolist()
    trained = [
        {int(line.split()[1].strip(",")) for line in stderr.splitlines() if "epoch 2/2" in line}
        for _, stderr in said
    ]
    assert trained[0].isdisjoint(trained[1])
    assert trained[0] | trained[1] == set(trials["trial"])
    best = trials.loc[trials["value"].idxmin(), "trial"]
    assert [file.parent.name for file in out.rglob("model.safetensors")] == [f"{best:04d}"]
    assert all(f"trial {best}, validation MAE" in stdout for stdout, _ in said)


def test_a_search_killed_as_it_began_begins_anew(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    """The database is made before the claim is written; a second worker may see it alone, too."""
    out = tmp_path / "search"
    out.mkdir()
    (out / "study.db").touch()
    settings = SearchSettings(1, pruner="none")
    result = search(recipe, cohort, out, KNOBS, settings, cache_folder=cache)
    assert result.trials["state"].tolist() == ["complete"]


def test_a_worker_whose_trial_was_taken_from_it_goes_on(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    """As after a night asleep: another worker found the heartbeat missing and failed the trial."""
    out = tmp_path / "search"

    def take(trial: int, row: dict[str, float]) -> None:
        if (trial, row["epoch"]) == (0, 0):
            study = optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'study.db'}")
            study.tell(0, state=optuna.trial.TrialState.FAIL)

    settings = SearchSettings(2, pruner="none")
    result = search(recipe, cohort, out, KNOBS, settings, cache_folder=cache, on_epoch=take)
    assert result.trials["state"].tolist() == ["failed", "complete", "complete"]

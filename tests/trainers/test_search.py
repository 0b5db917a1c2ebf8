"""Searches: real trainings on phantoms, shared by workers, and the same after any kill."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import read_json, read_table
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.recipe import Recipe, load_recipe
from trainers.search.results import SearchResult
from trainers.search.run import search
from trainers.search.space import parse_knob, value_of
from trainers.search.study import is_behind, without_password
from trainers.search.worker import SearchSettings, Worker, make_pruner

TINY = (
    "preprocessing.size_px=32",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=16",
    "training.epochs=2",
    "training.stages=[]",
    "training.precision=float32",
)
SPACE = ("training.learning_rate=1e-5..1e-1:log", "architecture.hidden=[8]|[64]")
KNOBS = [*map(parse_knob, SPACE)]
HALVING = SearchSettings(5, pruner="halving", seed=3)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", TINY)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "cache"


@pytest.fixture(scope="module")
def finished(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    out = tmp_path_factory.mktemp("finished") / "search"
    return out, search(recipe, cohort, out, KNOBS, HALVING, cache_folder=cache)


def curves(out: Path) -> dict[int, list[float]]:
    return {
        int(folder.name): read_table(folder / "history.csv")["val_mae_months"].tolist()
        for folder in sorted((out / "trials").iterdir())
        if folder.is_dir()
    }


def test_every_trial_is_a_training_with_its_own_values(
    finished: tuple[Path, SearchResult], recipe: Recipe
) -> None:
    out, result = finished
    trials = read_table(out / "trials.csv")
    assert trials.columns.tolist() == [
        "trial", "state", "value", "training.learning_rate", "architecture.hidden", "epochs",
        "seconds",
    ]  # fmt: skip
    assert trials["trial"].tolist() == [0, 1, 2, 3, 4]
    assert (trials["seconds"] > 0).all()
    for row in trials[trials["state"] == "complete"].to_dict("records"):
        run = read_json(out / "trials" / f"{row['trial']:04d}" / "run.json")
        trained = run["recipe"]
        assert trained["training"]["learning_rate"] == row["training.learning_rate"]
        assert str(trained["architecture"]["hidden"]) == row["architecture.hidden"]
        assert run["val_mae_months"] == row["value"]
    # The recipe's own values come first, and no others are tried twice.
    assert trials["training.learning_rate"][0] == recipe.training.learning_rate
    assert trials["training.learning_rate"].nunique() == 5
    assert result.trials["state"].tolist() == trials["state"].tolist()


def test_all_trials_are_validated_on_the_same_cases(finished: tuple[Path, SearchResult]) -> None:
    splits = [read_table(file) for file in (finished[0] / "trials").glob("*/splits.csv")]
    assert len(splits) == 5
    for split in splits[1:]:
        pd.testing.assert_frame_equal(split, splits[0])
    assert finished[1].n_validation == (splits[0]["split"] == "validation").sum()


def test_trials_are_given_up_by_successive_halving(finished: tuple[Path, SearchResult]) -> None:
    out, result = finished
    seen: list[float] = []
    expected = []
    for curve in curves(out).values():
        seen.append(curve[0])
        # A third of those that came so far, and one at least, goes on after the first epoch.
        promoted = sorted(seen)[: max(len(seen) // 3, 1)]
        expected.append("complete" if curve[0] <= promoted[-1] else "pruned")
    assert result.trials["state"].tolist() == expected
    assert "pruned" in expected
    epochs = [2 if state == "complete" else 1 for state in expected]
    assert result.trials["epochs"].tolist() == epochs
    assert [len(curve) for curve in curves(out).values()] == epochs


def test_the_weights_of_the_best_trial_alone_are_kept(
    finished: tuple[Path, SearchResult],
) -> None:
    out, result = finished
    assert result.best is not None
    best = out / "trials" / f"{result.best['trial']:04d}"
    assert [file.parent for file in out.rglob("model.safetensors")] == [best]
    assert not [*out.rglob("*.ckpt")]
    assert load_run(best).manifest.val_mae_months == result.best["val_mae_months"]
    complete = result.trials[result.trials["state"] == "complete"]
    assert result.best["val_mae_months"] == complete["value"].min()
    with pytest.raises(CheckpointError):
        load_run(next(f for f in (out / "trials").glob("[0-9]*") if f != best))


def test_the_best_recipe_trains_to_the_same_error(
    finished: tuple[Path, SearchResult], cohort: Cohort, cache: Path, tmp_path: Path
) -> None:
    out, result = finished
    best = load_recipe(str(out / "best.toml"))
    assert best == result.recipe
    assert best.name == "demo-tuned"
    assert result.best is not None
    for key, value in result.best["values"].items():
        assert value_of(best, key) == value
    run = train(best, cohort, tmp_path / "run", cache_folder=cache)
    assert run.manifest.val_mae_months == pytest.approx(result.best["val_mae_months"], abs=1e-3)
    assert "optimistic" in (out / "best.toml").read_text()


def test_figures_are_drawn(finished: tuple[Path, SearchResult]) -> None:
    drawn = {file.name: file.stat().st_size for file in (finished[0] / "figures").iterdir()}
    assert set(drawn) == {"search_history.png", "search_knobs.png", "search_curves.png"}
    assert min(drawn.values()) > 10_000


def test_a_search_that_has_its_trials_is_returned(
    finished: tuple[Path, SearchResult], cohort: Cohort, recipe: Recipe, cache: Path
) -> None:
    out, result = finished
    again = search(recipe, cohort, out, KNOBS, HALVING, cache_folder=cache)
    pd.testing.assert_frame_equal(again.trials, result.trials)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("recipe", {"recipe": load_recipe("demo", [*TINY, "training.weight_decay=0.1"])}),
        ("space", {"knobs": KNOBS[:1]}),
        ("pruner", {"settings": replace(HALVING, pruner="none")}),
        ("seed", {"settings": replace(HALVING, seed=4)}),
    ],
)
def test_another_search_is_refused(
    finished: tuple[Path, SearchResult],
    cohort: Cohort,
    recipe: Recipe,
    cache: Path,
    what: str,
    change: dict[str, Any],
) -> None:
    given = {"recipe": recipe, "knobs": KNOBS, "settings": HALVING} | change
    out, _ = finished
    with pytest.raises(ConfigError, match=f"expected the {what} that this search began with"):
        search(given["recipe"], cohort, out, given["knobs"], given["settings"], cache_folder=cache)


def test_other_data_are_refused_also_through_the_storage_alone(
    finished: tuple[Path, SearchResult],
    cohort: Cohort,
    recipe: Recipe,
    cache: Path,
    tmp_path: Path,
) -> None:
    settings = replace(HALVING, storage=f"sqlite:///{finished[0] / 'study.db'}")
    fewer = cohort.select([case.case_id for case in cohort][:30])
    with pytest.raises(ConfigError, match=r"study search in sqlite.*expected the data"):
        search(recipe, fewer, tmp_path / "out", KNOBS, settings, cache_folder=cache)
    joined = search(recipe, cohort, tmp_path / "new", KNOBS, settings, cache_folder=cache)
    assert len(joined.trials) == 5


def test_a_folder_in_use_and_a_damaged_study_are_refused(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    begin = partial(search, recipe, cohort, knobs=KNOBS, settings=HALVING, cache_folder=cache)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new folder or one of this search"):
        begin(out=tmp_path)
    damaged = tmp_path / "damaged.db"
    damaged.write_text("this is no database, but it is longer than a header" * 10)
    storage = replace(HALVING, storage=f"sqlite:///{damaged}")
    with pytest.raises(ConfigError, match=r"damaged\.db: expected a database or journal"):
        begin(out=tmp_path / "out", settings=storage)
    storage = replace(HALVING, storage="nothing://here")
    with pytest.raises(ConfigError, match="nothing://here: expected a database or journal"):
        begin(out=tmp_path / "out", settings=storage)


def test_values_that_no_network_takes_are_refused_before_anything_is_written(
    cohort: Cohort, cache: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("demo", TINY)
    knobs = [parse_knob("architecture.backbone=squeezenet1_1|nonesuch")]
    with pytest.raises(ConfigError, match=r"knob architecture.backbone=.*backbone nonesuch"):
        search(recipe, cohort, tmp_path / "out", knobs, HALVING, cache_folder=cache)
    assert not (tmp_path / "out").exists()


def test_passwords_are_not_shown() -> None:
    shown = without_password("postgresql://someone:secret@host:5432/studies")
    assert shown == "postgresql://someone:***@host:5432/studies"
    assert without_password("folder/search.journal") == "folder/search.journal"


def test_a_journal_is_joined_by_a_later_worker(
    cohort: Cohort, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    settings = replace(HALVING, n_trials=1, storage=str(tmp_path / "search.journal"))
    knobs = [parse_knob("training.learning_rate=0.002|1e-4")]
    begin = partial(search, recipe, cohort, knobs=knobs, cache_folder=cache)
    assert len(begin(tmp_path / "one", settings=settings).trials) == 1
    result = begin(tmp_path / "two", settings=replace(settings, n_trials=2, keep_weights=True))
    assert result.trials["trial"].tolist() == [0, 1]
    assert [path.name for path in (tmp_path / "two" / "trials").glob("[0-9]*")] == ["0001"]


def test_a_training_that_diverges_is_given_up(cohort: Cohort, cache: Path, tmp_path: Path) -> None:
    recipe = load_recipe("demo", [*TINY, "training.gradient_clip=1e30", "training.optimiser=adam"])
    knobs = [parse_knob("training.learning_rate=0.002|99")]
    settings = SearchSettings(3, pruner="none")
    result = search(recipe, cohort, tmp_path / "out", knobs, settings, cache_folder=cache)
    for row in result.trials.to_dict("records"):
        history = read_table(tmp_path / "out" / "trials" / f"{row['trial']:04d}" / "history.csv")
        diverged = not np.isfinite(history["val_mae_months"]).all()
        assert row["state"] == ("pruned" if diverged else "complete")


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


def assert_same_search(result: SearchResult, other: SearchResult) -> None:
    columns = ["state", "value", "training.learning_rate", "architecture.hidden", "epochs"]
    tables = [one.trials[one.trials["state"] != "failed"][columns] for one in (result, other)]
    pd.testing.assert_frame_equal(*[table.reset_index(drop=True) for table in tables])


def command(phantoms: Path, out: Path, cache: Path, *options: str) -> list[str]:
    given = [sys.executable, "-m", "apps.cli", "tune", "demo", "--data", str(phantoms)]
    given += ["--out", str(out), "--cache", str(cache), *options]
    for change in TINY:
        given += ["--set", change]
    for text in SPACE:
        given += ["--search", text]
    return given


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


def test_errors_at_another_input_size_do_not_count(recipe: Recipe) -> None:
    """Worked out by hand: sizes change after the second epoch, and errors jump with them."""
    study = optuna.create_study()
    for values in ([9.0, 5.0, 8.0, 6.0], [10.0, 6.0, 10.0, 7.0], [8.0, 7.0, 12.0, 8.0]):
        study.add_trial(
            optuna.create_trial(
                value=values[-1], intermediate_values=dict(enumerate(values, start=1))
            )
        )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    trial = study.ask()

    def behind(value: float, step: int) -> bool:
        trial.report(value, step)
        return is_behind(pruner, study, trial.number, lambda epoch: 32 if epoch < 2 else 48)

    assert not behind(4.0, 1)  # the median is 9
    assert not behind(6.5, 2)  # that of 6 is lower, but 4 was reached before
    assert behind(10.5, 3)  # the median is 10, and 4 was at another size
    assert not trial.should_prune()  # for Optuna alone it is not behind
    assert not behind(6.9, 4)  # the median is 7


def test_the_first_half_of_the_epochs_gives_no_trial_up() -> None:
    study = optuna.create_study()
    for _ in range(5):
        values = dict.fromkeys(range(1, 7), 9.0)
        study.add_trial(optuna.create_trial(value=9.0, intermediate_values=values))
    trial = study.ask()
    given_up = []
    for step in range(1, 7):
        trial.report(10.0, step)
        given_up.append(is_behind(make_pruner("median", 6), study, trial.number, lambda _: 48))
    assert given_up == [False, False, False, True, True, True]

"""Searches: real trainings on phantoms, shared by workers, and the same after any kill."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from search_fixture import (
    HALVING,
    KNOBS,
    TINY,
    cache,
    cohort,
    curves,
    finished,
    recipe,
)

from boneage_xai.errors import CheckpointError, ConfigError
from boneage_xai.figures.search import KnobAxis, search_knobs
from boneage_xai.files import read_json, read_table
from boneage_xai.models.checkpoint import load_run
from boneage_xai.types import Cohort
from trainers.auxiliary import phantom_region_ages
from trainers.engine import train
from trainers.recipe import Recipe, load_recipe
from trainers.search.results import SearchResult, write_figures, write_results
from trainers.search.run import search
from trainers.search.space import Knob, parse_knob, value_of
from trainers.search.study import is_behind, without_password
from trainers.search.worker import SearchSettings, make_pruner

__all__ = ["cache", "cohort", "finished", "recipe"]


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


def test_results_beside_trials_that_other_workers_begin_and_end(
    recipe: Recipe, tmp_path: Path
) -> None:
    study, knobs = optuna.create_study(), [parse_knob("training.batch_size=4|8|16")]
    stored = {size: knobs[0].stored(size) for size in (4, 8, 16)}
    spread = {knobs[0].key: optuna.distributions.CategoricalDistribution(list(stored.values()))}

    def complete(size: int) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(
            value=10.0 + size,
            params={knobs[0].key: stored[size]},
            distributions=spread,
            intermediate_values={1: 20.0, 2: 10.0 + size},
        )

    study.add_trial(complete(4))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    study.add_trial(complete(16))
    result = write_results(study, recipe, knobs, tmp_path, n_validation=9)
    assert (tmp_path / "trials.csv").read_text().splitlines()[1:] == [
        "0,complete,14.0,4,2,",
        "1,failed,,,0,",
        "2,complete,26.0,16,2,",
    ]
    (axes, *_) = search_knobs(result.trials, [KnobAxis(knobs[0].key, labels=("4", "8", "16"))]).axes
    dots = next(line for line in axes.lines if line.get_label() == "complete")
    assert list(dots.get_xdata()) == [0, 2]
    study.add_trial(complete(8))
    write_figures(study, recipe, knobs, tmp_path, result)
    assert (tmp_path / "figures" / "search_curves.png").is_file()


@pytest.mark.parametrize("knobs", [KNOBS, [parse_knob("auxiliary.region_ages=0.5|1.0")]])
def test_ages_of_regions_are_learnt_in_a_search_too(
    cohort: Cohort, phantoms: Path, cache: Path, tmp_path: Path, knobs: list[Knob]
) -> None:
    recipe = load_recipe("demo", [*TINY, "training.epochs=1", "auxiliary.region_ages=1.0"])
    ages = phantom_region_ages(phantoms)
    settings = replace(HALVING, n_trials=1, pruner="none")
    begin = partial(search, recipe, cohort, tmp_path / "out", knobs, settings, cache_folder=cache)
    assert begin(region_ages=ages).n("complete") == 1


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


def test_batches_of_one_image_are_refused_where_a_network_needs_more(
    cohort: Cohort, cache: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("demo", [*TINY, "architecture.backbone=resnet18"])
    knobs = [parse_knob("training.batch_size=1|16")]
    with pytest.raises(ConfigError, match="expected batches of 2 images or more, which resnet18"):
        search(recipe, cohort, tmp_path / "out", knobs, HALVING, cache_folder=cache)
    assert not (tmp_path / "out").exists()


def test_passwords_are_not_shown() -> None:
    shown = without_password("postgresql://someone:secret@host:5432/studies")
    assert shown == "postgresql://someone:***@host:5432/studies"
    shown = without_password("postgresql://host/studies?user=someone&password=secret")
    assert shown == "postgresql://host/studies"
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

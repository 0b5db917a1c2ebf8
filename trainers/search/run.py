"""Hyper-parameter search: trials are trainings like any other, and share an Optuna study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boneage_xai.data.cache import default_cache_folder, open_cache
from boneage_xai.data.splits import split_cohort
from boneage_xai.errors import BoneAgeError, ConfigError
from boneage_xai.types import Cohort
from trainers.engine import Progress, starting_network
from trainers.history import StepReport
from trainers.recipe import Recipe
from trainers.search.results import SearchResult, write_figures, write_results
from trainers.search.space import Knob, checked_space, value_of, with_values
from trainers.search.study import open_study, require_optuna
from trainers.search.worker import PrunerName, TrialProgress, TrialReport, Worker


@dataclass(frozen=True)
class SearchSettings:
    """How a search is made.

    Args:
        n_trials: that the study is to reach, complete or pruned, by all workers together.
        storage: URL of a database or path of a journal file; None for a database in the folder.
        study_name: of the study within the storage.
        pruner: ``median`` gives a trial up when its best validation MAE at the present input size
            is worse than the median of complete trials after the same epoch, from the fifth
            complete trial on; ``halving`` (asynchronous successive halving, Li et al., 2020) when
            it is not among the best third at epochs 1, 3, 9, …; ``none`` never.
        seed: of the sampler (a tree-structured Parzen estimator); with one worker the same seed
            gives the same trials, also after a kill.
        keep_weights: of every complete trial, not of the best alone.
    """

    n_trials: int
    storage: str | None = None
    study_name: str = "search"
    pruner: PrunerName = "median"
    seed: int = 0
    keep_weights: bool = False


def search(
    recipe: Recipe,
    cohort: Cohort,
    out: Path,
    knobs: Sequence[Knob],
    settings: SearchSettings,
    *,
    source: str = "",
    skipped_problem_rows: int = 0,
    cache_folder: Path | None = None,
    on_decode: Progress | None = None,
    on_trials: TrialProgress | None = None,
    on_epoch: TrialReport | None = None,
    on_step: StepReport | None = None,
) -> SearchResult:
    """Search for the values of a recipe's keys that give the lowest validation MAE.

    ``out`` gets the study, a run folder for each trial, ``trials.csv``, ``best.toml`` and figures.
    The first trial has the recipe's own values, where the space holds them. A search that was
    interrupted goes on, one that has its trials is returned, and one that other workers are at is
    joined: a call returns when the study has its trials.

    Args:
        recipe: that every trial has but for its knobs.
        cohort: cases; those without a reference bone age are left out.
        out: folder of the search.
        knobs: keys and their values.
        settings: how to search.
        source: where the cohort was read from, for the record.
        skipped_problem_rows: rows that the caller chose to leave out, for the record.
        cache_folder: where prepared pixels are kept; a folder of the user's by default.
        on_decode: called with (done, total) while radiographs are decoded.
        on_trials: called with (done, total) trials, the running one as a fraction.
        on_epoch: called with a trial's number and its epoch's row of the history.
        on_step: called with (done, total) optimiser steps of the epoch.

    Returns:
        The trials and the best recipe.

    Raises:
        ConfigError: Optuna is not installed; a knob that names no key of the recipe or has values
            that recipe or network refuse; a folder or study of another search.
        DataError: cases that cannot be trained on.
    """
    require_optuna()
    if not knobs:
        raise ConfigError("search: expected one knob or more, found none")
    knobs = checked_space(recipe, knobs, pruning=settings.pruner != "none")
    cohort = cohort.labelled()
    split = split_cohort(cohort, recipe.training.validation_fraction, recipe.training.seed)
    ages = cohort.select(split.train).bone_ages_months()
    check_networks(recipe, knobs, lambda changed: starting_network(changed, ages))
    cache_folder = cache_folder or default_cache_folder()
    cache = open_cache(cohort, recipe.preprocessing, cache_folder, progress=on_decode)
    claim = {
        "recipe": recipe.model_dump(mode="json"),
        "space": [str(knob) for knob in knobs],
        "data": _data_fingerprint(cohort, cache.digests()),
        "pruner": settings.pruner,
        "seed": settings.seed,
    }
    study = open_study(
        out, settings.storage, settings.study_name, claim, _recipe_values(recipe, knobs)
    )
    worker = Worker(
        study,
        recipe,
        cohort,
        out,
        knobs,
        settings.n_trials,
        settings.pruner,
        settings.seed,
        settings.keep_weights,
        {
            "source": source,
            "skipped_problem_rows": skipped_problem_rows,
            "cache_folder": cache_folder,
            "on_decode": on_decode,
            "on_step": on_step,
        },
        on_trials,
        on_epoch,
    )
    n_validation = len(split.validation)
    try:
        worker.work(lambda: write_results(study, recipe, knobs, out, n_validation))
    finally:
        result = write_results(study, recipe, knobs, out, n_validation)
        write_figures(study, recipe, knobs, out, result)
    return result


def check_networks(
    recipe: Recipe, knobs: Sequence[Knob], build: Callable[[Recipe], object]
) -> None:
    """Build the network of every tested value that changes it, so that none is refused later.

    Raises:
        ConfigError: a network that cannot be built.
        CheckpointError: weights that are absent or of another network.
    """
    with torch.random.fork_rng():
        build(recipe)
        for knob in knobs:
            if not knob.key.startswith(("architecture.", "initialisation.", "preprocessing.")):
                continue
            for value in knob.tested:
                try:
                    build(with_values(recipe, {knob.key: value}))
                except BoneAgeError as error:
                    raise type(error)(f"knob {knob}: {error}") from error


def _data_fingerprint(cohort: Cohort, digests: Sequence[str]) -> str:
    """Return a hash of ids, sexes, ages and pixels, the same for a copy elsewhere."""
    digest = hashlib.sha256()
    for case, pixels in zip(cohort, digests, strict=True):
        digest.update(f"{case.case_id}\t{case.sex}\t{case.bone_age_months}\t{pixels}\n".encode())
    return digest.hexdigest()[:32]


def _recipe_values(recipe: Recipe, knobs: Sequence[Knob]) -> dict[str, Any]:
    values = {knob.key: value_of(recipe, knob.key) for knob in knobs}
    if not all(knob.holds(values[knob.key]) for knob in knobs):
        return {}
    return {knob.key: knob.stored(values[knob.key]) for knob in knobs}

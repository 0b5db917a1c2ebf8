"""Hyper-parameter search: trials are trainings like any other, and share an Optuna study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from boneage_xai.data.cache import default_cache_folder, open_cache
from boneage_xai.data.splits import split_cohort
from boneage_xai.errors import BoneAgeError, ConfigError
from boneage_xai.types import Cohort
from trainers.auxiliary import RegionAges
from trainers.engine import Progress
from trainers.history import StepReport
from trainers.recipe import Recipe
from trainers.search.results import SearchResult, write_figures, write_results
from trainers.search.space import Knob, checked_space, value_of, with_values
from trainers.search.study import open_study, require_optuna
from trainers.search.worker import SearchSettings, TrialProgress, TrialReport, Worker
from trainers.starting_network import starting_network

_DECIDE_THE_NETWORK = (
    "architecture.",
    "initialisation.",
    "preprocessing.size_px",
    "training.batch_size",
    "training.stages",
)


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
    region_ages: RegionAges | None = None,
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
        region_ages: true ages of every case's regions, for recipes that learn them.
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
    _check_networks(recipe, knobs, ages)
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
        settings,
        {
            "source": source,
            "skipped_problem_rows": skipped_problem_rows,
            "cache_folder": cache_folder,
            "region_ages": region_ages,
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


def _check_networks(
    recipe: Recipe, knobs: Sequence[Knob], training_ages_months: npt.NDArray[np.float64]
) -> None:
    """Build the network of every tested value that changes it, so that none is refused later."""
    with torch.random.fork_rng():
        starting_network(recipe, training_ages_months)
        for knob in knobs:
            if not knob.key.startswith(_DECIDE_THE_NETWORK):
                continue
            for value in knob.tested:
                try:
                    starting_network(with_values(recipe, {knob.key: value}), training_ages_months)
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

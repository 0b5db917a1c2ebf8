"""Training runs: from a cohort and a recipe to a run folder, resumable after a kill."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy

from boneage_xai.analysis.baselines import fit_baselines
from boneage_xai.data.cache import PixelCache, default_cache_folder, open_cache
from boneage_xai.data.splits import Split, leaked_cases, split_cohort
from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.models.checkpoint import TrainedRun, TrainingData, load_run
from boneage_xai.models.precision import computes_bfloat16_fast
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.types import Cohort
from trainers.auxiliary import RegionAges
from trainers.averaging import AveragedWeights
from trainers.batch_norm import share_batch_norm
from trainers.checkpoints import (
    BestAtFullSize,
    MovableCheckpoint,
    WholeCheckpointIO,
    read_checkpoint,
)
from trainers.claim import CLAIM_FILE, at_work_alone, begin_or_find_finished, check_folder
from trainers.feeding import CachedRadiographs, make_loader
from trainers.history import EpochReport, HistoryWriter, StepReport
from trainers.loggers import logged_epochs, require_loggers
from trainers.module import BoneAgeTraining
from trainers.processes import ALONE, Processes
from trainers.recipe import Recipe
from trainers.results import SO_FAR, take_history, write_results
from trainers.starting_network import starting_network
from trainers.stopping import StopForGood, StopRequest, StopWhenAsked, StopWhenDiverged

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def train(
    recipe: Recipe,
    cohort: Cohort,
    out: Path,
    *,
    source: str = "",
    skipped_problem_rows: int = 0,
    resume: bool = False,
    cache_folder: Path | None = None,
    loggers: Sequence[str] = (),
    processes: Processes = ALONE,
    region_ages: RegionAges | None = None,
    stop: StopRequest | None = None,
    on_decode: Progress | None = None,
    on_epoch: EpochReport | None = None,
    on_step: StepReport | None = None,
) -> TrainedRun:
    """Train a network and write its run folder.

    The folder holds ``model.safetensors`` (weights of the best epoch by validation MAE),
    ``run.json``, ``history.csv``, ``splits.csv``, ``learning_curve.png`` and, under
    ``engine/``, Lightning's own checkpoints of the best and the last epoch.

    Args:
        recipe: the checked recipe.
        cohort: cases; those without a reference bone age are left out.
        out: the run folder, new unless ``resume``.
        source: where the cohort was read from, for the record.
        skipped_problem_rows: rows that the caller chose to leave out, for the record.
        resume: continue an interrupted training from its last finished epoch; one that
            has not started begins, one that has finished is returned as it is.
        cache_folder: where prepared pixels are kept; a folder of the user's by default.
        loggers: that are given the history and the recipe, too; they change nothing of the run
            and need not be the same when it is resumed.
        processes: this process among those that train together, as :func:`trainers.processes.join`
            returns it; they share the recipe's batch, and need not be as many when it is resumed.
        region_ages: of every labelled case, as :func:`trainers.auxiliary.phantom_region_ages`
            returns them, for a recipe that learns them.
        stop: asked before the first and after every epoch; where it says yes, the training ends
            there and can be resumed.
        on_decode: called with (done, total) while radiographs are decoded.
        on_epoch: called with each epoch's row of the history.
        on_step: called with (done, total) optimiser steps of the epoch.

    Returns:
        The trained network, loaded from the run folder; of a training that was stopped, the
        best epoch so far, a run folder of its own inside ``out``.

    Raises:
        CheckpointError: stopped before the first epoch at the full input size.
        ConfigError: the folder is in use, another training is at work in it, ``resume`` with
            another recipe or data, a logger that is not installed, or processes that cannot share
            batches or the folder.
        DataError: fewer than two labelled cases, radiographs that cannot be read, cases without
            the ages of regions that the recipe learns, or a training that diverged.
    """
    if not processes.is_main:
        loggers, on_decode, on_epoch, on_step = (), None, None, None
    processes.once(lambda: require_loggers(loggers))
    unlabelled = len(cohort)
    cohort = cohort.labelled()
    if not len(cohort):
        raise DataError(
            f"cohort {cohort.name}: expected cases with a bone age to train on, "
            f"found {unlabelled} without"
        )
    if recipe.auxiliary.region_ages:
        _check_region_ages(cohort, region_ages or {})
    else:
        region_ages = None
    split = split_cohort(cohort, recipe.training.validation_fraction, recipe.training.seed)
    processes.once(lambda: check_folder(out, resume))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(recipe.training.seed)
        training_ages = cohort.select(split.train).bone_ages_months()
        # A file of weights that is downloaded is downloaded once.
        network = processes.in_turn(lambda: starting_network(recipe, training_ages))
        folder = cache_folder or default_cache_folder()
        cache = processes.in_turn(
            lambda: open_cache(cohort, recipe.preprocessing, folder, progress=on_decode)
        )
        _check_same_images(processes.tell(cache.fingerprint))
        with at_work_alone(out, processes):
            if processes.once(lambda: begin_or_find_finished(out, recipe, split, cache)):
                return load_run(out)
            if not all(processes.tell((out / CLAIM_FILE).is_file())):
                raise ConfigError(
                    f"{out}: expected a run folder on a file system that all machines share"
                )
            processes.once(lambda: _warn_of_leaks(split, cache))
            fitted = cohort.select(split.train)
            baselines = fit_baselines(
                training_ages, fitted.is_male(), cache.intensity[cache.rows(split.train)]
            )
            with logged_epochs(loggers, out, recipe, on_epoch) as report:
                best_epoch, stopped = _fit(
                    network,
                    recipe,
                    [
                        _cases(cohort.select(part), cache, region_ages)
                        for part in (split.train, split.validation)
                    ],
                    out,
                    processes,
                    stop,
                    report,
                    on_step,
                )
            run = out / SO_FAR if stopped else out
            data = TrainingData(
                cohort=cohort.name,
                source=source,
                fingerprint=cache.fingerprint,
                n_train=len(split.train),
                n_validation=len(split.validation),
                skipped_problem_rows=skipped_problem_rows,
            )
            held_out = cohort.select(split.validation)
            results = (network, recipe, held_out, cache, run, best_epoch, data, baselines)

            def write() -> None:
                take_history(out, run)
                write_results(*results)
                if not stopped:
                    # Not before: until the results are there, it is what there is to measure.
                    shutil.rmtree(out / SO_FAR, ignore_errors=True)

            processes.once(write)
            return load_run(run)


def _check_same_images(fingerprints: Sequence[str]) -> None:
    if len(set(fingerprints)) > 1:
        raise DataError(
            "the radiographs: expected the same files on all machines, by name, size and time of "
            "change, found others; copy them with their times, or share them"
        )


def _fit(
    network: BoneAgeRegressor,
    recipe: Recipe,
    parts: Sequence[CachedRadiographs],
    out: Path,
    processes: Processes,
    stop: StopRequest | None,
    on_epoch: EpochReport | None,
    on_step: StepReport | None,
) -> tuple[int, bool]:
    """Train on the first part until done or stopped, and leave the best weights in ``network``.

    Returns:
        Their epoch, and whether the training was stopped.
    """
    settings = recipe.training
    share = processes.share
    training = make_loader(parts[0], settings.batch_size, settings.seed, share)
    validation = make_loader(parts[1], settings.batch_size, None, share)
    if share.count > 1:
        share_batch_norm(network)
        # Which blocks are frozen is remembered by module, and some were replaced.
        network.fine_tune(recipe.initialisation.fine_tuned_blocks)
    module = BoneAgeTraining(network, recipe, len(training), share)
    engine = out / "engine"
    best = BestAtFullSize(
        recipe, dirpath=engine, filename="best", monitor="val_mae_months", mode="min"
    )
    callbacks: list[lightning.Callback] = [
        HistoryWriter(out / "history.csv", recipe, on_epoch, on_step)
    ]
    if settings.ema_decay is not None:
        callbacks.append(AveragedWeights(settings.ema_decay))
    early = None
    if settings.early_stopping_patience is not None:
        early = StopForGood("val_mae_months", patience=settings.early_stopping_patience, mode="min")
        callbacks.append(early)
    callbacks.append(StopWhenDiverged())
    stopping = StopWhenAsked(stop or (lambda: False))
    callbacks.append(stopping)
    callbacks.append(best)
    callbacks.append(MovableCheckpoint(dirpath=engine, filename="last"))
    trainer = lightning.Trainer(
        max_epochs=settings.epochs,
        precision=processes.once(lambda: _lightning_precision(settings.precision)),
        callbacks=callbacks,
        gradient_clip_val=settings.gradient_clip,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=out,
        plugins=[WholeCheckpointIO()],
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=processes.devices,
        num_nodes=processes.nodes,
        # Shared batch statistics are equal everywhere; and to copy them at each step of a
        # validation would wait for processes that have one step less.
        strategy="auto" if share.count == 1 else DDPStrategy(broadcast_buffers=False),
    )
    module.to(memory_format=torch.channels_last)
    last = engine / "last.ckpt"
    if last.is_file():
        # Refused here when damaged or executable, before Lightning says so in a trace.
        read_checkpoint(last)
    on_interrupt = signal.getsignal(signal.SIGINT)
    stopped_at_once = processes.once(lambda: stop is not None and stop())
    try:
        if not stopped_at_once:
            trainer.fit(
                module,
                training,
                validation,
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
    except SystemExit as end:
        # Lightning turns Ctrl-C into an exit and leaves the signal ignored.
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from end
    if not (engine / "best.ckpt").is_file():
        raise CheckpointError(
            f"{out}: expected an epoch at the full input size to take weights from, found the "
            "training stopped before one"
        )
    checkpoint = read_checkpoint(engine / "best.ckpt")
    module.load_state_dict(checkpoint["state_dict"])
    # Lightning asks early stopping last, so that both may stop at one epoch.
    ended = early is not None and early.has_stopped
    return int(checkpoint["epoch"]), stopped_at_once or (stopping.stopped and not ended)


def _cases(cohort: Cohort, cache: PixelCache, region_ages: RegionAges | None) -> CachedRadiographs:
    case_ids = [case.case_id for case in cohort]
    ages = None
    if region_ages is not None:
        ages = np.array([region_ages[case_id] for case_id in case_ids], dtype=np.float64)
    return CachedRadiographs(
        cache.pixels, cache.rows(case_ids), cohort.is_male(), cohort.bone_ages_months(), ages
    )


def _check_region_ages(cohort: Cohort, known: RegionAges) -> None:
    unknown = [case.case_id for case in cohort if case.case_id not in known]
    if unknown:
        raise DataError(
            f"cohort {cohort.name}: expected the ages of its regions, which the recipe's "
            f"auxiliary.region_ages learns, found {len(unknown)} cases without, first {unknown[0]}"
        )


def _warn_of_leaks(split: Split, cache: PixelCache) -> None:
    digests = dict(zip(cache.case_ids, cache.digests(), strict=True))
    train, validation = ({i: digests[i] for i in part} for part in (split.train, split.validation))
    if leaked := leaked_cases(train, validation):
        logger.warning(
            "%d of %d validation cases, the first of them %s, show the radiograph of a training "
            "case: the validation error is too low",
            len(leaked),
            len(validation),
            leaked[0],
        )


def _lightning_precision(precision: str) -> Any:
    if precision == "auto":
        precision = "bfloat16" if computes_bfloat16_fast() else "float32"
    return {"float32": "32-true", "bfloat16": "bf16-mixed"}[precision]

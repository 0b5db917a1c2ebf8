"""One of the processes that train the trials of a search."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from boneage_xai.files import read_table
from boneage_xai.models.checkpoint import WEIGHTS_FILE
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.recipe import Recipe
from trainers.search.space import Knob, with_values
from trainers.search.study import (
    CONTINUES,
    SURPLUS,
    is_behind,
    requeue,
    requeue_dead_trials,
    trial_folder,
    trial_lock,
)

PrunerName = Literal["median", "halving", "none"]
TrialReport = Callable[[int, dict[str, float]], None]
TrialProgress = Callable[[float, int], None]

_POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """How a search is made.

    Args:
        n_trials: that the study is to reach, complete or pruned, by all workers together.
        storage: URL of a database or path of a journal file; None for a database in the folder.
        study_name: of the study within the storage.
        pruner: ``median`` gives a trial up when its best validation MAE at the present input size
            is worse than the median of complete ones after the same epoch, in its second half, from
            the fifth complete trial on; ``halving`` (asynchronous successive halving, Li et al.,
            2020) when it is not among the best third at epochs 1, 3, 9, …; ``none`` never.
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


class _SurplusError(Exception):
    """Other workers began all the trials that are needed."""


@dataclass
class _Begun:
    """The trial that the worker is at."""

    number: int = -1
    lock: FileLock | None = None
    lost: bool = False

    def release(self) -> None:
        """Give the lock back, if it was taken."""
        if self.lock is not None:
            self.lock.release()
            Path(self.lock.lock_file).unlink(missing_ok=True)


@dataclass(frozen=True)
class Worker:
    """Trains trials until the study has enough.

    Args:
        study: an Optuna study.
        recipe: that every trial has but for its knobs.
        cohort: labelled cases.
        out: folder of the search.
        knobs: checked.
        settings: of the search.
        options: of ``train``, the same for all trials.
        on_trials: called with (done, total) trials, the running one as a fraction.
        on_epoch: called with a trial's number and its epoch's row of the history.
    """

    study: Any
    recipe: Recipe
    cohort: Cohort
    out: Path
    knobs: Sequence[Knob]
    settings: SearchSettings
    options: Mapping[str, Any]
    on_trials: TrialProgress | None
    on_epoch: TrialReport | None

    def work(self, after_trial: Callable[[], object]) -> None:
        """Train trials until the study has its number, waiting for those of other workers.

        Args:
            after_trial: called after each trial of this worker.
        """
        awaited: set[int] = set()
        first_seen: dict[int, float] = {}
        while True:
            requeue_dead_trials(self.study, self.out, first_seen)
            finished, running = self._finished_and_running()
            self._progress(finished)
            if finished >= self.settings.n_trials:
                return
            if finished + len(running) >= self.settings.n_trials:
                if not running <= awaited:
                    numbers = ", ".join(map(str, sorted(running)))
                    logger.warning("waiting for trials of other workers: %s", numbers)
                awaited |= running
                time.sleep(_POLL_SECONDS)
                continue
            self._one_trial()
            self._drop_weights()
            after_trial()

    def _finished_and_running(self) -> tuple[int, set[int]]:
        """Return how many trials are complete or pruned, and the numbers of those that run."""
        states = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        running = {number for number, state in enumerate(states) if state == "RUNNING"}
        return states.count("COMPLETE") + states.count("PRUNED"), running

    def _progress(self, done: float) -> None:
        if self.on_trials is not None:
            self.on_trials(min(done, self.settings.n_trials), self.settings.n_trials)

    def _one_trial(self) -> None:
        import optuna

        begun = _Begun()
        try:
            self.study.optimize(partial(self._train, begun), n_trials=1, catch=(_SurplusError,))
        except KeyboardInterrupt:
            if begun.lock is not None:
                ended = self.study.get_trials(deepcopy=False)[begun.number]
                if ended.state.name == "FAIL":
                    requeue(self.study, ended)
            raise
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            # What Optuna raises when a trial that ended meanwhile is reported or told.
            if not begun.lost:
                raise
            logger.warning("trial %d: its heartbeat was late, another takes over", begun.number)
        finally:
            begun.release()

    def _train(self, begun: _Begun, trial: Any) -> float:
        """Train one trial and return its validation MAE in months."""
        import optuna

        begun.number = trial.number
        begun.lock = trial_lock(self.out, trial.number)
        begun.lock.acquire()
        # By its place and not by the worker: two workers must not draw the same values.
        place = self._place(trial)
        seed = int(np.random.SeedSequence([self.settings.seed, place]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        recipe = with_values(self.recipe, {knob.key: knob.suggest(trial) for knob in self.knobs})
        folder = trial_folder(self.out, trial.number)
        self._take_over(trial.user_attrs.get(CONTINUES, []), folder)
        pruner = make_pruner(self.settings.pruner, recipe.training.epochs)
        finished, _ = self._finished_and_running()
        seconds: dict[int, float] = {}

        def report(row: dict[str, float]) -> None:
            step, mae_months = int(row["epoch"]) + 1, row["val_mae_months"]
            try:
                # The epoch that a kill interrupted is trained again, to the same value.
                if step not in seconds:
                    trial.report(mae_months, step)
                seconds[step] = row["seconds"]
                trial.set_user_attr("seconds", sum(seconds.values()))
            except optuna.exceptions.UpdateFinishedTrialError:
                begun.lost = True
                raise
            if not math.isfinite(mae_months):
                raise optuna.TrialPruned("diverged")

        def give_up_if_behind(row: dict[str, float]) -> None:
            if int(row["epoch"]) + 1 < recipe.training.epochs and is_behind(
                pruner, self.study, trial.number, self._size_px_of_epoch
            ):
                raise optuna.TrialPruned

        def on_epoch(row: dict[str, float]) -> None:
            report(row)
            if self.on_epoch is not None:
                self.on_epoch(trial.number, row)
            self._progress(finished + (int(row["epoch"]) + 1) / recipe.training.epochs)
            give_up_if_behind(row)

        for row in _finished_epochs(folder):
            report(row)
            give_up_if_behind(row)
        run = train(recipe, self.cohort, folder, resume=True, on_epoch=on_epoch, **self.options)
        return run.manifest.val_mae_months

    def _place(self, trial: Any) -> int:
        """Return how many trials before this one count or drew values and ended with an error.

        Raises:
            _SurplusError: those that count are as many as the study is to have.
        """
        trials = self.study.get_trials(deepcopy=False)
        before = trials[: trial.number]
        rank = sum(other.state.name in ("COMPLETE", "PRUNED", "RUNNING") for other in before)
        if rank >= self.settings.n_trials:
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusError
        continued = {number for other in trials for number in other.user_attrs.get(CONTINUES, [])}
        failed = {other.number for other in before if other.state.name == "FAIL" and other.params}
        return rank + len(failed - continued)

    def _take_over(self, ended: Sequence[int], folder: Path) -> None:
        """Move what a trial had trained when it was killed to where it goes on."""
        for number in reversed(ended):
            lock = trial_lock(self.out, number)
            # One that is still locked only seemed to be dead.
            with suppress(Timeout), lock.acquire(timeout=0):
                if trial_folder(self.out, number).is_dir():
                    trial_folder(self.out, number).rename(folder)
                Path(lock.lock_file).unlink()
            if folder.is_dir():
                return

    def _size_px_of_epoch(self, epoch: int) -> int:
        return self.recipe.training.size_px_of_epoch(epoch, self.recipe.preprocessing.size_px)

    def _drop_weights(self) -> None:
        """Remove what only resuming or using a trial would need, but for the best one's weights."""
        trials = self.study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
        best = min(complete, key=lambda trial: trial.value).number if complete else None
        for trial in trials:
            folder = trial_folder(self.out, trial.number)
            if trial.state.name in ("COMPLETE", "PRUNED") and folder.is_dir():
                shutil.rmtree(folder / "engine", ignore_errors=True)
                if trial.number != best and not self.settings.keep_weights:
                    (folder / WEIGHTS_FILE).unlink(missing_ok=True)


def make_pruner(name: PrunerName, epochs: int) -> Any:
    """Return the Optuna pruner of that name for trials of so many epochs."""
    import optuna

    if name == "median":
        # The order of the first epochs says little about that of the last.
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 2 + 1)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()


def _finished_epochs(folder: Path) -> list[dict[str, float]]:
    """Return the rows of the history that a killed training had written."""
    # Before its first checkpoint a training begins anew.
    if not (folder / "engine" / "last.ckpt").is_file():
        return []
    rows = read_table(folder / "history.csv").to_dict("records")
    return [{str(key): float(value) for key, value in row.items()} for row in rows]

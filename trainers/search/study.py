"""The Optuna study that the workers of a search share: where it lies and whose it is."""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from boneage_xai.errors import ConfigError
from boneage_xai.files import read_json, write_json

STUDY_FILE = "study.db"
CLAIM_FILE = "search.json"
TRIALS_FOLDER = "trials"

CONTINUES = "continues"
"""Attribute of a trial: numbers of the killed trials whose training it goes on with."""
SURPLUS = "surplus"
"""Attribute of a trial that found enough others before it and trained nothing."""

_HEARTBEAT_SECONDS = 30
_GRACE_SECONDS = 180
_CLAIMED = ("recipe", "space", "data", "pruner", "seed")

logger = logging.getLogger(__name__)


def require_optuna() -> None:
    """Refuse to search where Optuna is not installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError(
            "tune: expected the package optuna, found none; install boneage-xai[tune]"
        ) from error


def open_study(
    out: Path, storage: str | None, name: str, claim: Mapping[str, Any], first: Mapping[str, Any]
) -> Any:
    """Open the study of a search, or begin it.

    Args:
        out: folder of the search, new, empty or of the same search.
        storage: URL of a database, path of a journal file, or None for a database in ``out``.
        name: of the study within the storage.
        claim: what the search is: recipe, space, data, pruner and seed.
        first: knobs of the first trial, empty to draw them.

    Returns:
        An Optuna study.

    Raises:
        ConfigError: a folder or study of another search, or a storage that cannot be opened.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    file = out / CLAIM_FILE
    if file.is_file():
        _check_claim(claim, read_json(file), str(out))
    elif out.exists() and not (out.is_dir() and all(map(_of_a_study, out.iterdir()))):
        raise ConfigError(f"{out}: expected a new folder or one of this search, found one in use")
    out.mkdir(parents=True, exist_ok=True)
    shown = storage or str(out / STUDY_FILE)
    # Workers that begin together would make the same tables twice.
    with FileLock(out / ".study.lock"):
        try:
            study = optuna.create_study(
                study_name=name,
                storage=_storage(storage or f"sqlite:///{(out / STUDY_FILE).resolve()}"),
                direction="minimize",
                load_if_exists=True,
            )
            if "recipe" not in study.user_attrs:
                if first:
                    study.enqueue_trial(dict(first), skip_if_exists=True)
                for key in reversed(_CLAIMED):
                    study.set_user_attr(key, claim[key])
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise ConfigError(
                f"--storage {without_password(shown)}: expected a database or journal that can be "
                f"opened, found {str(error).splitlines()[0]}"
            ) from error
        _check_claim(claim, study.user_attrs, f"study {name} in {without_password(shown)}")
        write_json(file, {**claim, "study": name, "storage": without_password(shown)})
    return study


def _of_a_study(path: Path) -> bool:
    """Return whether a worker that begins, or was killed then, leaves such a file."""
    return path.name.startswith((".", STUDY_FILE))


def _check_claim(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    for key in _CLAIMED:
        if theirs.get(key) != ours[key]:
            raise ConfigError(
                f"{where}: expected the {key} that this search began with, found another; "
                "choose another --out or --study"
            )


def without_password(storage: str) -> str:
    """Return the name of a storage as it may be shown and kept."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    with suppress(ArgumentError, ValueError):
        # Some drivers take a password, or the place of a key, behind the question mark.
        return str(make_url(storage).set(query={}).render_as_string(hide_password=True))
    return storage


def _storage(address: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if "://" not in address:
        return optuna.storages.JournalStorage(JournalFileBackend(address))
    # SQLite lets one worker write at a time; the others wait.
    patience = {"connect_args": {"timeout": 120}} if address.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            address,
            engine_kwargs=patience,
            heartbeat_interval=_HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=requeue,
        )


def requeue(study: Any, trial: Any) -> None:
    """Queue the knobs of a trial that did not end, so that its training goes on.

    Args:
        study: that the trial belongs to.
        trial: failed; one that had no knobs yet, nor was queued with some, is not queued.
    """
    if knobs := trial.params or trial.system_attrs.get("fixed_params"):
        ended = [*trial.user_attrs.get(CONTINUES, []), trial.number]
        study.enqueue_trial(knobs, user_attrs={CONTINUES: ended})


def trial_folder(out: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return out / TRIALS_FOLDER / f"{number:04d}"


def trial_lock(out: Path, number: int) -> FileLock:
    """Return the lock that a worker holds while it trains, and loses when it dies."""
    (out / TRIALS_FOLDER).mkdir(parents=True, exist_ok=True)
    return FileLock(out / TRIALS_FOLDER / f".{number:04d}.lock")


def requeue_dead_trials(study: Any, out: Path, first_seen: dict[int, float]) -> None:
    """Fail and queue again the trials whose workers are gone.

    A worker that shared ``out`` is known to be gone by its lock at once; another, on a database,
    by its heartbeat after three minutes. So is one that was killed before it had lock or heartbeat:
    knobs are drawn right after, so that a trial that has none for so long has no worker.

    Args:
        study: an Optuna study.
        out: folder of the search.
        first_seen: by trial, the monotonic time at which this worker first saw it without knobs,
            since clocks of machines may differ; kept from call to call.
    """
    import optuna

    running = (optuna.trial.TrialState.RUNNING,)
    for trial in study.get_trials(deepcopy=False, states=running):
        lock = trial_lock(out, trial.number)
        if not Path(lock.lock_file).is_file():
            begun = first_seen.setdefault(trial.number, time.monotonic())
            if not trial.params and time.monotonic() - begun > _GRACE_SECONDS:
                fail(study, trial.number)
                requeue(study, trial)
            continue
        try:
            with lock.acquire(timeout=0):
                # It may have ended between the listing and the lock.
                if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                    continue
                logger.info("trial %d: its worker is gone", trial.number)
                fail(study, trial.number)
                requeue(study, trial)
        except Timeout:
            continue
        Path(lock.lock_file).unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def fail(study: Any, number: int) -> None:
    """Mark a running trial of another worker as failed."""
    import optuna

    study.tell(number, state=optuna.trial.TrialState.FAIL)


class _WithoutFailed:
    """A study as pruners see it: trials that go on with failed ones report their values again."""

    def __init__(self, study: Any) -> None:
        self._whole = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[Any]:
        """Return the trials that did not fail."""
        trials = self._whole.get_trials(deepcopy, states)
        return [trial for trial in trials if trial.state.name != "FAIL"]


def is_behind(pruner: Any, study: Any, number: int, size_px_of_epoch: Callable[[int], int]) -> bool:
    """Return whether a trial is to be given up after the epoch that it reported last.

    Pruners look at the best value so far. Values at another input size are kept from them: there
    the same network has another error. So are failed trials.

    Args:
        pruner: an Optuna pruner.
        study: that the trial belongs to.
        number: of the trial.
        size_px_of_epoch: tells the input size by the epoch, counted from 0.
    """
    trial = study.get_trials(deepcopy=True)[number]
    size_px = size_px_of_epoch(trial.last_step - 1)
    trial.intermediate_values = {
        step: value
        for step, value in trial.intermediate_values.items()
        if size_px_of_epoch(step - 1) == size_px
    }
    return bool(pruner.prune(_WithoutFailed(study), trial))

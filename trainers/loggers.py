"""Training histories in TensorBoard or MLflow: the rows of ``history.csv``, and the recipe.

They are handed each finished epoch and take no part in the training, so that a run with them is the
same run as without.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch.loggers import Logger

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import read_json, write_json
from trainers.history import EpochReport
from trainers.recipe import Recipe

LOGS_FOLDER = "logs"
MLFLOW_URI = "MLFLOW_TRACKING_URI"
"""Variable that names an MLflow server or folder, in place of one inside the run."""

_RUN_FILE = "mlflow-run.json"


def _tensorboard(out: Path, recipe: Recipe) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(
        save_dir=out / LOGS_FOLDER, name="tensorboard", version="", default_hp_metric=False
    )


def _mlflow(out: Path, recipe: Recipe) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    folder = (out / LOGS_FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get(MLFLOW_URI) or f"sqlite:///{folder / 'mlflow.db'}"
    note = folder / _RUN_FILE
    logger = MLFlowLogger(
        experiment_name=recipe.name,
        run_name=out.name,
        tracking_uri=uri,
        run_id=_begun_run(note, uri),
        # A server has a place of its own for what is no number.
        artifact_location=None if os.environ.get(MLFLOW_URI) else (folder / "mlflow").as_uri(),
    )
    write_json(note, {"tracking_uri": uri, "run_id": logger.run_id})
    return logger


def _begun_run(note: Path, uri: str) -> str | None:
    """Return the MLflow run that an interrupted training began there, None where it did not."""
    try:
        begun = read_json(note)
    except DataError:
        return None
    return str(begun["run_id"]) if begun.get("tracking_uri") == uri else None


LOGGERS: Mapping[str, tuple[str, Callable[[Path, Recipe], Logger]]] = MappingProxyType(
    {"tensorboard": ("tensorboard", _tensorboard), "mlflow": ("mlflow", _mlflow)}
)
"""By name the package that is needed, which is also the extra, and what opens the logger."""


def require_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose package is not installed.

    Raises:
        ConfigError: one that is not known or not installed.
    """
    # MLflow tells its makers how it is used, unless told not to before it is loaded.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"--logger: expected one of {', '.join(LOGGERS)}, found {name}")
        package, _ = LOGGERS[name]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"--logger {name}: expected the package {package}, found none; "
                f"install boneage-xai[{name}]"
            ) from error


@contextmanager
def logged_epochs(
    names: Sequence[str], out: Path, recipe: Recipe, on_epoch: EpochReport | None
) -> Iterator[EpochReport | None]:
    """Yield what to call with each epoch's row so that loggers have it, too.

    Args:
        names: of loggers; none yields ``on_epoch`` as it is.
        out: the run folder; logs go below ``logs`` inside it, MLflow's where the environment
            variable ``MLFLOW_TRACKING_URI`` says, if it is set.
        recipe: whose keys are logged as hyper-parameters.
        on_epoch: called after the loggers.

    Raises:
        ConfigError: an MLflow that cannot be reached.
    """
    if not names:
        yield on_epoch
        return
    loggers: list[Logger] = []
    for name in names:
        try:
            loggers.append(LOGGERS[name][1](out, recipe))
            loggers[-1].log_hyperparams(hyper_parameters(recipe))
        # Loggers wrap what went wrong in kinds of their own.
        except Exception as error:
            raise ConfigError(
                f"--logger {name}: expected a place to write to, found "
                f"{' '.join(str(error).split())[:200]}"
            ) from error

    def report(row: dict[str, float]) -> None:
        measured = {name: value for name, value in row.items() if name != "epoch"}
        for logger in loggers:
            logger.log_metrics(measured, step=int(row["epoch"]))
            logger.save()
        if on_epoch is not None:
            on_epoch(row)

    status = "failed"
    try:
        yield report
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)


def hyper_parameters(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's keys, e.g. ``training.learning_rate``, with their values.

    Lists become text, since hyper-parameters are single values.
    """
    return dict(_flat(recipe.model_dump(mode="json"), ""))


def _flat(content: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            single = isinstance(value, bool | int | float | str)
            yield f"{before}{key}", value if single else str(value)

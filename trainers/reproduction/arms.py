"""The arms: recipes changed to share one split, trained one after the other and resumable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.models.checkpoint import MANIFEST_FILE, read_manifest
from boneage_xai.types import Cohort
from trainers.engine import Progress, train
from trainers.history import EpochReport, StepReport
from trainers.recipe import Recipe, load_recipe
from trainers.results import SO_FAR
from trainers.stopping import StopRequest

IMAGE_ONLY = "-image-only"
"""What the name of an arm without the sex adds to that of its twin."""

STUDIES: Mapping[str, tuple[str, ...]] = {
    study: tuple(f"{study}-{network}{twin}" for network in networks for twin in ("", IMAGE_ONLY))
    for study, networks in (
        ("wouters", ("vgg16", "resnet18")),
        ("kimmel", ("inception-v3", "resnet101")),
    )
}
GROUPS = {**STUDIES, "studies": tuple(name for names in STUDIES.values() for name in names)}

# Twenty per cent held out, as in both studies, so that all arms are measured on the same cases.
_SHARED_SPLIT = "training.validation_fraction=0.2"
_FROM_SCRATCH = ("initialisation.weights=none", 'initialisation.fine_tuned_blocks="all"')
_DEVICES_FILE = "devices.json"

Status = Literal["complete", "partial", "not begun", "not run", "failed"]


@dataclass(frozen=True)
class Departure:
    """A key of a recipe that was changed.

    Args:
        key: ``section.key``.
        shipped: its value in the recipe.
        used: its value here.
    """

    key: str
    shipped: Any
    used: Any


@dataclass(frozen=True)
class Arm:
    """A recipe to train.

    Args:
        name: of the recipe, and of the arm's folders.
        study: the study it belongs to, None for a recipe of our own.
        recipe: as it is trained.
        departures: in what it differs from the recipe as it is stored.
    """

    name: str
    study: str | None
    recipe: Recipe
    departures: tuple[Departure, ...]


@dataclass(frozen=True)
class ArmState:
    """How far an arm is.

    Args:
        arm: the arm.
        folder: its run folder.
        status: ``not run`` could not start, ``failed`` could not be finished.
        epochs: those that are done.
        run: run folder to evaluate, None where there is none.
        reason: one sentence where ``status`` is ``not run`` or ``failed``, or where an
            unfinished arm has no run.
        devices: names of the devices it was trained on.
    """

    arm: Arm
    folder: Path
    status: Status
    epochs: int = 0
    run: Path | None = None
    reason: str | None = None
    devices: tuple[str, ...] = ()

    def history(self) -> pd.DataFrame | None:
        """Return a row per epoch that is done, None where there is none."""
        file = self.folder / "history.csv"
        return read_table(file) if file.is_file() else None

    def record(self) -> dict[str, Any]:
        """Return what ``reproduction.json`` holds of an arm's training."""
        recipe, history = self.arm.recipe, self.history()
        seconds = None if history is None else history["seconds"]
        manifest = None if self.run is None else read_manifest(self.run)
        return {
            "name": self.arm.name,
            "study": self.arm.study,
            "description": recipe.description,
            "network": recipe.architecture.backbone,
            "with_sex": recipe.architecture.sex_features > 0,
            "twin": self.arm.name.removesuffix(IMAGE_ONLY),
            "initial_weights": recipe.initialisation.weights,
            "status": self.status,
            "reason": self.reason,
            "epochs": self.epochs,
            "epochs_planned": recipe.training.epochs,
            "diverged": history is not None and not np.isfinite(history["train_loss"]).all(),
            "best_epoch": None if manifest is None else manifest.best_epoch,
            "seconds_per_epoch": None if seconds is None else float(seconds.median()),
            "hours": None if seconds is None else float(seconds.sum() / 3600),
            "devices": list(self.devices),
            "versions": None if manifest is None else manifest.versions,
            "departures": [asdict(one) for one in self.arm.departures],
        }


def load_arms(
    names: Sequence[str], overrides: Sequence[str], *, from_scratch: bool = False, seed: int = 0
) -> tuple[Arm, ...]:
    """Load the recipes to train, changed so that all arms share one split.

    Args:
        names: recipes by name or path, or ``studies``, ``wouters``, ``kimmel``.
        overrides: ``section.key=value`` for every arm, ``NAME:section.key=value`` for one arm or
            those of one study.
        from_scratch: begin without pretrained weights, every block learning.
        seed: of every arm, and so of the split.

    Raises:
        ConfigError: no such recipe or arm, a value that one of them cannot take, arms that would
            hold out other cases than others, or two arms of a name.
    """
    arms = []
    chosen = [member for name in names for member in GROUPS.get(name, (name,))]
    changes_of = [_addressed(override, chosen) for override in overrides]
    for name in dict.fromkeys(chosen):
        shipped = load_recipe(name)
        own = [change for members, change in changes_of if name in members]
        changes = [_SHARED_SPLIT, f"training.seed={seed}", *own]
        if from_scratch:
            changes += _FROM_SCRATCH
        recipe = load_recipe(name, changes)
        if not re.fullmatch(r"[\w.-]+", recipe.name) or recipe.name.startswith("."):
            raise ConfigError(
                f"recipe {name}: expected a name of letters, digits, '-', '_' and '.', since it "
                f"names folders, found {recipe.name!r}"
            )
        study = next((study for study, members in STUDIES.items() if name in members), None)
        arms.append(Arm(recipe.name, study, recipe, _departures(shipped, recipe)))
    if any(arm.recipe.training.seed != seed for arm in arms):
        raise ConfigError("--set training.seed: expected --seed, which is that of the split, too")
    shares = {arm.recipe.training.validation_fraction for arm in arms}
    if len(shares) > 1:
        raise ConfigError(
            "training.validation_fraction: expected the same for every arm, so that all hold out "
            f"the same cases, found {', '.join(map(str, sorted(shares)))}"
        )
    seen = [arm.name for arm in arms]
    if twice := {name for name in seen if seen.count(name) > 1}:
        raise ConfigError(f"arms: expected recipes of different names, found {min(twice)} twice")
    return tuple(arms)


def _addressed(override: str, arms: Sequence[str]) -> tuple[Sequence[str], str]:
    """Return the arms that a change is for, and the change without their name."""
    key, equals, value = override.partition("=")
    name, colon, key = key.rpartition(":")
    if not colon:
        return arms, override
    members = [member for member in GROUPS.get(name, (name,)) if member in arms]
    if not members:
        raise ConfigError(
            f"--set {override}: expected one of the arms {', '.join(arms)} before the colon, "
            f"found {name or 'nothing'}"
        )
    return members, key + equals + value


def _departures(shipped: Recipe, used: Recipe) -> tuple[Departure, ...]:
    before, after = (_flat(recipe.model_dump(mode="json")) for recipe in (shipped, used))
    return tuple(
        Departure(key, before[key], value) for key, value in after.items() if value != before[key]
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def arm_state(arm: Arm, folder: Path) -> ArmState:
    """Return how far an arm is, from its folder alone.

    Args:
        arm: the arm.
        folder: its run folder, which may be absent.
    """
    devices_file, history = folder / _DEVICES_FILE, folder / "history.csv"
    devices = tuple(read_json(devices_file)) if devices_file.is_file() else ()
    if (folder / MANIFEST_FILE).is_file():
        epochs = read_manifest(folder).epochs
        return ArmState(arm, folder, "complete", epochs, folder, devices=devices)
    if not history.is_file():
        return ArmState(arm, folder, "not begun")
    run = folder / SO_FAR
    if (run / MANIFEST_FILE).is_file():
        return ArmState(arm, folder, "partial", read_manifest(run).epochs, run, devices=devices)
    return ArmState(arm, folder, "partial", len(read_table(history)), devices=devices)


def train_arm(
    arm: Arm,
    cohort: Cohort,
    folder: Path,
    *,
    source: str = "",
    skipped_problem_rows: int = 0,
    cache_folder: Path | None = None,
    stop: StopRequest = lambda: False,
    on_decode: Progress | None = None,
    on_epoch: EpochReport | None = None,
    on_step: StepReport | None = None,
) -> ArmState:
    """Train one arm, from where it stands until it is done or stopped.

    An arm that cannot begin, for want of pretrained weights or at an input size that its network
    cannot take, and one that diverges say so in their state; others can go on.

    Args:
        arm: the arm.
        cohort: cases to train and validate on.
        folder: its run folder.
        source: where the cohort was read from, for the record.
        skipped_problem_rows: rows that the caller chose to leave out, for the record.
        cache_folder: where prepared pixels are kept.
        stop: asked before and after every epoch; an arm that has not begun stays so.
        on_decode: called with (done, total) while radiographs are decoded.
        on_epoch: called with each epoch's row of the history.
        on_step: called with (done, total) optimiser steps of the epoch.

    Raises:
        ConfigError: the folder holds a training with another recipe or other data.
        DataError: cases that cannot be trained on.
    """
    found = arm_state(arm, folder)
    if found.status == "not begun" and stop():
        return found

    def note_epoch(row: dict[str, float]) -> None:
        _note_device(folder)
        if on_epoch is not None:
            on_epoch(row)

    try:
        train(
            arm.recipe,
            cohort,
            folder,
            source=source,
            skipped_problem_rows=skipped_problem_rows,
            resume=True,
            cache_folder=cache_folder,
            stop=stop,
            on_decode=on_decode,
            on_epoch=note_epoch,
            on_step=on_step,
        )
    except (CheckpointError, ConfigError, DataError) as error:
        now = arm_state(arm, folder)
        if now.status == "not begun" and isinstance(error, CheckpointError) and stop():
            return now
        return _unfinished(now, error)
    return arm_state(arm, folder)


def _unfinished(now: ArmState, error: CheckpointError | ConfigError | DataError) -> ArmState:
    """Return the state that an error leaves, or raise it where it is not this arm's alone."""
    reason = str(error).removeprefix(f"{now.folder}: ")
    if now.status == "not begun" and not isinstance(error, DataError):
        return replace(now, status="not run", reason=reason)
    if now.status == "partial" and isinstance(error, CheckpointError):
        return replace(now, reason=reason)
    if now.status == "partial" and isinstance(error, DataError):
        return replace(now, status="failed", run=None, reason=reason)
    raise error


def _note_device(folder: Path) -> None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    file = folder / _DEVICES_FILE
    known = read_json(file) if file.is_file() else []
    if name not in known:
        write_json(file, [*known, name])

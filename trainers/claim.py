"""Whose a run folder is: what is being trained in it, and by whom at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from boneage_xai.data.cache import PixelCache
from boneage_xai.data.splits import Split
from boneage_xai.errors import ConfigError
from boneage_xai.files import read_json, write_json, write_table
from boneage_xai.models.checkpoint import MANIFEST_FILE, SPLITS_FILE, read_manifest
from trainers.processes import Processes
from trainers.recipe import Recipe
from trainers.results import split_table

CLAIM_FILE = "engine/claim.json"
LOCK_FILE = "engine/lock"


def check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder in use, unless a training in it is to be continued.

    Raises:
        ConfigError: it is in use.
    """
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out}: expected a new or empty folder, found one in use; "
            "choose another, or --resume to continue a training there"
        )


@contextmanager
def at_work_alone(out: Path, processes: Processes, lock_file: str = LOCK_FILE) -> Iterator[None]:
    """Keep other trainings out of the folder; the lock ends with the process that holds it.

    Args:
        out: the run folder.
        processes: those that train together, of which the main one holds the lock.
        lock_file: where in the folder it lies.

    Raises:
        ConfigError: another training is at work in it.
    """
    lock = FileLock(out / lock_file, timeout=0, thread_local=False)

    def take() -> None:
        (out / lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"{out}: expected no other training at work in this folder, found one; wait for "
                "it to end or choose another --out"
            ) from None

    processes.once(take)
    try:
        yield
    finally:
        lock.release()


def begin_or_find_finished(out: Path, recipe: Recipe, split: Split, cache: PixelCache) -> bool:
    """Claim the folder; return whether the run in it is finished.

    Raises:
        ConfigError: it holds a training with another recipe or other data.
    """
    begun = _begun_with(out)
    if begun is None:
        # What a training left that never came to its first checkpoint.
        for name in ("engine/best.ckpt", "history.csv"):
            (out / name).unlink(missing_ok=True)
        write_json(
            out / CLAIM_FILE,
            {"recipe": recipe.model_dump(mode="json"), "data_fingerprint": cache.fingerprint},
        )
    else:
        check_same_recipe(out, recipe)
        if begun[1] != cache.fingerprint:
            raise _changed(out, "data")
    finished = (out / MANIFEST_FILE).is_file()
    if not finished:
        write_table(out / SPLITS_FILE, split_table(split, cache))
    return finished


def check_same_recipe(out: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the one that a training began with.

    Args:
        out: the run folder, which may be absent.
        recipe: to go on with.

    Raises:
        ConfigError: it is another.
    """
    begun = _begun_with(out)
    if begun is None:
        return
    try:
        # Keys that recipes did not have then take their defaults.
        earlier = Recipe.model_validate(begun[0])
    except ValidationError:
        raise _changed(out, "recipe") from None
    if earlier != recipe:
        raise _changed(out, "recipe")


def _begun_with(out: Path) -> tuple[Any, Any] | None:
    """Return recipe and data of a training that is finished or has a checkpoint, else None."""
    if (out / MANIFEST_FILE).is_file():
        manifest = read_manifest(out)
        return manifest.recipe, manifest.data.fingerprint
    if (out / CLAIM_FILE).is_file() and (out / "engine" / "last.ckpt").is_file():
        claim = read_json(out / CLAIM_FILE)
        return claim.get("recipe"), claim.get("data_fingerprint")
    return None


def _changed(out: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{out}: expected the {what} that this training began with, found another; "
        "a resumed training must not change it"
    )

"""Whose a run folder is: what is being trained in it, and by whom at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from boneage_xai.data.cache import PixelCache
from boneage_xai.data.splits import Split
from boneage_xai.errors import ConfigError
from boneage_xai.files import read_json, write_json, write_table
from boneage_xai.models.checkpoint import MANIFEST_FILE, SPLITS_FILE
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
def at_work_alone(out: Path, processes: Processes) -> Iterator[None]:
    """Keep other trainings out of the folder; the lock ends with the process that holds it.

    Args:
        out: the run folder.
        processes: those that train together, of which the main one holds the lock.

    Raises:
        ConfigError: another training is at work in it.
    """
    lock = FileLock(out / LOCK_FILE, timeout=0, thread_local=False)

    def take() -> None:
        (out / LOCK_FILE).parent.mkdir(parents=True, exist_ok=True)
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
    """Claim the folder; return whether the run in it is finished."""
    _claim_folder(out, recipe, cache.fingerprint)
    finished = (out / MANIFEST_FILE).is_file()
    if not finished:
        write_table(out / SPLITS_FILE, split_table(split, cache))
    return finished


def _claim_folder(out: Path, recipe: Recipe, fingerprint: str) -> None:
    claim = {"recipe": recipe.model_dump(mode="json"), "data_fingerprint": fingerprint}
    file = out / CLAIM_FILE
    # Before its first checkpoint a training can begin anew in any way.
    if file.is_file() and (file.parent / "last.ckpt").is_file():
        earlier = read_json(file)
        for key, what in (("recipe", "recipe"), ("data_fingerprint", "data")):
            if earlier.get(key) != claim[key]:
                raise ConfigError(
                    f"{out}: expected the {what} that this training began with, found another; "
                    "a resumed training must not change it"
                )
    else:
        write_json(file, claim)

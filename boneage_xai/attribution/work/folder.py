"""The work folder of an unfinished attribution, hidden inside the analysis folder.

``lock`` is held by the process at work and dies with it; ``claim.json`` says what is being
attributed; ``attributions.zarr`` takes the maps, ``parts`` a file per finished block, ``journal``
a note of every start and computation. ``summary.json`` appears when all is merged and only moving
is left.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from boneage_xai.errors import ConfigError
from boneage_xai.files import sync

logger = logging.getLogger(__name__)

WORK_FOLDER = ".attribute"
MAPS_FOLDER = "attributions.zarr"
ATTRIBUTION_TABLE = "attributions.parquet"
REGION_TABLE = "regions.parquet"

# Workers of a process that was killed end by themselves, after a while.
_WORKERS_END_SECONDS = 60.0


@dataclass(frozen=True)
class WorkPaths:
    """Where things lie in the work folder of an analysis folder."""

    out: Path

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.out / WORK_FOLDER

    @property
    def claim(self) -> Path:
        """What is being attributed."""
        return self.folder / "claim.json"

    @property
    def maps(self) -> Path:
        """The Zarr group under way."""
        return self.folder / MAPS_FOLDER

    @property
    def parts(self) -> Path:
        """A file per finished block."""
        return self.folder / "parts"

    @property
    def journal(self) -> Path:
        """A file per process, of what it began and computed."""
        return self.folder / "journal"

    @property
    def workers(self) -> Path:
        """A lock per worker process."""
        return self.folder / "workers"

    @property
    def summary(self) -> Path:
        """What was found, once all is merged."""
        return self.folder / "summary.json"


class Journal:
    """Notes of one process, a line of JSON each, which a kill of the process does not lose."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"

    def note(self, event: str, **what: Any) -> None:
        """Add a line."""
        line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **what})
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the notes of all processes, by time; a line that a kill cut short is left out."""
    notes = []
    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                notes.append(json.loads(line))
            except ValueError:
                logger.debug("%s: a line was cut short", file)
    return sorted(notes, key=lambda note: float(note["time"]))


@contextmanager
def locked(paths: WorkPaths) -> Iterator[None]:
    """Hold the work folder for this process; it is made if need be.

    Raises:
        ConfigError: another process is at work in it.
    """
    paths.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.folder / "lock", timeout=0, thread_local=False)
    busy = ConfigError(
        f"{paths.out}: expected no other attribution at work in this folder, found one; wait for "
        "it to end or choose another --out"
    )
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError) as error:
        raise busy from error
    try:
        _wait_for_workers(paths, busy)
        yield
    finally:
        if not paths.claim.exists():
            clear(paths)
        lock.release()


@contextmanager
def at_work(paths: WorkPaths) -> Iterator[None]:
    """Say that this worker process is at work, until it ends."""
    paths.workers.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.workers / f"{uuid.uuid4().hex}.lock", timeout=0, thread_local=False)
    with lock:
        yield


def _wait_for_workers(paths: WorkPaths, busy: ConfigError) -> None:
    waited = time.monotonic()
    for file in sorted(paths.workers.glob("*.lock")):
        while True:
            try:
                with FileLock(file, timeout=0, thread_local=False):
                    file.unlink(missing_ok=True)
                break
            except Timeout:
                if time.monotonic() - waited > _WORKERS_END_SECONDS:
                    raise busy from None
                time.sleep(0.2)


def clear(paths: WorkPaths) -> None:
    """Remove the work folder; half removed, it is none to resume."""
    paths.claim.unlink(missing_ok=True)
    shutil.rmtree(paths.folder, ignore_errors=True)


def begin_anew(paths: WorkPaths) -> None:
    """Remove all of an earlier work but the lock."""
    paths.claim.unlink(missing_ok=True)
    for entry in paths.folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
    paths.parts.mkdir()


def move_into_place(paths: WorkPaths, *, regions: bool) -> None:
    """Put the tables, then the maps, where readers look; may be repeated after a kill.

    Args:
        paths: of the work.
        regions: whether there is a table of regions.
    """
    out = paths.out
    for name in (ATTRIBUTION_TABLE, REGION_TABLE):
        if (paths.folder / name).exists():
            (paths.folder / name).replace(out / name)
    if not regions:
        # Sums of maps that are gone would be taken for sums of the new ones.
        (out / REGION_TABLE).unlink(missing_ok=True)
    target = out / MAPS_FOLDER
    if paths.maps.exists():
        if target.exists():
            # A folder cannot be renamed over another one.
            aside = paths.folder / f"replaced-{MAPS_FOLDER}"
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        paths.maps.rename(target)
    sync(out)


def counts(paths: WorkPaths) -> Mapping[str, int]:
    """Return how often the work was begun or resumed, and how many blocks were computed."""
    events = [note["event"] for note in read_journal(paths.journal)]
    return {"starts": events.count("start"), "blocks_computed": events.count("computed")}

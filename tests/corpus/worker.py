"""One process that reads the items one after another, watched by the one that asked."""

from __future__ import annotations

import multiprocessing
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from .items import Item, Outcome

# Far above MAX_SECONDS, which is processor time: a busy machine is no hang.
_HANG_SECONDS = 60.0
# A backstop only: what reading takes is measured.
_MEMORY_LIMIT_BYTES = 6 * 2**30


def outcomes(items: Iterable[Item]) -> Iterator[tuple[Item, Outcome]]:
    """Read every item in a process of its own, which is started again when it hangs or dies."""
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    process = None
    try:
        for item in items:
            if process is None:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there,), daemon=True)
                process.start()
                there.close()
            path = folder / item.name
            path.write_bytes(item.content)
            here.send((str(path), item.reader))
            try:
                if not here.poll(_HANG_SECONDS):
                    raise TimeoutError(f"no answer within {_HANG_SECONDS:g} s")
                outcome = here.recv()
            except (TimeoutError, EOFError, ConnectionError) as error:
                process.kill()
                process.join()
                process = None
                outcome = Outcome(type(error).__name__, message=str(error) or "the reader died")
            path.unlink()
            yield item, outcome
    finally:
        if process is not None:
            process.kill()
            process.join()
        shutil.rmtree(folder)


def _serve(connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    while True:
        try:
            path, reader = connection.recv()
        except EOFError:
            return
        connection.send(_read(Path(path), reader))


def _read(path: Path, reader: str) -> Outcome:
    # Imported before the clock starts.
    read_stored = _stored_reader(path) if reader == "stored" else None
    from boneage_xai.data.radiograph import read_radiograph
    from boneage_xai.data.tables import read_label_table
    from boneage_xai.errors import BoneAgeError

    before_mb = _forget_peak()
    start = _processor_seconds()
    error, is_refusal, message, pixels, facts = None, False, "", None, None
    try:
        if reader == "table":
            table = read_label_table(path)
            facts = {row.case_id: (row.sex.value, row.bone_age_months) for row in table.rows}
            message = "\n".join(problem.message for problem in table.problems)
        elif read_stored is not None:
            read_stored()
        else:
            pixels = read_radiograph(path).pixels
    except Exception as raised:  # Whatever comes is an outcome.
        error, is_refusal = type(raised).__name__, isinstance(raised, BoneAgeError)
        message = str(raised)
    seconds = _processor_seconds() - start
    return Outcome(error, is_refusal, message, pixels, facts, seconds, peak_mb() - before_mb)


def _stored_reader(path: Path) -> Callable[[], object]:
    """Return what reads a file of the toolkit's own, metadata in a folder of the file's name."""
    from boneage_xai.files import read_json, read_table

    from .stored import chunk

    if path.suffix in (".json", ".parquet"):
        return lambda: read_json(path) if path.suffix == ".json" else read_table(path)
    folder = path.parent / "folders" / path.name
    if path.suffix == ".run":
        from boneage_xai.models.checkpoint import read_manifest

        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / "run.json")
        return lambda: read_manifest(folder)
    from boneage_xai.stored_maps import StoredMaps

    first = folder / "gradient" / "c" / "0" / "0" / "0"
    first.parent.mkdir(parents=True)
    first.write_bytes(chunk())
    (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    shutil.copyfile(path, folder / "gradient" / "zarr.json")
    return lambda: StoredMaps(folder)["gradient"][0]


def _processor_seconds() -> float:
    """Return what this process and those it started, living and dead, have taken."""
    times = psutil.Process().cpu_times()
    dead = times.children_user + times.children_system
    return dead + sum(sum(one.cpu_times()[:2]) for one in _processes())


def _processes() -> list[psutil.Process]:
    """Return this process and those it started: compressed DICOM is decoded by another."""
    this = psutil.Process()
    return [this, *this.children()]


def _forget_peak() -> float:
    """Set the peak back to what is held now, where the system can; return that in MB."""
    try:
        for process in _processes():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    except OSError:
        return 0.0
    return peak_mb()


def peak_mb() -> float:
    """Return the largest resident memory of these processes since their peaks were set back."""
    try:
        states = [Path(f"/proc/{one.pid}/status").read_text() for one in _processes()]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = [re.search(r"VmHWM:\s+(\d+) kB", state) for state in states]
    return sum(float(one[1]) for one in found if one) / 1024

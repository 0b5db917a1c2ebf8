"""The Ray engine: the same blocks, computed by workers on one machine or several.

Ray Core rather than Ray Data: the blocks are given and must stay as they are, and what they yield
goes into a shared folder, so there is no data set to stream through; what is needed is workers that
keep a prepared network, and blocks that are given to another worker when one dies.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from boneage_xai.attribution.work.blocks import BlockWorker, computing, decide
from boneage_xai.attribution.work.claim import Claim
from boneage_xai.attribution.work.engines import Computed, Finished
from boneage_xai.attribution.work.folder import WorkPaths, at_work
from boneage_xai.attribution.work.job import Job, machine
from boneage_xai.attribution.work.parts import Part, read_part
from boneage_xai.errors import AttributionError, BoneAgeError, ConfigError

# A block that this many workers have died of is taken for their reason.
_MOST_ATTEMPTS = 3
# While one block computes, the next is read and the last is written.
_BLOCKS_A_WORKER = 2
_USAGE_STATISTICS = "RAY_USAGE_STATS_ENABLED"


class RayEngine:
    """Workers of a Ray cluster compute, each on its GPU or its share of the cores.

    Every worker needs the analysis folder, the pixel cache and the region maps under the same
    paths, that is a shared file system, and the same versions of the toolkit and its libraries.
    A worker that dies costs the blocks it had; they are computed by another.

    Args:
        address: of a running cluster; None starts Ray on this machine and ends it afterwards.
        workers: at most so many; None takes as many as the cluster has room for.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    name = "ray"

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers: expected at least 1, found {workers}")
        self.ray = _import_ray()
        self.threads = torch.get_num_threads()
        self.most_workers = workers
        self.started = not self.ray.is_initialized()
        if self.started:
            _connect(self.ray, address, workers, self.threads)
        self.on_gpu = self.ray.cluster_resources().get("GPU", 0) >= 1
        self.first: Any = None
        self.shared: Any = None

    def machine(self, job: Job) -> dict[str, Any]:
        """Return what the first worker is."""
        self._begin(job)
        found: dict[str, Any] = self._answer(self.first.machine.remote())
        return found

    def decide(self, job: Job) -> dict[str, Any]:
        """Let the first worker measure and decide."""
        self._begin(job)
        found: dict[str, Any] = self._answer(self.first.decide.remote())
        return found

    def compute(
        self,
        job: Job,
        claim: Claim,
        paths: WorkPaths,
        blocks: Sequence[int],
        finished: Finished,
        computed: Computed,
    ) -> None:
        """Give the blocks to workers, and those of a worker that dies to another.

        Raises:
            AttributionError: a network or method that gives no valid map for a case, or a block
                that one worker after the other dies of.
            DataError: a region map that does not fit.
        """
        self._begin(job)
        attempts = dict.fromkeys(blocks, 0)
        waiting = list(reversed(blocks))
        crew = _Crew(self, claim, WorkPaths(paths.out.resolve()))
        try:
            crew.add(self.first)
            for _ in range(min(self._room(), len(blocks)) - 1):
                crew.add(self._worker())
            while waiting or crew.busy:
                crew.give(waiting)
                reference, block = crew.wait()
                try:
                    self._answer(reference)
                except _WorkerDiedError as error:
                    waiting += crew.lose(reference)
                    attempts[block] += 1
                    if attempts[block] == _MOST_ATTEMPTS:
                        ids = claim.case_ids(block)
                        raise AttributionError(
                            f"cases {ids[0]} to {ids[-1]}: expected a worker to live through them, "
                            f"found {_MOST_ATTEMPTS} that died ({error})"
                        ) from error
                    crew.add(self._worker())
                    continue
                crew.done(reference)
                part = _part_of(paths, claim, block)
                finished(part)
                computed(len(part.case_ids))
        finally:
            # What they are doing after an error would only be in the way of what comes next.
            self.first = None
            crew.dismiss()

    def close(self) -> None:
        """End the workers, and Ray where it was started for this."""
        if self.first is not None:
            self.ray.kill(self.first)
            self.first = None
        if self.started:
            self.ray.shutdown()

    def _begin(self, job: Job) -> None:
        if self.shared is None:
            try:
                self.shared = self.ray.put(_Shipped(job))
            except (pickle.PickleError, TypeError, RuntimeError) as error:
                raise ConfigError(
                    "--engine ray: expected a network that can be sent to workers, found "
                    f"{type(job.network).__name__}, which cannot ({_first_line(error)}); the "
                    "engine of this process takes it"
                ) from error
        if self.first is None:
            self.first = self._worker()

    def _room(self) -> int:
        resources = self.ray.cluster_resources()
        room = resources.get("GPU", 0) if self.on_gpu else resources.get("CPU", 1) // self.threads
        return max(1, min(int(room), self.most_workers or int(room)))

    def _worker(self) -> Any:
        options = {
            "num_cpus": 1 if self.on_gpu else self.threads,
            "num_gpus": 1 if self.on_gpu else 0,
            "max_concurrency": _BLOCKS_A_WORKER,
            "max_restarts": 0,
        }
        return self.ray.remote(_Worker).options(**options).remote(self.shared, self.threads)

    def _answer(self, reference: Any) -> Any:
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except exceptions.RayTaskError as error:
            # The worker's own error, which Ray wraps.
            if isinstance(error.cause, BoneAgeError):
                raise error.cause from None
            raise
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
        ) as error:
            raise _WorkerDiedError(
                f"--engine ray: a worker ended ({_first_line(error)})"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _WorkerDiedError(AttributionError):
    """A worker process or its machine is gone."""


class _Crew:
    """The workers and which block each of them has."""

    def __init__(self, engine: RayEngine, claim: Claim, paths: WorkPaths) -> None:
        self.engine = engine
        self.parameters = (claim.identity, claim.decisions, paths)
        self.workers: list[Any] = []
        self.busy: dict[Any, tuple[Any, int]] = {}

    def add(self, worker: Any) -> None:
        """Take on a worker."""
        self.workers.append(worker)

    def give(self, waiting: list[int]) -> None:
        """Give blocks away, the first to those who have fewest."""
        for load in range(_BLOCKS_A_WORKER):
            for worker in self.workers:
                held = sum(other is worker for other, _ in self.busy.values())
                if waiting and held == load:
                    block = waiting.pop()
                    self.busy[worker.run.remote(*self.parameters, block)] = (worker, block)

    def wait(self) -> tuple[Any, int]:
        """Return the next answer with its block."""
        (reference, *_), _ = self.engine.ray.wait(list(self.busy), num_returns=1)
        return reference, self.busy[reference][1]

    def done(self, reference: Any) -> None:
        """Free a worker of a block."""
        del self.busy[reference]

    def dismiss(self) -> None:
        """End all workers."""
        for worker in self.workers:
            self.engine.ray.kill(worker)
        self.workers, self.busy = [], {}

    def lose(self, reference: Any) -> list[int]:
        """Strike off a dead worker; return the blocks it had."""
        dead, _ = self.busy[reference]
        self.workers = [worker for worker in self.workers if worker is not dead]
        lost = [key for key, (worker, _) in self.busy.items() if worker is dead]
        return [self.busy.pop(key)[1] for key in lost]


class _Worker:
    """One worker process: prepares the network once, then takes blocks."""

    def __init__(self, shipped: _Shipped, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.job = shipped.job("cuda" if torch.cuda.is_available() else "cpu")
        self.computing = threading.Lock()
        self.worker: BlockWorker | None = None
        self.alive = contextlib.ExitStack()

    def machine(self) -> dict[str, Any]:
        return machine(self.job.network)

    def decide(self) -> dict[str, Any]:
        with computing(self.threads):
            return decide(self.job)

    def run(
        self, identity: dict[str, Any], decisions: dict[str, Any], paths: WorkPaths, block: int
    ) -> None:
        with self.computing:
            if self.worker is None:
                self._prepare(Claim(identity, decisions), paths)
            worker = self.worker
        if worker is None:
            raise AttributionError("worker: expected a prepared network, found none")
        source = worker.read(block)
        with self.computing, computing(decisions["threads"]):
            result = worker.compute(source)
            worker.note_computed(result)
        worker.write(result)

    def _prepare(self, claim: Claim, paths: WorkPaths) -> None:
        if not paths.claim.is_file():
            raise ConfigError(
                f"{paths.folder}: expected the folder that the leading process made, found none; "
                "workers need the analysis folder on a file system that all of them share"
            )
        if machine(self.job.network) != dict(claim.identity["machine"]):
            raise ConfigError(
                f"worker: expected {claim.identity['machine']}, found "
                f"{machine(self.job.network)}; results would not be the same"
            )
        self.alive.enter_context(at_work(paths))
        with computing(claim.decisions["threads"]):
            self.worker = BlockWorker(self.job, claim, paths)


class _Shipped:
    """A job on its way to other processes: pixels in a file go as its path."""

    def __init__(self, job: Job) -> None:
        network = copy.deepcopy(job.network).cpu()
        self.file = _file_of(job.pixels)
        pixels = job.pixels[:0] if self.file is not None else np.asarray(job.pixels)
        self.rest = replace(job, network=network, pixels=pixels)

    def job(self, device: str) -> Job:
        pixels = self.rest.pixels
        if self.file is not None:
            path, offset, shape = self.file
            if not path.is_file():
                raise ConfigError(
                    f"{path}: expected the pixel cache, found none; workers need it on a file "
                    "system that all of them share"
                )
            pixels = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
        return replace(self.rest, network=self.rest.network.to(device), pixels=pixels)


def _file_of(pixels: npt.NDArray[np.uint8]) -> tuple[Path, int, tuple[int, ...]] | None:
    """Return file, offset and shape of a whole memory map, None for what is only in memory."""
    if (
        not isinstance(pixels, np.memmap)
        or pixels.filename is None
        or isinstance(pixels.base, np.memmap)
        or not pixels.flags.c_contiguous
    ):
        return None
    return Path(pixels.filename).resolve(), pixels.offset, pixels.shape


def _part_of(paths: WorkPaths, claim: Claim, block: int) -> Part:
    part = read_part(paths.parts, block, claim.digest, claim.case_ids(block), paths.maps)
    if part is None:
        raise ConfigError(
            f"{paths.folder}: expected the results of a worker, found none; workers need the "
            "analysis folder on a file system that all of them share"
        )
    return part


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            "--engine ray: expected Ray, found it not installed; "
            "pip install 'boneage-xai[ray]' installs it"
        ) from error
    return ray


def _connect(ray: Any, address: str | None, workers: int | None, threads: int) -> None:
    """Connect to a cluster, or start one on this machine that reports to nobody."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
        if workers is not None and not torch.cuda.is_available():
            # Asked for by number, workers may share cores.
            options["num_cpus"] = workers * threads
    else:
        options["address"] = address
    try:
        with _without_usage_statistics():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--engine ray: expected a Ray cluster at {address or 'this machine'}, found {error}"
        ) from error


@contextlib.contextmanager
def _without_usage_statistics() -> Iterator[None]:
    before = os.environ.get(_USAGE_STATISTICS)
    os.environ[_USAGE_STATISTICS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_USAGE_STATISTICS]
        else:
            os.environ[_USAGE_STATISTICS] = before

"""The local engine: blocks one after the other in this process, read and written beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from boneage_xai.attribution.work.blocks import BlockWorker, computing, decide
from boneage_xai.attribution.work.claim import Claim
from boneage_xai.attribution.work.folder import WorkPaths
from boneage_xai.attribution.work.job import Job, machine
from boneage_xai.attribution.work.parts import Part

Finished = Callable[[Part], None]
"""Called in the process that leads the work with each part, once it is on disk."""

Computed = Callable[[int], None]
"""Called with the number of cases that were computed since."""


class Engine(Protocol):
    """What computes the blocks of an attribution; which one it is changes no result."""

    name: str

    def machine(self, job: Job) -> dict[str, Any]:
        """Return what will compute, see :func:`boneage_xai.attribution.work.job.machine`."""
        ...

    def decide(self, job: Job) -> dict[str, Any]:
        """Return what :func:`boneage_xai.attribution.work.blocks.decide` does where it computes."""
        ...

    def compute(
        self,
        job: Job,
        claim: Claim,
        paths: WorkPaths,
        blocks: Sequence[int],
        finished: Finished,
        computed: Computed,
    ) -> None:
        """Compute these blocks and write their maps and parts."""
        ...

    def close(self) -> None:
        """End whatever was started."""
        ...


class LocalEngine:
    """This process computes, while one thread reads the next block and one writes the last.

    At most one block is read ahead and one is being written, so memory does not grow. A block's
    computation counts once the one before is on disk: a kill costs at most one computed block
    and what of the next had been begun.
    """

    name = "local"

    def machine(self, job: Job) -> dict[str, Any]:
        """Return what will compute."""
        return machine(job.network)

    def decide(self, job: Job) -> dict[str, Any]:
        """Measure and decide in this process."""
        return decide(job)

    def compute(
        self,
        job: Job,
        claim: Claim,
        paths: WorkPaths,
        blocks: Sequence[int],
        finished: Finished,
        computed: Computed,
    ) -> None:
        """Compute these blocks in order.

        Raises:
            AttributionError: a network or method that gives no valid map for a case.
            DataError: a region map that does not fit.
        """
        with (
            computing(claim.decisions["threads"]),
            # Leaving them waits for what they are doing, also after an error or Ctrl-C, so a
            # block that was computed is not lost.
            ThreadPoolExecutor(1, "write") as writing,
            ThreadPoolExecutor(1, "read") as reading,
        ):
            worker = BlockWorker(job, claim, paths)
            ahead = [reading.submit(worker.read, block) for block in blocks[:1]]
            being_written: Future[Part] | None = None
            for number in range(len(blocks)):
                source = ahead.pop().result()
                ahead += [reading.submit(worker.read, block) for block in blocks[number + 1 :][:1]]
                result = worker.compute(source)
                if being_written is not None:
                    finished(being_written.result())
                worker.note_computed(result)
                being_written = writing.submit(worker.write, result)
                for _ in source.members:
                    computed(1)
            if being_written is not None:
                finished(being_written.result())

    def close(self) -> None:
        """Nothing was started."""

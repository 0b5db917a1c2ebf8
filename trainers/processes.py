"""Processes that train one network together, one a device: how they start, join and take turns."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import lightning
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from boneage_xai.errors import ConfigError
from trainers.share import WHOLE, Share

STEP_TIMEOUT = timedelta(minutes=10)
"""After so long without an answer from the others while training, a process ends with an error."""
TURN_TIMEOUT = timedelta(days=2)
"""The same while radiographs are decoded; a process that dies is noticed at once all the same."""

_LAUNCHER = "BONEAGE_XAI_LAUNCHER"

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train one network together.

    Args:
        devices: processes a machine.
        nodes: machines.
        share: of this process among all; the first writes files and talks to people.
        local_rank: of this process on its machine.
        group: what turns are agreed in; None where there is one process.
    """

    devices: int = 1
    nodes: int = 1
    share: Share = WHOLE
    local_rank: int = 0
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and talks to people."""
        return self.share.rank == 0

    def once(self, work: Callable[[], T]) -> T:
        """Let the main process work; all return what it returned or raise what it raised."""
        if self.group is None:
            return work()
        outcome: list[tuple[Any, Exception | None]] = [(None, None)]
        if self.is_main:
            try:
                outcome = [(work(), None)]
            except Exception as error:
                outcome = [(None, error)]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        result, refusal = outcome[0]
        if refusal is not None:
            raise refusal
        return result  # type: ignore[no-any-return]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Let the main process work first, then one process of each machine, then the others.

        What the first leaves on disk is there for those that follow: on a shared file system the
        main process alone has something to do, elsewhere one process of each machine.

        Raises:
            Exception: what the first that failed raised, in all processes.
        """
        if self.group is None:
            return work()
        turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        done: list[T] = []
        for now in range(3):
            refusal: Exception | None = None
            if now == turn:
                try:
                    done.append(work())
                except Exception as error:
                    refusal = error
            for other in self.tell(refusal):
                if other is not None:
                    raise other
        return done[0]

    def tell(self, mine: T) -> list[T]:
        """Return what each process tells the others, in the order of their ranks."""
        if self.group is None:
            return [mine]
        told: list[Any] = [None] * self.share.count
        dist.all_gather_object(told, mine, group=self.group)
        return told


ALONE = Processes()


def require_devices(devices: int) -> None:
    """Refuse more processes than this machine has GPUs, where it has any.

    Raises:
        ConfigError: there are fewer.
    """
    gpus = torch.cuda.device_count()
    if gpus and devices > gpus:
        raise ConfigError(f"--devices: expected at most {gpus}, the GPUs here, found {devices}")


def join(devices: int, nodes: int) -> Processes | None:
    """Meet the processes that torchrun, SLURM, LSF or MPI started together with this one.

    Args:
        devices: processes a machine.
        nodes: machines.

    Returns:
        This process among them; None where several are wanted and this one was started alone.

    Raises:
        ConfigError: another number was started than is wanted.
    """
    environment = _environment()
    started = 1 if environment is None else environment.world_size()
    wanted = devices * nodes
    if started == wanted == 1:
        return ALONE
    # A batch job of one task: the processes of its devices are started here.
    if environment is None or (started == 1 and nodes == 1):
        return None
    if started != wanted:
        raise ConfigError(
            f"--devices {devices} --nodes {nodes}: expected {wanted} processes started together, "
            f"found {started}"
        )
    require_devices(devices)
    if _LAUNCHER in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    fabric = lightning.Fabric(
        devices=devices, num_nodes=nodes, strategy=DDPStrategy(timeout=STEP_TIMEOUT)
    )
    try:
        fabric.launch()
    except ValueError as error:
        raise ConfigError(f"--devices {devices} --nodes {nodes}: {error}") from error
    # Threads that still wait for the others would abort the interpreter as it ends.
    atexit.register(_part)
    return Processes(
        devices=devices,
        nodes=nodes,
        share=Share(fabric.global_rank, fabric.world_size),
        local_rank=fabric.local_rank,
        group=dist.new_group(backend="gloo", timeout=TURN_TIMEOUT),
    )


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _environment() -> ClusterEnvironment | None:
    """Return what started this process together with others, None where nothing did."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind.detect():
            environment: ClusterEnvironment = kind()
            return environment
    return None


def _end_with_launcher() -> None:
    # A killed launcher cannot end what it started, which would go on writing into the run.
    while str(os.getppid()) == os.environ[_LAUNCHER]:
        time.sleep(1)
    os._exit(1)


def launch(devices: int, arguments: Sequence[str]) -> tuple[int, str | None]:
    """Start a process a device on this machine and wait; the first that fails ends them all.

    Args:
        devices: how many.
        arguments: of the Python interpreter in each; the command in it calls :func:`join`.

    Returns:
        The exit code: 0, that of a process that gave up with 2 or 130, 1 after a crash; and what
        the processes cannot have said themselves, None where there is nothing.
    """
    os.environ[_LAUNCHER] = str(os.getpid())
    # What went wrong is said here or by the processes themselves.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException as end:
            return 128 + int(end.sigval), None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = int(failure.exitcode)
            if code in (2, 130):
                return code, None
            ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return 1, f"process {rank} of {devices} ended by {ending}, and the others with it"
        finally:
            del os.environ[_LAUNCHER]
    return 0, None

"""Several processes of one command, of which one talks to people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from apps.console import hush, note
from boneage_xai.errors import ConfigError

if TYPE_CHECKING:
    from trainers.processes import Processes
    from trainers.recipe import Recipe


def joined(devices: int, nodes: int, recipe: Recipe) -> Processes:
    """Return this process among those that train together.

    Where nothing started several, they are started here, and this one ends with them.

    Raises:
        ConfigError: a number that cannot share the recipe's batch or was not started.
        Exit: the processes that were started here have ended.
    """
    from trainers.processes import join, launch, require_devices
    from trainers.share import require_shares

    require_shares(devices * nodes, recipe.training.batch_size)
    processes = join(devices, nodes)
    if processes is None:
        if nodes > 1:
            raise ConfigError(
                f"--nodes {nodes}: expected processes that torchrun or SLURM started on {nodes} "
                "machines, found this one alone"
            )
        require_devices(devices)
        # -P: a folder called apps where the command runs is not this one.
        code, why = launch(devices, ["-P", "-m", "apps.cli", *sys.argv[1:]])
        if why is not None:
            note(f"{why}; the same command with --resume goes on from the last finished epoch")
        raise typer.Exit(code)
    if not processes.is_main:
        hush()
    return processes

"""The command that trains a network by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import bars, note, quiet_lightning, say
from apps.options import CacheOption, ColumnOption, DataOption, SkipOption
from apps.processes import joined
from apps.sources import one_cohort


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path of a recipe.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key, e.g. training.learning_rate=5e-4."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training in RUN.")
    ] = False,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            "--logger",
            help="Log history and recipe there too, repeatable: tensorboard, mlflow; under "
            "RUN/logs, mlflow to "
            "$MLFLOW_TRACKING_URI where that is set. It changes nothing of the run.",
        ),
    ] = None,
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            help="GPUs (processes, without one) of each machine that share the recipe's batch.",
        ),
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(
            min=1, help="Machines; torchrun or SLURM starts the command once for each device."
        ),
    ] = 1,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
) -> None:
    """Train a network by a recipe. Of several sets in SOURCE the one called training is used.

    Example: boneage-xai train cpu-small --data ~/rsna --out runs/cpu-small
    """
    from trainers.auxiliary import phantom_region_ages
    from trainers.engine import train as train_run
    from trainers.recipe import load_recipe

    quiet_lightning()
    checked = load_recipe(recipe, settings or [])
    processes = joined(devices, nodes, checked)
    chosen, left_out = processes.once(lambda: one_cohort(data, column, skip_problems, "training"))
    learns_regions = checked.auxiliary.region_ages > 0
    region_ages = processes.once(lambda: phantom_region_ages(data)) if learns_regions else None
    with bars("Decoding", "Training") as (decoding, training):

        def on_epoch(row: dict[str, float]) -> None:
            note(
                f"epoch {row['epoch'] + 1:.0f}/{checked.training.epochs} "
                f"at {row['size_px']:.0f} px: train {row['train_mae_months']:.1f}, "
                f"validation {row['val_mae_months']:.1f} months ({row['seconds']:.0f} s)"
            )

        try:
            run = train_run(
                checked,
                chosen,
                out,
                source=str(data),
                skipped_problem_rows=left_out,
                resume=resume,
                cache_folder=cache,
                loggers=logger or (),
                processes=processes,
                region_ages=region_ages,
                on_decode=decoding,
                on_epoch=on_epoch,
                on_step=training,
            )
        except KeyboardInterrupt:
            note("interrupted; the same command with --resume goes on from the last epoch")
            raise typer.Exit(130) from None
    manifest = run.manifest
    say(
        f"{out}: validation MAE {manifest.val_mae_months:.2f} months over "
        f"{manifest.data.n_validation} cases (best epoch {manifest.best_epoch + 1} of "
        f"{manifest.epochs})"
    )

"""The training history, one row an epoch, as ``history.csv``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import lightning
import pandas as pd

from boneage_xai.files import read_table, write_table
from trainers.recipe import Recipe

EpochReport = Callable[[dict[str, float]], None]
StepReport = Callable[[int, int], None]


class HistoryWriter(lightning.Callback):
    """Append each finished epoch to ``history.csv``.

    Rows of epochs that a resumed training repeats are replaced.

    Args:
        path: the table.
        recipe: tells the input size of each epoch.
        on_epoch: called with each new row.
        on_step: called with (done, total) optimiser steps of the epoch.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        on_epoch: EpochReport | None = None,
        on_step: StepReport | None = None,
    ) -> None:
        self.path = path
        self.recipe = recipe
        self.on_epoch = on_epoch
        self.on_step = on_step
        self._started = 0.0

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Report progress within the epoch."""
        if self.on_step is not None and trainer.is_global_zero:
            self.on_step(batch_idx + 1, int(trainer.num_training_batches))

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the epoch's row, in the main process."""
        # Processes reduce them together when they are first read: all have to read them here.
        measured = trainer.callback_metrics
        if not trainer.is_global_zero:
            return
        row: dict[str, float] = {
            "epoch": trainer.current_epoch,
            **{
                name: float(measured[name])
                for name in ("train_mae_months", "val_mae_months", "train_loss", "val_loss")
            },
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": time.perf_counter() - self._started,
            "size_px": self.recipe.training.size_px_of_epoch(
                trainer.current_epoch, self.recipe.preprocessing.size_px
            ),
        }
        frame = pd.DataFrame([row])
        if self.path.is_file():
            earlier = read_table(self.path)
            frame = pd.concat([earlier[earlier["epoch"] < row["epoch"]], frame], ignore_index=True)
        write_table(self.path, frame)
        if self.on_epoch is not None:
            self.on_epoch(row)

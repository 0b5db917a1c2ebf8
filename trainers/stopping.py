"""Ending a training between two epochs: when asked to, without gain, when it has diverged."""

from __future__ import annotations

from collections.abc import Callable

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

StopRequest = Callable[[], bool]


class StopWhenAsked(lightning.Callback):
    """Ask after each epoch but the last whether to stop; what is stopped can be resumed.

    Args:
        asked: whether to stop.
    """

    def __init__(self, asked: StopRequest) -> None:
        self._asked = asked
        self.stopped = False

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop where asked to, unless the training ends here anyway."""
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            return
        self.stopped = trainer.strategy.reduce_boolean_decision(self._asked(), all=False)
        trainer.should_stop = self.stopped


class StopForGood(EarlyStopping):
    """Lightning's early stopping, which also holds for a training that is resumed after it."""

    @property
    def has_stopped(self) -> bool:
        """Whether the training has ended here, now or before it was resumed."""
        return self.stopping_reason != EarlyStoppingReason.NOT_STOPPED

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Train no further where the checkpoint is that of a training that had stopped."""
        trainer.should_stop = trainer.should_stop or self.has_stopped


class StopWhenDiverged(lightning.Callback):
    """Stop where the weights are no longer finite, from which no epoch leads back."""

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Train no further where the checkpoint is that of a training that had diverged."""
        self._look(trainer, pl_module)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop where they are no numbers."""
        self._look(trainer, pl_module)

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        finite = [torch.isfinite(parameter).all() for parameter in module.parameters()]
        if not bool(torch.stack(finite).all()):
            trainer.should_stop = True

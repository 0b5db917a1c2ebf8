"""Ending a training between two epochs because somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable

import lightning

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

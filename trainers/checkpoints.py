"""The engine's checkpoints of the last and the best epoch, in a run folder that may be moved."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from boneage_xai.errors import CheckpointError
from boneage_xai.files import ARCHIVE_ERRORS, link_durably, write_durably
from boneage_xai.models.backbones import read_state_dict
from trainers.recipe import Recipe

logger = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that the engine wrote, without executing anything.

    torch does not compare the checksums that it wrote: a flipped bit would go on training.

    Raises:
        CheckpointError: absent, damaged, or a file that only loads by executing code.
    """
    try:
        damaged = None
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
    except ARCHIVE_ERRORS as error:
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, found damage; train anew in another folder"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, found damage in {damaged}; train anew in "
            "another folder"
        )
    return read_state_dict(path)


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and that of an epoch once.

    Lightning writes them where temporary files are and moves them; from another file system that
    is a copy, of which a full disk or a kill leaves the first half in place of the last checkpoint.
    """

    _written: tuple[int, Path] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint beside its target and rename it.

        The best epoch is often the last one, too, and a checkpoint is several times its weights:
        the second name is a link.
        """
        path = Path(path)
        step = int(checkpoint["global_step"])
        if self._written is not None and self._written[0] == step:
            try:
                link_durably(self._written[1], path)
                return
            except OSError:
                logger.debug("%s: links are not possible here", path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_durably(path, buffer.getbuffer())
        self._written = step, path


class MovableCheckpoint(ModelCheckpoint):
    """Keep a checkpoint, and what was the best so far also where the folder has another name.

    Lightning forgets the best epoch's error when its folder was moved, and would keep the next
    epoch instead, however bad.

    Args:
        kwargs: as for Lightning's ModelCheckpoint.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(enable_version_counter=False, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of an interrupted training, as if it had been here."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {name: here(path) for name, path in state_dict.items() if name.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )


class BestAtFullSize(MovableCheckpoint):
    """Keep the best epoch among those trained at the full input size.

    Validation runs at the size an epoch trains at, so that only those are comparable with
    the network that is used afterwards.

    Args:
        recipe: tells the input size of each epoch.
        kwargs: as for Lightning's ModelCheckpoint.
    """

    def __init__(self, recipe: Recipe, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._recipe = recipe

    def check_monitor_top_k(self, trainer: lightning.Trainer, current: Any = None) -> bool:
        """Return whether this epoch is the best so far and of the full size."""
        full = self._recipe.preprocessing.size_px
        size_px = self._recipe.training.size_px_of_epoch(trainer.current_epoch, full)
        return size_px == full and super().check_monitor_top_k(trainer, current)

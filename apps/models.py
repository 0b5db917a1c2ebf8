"""The network that a command works on: a run, an ensemble, or one that a model card describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apps.console import note
from apps.options import device
from boneage_xai.errors import ConfigError

if TYPE_CHECKING:
    from boneage_xai.models.interface import Model


def one_model(run: Path | None, card: Path | None) -> Model:
    """Load the network that the command line names.

    Args:
        run: folder of a run or an ensemble.
        card: model card.

    Raises:
        ConfigError: neither or both.
    """
    from boneage_xai.models.ensemble import load_model
    from boneage_xai.models.external import load_external

    if run is not None and card is None:
        return load_model(run, device())
    if card is not None and run is None:
        return load_external(card, device())
    found = "neither" if run is None else f"both, {run} and {card}"
    raise ConfigError(f"expected either a run folder RUN or --card FILE, found {found}")


def note_unknown_training(model: Model) -> None:
    """Say on stderr what follows where nobody knows what a network was trained on."""
    if model.cohort_name is None:
        note(
            f"note: what {model.name} was trained on is not recorded: every case counts as "
            "held-out, and errors are too small where it was trained on some of them"
        )

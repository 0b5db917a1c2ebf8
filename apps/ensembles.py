"""The command that makes one model of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import note, say


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN …", help="Run folders from `train`.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder to write.")],
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over each radiograph and its mirror image.")
    ] = False,
    rotate: Annotated[
        float,
        typer.Option(
            help="Average over radiographs upright and turned by so many degrees to either side.",
            min=0.0,
            max=45.0,
        ),
    ] = 0.0,
    name: Annotated[str | None, typer.Option(help="How it is called in reports.")] = None,
) -> None:
    """Make one model of several runs, or of one seen in several views (test-time augmentation).

    It predicts the mean. Commands take its folder as they take a run, but for `neighbours`,
    `model-card` and `ensemble`; `export-onnx` takes none of turned views.

    Example: boneage-xai ensemble runs/a runs/b runs/c --flip --out runs/abc
    """
    from boneage_xai.models.averaged import Views
    from boneage_xai.models.ensemble import write_ensemble
    from reports.wording import counted
    from trainers.recipe import AugmentationSettings

    made = write_ensemble(runs, out, views=Views(flip=flip, rotation_degrees=rotate), name=name)
    say(f"{out}: {made.name}, model {made.model_id}, {counted(len(made.members), 'run')}")
    learnt = [one.manifest.recipe.get("augmentation", {}) for one in made.members]
    mirrored = [
        AugmentationSettings(horizontal_flip=one.get("horizontal_flip", 0)) for one in learnt
    ]
    seldom = [one for one in mirrored if one.horizontal_flip < 0.5]
    if flip and seldom:
        note(
            f"{counted(len(seldom), 'run')} saw few mirror images in training: to average over "
            "them may make predictions worse, which `compare` tells"
        )

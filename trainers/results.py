"""What a training writes of itself when it ends: a run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from boneage_xai.analysis.baselines import Baselines
from boneage_xai.data.cache import PixelCache
from boneage_xai.data.splits import Split
from boneage_xai.errors import DataError
from boneage_xai.figures.style import figure_bytes
from boneage_xai.figures.training import learning_curve
from boneage_xai.files import read_table, write_bytes
from boneage_xai.models.checkpoint import (
    SPLITS_FILE,
    WEIGHTS_FILE,
    RunManifest,
    TrainingData,
    save_weights,
    write_manifest,
)
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.predict import predict_pixels
from boneage_xai.types import Cohort
from trainers.recipe import Recipe

SO_FAR = "so-far"
"""Inside the folder of a training that was stopped: a run folder of its best epoch so far."""


def take_history(out: Path, run: Path) -> None:
    """Give a run folder inside that of a stopped training the history and the split of that.

    Args:
        out: folder of the training.
        run: begun anew; ``out`` itself where the training was not stopped.
    """
    if run != out:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        for name in ("history.csv", SPLITS_FILE):
            shutil.copyfile(out / name, run / name)


def split_table(split: Split, cache: PixelCache) -> pd.DataFrame:
    """Return ``splits.csv``: each case, its part, and the digest it is known again by."""
    case_ids = [*split.train, *split.validation]
    digests = cache.digests()
    return pd.DataFrame(
        {
            "case_id": case_ids,
            "split": ["train"] * len(split.train) + ["validation"] * len(split.validation),
            "pixels_digest": [digests[row] for row in cache.rows(case_ids)],
        }
    )


def write_results(
    network: BoneAgeRegressor,
    recipe: Recipe,
    held_out: Cohort,
    cache: PixelCache,
    out: Path,
    best_epoch: int,
    data: TrainingData,
    baselines: Baselines,
) -> None:
    """Predict the cases held out and write weights, learning curve and manifest.

    Args:
        network: with the weights of the best epoch.
        recipe: that trained it.
        held_out: the validation cases.
        cache: their prepared pixels.
        out: the run folder, which has a history.
        best_epoch: whose weights these are.
        data: what the training read.
        baselines: fitted to the training cases.

    Raises:
        DataError: predictions that are not finite, or no room for the weights.
    """
    rows = cache.rows([case.case_id for case in held_out])
    # Lightning leaves the network on the processor.
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    predicted = predict_pixels(network, cache.pixels, held_out.is_male(), rows=rows)
    network.cpu()
    val_mae_months = float(np.abs(predicted - held_out.bone_ages_months()).mean())
    if not np.isfinite(val_mae_months):
        raise DataError(
            f"{out}: expected finite predictions after training, found NaN: the training "
            "diverged; try a lower training.learning_rate"
        )
    history = read_table(out / "history.csv")
    # Epochs are counted from 1 where people read them.
    curve = learning_curve(history.assign(epoch=history["epoch"] + 1), best_epoch + 1)
    write_bytes(out / "learning_curve.png", figure_bytes(curve))
    write_manifest(
        RunManifest(
            recipe_name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            architecture=network.settings,
            preprocessing=recipe.preprocessing,
            age_mean_months=float(network.age_mean_months),
            age_sd_months=float(network.age_sd_months),
            seed=recipe.training.seed,
            data=data,
            baselines=baselines.to_dict(),
            epochs=len(history),
            best_epoch=best_epoch,
            val_mae_months=val_mae_months,
            weights_sha256=save_weights(network, out / WEIGHTS_FILE),
        ),
        out,
    )

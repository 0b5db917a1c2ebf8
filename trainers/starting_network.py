"""The network that a training starts from, checked against its recipe."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from boneage_xai.errors import ConfigError
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.predict import evaluation_mode
from trainers.recipe import Recipe


def starting_network(
    recipe: Recipe, training_ages_months: npt.NDArray[np.float64]
) -> BoneAgeRegressor:
    """Return the network that a recipe's training starts from, frozen as the recipe says.

    Args:
        recipe: the checked recipe.
        training_ages_months: (n,), for the scale of ages.

    Raises:
        CheckpointError: weights that are absent, damaged or of another network.
        ConfigError: a run of another architecture, fewer blocks than are to be fine-tuned, an
            input size that the backbone cannot take, or batches of one image that it cannot learn
            from.
    """
    network = _initial_network(recipe, training_ages_months)
    network.fine_tune(recipe.initialisation.fine_tuned_blocks)
    backbone = recipe.architecture.backbone
    with evaluation_mode(network):
        words = f"an input that {backbone} can take, found {{size_px}} pixels"
        _try_every_size(network, recipe, RuntimeError, words)
    if min(recipe.training.batch_size, len(training_ages_months)) == 1:
        # BatchNorm refuses to learn from a single value.
        words = f"batches of 2 images or more, which {backbone} needs at {{size_px}} pixels, "
        copied = copy.deepcopy(network).train()
        _try_every_size(copied, recipe, ValueError, words + "found one image")
    return network


def _initial_network(
    recipe: Recipe, training_ages_months: npt.NDArray[np.float64]
) -> BoneAgeRegressor:
    weights = recipe.initialisation.weights
    if weights in ("none", "imagenet") or not Path(weights).expanduser().is_dir():
        return BoneAgeRegressor(
            recipe.architecture.model_copy(update={"normalised_stem": weights != "none"}),
            weights=weights,
            age_mean_months=float(training_ages_months.mean()),
            age_sd_months=max(float(training_ages_months.std()), 1.0),
        )
    earlier = load_run(Path(weights).expanduser()).network
    wanted = recipe.architecture.model_copy(
        update={"normalised_stem": earlier.settings.normalised_stem}
    )
    if earlier.settings != wanted:
        raise ConfigError(
            f"initialisation.weights: expected a run of the recipe's architecture ({wanted}), "
            f"found {earlier.settings} in {weights}"
        )
    network = BoneAgeRegressor(wanted)
    network.load_state_dict(earlier.state_dict())
    return network


def _try_every_size(
    network: BoneAgeRegressor, recipe: Recipe, refusal: type[Exception], expected: str
) -> None:
    """Predict one black image of each input size; say what was expected where that is refused."""
    sizes_px = {recipe.preprocessing.size_px, *(s.size_px for s in recipe.training.stages)}
    with torch.inference_mode():
        for size_px in sorted(sizes_px):
            try:
                network(torch.zeros(1, 1, size_px, size_px), torch.zeros(1))
            except refusal as error:
                raise ConfigError(
                    f"recipe {recipe.name}: expected {expected.format(size_px=size_px)}"
                ) from error

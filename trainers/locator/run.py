"""A locator's training from phantoms on disk to weights, a card and its measured figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from boneage_xai import __version__
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError
from boneage_xai.files import file_sha256, staged_folder, write_json
from boneage_xai.models.checkpoint import library_versions
from boneage_xai.phantom.cohorts import IMAGE_FOLDER, read_phantom_cohort
from boneage_xai.phantom.landmarks import place_hand
from boneage_xai.regions.locator import locate, save_locator
from boneage_xai.regions.locator_network import LANDMARKS, TIP, LocatorNetwork
from trainers.locator.examples import read_examples
from trainers.locator.recipe import LocatorRecipe
from trainers.locator.training import StepReport, fit

WEIGHTS_FILE = "locator.safetensors"
CARD_FILE = "locator.json"
_FEWEST = 10


def train_locator(
    recipe: LocatorRecipe,
    data: Path,
    out: Path,
    *,
    on_read: Callable[[int, int], None] | None = None,
    on_report: StepReport | None = None,
) -> dict[str, Any]:
    """Train a locator and write its weights and card, whole or not at all.

    Args:
        recipe: the checked recipe.
        data: folder from ``boneage-xai phantom``; its last cases are held out.
        out: folder to make.
        on_read: called with (phantoms read, phantoms in all).
        on_report: as for ``training.fit``.

    Returns:
        The card.

    Raises:
        ConfigError: too few phantoms.
        DataError: not a phantom cohort, or ``out`` exists.
    """
    with staged_folder(out) as folder:
        examples = read_examples(data, on_read)
        held_out = max(1, round(recipe.training.validation_fraction * len(examples)))
        if len(examples) - held_out < _FEWEST:
            raise ConfigError(
                f"{data}: expected at least {_FEWEST} phantoms beside those held out, "
                f"found {len(examples) - held_out}"
            )
        network = fit(recipe, examples.part(slice(0, len(examples) - held_out)), on_report)
        save_locator(network, folder / WEIGHTS_FILE)
        card = {
            "format": "boneage_xai.locator",
            "version": 1,
            "toolkit_version": __version__,
            "trained_on": f"{len(examples) - held_out} phantoms; no radiograph of anyone",
            "recipe": recipe.model_dump(mode="json"),
            "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
            "versions": library_versions(),
            "held_out_phantoms": measure(network, data, held_out),
        }
        write_json(folder / CARD_FILE, card)
    return card


def measure(network: LocatorNetwork, data: Path, last: int) -> dict[str, float]:
    """Measure a locator on the last phantoms of a cohort.

    Args:
        network: the locator, in evaluation mode.
        data: the cohort.
        last: how many.

    Returns:
        n, share of the regions that were found, and share whose centre lies inside the box that
        the phantom has there.
    """
    manifest, cases = read_phantom_cohort(data)
    regions = [landmark for landmark in LANDMARKS if landmark[0] != TIP]
    found = inside = 0
    for case in cases[-last:]:
        truth = place_hand(case.hand, manifest.settings, case.seed)
        boxes = {(box.region, box.finger): box for box in truth.boxes}
        located = locate(read_radiograph(data / IMAGE_FOLDER / f"{case.case_id}.png"), network)
        for box in located.boxes:
            true = boxes[box.region, box.finger]
            found += 1
            away = np.abs([box.x_px - true.x_px, box.y_px - true.y_px])
            inside += bool((away <= (true.width_px / 2, true.height_px / 2)).all())
    total = last * len(regions)
    return {"n": last, "found": found / total, "in_box": inside / total}

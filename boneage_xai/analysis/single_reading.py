"""One radiograph read by a network and explained, without a cohort and without a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from boneage_xai.analysis.region_occlusion import occlude_case
from boneage_xai.analysis.stored_calibration import StoredCalibration, read_calibration
from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.attribution.forward import sex_effects
from boneage_xai.attribution.integrated_gradients import integrated_gradients
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.interventions import run_predictor
from boneage_xai.data.preprocess import PreparedImage, preprocess
from boneage_xai.errors import AttributionError
from boneage_xai.models.interface import Model
from boneage_xai.predict import Progress, as_images, predict_pixels
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.regions.label_maps import regions_on_input
from boneage_xai.regions.locator import HandRegions, locate
from boneage_xai.regions.pose import HandPose, hand_pose, laid_usually
from boneage_xai.regions.removable import Removable
from boneage_xai.regions.removal import FillName
from boneage_xai.types import Case, FloatImage, Radiograph, RegionMap, Sex

# Small steps, so that work can be ended soon; it does not change maps.
_MEMORY_BUDGET_MB = 128

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Interval:
    """A prediction interval.

    Args:
        coverage: share of references that such intervals contain.
        low_months: lower end.
        high_months: upper end.
    """

    coverage: float
    low_months: float
    high_months: float


@dataclass(frozen=True)
class Answer:
    """Predicted months with their interval, None where there is none."""

    months: float
    interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class SingleReading:
    """What a network answers for one radiograph.

    Args:
        prepared: what the network saw.
        sex: what it was told.
        answer: its prediction, with an interval where the run was calibrated.
        corrected: the same after the run's linear correction, None where there is none.
        other_sex_months: its prediction for the other sex.
    """

    prepared: PreparedImage
    sex: Sex
    answer: Answer
    corrected: Answer | None
    other_sex_months: float

    @property
    def sex_effect_months(self) -> float:
        """The answer for the other sex minus that for the sex it was told."""
        return self.other_sex_months - self.answer.months


@dataclass(frozen=True)
class HandSeen:
    """Whether a radiograph shows a hand, and what it matters to a network how that lies.

    Args:
        found: whether the locator found a hand.
        pose: how it lies, None where that cannot be told.
        usually_months: the network's prediction for the same picture turned and mirrored so that
            the hand lies upright and looks left, None where it does so already or where that
            cannot be told.
    """

    found: bool
    pose: HandPose | None = None
    usually_months: float | None = None


def see_hand(model: Model, radiograph: Radiograph, sex: Sex, found: HandRegions) -> HandSeen:
    """Say what the locator saw of a hand, and predict it as hands usually lie.

    Args:
        model: the network.
        radiograph: (H, W) pixels in [0, 1].
        sex: of the child.
        found: what ``locate`` found on the radiograph.
    """
    pose = hand_pose(found.boxes)
    if pose is None or pose.is_usual:
        return HandSeen(bool(found.boxes), pose)
    prepared = preprocess(laid_usually(radiograph, pose), model.preprocessing)
    return HandSeen(True, pose, _predicted(model, prepared, sex))


def read_single(model: Model, radiograph: Radiograph, sex: Sex) -> SingleReading:
    """Predict one radiograph, as what it is said to be and as of the other sex.

    Args:
        model: the network.
        radiograph: (H, W) pixels in [0, 1].
        sex: of the child.

    Raises:
        CheckpointError: a damaged calibration.
        AttributionError: an answer that is no finite number.
    """
    prepared = preprocess(radiograph, model.preprocessing)
    own, other = (
        _predicted(model, prepared, one) for one in (sex, Sex.FEMALE if sex.is_male else Sex.MALE)
    )
    if not math.isfinite(own) or not math.isfinite(other):
        raise AttributionError(f"{radiograph.source}: expected finite months, found {own}, {other}")
    calibration = read_calibration(model)
    return SingleReading(
        prepared,
        sex,
        answer_of(own, sex, calibration),
        None if calibration is None else answer_of(own, sex, calibration, corrected=True),
        other,
    )


def answer_of(
    months: float, sex: Sex, calibration: StoredCalibration | None, *, corrected: bool = False
) -> Answer:
    """Return a prediction with the interval that a calibration gives it.

    Args:
        months: as the network predicts.
        sex: of the child.
        calibration: of the run, None where there is none.
        corrected: whether the calibration's linear correction is applied first.
    """
    if calibration is None:
        return Answer(months)
    is_male = np.array([sex.is_male])
    intervals = calibration.intervals
    if corrected:
        months = float(calibration.correction.apply([months], is_male)[0])
        intervals = calibration.corrected_intervals
    low, high = (float(end[0]) for end in intervals.interval([months], is_male))
    if not math.isfinite(low):
        return Answer(months)
    return Answer(months, Interval(intervals.coverage, low, high))


def part_of(model: Model, pixels: Grey) -> str | None:
    """Return which part of a run's own data this very image belongs to.

    Args:
        model: the network.
        pixels: (S, S) uint8, prepared for it.

    Returns:
        ``train`` or ``validation``; None where it belongs to none or nobody knows.

    Raises:
        CheckpointError: the run's record of its training cases is damaged.
    """
    splits = model.splits()
    if splits is None:
        return None
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
    found = splits.loc[splits["pixels_digest"] == digest, "split"]
    return None if found.empty else str(found.iloc[0])


def explain_single(
    network: nn.Module,
    pixels: Grey,
    sex: Sex,
    settings: AttributionSettings,
    progress: Progress | None = None,
) -> AttributedMap:
    """Attribute the prediction for one radiograph by Integrated Gradients, in small steps.

    Args:
        network: left as it was found.
        pixels: (S, S) uint8, prepared for the network.
        sex: what it is told.
        settings: with a baseline that needs no training radiographs.
        progress: called with (gradients computed, gradients at most) after each step; what it
            raises ends the work.

    Raises:
        AttributionError: a network for which maps are not defined.
        ConfigError: a baseline that needs training radiographs.
    """
    image, is_male = _inputs(network, pixels, sex)

    def on_gradients(computed: int) -> None:
        if progress is not None:
            progress(min(computed, settings.max_nodes), settings.max_nodes)

    small = min(settings.memory_budget_mb or _MEMORY_BUDGET_MB, _MEMORY_BUDGET_MB)
    return integrated_gradients(
        network,
        image,
        is_male,
        settings.model_copy(update={"memory_budget_mb": small}),
        on_gradients=on_gradients,
    )


def effect_of_sex(network: nn.Module, pixels: Grey, sex: Sex) -> float:
    """Return by how many months the answer changes when the network is told the other sex."""
    return sex_effects(network, *_inputs(network, pixels, sex))[0]


def activations_of(network: nn.Module, pixels: Grey, sex: Sex) -> dict[str, FloatImage]:
    """Return the activation maps of one radiograph, (h, w) by layer, shallow to deep."""
    image, is_male = _inputs(network, pixels, sex)
    layers = default_layers(network, size_px=max(pixels.shape))
    maps = layer_activations(network, image, is_male, layers)
    return {layer: values[0] for layer, values in maps.items()}


def located_regions(
    radiograph: Radiograph, prepared: PreparedImage
) -> tuple[HandRegions, RegionMap]:
    """Find the regions of one radiograph.

    Returns:
        What was found on the radiograph, and its labels on the network's input grid.
    """
    found = locate(radiograph)
    size_px = prepared.source_map.size_px
    return found, regions_on_input(found.labels, prepared.source_map, size_px)


def regions_seen(pixels: Grey) -> RegionMap:
    """Find the regions on what a network saw, (S, S) uint8, where no radiograph is at hand."""
    return locate(
        Radiograph(pixels.astype(np.float32) / np.float32(255), Path("the network's input"))
    ).labels


def months_by_region(map_months: FloatImage, regions: RegionMap) -> pd.DataFrame:
    """Sum a map over the regions that there are; regions without a pixel are left out."""
    table = aggregate(map_months, regions)
    return table[table["area_fraction"] > 0].reset_index(drop=True)


def erase_in_turn(
    model: Model,
    pixels: Grey,
    sex: Sex,
    areas: Sequence[Removable],
    fill: FillName,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Take one area after the other out of a radiograph and predict what is left.

    Args:
        model: the network.
        pixels: (S, S) uint8, prepared for it; not changed.
        sex: what it is told.
        areas: what is taken out, at least one.
        fill: how, see ``regions.removal.remove_region``.
        progress: called with (areas done, areas) after each; what it raises ends the work.

    Returns:
        Per area region, kind, predicted_months (of the whole picture), delta_months (without the
        area minus with it), area_fraction and hand_fraction.

    Raises:
        AttributionError: an answer that is no finite number.
    """
    predictor = run_predictor(model)
    case = Case("the radiograph", Path(), sex)
    rows = []
    for done, area in enumerate(areas, start=1):
        rows += occlude_case(predictor, case, pixels, [area], [fill])
        if progress is not None:
            progress(done, len(areas))
    kept = [
        "region",
        "kind",
        "predicted_months",
        "delta_months",
        "area_fraction",
        "hand_fraction",
    ]
    return pd.DataFrame(rows)[kept]


def _predicted(model: Model, prepared: PreparedImage, sex: Sex) -> float:
    is_male = np.array([sex.is_male])
    return float(predict_pixels(model.network, prepared.pixels[np.newaxis], is_male)[0])


def _inputs(network: nn.Module, pixels: Grey, sex: Sex) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(network.parameters()).device
    image = as_images(pixels[np.newaxis], device)
    return image, torch.tensor([float(sex.is_male)], device=device)

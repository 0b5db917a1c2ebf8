"""What a reproduction of published studies found: errors beside theirs, and whether sex helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from boneage_xai import __version__
from boneage_xai.analysis.comparison import common_cases, rank_correlation
from boneage_xai.analysis.metrics import Estimate, bootstrap_mean, paired_difference
from boneage_xai.analysis.multiplicity import holm_of_known
from boneage_xai.analysis.published import PUBLISHED
from boneage_xai.analysis.random_control import with_random_weights
from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.models.checkpoint import library_versions
from boneage_xai.predict import as_images
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Cohort, FloatImage

_BLACK = 2.0  # of 255: padding and bare film, where every network is alike
_METRICS = ("mae_months", "rmse_months", "bias_months", "within_12_months")


def reproduction_record(
    arms: Sequence[Mapping[str, Any]],
    analyses: Mapping[str, Mapping[str, AnalysisFolder]],
    *,
    seed: int = 0,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the results of all arms together.

    Args:
        arms: what is known of each training, with at least name, network, with_sex, status and twin
            (the name that arms with and without the sex share).
        analyses: set (``validation``, ``test``) to arm to its analysis, after ``evaluate``.
        seed: of the bootstrap.
        about: what else is to be recorded, such as data, device and command.

    Returns:
        The content of ``reproduction.json``.

    Raises:
        ReportError: analyses of other data than each other's.
        DataError: no common case, or a case with another sex or reference.
    """
    measured = {
        name: {arm: folder.metrics() for arm, folder in folders.items()}
        for name, folders in analyses.items()
    }
    return {
        "format": "boneage_xai.reproduction",
        "version": 1,
        "toolkit_version": __version__,
        **about,
        "versions": library_versions(),
        "published": [asdict(one) for one in PUBLISHED],
        "arms": [
            {
                **arm,
                "measured": {
                    name: _shortened(metrics[arm["name"]]["overall"])
                    for name, metrics in measured.items()
                    if arm["name"] in metrics
                },
            }
            for arm in arms
        ],
        # Fitted on the same training cases for every arm.
        "baselines": {
            name: {
                baseline: _shortened(block)
                for baseline, block in next(iter(metrics.values()))["baselines"].items()
            }
            for name, metrics in measured.items()
            if metrics
        },
        "sex": {name: sex_differences(arms, folders, seed) for name, folders in analyses.items()},
    }


def _shortened(block: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": block["n"], **{name: block[name] for name in _METRICS}}


def sex_differences(
    arms: Sequence[Mapping[str, Any]], folders: Mapping[str, AnalysisFolder], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare each arm that is given the sex with its twin that is not, on the same cases.

    Args:
        arms: as for ``reproduction_record``.
        folders: arm to its analysis.
        seed: of the bootstrap.

    Returns:
        Per pair of evaluated arms: twin, network, n, with_sex_months and image_only_months (their
        mean absolute errors), difference_months ``{value, low, high}`` (with the sex minus without:
        below 0, the sex helps; paired bootstrap 95% interval), unfinished (whether one of the two
        is not trained to its end, so that they may differ by that), p_value of Wilcoxon's
        signed-rank test, p_holm, corrected over the pairs.

    Raises:
        ReportError: a pair analysed on other data.
        DataError: no common case, or a case with another sex or reference.
    """
    found = []
    for arm in arms:
        others = [one for one in arms if one["twin"] == arm["twin"] and not one["with_sex"]]
        if not arm["with_sex"] or not others:
            continue
        names = (arm["name"], others[0]["name"])
        if not set(names) <= folders.keys():
            continue
        cases, _ = common_cases([folders[name] for name in names], names)
        errors = cases.pivot(index="case_id", columns="model", values="error_months")
        given, withheld = (errors[name].to_numpy() for name in names)
        pair = paired_difference(given, withheld, seed=seed)
        found.append(
            {
                "twin": arm["twin"],
                "network": arm["network"],
                "n": pair["n"],
                "unfinished": {arm["status"], others[0]["status"]} != {"complete"},
                "with_sex_months": float(np.abs(given).mean()),
                "image_only_months": float(np.abs(withheld).mean()),
                "difference_months": pair["mae_difference_months"],
                "p_value": pair["wilcoxon_p"],
            }
        )
    corrected = holm_of_known([pair["p_value"] for pair in found])
    return [{**pair, "p_holm": value} for pair, value in zip(found, corrected, strict=True)]


@dataclass(frozen=True, eq=False)
class ActivationControl:
    """Activation maps of a network beside those of a copy with random weights.

    Args:
        cohort: n cases.
        inputs: (n, H, W) uint8 what the network saw.
        trained: layer to (n, h, w), early to late.
        random: the same of the copy.
        similarity: per layer: layer, size_px and rank_correlation ``{value, low, high}`` of the two
            maps of a case over the places where the radiograph is not black, averaged over cases;
            None where a map is constant.
    """

    cohort: Cohort
    inputs: npt.NDArray[np.uint8]
    trained: Mapping[str, FloatImage]
    random: Mapping[str, FloatImage]
    similarity: tuple[dict[str, Any], ...]


def activation_control(prepared: RunOnCohort, n_cases: int, *, seed: int = 0) -> ActivationControl:
    """Compute activation maps of a network, and of a copy whose weights are random.

    That early layers answer to fine and late layers to large structures follows from how far each
    sees, whatever the network has learnt; what was learnt is what the copy does not show.

    Args:
        prepared: network and cases.
        n_cases: at most so many, evenly over sex and age.
        seed: of the random weights and of the bootstrap.

    Raises:
        AttributionError: a network whose layers cannot be seen or randomised.
    """
    cohort = choose_cases(prepared.cohort, n_cases)
    inputs = prepared.cache.pixels[prepared.cache.rows([case.case_id for case in cohort])]
    network, copy = prepared.run.network, with_random_weights(prepared, seed).run.network
    layers = default_layers(network, prepared.run.preprocessing.size_px)
    device = next(network.parameters()).device
    images = as_images(inputs, device)
    is_male = torch.from_numpy(cohort.is_male()).to(device, torch.float32)
    trained, random = (layer_activations(one, images, is_male, layers) for one in (network, copy))
    similarity = tuple(
        {
            "layer": layer,
            "size_px": trained[layer].shape[1],
            "rank_correlation": _similarity(trained[layer], random[layer], inputs, seed),
        }
        for layer in layers
    )
    return ActivationControl(cohort, inputs, trained, random, similarity)


def _similarity(
    one: FloatImage, other: FloatImage, inputs: npt.NDArray[np.uint8], seed: int
) -> Estimate:
    pixels = torch.from_numpy(inputs.astype(np.float32)).unsqueeze(1)
    seen = F.adaptive_avg_pool2d(pixels, one.shape[1:]).squeeze(1).numpy() > _BLACK
    found = [rank_correlation(a[at], b[at]) for a, b, at in zip(one, other, seen, strict=True)]
    known = [value for value in found if np.isfinite(value)]
    if not known:
        return {"value": None, "low": None, "high": None}
    return bootstrap_mean(known, seed=seed)

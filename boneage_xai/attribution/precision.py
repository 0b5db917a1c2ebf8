"""Whether gradients may be computed in two bytes: measured on cases at hand, never assumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from boneage_xai.attribution.gradients import predictions
from boneage_xai.attribution.interface import AttributionSettings, PrecisionName
from boneage_xai.attribution.path_integration import integrate_batch
from boneage_xai.attribution.prepared import (
    HALF_TYPES,
    PreparedNetwork,
    float32_poolings,
    in_half,
)
from boneage_xai.models.precision import computes_bfloat16_fast

logger = logging.getLogger(__name__)

GATE_CASES = 4
# With fewer cases the check costs more than it saves.
FEWEST_CASES_FOR_AUTO = 16
LOWEST_CORRELATION = 0.999
LOWEST_RANK_CORRELATION = 0.99
LARGEST_PREDICTION_CHANGE_MONTHS = 1.0
# Cases that are left open are done again in float32, which pays if they are few.
LOWEST_SHARE_CLOSED = 0.75


@dataclass(frozen=True)
class GateFigures:
    """What was measured between float32 and two bytes on a few cases, the worst of each.

    Args:
        n: cases.
        prediction_change_months: largest change of a prediction at image or baseline.
        map_correlation: lowest Pearson correlation of the two maps of a case.
        map_rank_correlation: lowest Spearman correlation of the two.
        share_closed: of the cases whose gap, against float32 predictions, float32 closes, the
            share that two bytes close too.
    """

    n: int
    prediction_change_months: float
    map_correlation: float
    map_rank_correlation: float
    share_closed: float

    def passed(self) -> bool:
        """Return whether two bytes may be used."""
        # Written so that NaN fails too.
        return (
            self.map_correlation >= LOWEST_CORRELATION
            and self.map_rank_correlation >= LOWEST_RANK_CORRELATION
            and self.prediction_change_months <= LARGEST_PREDICTION_CHANGE_MONTHS
            and self.share_closed >= LOWEST_SHARE_CLOSED
        )

    def describe(self) -> str:
        """Return the figures in words."""
        return (
            f"on {self.n} cases maps correlate {self.map_correlation:.4f} or better (ranks "
            f"{self.map_rank_correlation:.4f}), predictions move by at most "
            f"{self.prediction_change_months:.2f} months and {self.share_closed:.0%} of the gaps "
            "are closed"
        )


@dataclass(frozen=True, eq=False)
class Precision:
    """In what gradients are computed, by which network, and why.

    Args:
        name: ``float32`` (or the network's own type), ``bfloat16`` or ``float16``.
        reason: one clause for the record.
        network: that computes in two bytes, None for the prepared network itself.
        n_float32_poolings: of that network, as :func:`in_half` takes it.
        figures: what the check measured, None where there was none.
    """

    name: Literal["float32", "bfloat16", "float16", "float64"]
    reason: str
    network: nn.Module | None = None
    n_float32_poolings: int = 0
    figures: GateFigures | None = None

    def record(self) -> dict[str, Any]:
        """Return what goes into ``analysis.json``."""
        figures = None if self.figures is None else asdict(self.figures)
        return {
            "precision": self.name,
            "reason": self.reason,
            "n_float32_poolings": self.n_float32_poolings,
            "gate": figures,
        }


def choose_precision(
    prepared: PreparedNetwork,
    images: Tensor,
    baselines: Sequence[Tensor],
    is_male: Tensor,
    settings: AttributionSettings,
    *,
    n_cases: int,
    batch_size: int,
) -> Precision:
    """Decide on two bytes a number by comparing with float32 on a few cases.

    Each case is explained in both, to the tolerances asked for. Two bytes pass if on every case
    the map correlates with that of float32 and predictions stay near, and if they close most
    of the completeness gaps, taken against float32 predictions. Where they do not with as much so
    computed as the type allows, a longer stem stays in float32 (:func:`float32_poolings`). ``auto``
    tries float16 on a GPU, which computes it as fast as bfloat16 and rounds it eight times finer,
    and bfloat16 elsewhere.

    Args:
        prepared: the network in float32.
        images: (k, 1, H, W) of the cases to check on.
        baselines: k tensors (b, 1, H, W); the first of each is used.
        is_male: (k,) 0 or 1.
        settings: precision and tolerance.
        n_cases: cases that are to be explained in all.
        batch_size: images a step.

    Returns:
        The precision with its reason; two bytes are refused, also where they are asked for, if
        the check does not pass.
    """
    half_name: Literal["bfloat16", "float16"] = "bfloat16"
    if settings.precision == "float16" or (
        settings.precision == "auto" and images.device.type == "cuda"
    ):
        half_name = "float16"
    own = next(prepared.network.parameters(), images).dtype
    name: Literal["float32", "float64"] = "float64" if own == torch.float64 else "float32"
    if (reason := _not_tried(settings.precision, images.device, n_cases)) is not None:
        return Precision(name, reason)
    reason, figures = f"the network has no float32 backbone to run in {half_name}", None
    for poolings in float32_poolings(prepared, HALF_TYPES[half_name]):
        half = in_half(prepared, poolings, HALF_TYPES[half_name])
        figures = _measure(prepared.network, half, images, baselines, is_male, settings, batch_size)
        if figures.passed():
            reason = f"{half_name} passed the check: {figures.describe()}"
            return Precision(half_name, reason, half, poolings, figures)
        reason = f"{half_name} failed the check: {figures.describe()}"
    if settings.precision == half_name:
        logger.warning("attribution in %s: %s", name, reason)
    return Precision(name, reason, figures=figures)


def _not_tried(asked: PrecisionName, device: torch.device, n_cases: int) -> str | None:
    if asked == "float32":
        return "asked for"
    if asked in HALF_TYPES:
        return None
    if not computes_bfloat16_fast(device):
        return "the device has no units for two bytes"
    if n_cases < FEWEST_CASES_FOR_AUTO:
        return f"fewer than {FEWEST_CASES_FOR_AUTO} cases, for which a check does not pay"
    return None


def _measure(
    network: nn.Module,
    half: nn.Module,
    images: Tensor,
    baselines: Sequence[Tensor],
    is_male: Tensor,
    settings: AttributionSettings,
    batch_size: int,
) -> GateFigures:
    firsts = [baseline[:1] for baseline in baselines]
    ends, sexes = torch.cat([images, *firsts]), is_male.repeat(2)
    full_ends, half_ends = (predictions(each, ends, sexes, batch_size) for each in (network, half))
    full, halved = (
        integrate_batch(
            network,
            images,
            firsts,
            is_male,
            settings,
            batch_size=batch_size,
            gradient_network=each,
        )
        for each in (network, half)
    )
    maps = [
        (one.map_months.ravel(), other.map_months.ravel())
        for one, other in zip(full, halved, strict=True)
    ]
    closed = [other.converged for one, other in zip(full, halved, strict=True) if one.converged]
    return GateFigures(
        len(images),
        float((half_ends - full_ends).abs().max()),
        float(np.min([_correlation(*pair) for pair in maps])),
        float(np.min([_correlation(*(rankdata(one) for one in pair)) for pair in maps])),
        float(np.mean(closed)) if closed else 1.0,
    )


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if np.array_equal(one, other):
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

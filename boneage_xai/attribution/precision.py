"""Whether gradients may be computed in bfloat16: measured on cases at hand, never assumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.gradients import predictions
from boneage_xai.attribution.interface import AttributionSettings, PrecisionName
from boneage_xai.attribution.path_integration import weighted_gradients
from boneage_xai.attribution.prepared import PreparedNetwork, in_bfloat16
from boneage_xai.models.precision import computes_bfloat16_fast

logger = logging.getLogger(__name__)

GATE_CASES = 4
# With fewer cases the check costs more than bfloat16 saves.
FEWEST_CASES_FOR_AUTO = 16
GATE_NODES = 16
LOWEST_CORRELATION = 0.999
LARGEST_PREDICTION_CHANGE_MONTHS = 1.0


@dataclass(frozen=True)
class GateFigures:
    """What was measured between float32 and bfloat16 on a few cases, the worst of each.

    Args:
        n: cases.
        prediction_change_months: largest change of a prediction at image or baseline.
        map_correlation: lowest Pearson correlation of the two maps of a case.
        gap_change_months: largest change of the gap, taken against float32 predictions.
        allowed_gap_change_months: the tolerance of that case, which the change is held against.
    """

    n: int
    prediction_change_months: float
    map_correlation: float
    gap_change_months: float
    allowed_gap_change_months: float


@dataclass(frozen=True, eq=False)
class Precision:
    """In what gradients are computed, by which network, and why.

    Args:
        name: ``float32`` (or the network's own type) or ``bfloat16``.
        reason: one clause for the record.
        network: the bfloat16 network, None for the prepared network itself.
        figures: what the check measured, None where there was none.
    """

    name: Literal["float32", "bfloat16", "float64"]
    reason: str
    network: nn.Module | None = None
    figures: GateFigures | None = None

    def record(self) -> dict[str, Any]:
        """Return what goes into ``analysis.json``."""
        figures = None if self.figures is None else asdict(self.figures)
        return {"precision": self.name, "reason": self.reason, "gate": figures}


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
    """Decide on bfloat16 by comparing it with float32 on a few cases.

    bfloat16 passes if on every case its map correlates with that of float32, its predictions
    stay near, and its completeness gap, taken against the float32 predictions, differs from
    float32's by no more than the tolerance, both with the same nodes.

    Args:
        prepared: the network in float32.
        images: (k, 1, H, W) of the cases to check on.
        baselines: k tensors (b, 1, H, W); the first of each is used.
        is_male: (k,) 0 or 1.
        settings: precision and tolerance.
        n_cases: cases that are to be explained in all.
        batch_size: images a step.

    Returns:
        The precision with its reason; bfloat16 is refused, also where it is asked for, if the
        check does not pass.
    """
    own = next(prepared.network.parameters(), images).dtype
    name: Literal["float32", "float64"] = "float64" if own == torch.float64 else "float32"
    if (reason := _not_tried(settings.precision, images.device, n_cases)) is not None:
        return Precision(name, reason)
    half = in_bfloat16(prepared)
    if half is None:
        return Precision(name, "the network has no float32 backbone to run in bfloat16")
    figures = _measure(prepared.network, half, images, baselines, is_male, settings, batch_size)
    # Written so that NaN fails too.
    passed = (
        figures.map_correlation >= LOWEST_CORRELATION
        and figures.prediction_change_months <= LARGEST_PREDICTION_CHANGE_MONTHS
        and figures.gap_change_months <= figures.allowed_gap_change_months
    )
    found = (
        f"on {figures.n} cases maps correlate {figures.map_correlation:.4f} or better, predictions "
        f"move by at most {figures.prediction_change_months:.2f} months and gaps by at most "
        f"{figures.gap_change_months:.2f}"
    )
    if passed:
        return Precision("bfloat16", f"bfloat16 passed the check: {found}", half, figures)
    reason = f"bfloat16 failed the check: {found}"
    if settings.precision == "bfloat16":
        logger.warning("attribution in %s: %s", name, reason)
    return Precision(name, reason, None, figures)


def _not_tried(asked: PrecisionName, device: torch.device, n_cases: int) -> str | None:
    if asked == "float32":
        return "asked for"
    if asked == "bfloat16":
        return None
    if not computes_bfloat16_fast(device):
        return "the device has no bfloat16 units"
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
    nodes, weights = np.polynomial.legendre.leggauss(GATE_NODES)
    changes, correlations, gap_changes = [], [], []
    for index in range(len(images)):
        image, baseline = images[index : index + 1], baselines[index][:1]
        sex = is_male[index : index + 1]
        ends = torch.cat([image, baseline])
        full_ends, half_ends = (
            predictions(each, ends, sex.repeat(2), batch_size) for each in (network, half)
        )
        changes.append(float((half_ends - full_ends).abs().max()))
        full, halved = (
            weighted_gradients(each, image, baseline, sex, (nodes + 1) / 2, weights / 2, batch_size)
            for each in (network, half)
        )
        correlations.append(_correlation(full, halved))
        change = float(full_ends[0] - full_ends[1])
        gap_changes.append(
            (abs(float(halved.sum() - full.sum())), settings.tolerance_months(change))
        )
    worst_change, allowed = max(gap_changes, key=lambda pair: pair[0] - pair[1])
    return GateFigures(
        len(images), float(np.max(changes)), float(np.min(correlations)), worst_change, allowed
    )


def _correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if np.array_equal(one, other):
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

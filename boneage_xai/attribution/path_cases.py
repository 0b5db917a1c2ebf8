"""Cases on their way along their paths: what is known of each, and sums over their panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from boneage_xai.attribution.quadrature import AdaptiveQuadrature, Node, Panel

_STEP = 0.8
# So many images or panels are worked on together at most, which bounds the memory for it.
_NODES_AT_ONCE = 32
_PANELS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class PathIntegral:
    """The integral of one case.

    Args:
        map_months: (H, W) float64, averaged over the case's baselines.
        prediction_months: float32 network's output for the image.
        baseline_prediction_months: the same for the baselines, averaged.
        gap_months: sum of the map minus the difference of the two.
        map_error_fraction: estimated error of integration: the sum over pixels of the magnitude of
            the error, as a fraction of the sum of the map's magnitudes.
        nodes: gradients computed.
        converged: whether gap and error are within their tolerances.
        seconds: share of the whole computation, by nodes.
    """

    map_months: npt.NDArray[np.float64]
    prediction_months: float
    baseline_prediction_months: float
    gap_months: float
    map_error_fraction: float
    nodes: int
    converged: bool
    seconds: float


@dataclass(eq=False)
class PathCase:
    """One case under way: its paths, its quadrature and the gradients computed so far."""

    image: Tensor
    baselines: Tensor
    is_male: Tensor
    prediction_months: float
    baseline_predictions: list[float]
    tolerance_months: float
    map_tolerance_fraction: float
    quadrature: AdaptiveQuadrature
    slopes: dict[Node, Tensor] = field(default_factory=dict)
    nodes: int = 0

    def ask(self) -> list[Node]:
        """Return the nodes to evaluate next; alpha = 1 is the image itself on every path."""
        wanted = self.quadrature.wanted()
        asked = dict.fromkeys(place(node) for node in wanted)
        new = [node for node in asked if node not in self.slopes]
        # What several paths share becomes known for all of them at once.
        self.quadrature.record(len(wanted) - len(new))
        return new

    def record(self, node: Node, slope: Tensor) -> None:
        """Keep a gradient (1, H, W)."""
        self.slopes[node] = slope
        self.nodes += 1
        self.quadrature.record()

    def refine(self, gap_months: float, map_error_fraction: float) -> list[Panel]:
        """Halve the roughest panels; none where that is of no use."""
        # What is no number will not become one.
        if not math.isfinite(map_error_fraction) or self.accepts(gap_months, map_error_fraction):
            return []
        # Where the gap alone is too large, nobody knows by how much it falls: in small steps.
        needed = _STEP
        if map_error_fraction > self.map_tolerance_fraction:
            needed = self.map_tolerance_fraction / map_error_fraction
        return self.quadrature.refine(needed)

    def change_months(self) -> float:
        """Return the prediction at the image minus that at the baselines, averaged."""
        return self.prediction_months - float(np.mean(self.baseline_predictions))

    def accepts(self, gap_months: float, map_error_fraction: float) -> bool:
        """Return whether gap and error are within their tolerances."""
        return (
            abs(gap_months) <= self.tolerance_months
            and map_error_fraction <= self.map_tolerance_fraction
        )

    def integral(self) -> Tensor:
        """Return the map (H, W) in float64, summed in an order that no batch changes."""
        total = torch.zeros_like(self.image[0], dtype=torch.float64)
        weights = self.quadrature.weights()
        for path in range(len(self.baselines)):
            mean_slope = torch.zeros_like(total)
            nodes = sorted(node for node in weights if node.path == path)
            for start in range(0, len(nodes), _NODES_AT_ONCE):
                part = nodes[start : start + _NODES_AT_ONCE]
                slopes = torch.stack([self.slopes[place(node)][0] for node in part]).double()
                shares = slopes.new_tensor([weights[node] for node in part])
                mean_slope.add_(torch.tensordot(shares, slopes, dims=1))
            total.addcmul_(mean_slope, (self.image[0] - self.baselines[path, 0]).double())
        return total

    def finished(
        self, map_months: npt.NDArray[np.float64], map_error_fraction: float
    ) -> PathIntegral:
        """Return the integral and let go of the gradients."""
        gap_months = float(map_months.sum()) - self.change_months()
        self.slopes.clear()
        return PathIntegral(
            map_months,
            self.prediction_months,
            self.prediction_months - self.change_months(),
            gap_months,
            map_error_fraction,
            self.nodes,
            self.accepts(gap_months, map_error_fraction),
            seconds=math.nan,
        )


class PanelSums:
    """Sums over the panels of each case as they are now: of integrals and of roughness.

    Cases are measured together, since on a GPU each small operation costs as much as a large one.

    Args:
        cases: all n of them.
    """

    def __init__(self, cases: Sequence[PathCase]) -> None:
        self.cases = cases
        shape = (len(cases), *cases[0].image.shape[1:])
        # Integrals, roughness and its square, each (n, H, W).
        self.total, self.errors, self.squares = (
            cases[0].image.new_zeros(shape, dtype=torch.float64) for _ in range(3)
        )

    def add(self, panels: Sequence[tuple[int, Panel]], sign: int) -> list[float]:
        """Add panels of cases to the sums, or take them away; return how rough each is."""
        sizes = []
        for start in range(0, len(panels), _PANELS_AT_ONCE):
            sizes.append(self._add(panels[start : start + _PANELS_AT_ONCE], sign))
        return torch.cat(sizes).tolist() if sizes and sign > 0 else []

    def _add(self, panels: Sequence[tuple[int, Panel]], sign: int) -> Tensor:
        owners = [self.cases[index] for index, _ in panels]
        nodes = [[place(node) for node in panel.nodes()] for _, panel in panels]
        low, middle, high = (
            torch.stack([case.slopes[node][0] for case, node in zip(owners, row, strict=True)])
            for row in zip(*nodes, strict=True)
        )
        step = torch.stack([case.image[0] for case in owners])
        step -= torch.stack(
            [case.baselines[panel.path, 0] for case, (_, panel) in zip(owners, panels, strict=True)]
        )
        widths = [
            panel.width / len(case.baselines)
            for case, (_, panel) in zip(owners, panels, strict=True)
        ]
        step *= step.new_tensor(widths).view(-1, 1, 1)
        mean_ends = (low + high) / 2
        parts = (mean_ends + middle) * step / 2
        rough = (mean_ends - middle) * step / 2
        indices = torch.tensor([index for index, _ in panels], device=step.device)
        self.total.index_add_(0, indices, parts.double(), alpha=sign)
        self.errors.index_add_(0, indices, rough.double(), alpha=sign)
        self.squares.index_add_(0, indices, rough.double().square(), alpha=sign)
        return rough.abs().sum(dim=(1, 2))

    def measures(self, indices: Sequence[int]) -> list[tuple[float, float]]:
        """Return for each case the map's sum, and its estimated error relative to the map.

        Where gradients jump, halving a panel halves its error, and errors of panels add up like
        independent ones; where they bend smoothly, it leaves a quarter, and they add up as they
        are. At each pixel the larger estimate counts.
        """
        chosen = torch.tensor(indices, device=self.total.device)
        total, errors, squares = (
            sums.index_select(0, chosen) for sums in (self.total, self.errors, self.squares)
        )
        jumping = squares.clamp_min_(0).sqrt_().div_(2)
        bending = errors.abs_().div_(3)
        error = torch.maximum(jumping, bending).sum(dim=(1, 2))
        size = total.abs().sum(dim=(1, 2))
        fraction = torch.where(size > 0, error / size, error)
        sums, fractions = torch.stack([total.sum(dim=(1, 2)), fraction]).tolist()
        return list(zip(sums, fractions, strict=True))


def place(node: Node) -> Node:
    """Return the node under which a gradient is kept: all paths end at the image."""
    return Node(0, 1.0) if node.alpha == 1 else node

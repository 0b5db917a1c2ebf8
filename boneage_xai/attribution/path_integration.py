"""Path integrals of many cases at once: their nodes share batches, each case stops on its own."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.gradients import gradients, predictions
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.quadrature import AdaptiveQuadrature, Node, Panel
from boneage_xai.errors import AttributionError

# Nodes that a case is expected to take, for deciding how many cases are begun at once.
_USUAL_NODES = 64
_STEP = 0.8


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
class _Case:
    """One case under way: its paths, its quadrature and the gradients computed so far.

    ``total``, ``errors`` and ``squares`` (H, W) are sums over the panels that there are now: of
    their integrals, and of their roughness and its square.
    """

    image: Tensor
    baselines: Tensor
    is_male: Tensor
    prediction_months: float
    baseline_predictions: list[float]
    tolerance_months: float
    map_tolerance_fraction: float
    quadrature: AdaptiveQuadrature
    slopes: dict[Node, Tensor] = field(default_factory=dict)
    total: Tensor = field(init=False)
    errors: Tensor = field(init=False)
    squares: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.total, self.errors, self.squares = (
            torch.zeros_like(self.image[0], dtype=torch.float64) for _ in range(3)
        )

    def ask(self) -> list[Node]:
        """Return the nodes to evaluate next; alpha = 1 is the image itself on every path."""
        wanted = self.quadrature.wanted()
        asked = dict.fromkeys(_place(node) for node in wanted)
        new = [node for node in asked if node not in self.slopes]
        # What several paths share becomes known for all of them at once.
        self.quadrature.record(len(wanted) - len(new))
        return new

    def point(self, node: Node) -> Tensor:
        """Return the image (1, H, W) at a node."""
        return torch.lerp(self.baselines[node.path], self.image, node.alpha)

    def record(self, node: Node, slope: Tensor) -> None:
        """Keep a gradient (1, H, W)."""
        self.slopes[node] = slope
        self.quadrature.record()

    def measure(self) -> None:
        """Add the panels that are new."""
        panels = self.quadrature.unmeasured()
        rough = self._add(panels, 1)
        for panel, size in zip(panels, rough.abs().sum(dim=(1, 2)).tolist(), strict=True):
            self.quadrature.measure(panel, size)

    def refine(self) -> bool:
        """Halve the roughest panels; False where that is of no use."""
        fraction = self.map_error_fraction()
        # What is no number will not become one.
        if not math.isfinite(fraction) or self.is_converged():
            return False
        # Where the gap alone is too large, nobody knows by how much it falls: in small steps.
        needed = self.map_tolerance_fraction / fraction if fraction > 0 else 1.0
        halved = self.quadrature.refine(needed if needed < 1 else _STEP)
        if halved:
            self._add(halved, -1)
        return bool(halved)

    def gap_months(self) -> float:
        """Return the map's sum minus the change of the prediction."""
        return float(self.total.sum()) - self.change_months()

    def change_months(self) -> float:
        """Return the prediction at the image minus that at the baselines, averaged."""
        return self.prediction_months - float(np.mean(self.baseline_predictions))

    def map_error_fraction(self) -> float:
        """Return the estimated error of the map, relative to it.

        Where gradients jump, halving a panel halves its error, and errors of panels add up like
        independent ones; where they bend smoothly, it leaves a quarter, and they add up as they
        are. At each pixel the larger estimate counts.
        """
        jumping = self.squares.clamp_min(0).sqrt() / 2
        bending = self.errors.abs() / 3
        error, size = float(torch.maximum(jumping, bending).sum()), float(self.total.abs().sum())
        return error / size if size > 0 else error

    def is_converged(self) -> bool:
        """Return whether gap and error are within their tolerances."""
        return (
            abs(self.gap_months()) <= self.tolerance_months
            and self.map_error_fraction() <= self.map_tolerance_fraction
        )

    def integral(self) -> Tensor:
        """Return the map (H, W) in float64, summed in an order that no batch changes."""
        total = torch.zeros_like(self.total)
        weights = self.quadrature.weights()
        for path in range(len(self.baselines)):
            mean_slope = torch.zeros_like(total)
            for node in sorted(node for node in weights if node.path == path):
                mean_slope.add_(self.slopes[_place(node)][0].double(), alpha=weights[node])
            total.addcmul_(mean_slope, self._step(path)[0].double())
        return total

    def finished(self, nodes: int) -> PathIntegral:
        """Return the integral after so many gradients, and let go of them."""
        fraction, map_months = self.map_error_fraction(), self.integral().cpu().numpy()
        gap_months = float(map_months.sum()) - self.change_months()
        converged = (
            abs(gap_months) <= self.tolerance_months and fraction <= self.map_tolerance_fraction
        )
        self.slopes.clear()
        return PathIntegral(
            map_months,
            self.prediction_months,
            self.prediction_months - self.change_months(),
            gap_months,
            fraction,
            nodes,
            converged,
            seconds=math.nan,
        )

    def _add(self, panels: Sequence[Panel], sign: int) -> Tensor:
        """Add panels to the sums, or take them away; return their roughness (k, H, W)."""
        nodes = [[_place(node) for node in panel.nodes()] for panel in panels]
        low, middle, high = (
            torch.stack([self.slopes[node][0] for node in row]) for row in zip(*nodes, strict=True)
        )
        step = torch.stack([self._step(panel.path)[0] for panel in panels])
        widths = [panel.width / len(self.baselines) for panel in panels]
        step = step * step.new_tensor(widths).view(-1, 1, 1)
        mean_ends = (low + high) / 2
        parts = (mean_ends + middle) * step / 2
        rough = (mean_ends - middle) * step / 2
        self.total.add_(parts.sum(dim=0, dtype=torch.float64), alpha=sign)
        self.errors.add_(rough.sum(dim=0, dtype=torch.float64), alpha=sign)
        self.squares.add_(rough.double().square().sum(dim=0), alpha=sign)
        return rough

    def _step(self, path: int) -> Tensor:
        return self.image - self.baselines[path]


def _place(node: Node) -> Node:
    """Return the node under which a gradient is kept: all paths end at the image."""
    return Node(0, 1.0) if node.alpha == 1 else node


def integrate_batch(
    network: nn.Module,
    images: Tensor,
    baselines: Sequence[Tensor],
    is_male: Tensor,
    settings: AttributionSettings,
    *,
    batch_size: int,
    gradient_network: nn.Module | None = None,
    on_gradients: Callable[[int], None] | None = None,
) -> list[PathIntegral]:
    """Integrate the gradients of several cases along straight paths from their baselines.

    Each case begins with a coarse rule and is refined where its gradients change most, until its
    completeness gap and the estimated error of its map are within their tolerances, or until it
    has ``max_nodes``.
    Nodes of all cases wait in one queue and are evaluated in batches. How cases are batched
    changes rounding only; where rounding decides which panel is halved, maps may differ by what
    the tolerance allows.

    Args:
        network: frozen, in evaluation mode; its predictions are what maps must add up to.
        images: (n, 1, H, W) in [0, 1].
        baselines: n tensors (k, 1, H, W); the integrals from k baselines are averaged.
        is_male: (n,) 0 or 1, held fixed along the paths.
        settings: tolerances, max_nodes, memory_budget_mb.
        batch_size: images a step.
        gradient_network: computes the gradients, for instance in bfloat16; None takes
            ``network``.
        on_gradients: called after each step with the gradients computed so far; what it raises
            ends the work.

    Returns:
        One integral per case, in order. Those that did not converge are marked, not dropped.

    Raises:
        AttributionError: shapes that do not fit, or fewer nodes than baselines need.
    """
    _check_shapes(images, baselines, is_male)
    started = time.perf_counter()
    cases = _begin(network, images, baselines, is_male, settings, batch_size)
    computing = network if gradient_network is None else gradient_network
    waiting = deque(enumerate(cases))
    queue: deque[tuple[int, Node]] = deque()
    asked = [0] * len(cases)
    done: dict[int, PathIntegral] = {}
    active = 0
    most_active = max(1, half_budget_bytes(settings) // (_USUAL_NODES * _bytes(images[0])))
    while waiting or queue:
        while waiting and active < most_active and len(queue) < batch_size:
            index, case = waiting.popleft()
            queue.extend((index, node) for node in case.ask())
            active += 1
        step = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        _, slopes = gradients(
            computing,
            torch.stack([cases[index].point(node) for index, node in step]),
            torch.stack([cases[index].is_male for index, _ in step]),
            batch_size,
        )
        for (index, node), slope in zip(step, slopes, strict=True):
            cases[index].record(node, slope.clone())
            asked[index] += 1
        if on_gradients is not None:
            on_gradients(sum(asked))
        for index in dict.fromkeys(index for index, _ in step):
            case = cases[index]
            if not case.quadrature.is_settled():
                continue
            case.measure()
            if case.refine():
                queue.extend((index, new) for new in case.ask())
                continue
            done[index] = case.finished(asked[index])
            active -= 1
    seconds = (time.perf_counter() - started) / sum(asked)
    return [replace(done[index], seconds=seconds * asked[index]) for index in range(len(cases))]


def half_budget_bytes(settings: AttributionSettings) -> int:
    """Return half the memory budget: one half is for activations, the other for gradients."""
    return settings.memory_budget_mb * 2**20 // 2


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check_shapes(images: Tensor, baselines: Sequence[Tensor], is_male: Tensor) -> None:
    n = images.shape[0]
    if images.ndim != 4 or images.shape[1] != 1 or not n == len(baselines) == len(is_male):
        raise AttributionError(
            "path integrals: expected images (n, 1, H, W) and as many baselines and sexes, "
            f"found {tuple(images.shape)}, {len(baselines)} and {len(is_male)}"
        )
    for baseline in baselines:
        if baseline.ndim != 4 or not len(baseline) or baseline.shape[1:] != images.shape[1:]:
            raise AttributionError(
                f"path integrals: expected baselines (k, {', '.join(map(str, images.shape[1:]))}), "
                f"found {tuple(baseline.shape)}"
            )


def _begin(
    network: nn.Module,
    images: Tensor,
    baselines: Sequence[Tensor],
    is_male: Tensor,
    settings: AttributionSettings,
    batch_size: int,
) -> list[_Case]:
    at_images = predictions(network, images, is_male, batch_size).tolist()
    # Cases may share their baselines, as the references of expected gradients: once is enough.
    shared: dict[tuple[int, float], list[float]] = {}
    cases = []
    for index, baseline in enumerate(baselines):
        key = (id(baseline), float(is_male[index]))
        if key not in shared:
            sexes = is_male[index].repeat(len(baseline))
            shared[key] = predictions(network, baseline, sexes, batch_size).tolist()
        changes = [at_images[index] - value for value in shared[key]]
        cases.append(
            _Case(
                images[index].detach(),
                baseline.detach(),
                is_male[index].detach(),
                at_images[index],
                shared[key],
                settings.tolerance_months(float(np.mean(changes))),
                settings.map_tolerance_fraction,
                AdaptiveQuadrature(len(changes), settings.min_nodes, settings.max_nodes),
            )
        )
    return cases

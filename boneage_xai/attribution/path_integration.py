"""Path integrals of many cases at once: their nodes share batches, each case stops on its own."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.gradients import gradients, predictions
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.quadrature import AdaptiveQuadrature, Node
from boneage_xai.errors import AttributionError

# Nodes that a case is expected to take, for deciding how many cases are begun at once.
_USUAL_NODES = 64


@dataclass(frozen=True, eq=False)
class PathIntegral:
    """The integral of one case.

    Args:
        map_months: (H, W) float64, averaged over the case's baselines.
        prediction_months: float32 network's output for the image.
        baseline_prediction_months: the same for the baselines, averaged.
        gap_months: sum of the map minus the difference of the two.
        nodes: gradients computed.
        converged: whether the gap is within the tolerance, and not only because errors along the
            path cancel.
        seconds: share of the whole computation, by nodes.
    """

    map_months: npt.NDArray[np.float64]
    prediction_months: float
    baseline_prediction_months: float
    gap_months: float
    nodes: int
    converged: bool
    seconds: float


@dataclass(eq=False)
class _Case:
    """One case under way: its paths, its quadrature and the gradients computed so far."""

    image: Tensor
    baselines: Tensor
    is_male: Tensor
    prediction_months: float
    baseline_predictions: list[float]
    tolerance_months: float
    noise_months: float
    quadrature: AdaptiveQuadrature
    slopes: dict[Node, Tensor] = field(default_factory=dict)

    def ask(self) -> list[Node]:
        """Return the nodes to evaluate next; alpha = 1 is the image itself on every path."""
        asked = dict.fromkeys(_place(node) for node in self.quadrature.wanted())
        return [node for node in asked if node not in self.slopes]

    def point(self, node: Node) -> Tensor:
        """Return the image (1, H, W) at a node."""
        return torch.lerp(self.baselines[node.path], self.image, node.alpha)

    def record(self, node: Node, value: float, slope: Tensor) -> None:
        """Keep a gradient and tell the quadrature its component along the path."""
        self.slopes[node] = slope
        paths = range(len(self.baselines)) if node.alpha == 1 else (node.path,)
        for path in paths:
            along = (slope.double() * self._step(path)).sum()
            self.quadrature.record(Node(path, node.alpha), value, float(along))

    def is_converged(self) -> bool:
        """Return whether the gap is within the tolerance, and not because errors cancel."""
        ends = 2 * len(self.quadrature.panels)
        # The panels' errors are averaged over the paths, and so is their noise.
        noise_months = self.noise_months * math.sqrt(ends) / len(self.quadrature.changes)
        allowed_months = math.hypot(self.tolerance_months, noise_months)
        return (
            abs(self.quadrature.error()) <= self.tolerance_months
            and self.quadrature.scatter() <= allowed_months
        )

    def wants_more(self) -> bool:
        """Return whether more nodes are needed, and would help."""
        # A gap that is no number will not become one.
        return math.isfinite(self.quadrature.scatter()) and not self.is_converged()

    def integral(self) -> Tensor:
        """Return the map (H, W) in float64, summed in an order that no batch changes."""
        total = torch.zeros_like(self.image[0], dtype=torch.float64)
        weights = self.quadrature.weights()
        for path in range(len(self.baselines)):
            mean_slope = torch.zeros_like(total)
            for node in sorted(node for node in weights if node.path == path):
                mean_slope.add_(self.slopes[_place(node)][0].double(), alpha=weights[node])
            total.addcmul_(mean_slope, self._step(path)[0])
        return total

    def _step(self, path: int) -> Tensor:
        return self.image.double() - self.baselines[path].double()


def _place(node: Node) -> Node:
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
    noise_months: float = 0.0,
) -> list[PathIntegral]:
    """Integrate the gradients of several cases along straight paths from their baselines.

    Each case begins with a coarse rule and is refined where its own predictions show the rule
    to be wrong, until its completeness gap is within the tolerance, and not only because errors
    along the path happen to cancel, or until it has ``max_nodes``.
    Nodes of all cases wait in one queue and are evaluated in batches. How cases are batched
    changes rounding only; where rounding decides which panel is halved, maps may differ by what
    the tolerance allows.

    Args:
        network: frozen, in evaluation mode; its predictions are what maps must add up to.
        images: (n, 1, H, W) in [0, 1].
        baselines: n tensors (k, 1, H, W); the integrals from k baselines are averaged.
        is_male: (n,) 0 or 1, held fixed along the paths.
        settings: tolerance, max_nodes, memory_budget_mb.
        batch_size: images a step.
        gradient_network: computes the gradients, for instance in bfloat16; None takes
            ``network``. Its own predictions only say where to refine.
        noise_months: how far those predictions are from ``network``'s.

    Returns:
        One integral per case, in order. Those that did not converge are marked, not dropped.

    Raises:
        AttributionError: shapes that do not fit, or fewer nodes than baselines need.
    """
    _check_shapes(images, baselines, is_male)
    started = time.perf_counter()
    cases = _begin(network, images, baselines, is_male, settings, batch_size, noise_months)
    computing = network if gradient_network is None else gradient_network
    waiting = deque(enumerate(cases))
    queue: deque[tuple[int, Node]] = deque()
    asked = [0] * len(cases)
    maps: dict[int, npt.NDArray[np.float64]] = {}
    active = 0
    most_active = max(1, half_budget_bytes(settings) // (_USUAL_NODES * _bytes(images[0])))
    while waiting or queue:
        while waiting and active < most_active and len(queue) < batch_size:
            index, case = waiting.popleft()
            queue.extend((index, node) for node in case.ask())
            active += 1
        step = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        values, slopes = gradients(
            computing,
            torch.stack([cases[index].point(node) for index, node in step]),
            torch.stack([cases[index].is_male for index, _ in step]),
            batch_size,
        )
        for (index, node), value, slope in zip(step, values.tolist(), slopes, strict=True):
            cases[index].record(node, value, slope.clone())
            asked[index] += 1
        for index in dict.fromkeys(index for index, _ in step):
            case = cases[index]
            if not case.quadrature.is_settled():
                continue
            if case.wants_more() and case.quadrature.refine():
                queue.extend((index, new) for new in case.ask())
                continue
            maps[index] = case.integral().cpu().numpy()
            case.slopes.clear()
            active -= 1
    seconds = (time.perf_counter() - started) / sum(asked)
    return [
        _finished(case, maps[index], asked[index], seconds * asked[index])
        for index, case in enumerate(cases)
    ]


def weighted_gradients(
    network: nn.Module,
    image: Tensor,
    baseline: Tensor,
    is_male: Tensor,
    nodes: Sequence[float] | npt.NDArray[np.floating[Any]],
    weights: Sequence[float] | npt.NDArray[np.floating[Any]],
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """Integrate along one path with a given rule, the plain formula of Integrated Gradients.

    Args:
        network: frozen, in evaluation mode.
        image: (1, 1, H, W) in [0, 1].
        baseline: (1, 1, H, W).
        is_male: (1,) 0 or 1.
        nodes: (k,) places on the path from 0 to 1.
        weights: (k,) summing to 1.
        batch_size: images a step.

    Returns:
        (H, W) months.
    """
    points = torch.cat([torch.lerp(baseline, image, float(node)) for node in nodes])
    _, slopes = gradients(network, points, is_male.repeat(len(nodes)), batch_size)
    shares = torch.as_tensor(np.asarray(weights, dtype=np.float64)).to(slopes.device)
    mean_slope = torch.einsum("k,kchw->hw", shares, slopes.double())
    step = (image.double() - baseline.double())[0, 0]
    result: npt.NDArray[np.float64] = (mean_slope * step).cpu().numpy()
    return result


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
    noise_months: float,
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
                noise_months,
                AdaptiveQuadrature(changes, settings.min_nodes, settings.max_nodes),
            )
        )
    return cases


def _finished(
    case: _Case, map_months: npt.NDArray[np.float64], nodes: int, seconds: float
) -> PathIntegral:
    baseline_months = float(np.mean(case.baseline_predictions))
    gap_months = float(map_months.sum()) - (case.prediction_months - baseline_months)
    return PathIntegral(
        map_months,
        case.prediction_months,
        baseline_months,
        gap_months,
        nodes,
        case.is_converged(),
        seconds,
    )

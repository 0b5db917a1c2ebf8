"""Path integrals of many cases at once: their nodes share batches, each case stops on its own."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai.attribution.forward import in_full_float32
from boneage_xai.attribution.gradients import gradients, predictions
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.quadrature import AdaptiveQuadrature, Node, Panel
from boneage_xai.errors import AttributionError

# Nodes that a case is expected to take, for deciding how many cases are begun at once.
_USUAL_NODES = 64
_STEP = 0.8
_GPU_LANES = 2
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
class _Case:
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
        asked = dict.fromkeys(_place(node) for node in wanted)
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
                slopes = torch.stack([self.slopes[_place(node)][0] for node in part]).double()
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


class _Sums:
    """Sums over the panels of each case as they are now: of integrals and of roughness.

    Cases are measured together, since on a GPU each small operation costs as much as a large one.

    Args:
        cases: all n of them.
    """

    def __init__(self, cases: Sequence[_Case]) -> None:
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
        nodes = [[_place(node) for node in panel.nodes()] for _, panel in panels]
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
    lanes: int | None = None,
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
        lanes: into how many parts the cases are divided, each worked on by a thread of its own,
            so that a GPU computes for one while the others are measured; None takes two on a
            GPU and one elsewhere.

    Returns:
        One integral per case, in order. Those that did not converge are marked, not dropped.

    Raises:
        AttributionError: shapes that do not fit, or fewer nodes than baselines need.
    """
    _check_shapes(images, baselines, is_male)
    started = time.perf_counter()
    budget = half_budget_bytes(settings)
    cases = _begin(network, images, baselines, is_male, settings, batch_size)
    computing = network if gradient_network is None else gradient_network
    progress = _Progress(on_gradients)
    lanes = min(len(cases), lanes or (_GPU_LANES if images.device.type == "cuda" else 1))
    most_active = max(1, budget // (lanes * _USUAL_NODES * _bytes(images[0])))
    parts = [cases[lane::lanes] for lane in range(lanes)]

    def work(part: list[_Case]) -> list[PathIntegral]:
        with _own_stream(images.device):
            return _integrate(computing, part, batch_size, most_active, progress)

    if lanes == 1:
        done = [_integrate(computing, cases, batch_size, most_active, progress)]
    else:
        # What a thread switches back must be what this one has switched.
        with in_full_float32(), ThreadPoolExecutor(lanes) as pool:
            done = list(pool.map(work, parts))
    seconds = (time.perf_counter() - started) / progress.n_gradients
    return [
        replace(integral, seconds=seconds * integral.nodes)
        for integral in (done[index % lanes][index // lanes] for index in range(len(cases)))
    ]


def _own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """Let this thread's work on a GPU not wait for that of others, once what they began is done."""
    if device.type != "cuda":
        return nullcontext()
    torch.cuda.synchronize(device)
    stream: Any = torch.cuda.Stream
    return torch.cuda.stream(stream(device))


class _Progress:
    """Gradients computed by all lanes so far.

    Args:
        tell: called with their number after each step.
    """

    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self.n_gradients = 0
        self._tell = tell
        self._lock = threading.Lock()

    def add(self, n: int) -> None:
        """Count n more."""
        with self._lock:
            self.n_gradients += n
            if self._tell is not None:
                self._tell(self.n_gradients)


def _integrate(
    network: nn.Module,
    cases: list[_Case],
    batch_size: int,
    most_active: int,
    progress: _Progress,
) -> list[PathIntegral]:
    """Work on the nodes of cases until each is done; at most so many are begun at a time."""
    sums = _Sums(cases)
    waiting = deque(range(len(cases)))
    queue: deque[tuple[int, Node]] = deque()
    done: dict[int, PathIntegral] = {}
    while waiting or queue:
        while (
            waiting
            and len(cases) - len(waiting) - len(done) < most_active
            and len(queue) < batch_size
        ):
            index = waiting.popleft()
            queue.extend((index, node) for node in cases[index].ask())
        step = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        _, slopes = gradients(
            network,
            _points([(cases[index], node) for index, node in step]),
            torch.stack([cases[index].is_male for index, _ in step]),
            batch_size,
        )
        for (index, node), slope in zip(step, slopes.unbind(), strict=True):
            cases[index].record(node, slope)
        progress.add(len(step))
        settled = [
            index
            for index in dict.fromkeys(index for index, _ in step)
            if cases[index].quadrature.is_settled()
        ]
        done |= _measured(sums, settled)
        for index in settled:
            queue.extend((index, node) for node in cases[index].ask())
    return [done[index] for index in range(len(cases))]


def _points(nodes: Sequence[tuple[_Case, Node]]) -> Tensor:
    """Return the images (n, 1, H, W) at nodes of cases."""
    images = torch.stack([case.image for case, _ in nodes])
    baselines = torch.stack([case.baselines[node.path] for case, node in nodes])
    alphas = images.new_tensor([node.alpha for _, node in nodes])
    return torch.lerp(baselines, images, alphas.view(-1, 1, 1, 1))


def _measured(sums: _Sums, settled: Sequence[int]) -> dict[int, PathIntegral]:
    """Measure cases all of whose nodes are known; refine them or return their integrals."""
    if not settled:
        return {}
    cases = sums.cases
    new = [(index, panel) for index in settled for panel in cases[index].quadrature.unmeasured()]
    for (index, panel), size in zip(new, sums.add(new, 1), strict=True):
        cases[index].quadrature.measure(panel, size)
    halved: list[tuple[int, Panel]] = []
    fractions: dict[int, float] = {}
    for index, (total, fraction) in zip(settled, sums.measures(settled), strict=True):
        panels = cases[index].refine(total - cases[index].change_months(), fraction)
        halved += [(index, panel) for panel in panels]
        if not panels:
            fractions[index] = fraction
    sums.add(halved, -1)
    if not fractions:
        return {}
    maps = torch.stack([cases[index].integral() for index in fractions]).cpu().numpy()
    return {
        index: cases[index].finished(map_months, fraction)
        for (index, fraction), map_months in zip(fractions.items(), maps, strict=True)
    }


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

"""Path integrals of many cases at once: their nodes share batches, each case stops on its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.forward import finite_months, in_full_float32
from boneage_xai.attribution.gradients import gradients, predictions
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.path_cases import PanelSums, PathCase, PathIntegral
from boneage_xai.attribution.quadrature import AdaptiveQuadrature, Node, Panel
from boneage_xai.errors import AttributionError

# Nodes that a case is expected to take, for deciding how many cases are begun at once.
_USUAL_NODES = 64
_GPU_LANES = 2


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
    budget = half_budget_bytes(settings, images.device)
    cases = _begin(network, images, baselines, is_male, settings, batch_size)
    computing = network if gradient_network is None else gradient_network
    progress = _Progress(on_gradients)
    lanes = min(len(cases), lanes or (_GPU_LANES if images.device.type == "cuda" else 1))
    most_active = max(1, budget // (lanes * _USUAL_NODES * _bytes(images[0])))
    parts = [cases[lane::lanes] for lane in range(lanes)]

    def work(part: list[PathCase]) -> list[PathIntegral]:
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
    cases: list[PathCase],
    batch_size: int,
    most_active: int,
    progress: _Progress,
) -> list[PathIntegral]:
    """Work on the nodes of cases until each is done; at most so many are begun at a time."""
    sums = PanelSums(cases)
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


def _points(nodes: Sequence[tuple[PathCase, Node]]) -> Tensor:
    """Return the images (n, 1, H, W) at nodes of cases."""
    images = torch.stack([case.image for case, _ in nodes])
    baselines = torch.stack([case.baselines[node.path] for case, node in nodes])
    alphas = images.new_tensor([node.alpha for _, node in nodes])
    return torch.lerp(baselines, images, alphas.view(-1, 1, 1, 1))


def _measured(sums: PanelSums, settled: Sequence[int]) -> dict[int, PathIntegral]:
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


def half_budget_bytes(settings: AttributionSettings, device: torch.device) -> int:
    """Return half the memory budget: one half is for activations, the other for gradients.

    Args:
        settings: its memory_budget_mb; None is a quarter of a GPU's memory, 1 GiB elsewhere. It is
            of all its memory, not of what is free, so that a resumed work decides alike.
        device: that computes.
    """
    if settings.memory_budget_mb is not None:
        return settings.memory_budget_mb * 2**20 // 2
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 8
    return 2**29


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
) -> list[PathCase]:
    at_images = [
        finite_months(value) for value in predictions(network, images, is_male, batch_size).tolist()
    ]
    # Cases may share their baselines: once for each sex is enough, and all of them together.
    keys = list(zip(map(id, baselines), is_male.tolist(), strict=True))
    owner = {key: index for index, key in enumerate(keys)}
    values = predictions(
        network,
        torch.cat([baselines[index] for index in owner.values()]),
        torch.cat([is_male[index].repeat(len(baselines[index])) for index in owner.values()]),
        batch_size,
    )
    left = map(finite_months, values.tolist())
    at_baselines = {key: list(islice(left, len(baselines[index]))) for key, index in owner.items()}
    cases = []
    for index, baseline in enumerate(baselines):
        changes = [at_images[index] - value for value in at_baselines[keys[index]]]
        cases.append(
            PathCase(
                images[index].detach(),
                baseline.detach(),
                is_male[index].detach(),
                at_images[index],
                at_baselines[keys[index]],
                settings.tolerance_months(float(np.mean(changes))),
                settings.map_tolerance_fraction,
                AdaptiveQuadrature(len(changes), settings.min_nodes, settings.max_nodes),
            )
        )
    return cases

"""Numerical integration along a path, refined where it is measured to be wrong.

Integrated Gradients integrates the slope of the prediction along a path from a baseline
(alpha = 0) to the image (alpha = 1). The slope's integral over any part of the path is known
without integrating: it is the prediction at the part's end minus that at its start. So the error
of a rule on each part is measured, not estimated, and nodes go where they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from boneage_xai.errors import AttributionError

RULE = "adaptive composite Simpson"
SIMPSON = (1 / 6, 4 / 6, 1 / 6)
FEWEST_NODES = 3
# Panels that together hold this share of the error are halved in one round.
BULK = 0.5
# Narrower panels are left alone: float32 images could no longer tell their nodes apart.
NARROWEST = 2.0**-20


class Node(NamedTuple):
    """One place on one of the paths of a case: its path and 0 ≤ alpha ≤ 1."""

    path: int
    alpha: float


class Panel(NamedTuple):
    """A part of a path with its three nodes: the ends and the middle."""

    path: int
    low: float
    high: float

    def nodes(self) -> tuple[Node, Node, Node]:
        """Return the nodes of Simpson's rule."""
        middle = (self.low + self.high) / 2
        return Node(self.path, self.low), Node(self.path, middle), Node(self.path, self.high)

    def halves(self) -> tuple[Panel, Panel]:
        """Return both halves, which share all three nodes of the whole."""
        middle = (self.low + self.high) / 2
        return Panel(self.path, self.low, middle), Panel(self.path, middle, self.high)


def start_panels(n_paths: int, nodes: int) -> list[Panel]:
    """Divide each path evenly, into as many panels as its share of the nodes allows.

    Args:
        n_paths: paths of the case, each from alpha = 0 to 1.
        nodes: what all paths together should begin with; the image, where all of them end,
            counts once.
    """
    n = max(1, (nodes - 1) // (2 * n_paths))
    return [
        Panel(path, index / n, (index + 1) / n) for path in range(n_paths) for index in range(n)
    ]


def worst(errors: npt.NDArray[np.float64], most: int, bulk: float = BULK) -> list[int]:
    """Choose the fewest panels that together hold a share of the absolute error.

    Args:
        errors: (n,) signed error of each panel.
        most: at most so many.
        bulk: the share.

    Returns:
        Positions, in order; ties go to the earlier panel; none where all is exact.

    Source: Dörfler, A Convergent Adaptive Algorithm for Poisson's Equation, 1996.
    """
    sizes = np.abs(errors)
    order = np.argsort(-sizes, kind="stable")
    held = np.cumsum(sizes[order])
    needed = int(np.searchsorted(held, bulk * held[-1])) + 1 if held[-1] > 0 else 0
    return sorted(int(index) for index in order[: min(needed, most)])


class AdaptiveQuadrature:
    """Composite Simpson's rule over one or more paths, whose integrals are averaged.

    It asks for nodes (:meth:`wanted`), is told value and slope there (:meth:`record`), and
    halves the worst panels (:meth:`refine`). No node is ever asked for twice and none is thrown
    away: a panel's nodes are nodes of its halves.

    Args:
        changes: (paths,) the known integral of each path's slope, its total change.
        min_nodes: nodes to begin with, as far as they divide into panels.
        max_nodes: nodes that may be asked for, at least three a path.

    Raises:
        AttributionError: fewer nodes than the coarsest rule has.

    Source: Simpson's rule with bisection as in Lyness, Notes on the Adaptive Simpson Quadrature
    Routine, 1969. There a panel's error is estimated; here it is measured.
    """

    def __init__(self, changes: Sequence[float], min_nodes: int, max_nodes: int) -> None:
        if not changes or max_nodes < FEWEST_NODES * len(changes):
            raise AttributionError(
                f"quadrature: expected at least {FEWEST_NODES} nodes for each of at least one "
                f"path, found {max_nodes} nodes for {len(changes)} paths"
            )
        self.changes = tuple(changes)
        self.max_nodes = max_nodes
        most = max_nodes - len(changes) + 1
        self.panels = start_panels(len(changes), min(min_nodes, most))
        self.values: dict[Node, float] = {}
        self.slopes: dict[Node, float] = {}
        self._wanted = list(dict.fromkeys(node for panel in self.panels for node in panel.nodes()))
        self._n_asked = len(self._wanted)

    def wanted(self) -> list[Node]:
        """Return the nodes to be evaluated next, each once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def record(self, node: Node, value: float, slope: float) -> None:
        """Take note of the function and its slope at a node."""
        self.values[node] = value
        self.slopes[node] = slope

    def is_settled(self) -> bool:
        """Return whether every node asked for is known."""
        return len(self.slopes) == self._n_asked

    def error(self) -> float:
        """Return the integral minus the known change, averaged over the paths."""
        return self._integral() - float(np.mean(self.changes))

    def scatter(self) -> float:
        """Return the root of the sum of squares of the panels' errors.

        The errors of the panels may cancel in their sum by chance; here they cannot.
        """
        errors = np.array([self._panel_error(panel) for panel in self.panels])
        return float(np.linalg.norm(errors)) / len(self.changes)

    def refine(self) -> bool:
        """Halve the worst panels as far as the nodes allow; False where none is left to halve."""
        most = (self.max_nodes - self._n_asked) // 2
        wide = [n for n, panel in enumerate(self.panels) if panel.high - panel.low > NARROWEST]
        if most < 1 or not wide:
            return False
        errors = np.array([self._panel_error(self.panels[index]) for index in wide])
        chosen = {wide[index] for index in worst(errors, most)}
        if not chosen:
            return False
        panels: list[Panel] = []
        for index, panel in enumerate(self.panels):
            if index not in chosen:
                panels.append(panel)
                continue
            for half in panel.halves():
                panels.append(half)
                self._wanted.append(half.nodes()[1])
        self.panels = panels
        self._n_asked += 2 * len(chosen)
        return True

    def weights(self) -> dict[Node, float]:
        """Return the weight of each node; over all paths they sum to 1."""
        weights: dict[Node, float] = {}
        for panel in sorted(self.panels):
            width = (panel.high - panel.low) / len(self.changes)
            for node, weight in zip(panel.nodes(), SIMPSON, strict=True):
                weights[node] = weights.get(node, 0.0) + width * weight
        return weights

    def _integral(self) -> float:
        weights = self.weights()
        return float(sum(weight * self.slopes[node] for node, weight in weights.items()))

    def _panel_error(self, panel: Panel) -> float:
        low, middle, high = panel.nodes()
        slope = sum(
            weight * self.slopes[node]
            for weight, node in zip(SIMPSON, (low, middle, high), strict=True)
        )
        return (panel.high - panel.low) * slope - (self.values[high] - self.values[low])

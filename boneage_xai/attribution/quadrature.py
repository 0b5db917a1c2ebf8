"""Numerical integration along a path, refined where the integrand is measured to be rough.

Integrated Gradients integrates gradients along a path from a baseline (alpha = 0) to the image
(alpha = 1). Gradients of networks with ReLUs jump along the path, and where they jump differs from
pixel to pixel. So panels are halved where their gradients differ most, and not only where
the error of the map's sum is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from boneage_xai.errors import AttributionError

RULE = "adaptive composite trapezoidal rule"
# A panel is two intervals of the trapezoidal rule.
WEIGHTS = (1 / 4, 2 / 4, 1 / 4)
FEWEST_NODES = 3
# Panels that together hold this share of the roughness are halved in one round at most.
BULK = 0.5
# An integrand that jumps once in a panel jumps in one of its halves, which is half as wide: of
# the square of the panel's roughness a quarter is left.
_LEFT_OF_SQUARE = 0.25
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

    @property
    def width(self) -> float:
        """The share of its path."""
        return self.high - self.low

    def nodes(self) -> tuple[Node, Node, Node]:
        """Return both ends and the middle."""
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


def worst(
    roughness: npt.NDArray[np.floating], most: int, ratio: float = 0.0, bulk: float = BULK
) -> list[int]:
    """Choose the fewest panels that need to be halved.

    Args:
        roughness: (n,) sizes, from 0 up.
        most: at most so many.
        ratio: to what share of itself the root of the sum of squares is to fall; no more panels
            are chosen than should do that.
        bulk: the share of the sum that no more panels are chosen than hold together.

    Returns:
        Positions, in order; ties go to the earlier panel; none where all is smooth.

    Source: Dörfler, A Convergent Adaptive Algorithm for Poisson's Equation, 1996.
    """
    order = np.argsort(-roughness, kind="stable")
    held = np.cumsum(roughness[order])
    if not len(held) or not held[-1] > 0:
        return []
    squares = np.cumsum(roughness[order] ** 2)
    left = squares[-1] - (1 - _LEFT_OF_SQUARE) * squares
    for_bulk = int(np.searchsorted(held, bulk * held[-1])) + 1
    enough = np.flatnonzero(left <= ratio**2 * squares[-1])
    for_ratio = int(enough[0]) + 1 if len(enough) else len(order)
    return sorted(int(index) for index in order[: min(for_bulk, for_ratio, most)])


class AdaptiveQuadrature:
    """Composite trapezoidal rule over one or more paths, whose integrals are averaged.

    It asks for nodes (:meth:`wanted`), is told when they are known (:meth:`record`) and how rough
    the integrand is on each panel (:meth:`measure`), and halves the roughest (:meth:`refine`).
    No node is ever asked for twice and none is thrown away: a panel's nodes are nodes of its
    halves.

    Args:
        n_paths: paths.
        min_nodes: nodes to begin with, as far as they divide into panels.
        max_nodes: nodes that may be asked for, at least three a path.

    Raises:
        AttributionError: fewer nodes than the coarsest rule has.

    Source: bisection as in Lyness, Notes on the Adaptive Simpson Quadrature Routine, 1969; the
    trapezoidal rule in Simpson's place, since integrands jump.
    """

    def __init__(self, n_paths: int, min_nodes: int, max_nodes: int) -> None:
        if n_paths < 1 or max_nodes < FEWEST_NODES * n_paths:
            raise AttributionError(
                f"quadrature: expected at least {FEWEST_NODES} nodes for each of at least one "
                f"path, found {max_nodes} nodes for {n_paths} paths"
            )
        self.n_paths = n_paths
        self.max_nodes = max_nodes
        most = max_nodes - n_paths + 1
        self.panels = start_panels(n_paths, min(min_nodes, most))
        self.roughness: dict[Panel, float] = {}
        self._wanted = list(dict.fromkeys(node for panel in self.panels for node in panel.nodes()))
        self._n_asked = len(self._wanted)
        self._n_known = 0

    def wanted(self) -> list[Node]:
        """Return the nodes to be evaluated next, each once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def record(self, n: int = 1) -> None:
        """Take note that so many of the nodes asked for have become known."""
        self._n_known += n

    def is_settled(self) -> bool:
        """Return whether every node asked for is known."""
        return self._n_known == self._n_asked

    def unmeasured(self) -> list[Panel]:
        """Return the panels whose roughness is not known yet."""
        return [panel for panel in self.panels if panel not in self.roughness]

    def measure(self, panel: Panel, roughness: float) -> None:
        """Take note of how rough the integrand is on a panel, as a size from 0 up."""
        self.roughness[panel] = roughness

    def refine(self, ratio: float = 0.0) -> list[Panel]:
        """Halve the roughest panels as far as the nodes allow.

        Args:
            ratio: to what share of itself the root of the sum of squares of the roughness is to
                fall; 0 halves as many as a round may.

        Returns:
            The panels that were halved, none where none is left to halve.
        """
        most = (self.max_nodes - self._n_asked) // 2
        wide = [n for n, panel in enumerate(self.panels) if panel.width > NARROWEST]
        if most < 1 or not wide:
            return []
        sizes = np.array([self.roughness[self.panels[index]] for index in wide])
        chosen = {wide[index] for index in worst(sizes, most, ratio)}
        halved, panels = [], list[Panel]()
        for index, panel in enumerate(self.panels):
            if index not in chosen:
                panels.append(panel)
                continue
            halved.append(panel)
            del self.roughness[panel]
            for half in panel.halves():
                panels.append(half)
                self._wanted.append(half.nodes()[1])
        self.panels = panels
        self._n_asked += 2 * len(halved)
        return halved

    def weights(self) -> Mapping[Node, float]:
        """Return the weight of each node; over all paths they sum to 1."""
        weights: dict[Node, float] = {}
        for panel in sorted(self.panels):
            for node, weight in zip(panel.nodes(), WEIGHTS, strict=True):
                weights[node] = weights.get(node, 0.0) + panel.width * weight / self.n_paths
        return weights

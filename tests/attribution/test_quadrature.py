from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid

from boneage_xai.attribution.quadrature import (
    NARROWEST,
    AdaptiveQuadrature,
    Node,
    start_panels,
    worst,
)
from boneage_xai.errors import AttributionError

Function = Callable[[float], float]


def integrate(
    functions: list[Function], tolerance: float, max_nodes: int = 257, min_nodes: int = 9
) -> tuple[float, AdaptiveQuadrature, dict[Node, float]]:
    """Drive the rule over scalar functions until the roughness is small."""
    rule = AdaptiveQuadrature(len(functions), min_nodes, max_nodes)
    known: dict[Node, float] = {}
    while True:
        for node in rule.wanted():
            assert node not in known
            known[node] = functions[node.path](node.alpha)
            rule.record()
        assert rule.is_settled()
        for panel in rule.unmeasured():
            low, middle, high = (known[node] for node in panel.nodes())
            rule.measure(panel, panel.width * abs(low - 2 * middle + high) / 4)
        size = float(np.linalg.norm(list(rule.roughness.values())))
        if size <= tolerance or not rule.refine(tolerance / size):
            break
    assert len(known) <= max_nodes
    weights = rule.weights()
    assert set(weights) == set(known)
    return sum(weight * known[node] for node, weight in weights.items()), rule, known


@pytest.mark.parametrize("min_nodes", [3, 5, 9, 33])
def test_even_panels_are_scipys_trapezoids(min_nodes: int) -> None:
    total, _, _ = integrate([np.cos], np.inf, min_nodes=min_nodes)
    alpha = np.linspace(0, 1, min_nodes)
    assert total == pytest.approx(float(trapezoid(np.cos(alpha), x=alpha)), rel=1e-14)


def test_a_line_is_exact_and_smooth_on_the_coarsest_rule() -> None:
    total, rule, _ = integrate([lambda alpha: 3 * alpha - 1], tolerance=1e-12, min_nodes=3)
    assert total == pytest.approx(0.5, abs=1e-15)
    assert len(rule.panels) == 1


HARD: dict[str, Function] = {
    "jump": lambda alpha: 50.0 * (alpha > 1 / 3),
    "spike at black": lambda alpha: 35_000 * float(np.exp(-alpha / 0.002)),
    "bell": lambda alpha: 22_500 / (4 * np.cosh(min(abs(alpha - 0.61) / 0.008, 300)) ** 2),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_functions_take_few_nodes(name: str) -> None:
    function = HARD[name]
    total, _, known = integrate([function], tolerance=0.2)
    exact, _ = quad(function, 0, 1, points=[0.001, 1 / 3, 0.61], limit=200)
    assert abs(total - exact) <= 0.3
    assert len(known) < 120
    alpha = np.linspace(0, 1, len(known))
    even = float(trapezoid([function(a) for a in alpha], x=alpha))
    assert abs(even - exact) > 2 * abs(total - exact)


def test_nodes_lie_where_the_integrand_changes() -> None:
    _, _, known = integrate([HARD["spike at black"]], tolerance=0.2)
    alphas = np.array([node.alpha for node in known])
    assert (alphas < 0.05).mean() > 0.5


def test_several_paths_are_averaged_and_the_roughest_is_refined() -> None:
    total, rule, known = integrate([lambda alpha: alpha, HARD["spike at black"]], tolerance=0.2)
    assert total == pytest.approx((0.5 + 70) / 2, abs=0.3)
    nodes_of = [sum(node.path == path for node in known) for path in range(2)]
    assert nodes_of[1] > 4 * nodes_of[0]
    assert sum(rule.weights().values()) == pytest.approx(1, abs=1e-14)


def test_a_jump_is_not_halved_for_ever() -> None:
    _, rule, known = integrate([HARD["jump"]], tolerance=1e-12, max_nodes=10_000)
    assert min(panel.width for panel in rule.panels) >= NARROWEST / 2
    assert len(known) < 200


@given(
    n_paths=st.integers(1, 5),
    min_nodes=st.integers(3, 60),
    extra=st.integers(0, 60),
    seed=st.integers(0, 99),
)
def test_limits_and_weights_hold_for_any_function(
    n_paths: int, min_nodes: int, extra: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    max_nodes = max(min_nodes, 3 * n_paths) + extra
    frequencies = rng.uniform(1, 40, n_paths)
    waves: list[Function] = [lambda a, f=f: float(np.cos(f * a)) for f in frequencies]
    _, rule, known = integrate(waves, 1e-6, max_nodes, min_nodes)
    assert len(known) <= max_nodes
    weights = rule.weights()
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0


def test_worst_takes_the_fewest_that_hold_half() -> None:
    assert worst(np.array([1.0, 5.0, 2.0, 1.0]), most=9) == [1]
    assert worst(np.array([3.0, 3.0, 3.0, 3.0]), most=9) == [0, 1]
    assert worst(np.array([3.0, 3.0, 3.0, 3.0]), most=1) == [0]
    assert worst(np.zeros(3), most=2) == []


def test_worst_takes_no_more_than_the_ratio_needs() -> None:
    sizes = np.array([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    # Of 21 squares, halving one panel of 2 leaves 18, two leave 15.
    assert worst(sizes, most=9, ratio=(18.5 / 21) ** 0.5) == [1]
    assert worst(sizes, most=9, ratio=(17.5 / 21) ** 0.5) == [1, 2]
    assert worst(sizes, most=9) == [1, 2, 3]


def test_start_panels_share_the_nodes() -> None:
    assert len(start_panels(1, 33)) == 16
    assert len(start_panels(1, 3)) == len(start_panels(1, 4)) == 1
    assert [panel.path for panel in start_panels(4, 33)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert len(start_panels(16, 33)) == 16


@pytest.mark.parametrize(("paths", "most"), [(0, 9), (1, 2), (2, 5)])
def test_too_few_nodes_are_refused(paths: int, most: int) -> None:
    with pytest.raises(AttributionError, match="expected at least 3 nodes"):
        AdaptiveQuadrature(paths, 3, most)

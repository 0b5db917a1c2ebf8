from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, simpson

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
    functions: list[tuple[Function, Function]],
    tolerance: float,
    max_nodes: int = 257,
    min_nodes: int = 9,
) -> tuple[float, AdaptiveQuadrature]:
    """Drive the rule over scalar functions given as (value, slope)."""
    changes = [value(1.0) - value(0.0) for value, _ in functions]
    rule = AdaptiveQuadrature(changes, min_nodes, max_nodes)
    asked: list[Node] = []
    while True:
        for node in rule.wanted():
            asked.append(node)
            value, slope = functions[node.path]
            rule.record(node, value(node.alpha), slope(node.alpha))
        assert rule.is_settled()
        if max(abs(rule.error()), rule.scatter()) <= tolerance or not rule.refine():
            break
    assert len(set(asked)) == len(asked) <= max_nodes
    weights = rule.weights()
    assert set(weights) == set(asked)
    return sum(w * functions[node.path][1](node.alpha) for node, w in weights.items()), rule


def monomial(degree: int) -> tuple[Function, Function]:
    return (lambda a: a ** (degree + 1) / (degree + 1)), (lambda a: a**degree)


@pytest.mark.parametrize("degree", range(4))
def test_cubics_are_exact_on_the_coarsest_rule(degree: int) -> None:
    total, rule = integrate([monomial(degree)], tolerance=np.inf, min_nodes=3)
    assert len(rule.panels) == 1
    assert total == pytest.approx(1 / (degree + 1), abs=1e-15)


def test_degree_four_is_not_exact() -> None:
    total, _ = integrate([monomial(4)], tolerance=np.inf, min_nodes=3)
    # Simpson on [0, 1]: (0 + 4 / 16 + 1) / 6.
    assert total == pytest.approx(1.25 / 6)


@pytest.mark.parametrize("min_nodes", [3, 5, 9, 33])
def test_even_panels_are_scipys_simpson(min_nodes: int) -> None:
    total, _ = integrate([(np.sin, np.cos)], np.inf, min_nodes=min_nodes)
    alpha = np.linspace(0, 1, min_nodes)
    assert total == pytest.approx(float(simpson(np.cos(alpha), x=alpha)), rel=1e-14)


def spike(alpha: float) -> float:
    return float(np.exp(-alpha / 0.002))


HARD = {
    "kink": (lambda a: max(a - 1 / 3, 0) * 50, lambda a: 50.0 * (a > 1 / 3)),
    "spike at black": (lambda a: -70 * spike(a), lambda a: 70 / 0.002 * spike(a)),
    "sigmoid": (
        lambda a: 90 / (1 + np.exp(-(a - 0.61) / 0.004)),
        lambda a: 90 / 0.004 / (4 * np.cosh(min(abs(a - 0.61) / 0.008, 300)) ** 2),
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_functions_reach_the_tolerance_with_few_nodes(name: str) -> None:
    value, slope = HARD[name]
    total, rule = integrate([(value, slope)], tolerance=0.05)
    exact = value(1.0) - value(0.0)
    assert abs(total - exact) <= 0.05
    assert total - exact == pytest.approx(rule.error(), abs=1e-9)
    assert len(rule.slopes) < 100
    # The same nodes evenly spaced miss it by far.
    n = len(rule.slopes) | 1
    alpha = np.linspace(0, 1, n)
    even = float(simpson([slope(a) for a in alpha], x=alpha))
    assert abs(even - exact) > 0.3
    by_scipy, _ = quad(slope, 0, 1, points=[1 / 3, 0.61, 0.001], limit=200)
    assert by_scipy == pytest.approx(exact, abs=1e-6)


def test_nodes_lie_where_the_slope_changes() -> None:
    _, rule = integrate([HARD["spike at black"]], tolerance=0.05)
    alphas = np.array([node.alpha for node in rule.slopes])
    assert (alphas < 0.05).mean() > 0.5


def test_errors_that_cancel_do_not_hide_from_the_scatter() -> None:
    # Two bumps of opposite sign, mirrored: errors of the panels cancel exactly.
    def slope(alpha: float) -> float:
        return float(np.sin(2 * np.pi * alpha) ** 9 * 40)

    def value(alpha: float) -> float:
        grid = np.linspace(0, alpha, 4001)
        return float(simpson([slope(a) for a in grid], x=grid))

    rule = AdaptiveQuadrature([0.0], 5, 257)
    for node in rule.wanted():
        rule.record(node, value(node.alpha), slope(node.alpha))
    assert abs(rule.error()) < 1e-9
    assert rule.scatter() > 1


def test_several_paths_are_averaged_and_the_worst_is_refined() -> None:
    total, rule = integrate([monomial(1), HARD["spike at black"]], tolerance=0.05)
    assert total == pytest.approx((0.5 + 70) / 2, abs=0.05)
    nodes_of = [sum(node.path == path for node in rule.slopes) for path in range(2)]
    assert nodes_of[1] > 4 * nodes_of[0]
    assert sum(rule.weights().values()) == pytest.approx(1, abs=1e-14)


def test_a_jump_ends_and_is_not_called_exact() -> None:
    def step(alpha: float) -> float:
        return 10.0 * (alpha > 0.3)

    _, rule = integrate([(step, lambda _: 0.0)], tolerance=0.05, max_nodes=10_000)
    assert abs(rule.error()) == pytest.approx(10)
    assert min(panel.high - panel.low for panel in rule.panels) >= NARROWEST / 2
    assert len(rule.slopes) < 200


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
    waves = [(lambda a, f=f: np.sin(f * a) / f, lambda a, f=f: np.cos(f * a)) for f in frequencies]
    total, rule = integrate(waves, 1e-6, max_nodes, min_nodes)
    assert len(rule.slopes) <= max_nodes
    weights = rule.weights()
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0
    exact = float(np.mean([np.sin(f) / f for f in frequencies]))
    assert total - exact == pytest.approx(rule.error(), abs=1e-12)


def test_worst_takes_the_fewest_that_hold_half() -> None:
    assert worst(np.array([1.0, -5.0, 2.0, 1.0]), most=9) == [1]
    assert worst(np.array([3.0, -3.0, 3.0, 3.0]), most=9) == [0, 1]
    assert worst(np.array([3.0, -3.0, 3.0, 3.0]), most=1) == [0]
    assert worst(np.zeros(3), most=2) == []


def test_start_panels_share_the_nodes() -> None:
    assert len(start_panels(1, 33)) == 16
    assert len(start_panels(1, 3)) == len(start_panels(1, 4)) == 1
    assert [panel.path for panel in start_panels(4, 33)] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert len(start_panels(16, 33)) == 16


@pytest.mark.parametrize(("changes", "most"), [([], 9), ([1.0], 2), ([1.0, 1.0], 5)])
def test_too_few_nodes_are_refused(changes: list[float], most: int) -> None:
    with pytest.raises(AttributionError, match="expected at least 3 nodes"):
        AdaptiveQuadrature(changes, 3, most)

"""Figures of a search: what is drawn where."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color

from boneage_xai.errors import ReportError
from boneage_xai.figures.search import (
    KnobAxis,
    knob_importance,
    search_curves,
    search_history,
    search_knobs,
)
from boneage_xai.figures.style import ORANGE, VERMILLION, figure_bytes

TRIALS = pd.DataFrame(
    {
        "trial": [0, 1, 3, 4],
        "state": ["complete", "complete", "pruned", "complete"],
        "value": [12.0, 9.0, np.nan, 10.0],
        "training.learning_rate": [1e-3, 1e-2, 1e-4, 1e-3],
        "architecture.hidden": ["[16]", "[32]", "[16]", "[32]"],
    }
)
KNOBS = [
    KnobAxis("training.learning_rate", (1e-4, 1e-2), log=True),
    KnobAxis("architecture.hidden", labels=("[16]", "[32]")),
]
CURVES = {
    0: {1: 30.0, 2: 20.0, 3: 12.0},
    1: {1: 28.0, 2: 18.0, 3: 9.0},
    3: {1: 33.0, 2: 31.0},
    4: {1: 27.0, 2: 19.0, 3: 10.0},
}


def points(axes: Axes, marker: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point)) for point in line.get_xydata()]
        for line in axes.lines
        if line.get_marker() == marker
    ]


def test_history() -> None:
    axes = search_history(TRIALS).axes[0]
    complete, best = points(axes, "o")
    assert complete == [(0, 12), (1, 9), (4, 10)]
    assert best == [(1, 9)]
    (crosses,) = points(axes, "x")
    assert [x for x, _ in crosses] == [3]
    assert points(axes, "None")[0] == [(0, 12), (1, 9), (4, 9), (4, 9)]


def test_knobs() -> None:
    rate, hidden = search_knobs(TRIALS, KNOBS).axes
    assert rate.get_xscale() == "log"
    assert points(rate, "o") == [[(1e-3, 12), (1e-2, 9), (1e-3, 10)], [(1e-2, 9)]]
    assert points(hidden, "o") == [[(0, 12), (1, 9), (1, 10)], [(1, 9)]]
    assert [label.get_text() for label in hidden.get_xticklabels()] == ["[16]", "[32]"]
    assert [x for x, _ in points(rate, "x")[0]] == [1e-4]
    assert [x for x, _ in points(hidden, "x")[0]] == [0]


def test_curves_end_where_trials_were_given_up() -> None:
    axes = search_curves(CURVES, TRIALS, [32, 32, 48]).axes[0]
    assert points(axes, "x") == [[(2, 31)]]
    by_colour = {
        colour: [
            list(map(float, line.get_ydata()))
            for line in axes.lines
            if same_color(line.get_color(), colour) and line.get_marker() == "None"
        ]
        for colour in (VERMILLION, ORANGE)
    }
    assert by_colour == {VERMILLION: [[28, 18, 9]], ORANGE: [[33, 31]]}
    assert [text.get_text() for text in axes.texts] == ["32 px", "48 px"]
    assert not search_curves(CURVES, TRIALS, [48, 48, 48]).axes[0].texts


def test_a_diverged_trial_does_not_press_the_others_onto_the_axis() -> None:
    wild = CURVES | {5: {1: 1e9}}
    trials = pd.concat([TRIALS, pd.DataFrame([{"trial": 5, "state": "pruned"}])])
    axes = search_curves(wild, trials, []).axes[0]
    assert axes.get_ylim()[1] < 500


def test_importance() -> None:
    axes = knob_importance({"a.b": 0.25, "c.d": 0.75}, n_trials=9).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [25, 75]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a.b", "c.d"]


@pytest.mark.parametrize("n_knobs", [1, 2, 5])
def test_figures_can_be_written(n_knobs: int) -> None:
    knobs = [KNOBS[0]] * n_knobs
    assert figure_bytes(search_knobs(TRIALS, knobs), dpi=40).startswith(b"\x89PNG")
    assert len(search_knobs(TRIALS, knobs).axes) == n_knobs


def test_without_a_complete_trial_there_is_nothing_to_draw() -> None:
    pruned = TRIALS[TRIALS["state"] == "pruned"]
    for draw in (lambda: search_history(pruned), lambda: search_knobs(pruned, KNOBS)):
        with pytest.raises(ReportError, match="at least one complete trial"):
            draw()
    with pytest.raises(ReportError, match="at least one trial"):
        search_curves({}, pruned, [])
    assert search_curves({3: CURVES[3]}, pruned, []).axes[0].get_legend() is not None


def test_a_diverged_trial_does_not_press_all_others_flat() -> None:
    diverged = pd.DataFrame(
        {
            "trial": [5],
            "state": ["complete"],
            "value": [900.0],
            "training.learning_rate": [1e-2],
            "architecture.hidden": ["[16]"],
        }
    )
    trials = pd.concat([TRIALS, diverged], ignore_index=True)
    history, knob, _ = search_history(trials).axes[0], *search_knobs(trials, KNOBS).axes
    for axes, place in ((history, 5.0), (knob, 1e-2)):
        assert axes.get_ylim()[1] < 45
        (beyond,) = points(axes, "^")
        assert beyond == [(place, 0.97)]

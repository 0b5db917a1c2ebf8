"""Figures of a reproduction: what is drawn is what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from boneage_xai.errors import ReportError
from boneage_xai.figures.reproduction import (
    activations_beside_random,
    curves_by_arm,
    example_cases,
    sex_differences_figure,
)

HISTORY = pd.DataFrame(
    {"epoch": [0, 1], "train_mae_months": [40.0, 20.0], "val_mae_months": [30.0, 25.0]}
)


def test_each_arm_has_its_curves_on_one_scale() -> None:
    figure = curves_by_arm({"a": HISTORY, "b": HISTORY * 2, "c": HISTORY})
    assert [axes.get_title("left") for axes in figure.axes] == ["a", "b", "c"]
    training, validation = figure.axes[1].get_lines()
    assert training.get_xydata().tolist() == [[1, 80], [3, 40]]
    assert validation.get_ydata().tolist() == [60, 50]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    with pytest.raises(ReportError, match="at least one arm"):
        curves_by_arm({})


@pytest.mark.parametrize(("low", "high"), [(22.1, 29.8), (23.0, 26.0), (95.0, 110.0), (5.0, 200.0)])
def test_errors_can_be_read_off_however_little_they_change(low: float, high: float) -> None:
    history = HISTORY.assign(train_mae_months=[high, low], val_mae_months=[high, low])
    (axes,) = curves_by_arm({"a": history}).axes
    bottom, top = axes.get_ylim()
    assert len([tick for tick in axes.get_yticks() if bottom <= tick <= top]) >= 3


def test_a_difference_is_filled_where_it_was_shown() -> None:
    def pair(twin: str, value: float, p: float | None) -> dict[str, Any]:
        difference = {"value": value, "low": value - 1, "high": value + 1}
        unfinished = {"unfinished": twin == "b"}
        return {"twin": twin, "difference_months": difference, "p_holm": p, **unfinished}

    pairs = [pair("a", -2.0, 0.001), pair("b", 0.5, 0.4), pair("c", 0.1, None)]
    (axes,) = sex_differences_figure(pairs, "8 cases").axes
    points = [container[0] for container in axes.containers]
    assert [float(point.get_xdata()[0]) for point in points] == [-2.0, 0.5, 0.1]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True, True]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b\n(unfinished)", "c"]
    with pytest.raises(ReportError, match="at least one pair"):
        sex_differences_figure([], "no cases")


def test_examples_and_activations_show_their_pictures() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (2, 12, 12), dtype=np.uint8)
    figure = example_cases(inputs, ["one", "two"])
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert np.array_equal(figure.axes[1].images[0].get_array(), inputs[1])
    trained = {"early": rng.random((2, 6, 6)), "late": rng.random((2, 3, 3))}
    random = {"early": rng.random((2, 6, 6)), "late": rng.random((2, 3, 3))}
    figure = activations_beside_random(inputs, trained, random, ["one", "two"])
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    expected = []
    for case in range(2):
        expected += [inputs[case], trained["early"][case], trained["late"][case]]
        expected += [random["early"][case], random["late"][case]]
    assert len(shown) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(shown, expected, strict=True))
    with pytest.raises(ReportError, match="same layers"):
        activations_beside_random(inputs, trained, {"early": random["early"]}, ["one", "two"])
    with pytest.raises(ReportError, match="a title per case"):
        example_cases(inputs, ["one"])

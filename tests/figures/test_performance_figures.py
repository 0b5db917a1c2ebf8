from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from boneage_xai.analysis.agreement import agreement
from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.errors import ReportError
from boneage_xai.figures.cohort import bone_age_by_sex
from boneage_xai.figures.performance import (
    bland_altman,
    error_distribution,
    mae_against_baselines,
    predicted_against_reference,
)
from boneage_xai.figures.style import SEX_COLOURS, figure_bytes
from boneage_xai.figures.subgroups import error_by_subgroup
from boneage_xai.figures.training import learning_curve, learning_curves


def predictions(n: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    reference = np.clip(rng.normal(127.0, 41.0, n), 1.0, 228.0)
    return pd.DataFrame(
        {
            "case_id": [str(i) for i in range(n)],
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "reference_months": reference,
            "predicted_months": 10.0 + 0.92 * reference + rng.normal(0.0, 10.0, n),
        }
    )


def metrics(n: int = 120) -> dict[str, Any]:
    frame = predictions(n)
    return evaluate(frame, {"mean": np.full(n, 127.0), "other": np.full(n, 90.0)}, n_resamples=50)


def history(epochs: int = 6, best: int = 3, scale: float = 1.0) -> pd.DataFrame:
    epoch = np.arange(epochs)
    value = scale * (9.0 + (epoch - best) ** 2)
    return pd.DataFrame({"epoch": epoch, "train_mae_months": value - 2.0, "val_mae_months": value})


def legend_texts(axes: Axes) -> list[str]:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    (legend,) = [axes.get_legend()] if axes.get_legend() else figure.legends
    return [text.get_text() for text in legend.get_texts()]


FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "predicted": (lambda: predicted_against_reference(predictions()), 1),
    "bland_altman": (lambda: bland_altman(predictions()), 1),
    "subgroups": (lambda: error_by_subgroup(metrics()["subgroups"]), 1),
    "distribution": (lambda: error_distribution(predictions()), 2),
    "baselines": (lambda: mae_against_baselines(metrics()), 1),
    "learning": (lambda: learning_curve(history()), 1),
    "learning_runs": (lambda: learning_curves({"a": history(), "b": history(9, 8)}), 1),
    "cohort": (lambda: bone_age_by_sex([12.0, 100.0, 150.0], ["F", "M", "M"]), 2),
    "one_case": (lambda: predicted_against_reference(predictions(1)), 1),
    "one_case_agreement": (lambda: bland_altman(predictions(1)), 1),
    "one_case_distribution": (lambda: error_distribution(predictions(1)), 2),
    "one_case_subgroups": (lambda: error_by_subgroup(metrics(1)["subgroups"]), 1),
    "one_sex": (lambda: bone_age_by_sex([12.0, 100.0], ["M", "M"]), 2),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_its_axes_and_units_and_leaves_no_trace(name: str) -> None:
    draw, axes_count = FIGURES[name]
    before = dict(mpl.rcParams)
    figure = draw()
    assert dict(mpl.rcParams) == before
    assert len(figure.axes) == axes_count
    assert figure.get_size_inches()[0] <= 9.0
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert any("months" in label for label in labels)
    assert figure_bytes(figure, dpi=40).startswith(b"\x89PNG")


def test_drawing_leaves_the_tables_alone() -> None:
    frame = predictions()
    before = frame.copy()
    predicted_against_reference(frame)
    bland_altman(frame)
    error_distribution(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_scatter_shows_every_case_in_the_colour_of_its_sex() -> None:
    frame = predictions()
    axes = predicted_against_reference(frame).axes[0]
    points = max(axes.collections, key=lambda item: len(item.get_offsets()))
    drawn = {
        (round(float(x), 6), round(float(y), 6)): to_hex(colour)
        for (x, y), colour in zip(
            np.asarray(points.get_offsets()), np.asarray(points.get_facecolor()), strict=True
        )
    }
    expected = {
        (round(r, 6), round(p, 6)): SEX_COLOURS[s].lower()
        for s, r, p in zip(
            frame["sex"], frame["reference_months"], frame["predicted_months"], strict=True
        )
    }
    assert drawn == expected
    low, high = axes.get_xlim()
    assert (low, high) == axes.get_ylim()
    girls = int((frame["sex"] == "F").sum())
    assert f"girls (n = {girls})" in legend_texts(axes)
    assert f"boys (n = {120 - girls})" in legend_texts(axes)


def test_bland_altman_draws_the_limits_and_slope_of_the_analysis() -> None:
    frame = predictions()
    result = agreement(frame["reference_months"], frame["predicted_months"])
    axes = bland_altman(frame).axes[0]
    levels = {
        round(float(line.get_ydata()[0]), 9)
        for line in axes.lines
        if len(set(np.asarray(line.get_ydata()).tolist())) == 1
    }
    for key in ("bias_months", "lower_months", "upper_months"):
        assert round(result[key], 9) in levels
    points = np.asarray(max(axes.collections, key=lambda c: len(c.get_offsets())).get_offsets())
    order = np.argsort(points[:, 1])
    difference = (frame["predicted_months"] - frame["reference_months"]).to_numpy()
    mean = (frame["predicted_months"] + frame["reference_months"]).to_numpy() / 2.0
    np.testing.assert_allclose(points[order, 1], np.sort(difference))
    np.testing.assert_allclose(points[order, 0], mean[np.argsort(difference)])
    (sloped,) = [line for line in axes.lines if "slope" in str(line.get_label())]
    x, y = np.asarray(sloped.get_xdata()), np.asarray(sloped.get_ydata())
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(result["slope"]["value"])
    assert f"{result['slope']['value']:+.3f}".replace("-", "−") in str(sloped.get_label())


def test_subgroup_figure_places_value_interval_and_counts() -> None:
    estimate = {"value": 8.0, "low": 6.5, "high": 10.0}
    groups = [
        {"by": "sex", "sex": "F", "n": 30, "few_cases": False, "mae_months": estimate},
        {"by": "age", "age_months": [0, 24], "n": 33, "few_cases": False, "mae_months": estimate},
        {
            "by": "sex×age",
            "sex": "F",
            "age_months": [0, 24],
            "n": 3,
            "few_cases": True,
            "mae_months": {"value": 4.0, "low": 3.0, "high": 7.0},
        },
    ]
    axes = error_by_subgroup(groups).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0-24\n3 / 0"]
    ends = {
        tuple(np.round(segment[:, 1], 6))
        for bars in axes.collections
        for segment in getattr(bars, "get_segments", list)()
    }
    assert ends == {(6.5, 10.0), (3.0, 7.0)}
    hollow = [
        line
        for line in axes.lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [float(line.get_ydata()[0]) for line in hollow] == [4.0]
    assert any("fewer than 20" in text for text in legend_texts(axes))


def test_baseline_figure_orders_rows_and_marks_what_is_quoted() -> None:
    content = metrics()
    axes = mae_against_baselines(content, model_name="resnet18").axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["resnet18", "baseline: mean age", "baseline: other", "radiologists"]
    notes = " ".join(text.get_text() for text in axes.texts)
    assert "quoted" in notes
    assert "not comparable" in notes
    value = content["overall"]["mae_months"]["value"]
    assert f"{value:.1f}" in notes


def test_a_name_with_dollar_signs_is_text() -> None:
    figure = mae_against_baselines(metrics(), model_name=r"net $\v2$")
    figure.draw_without_rendering()
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"net $\v2$"


def test_distribution_counts_every_case_once() -> None:
    left, right = error_distribution(predictions()).axes
    assert sum(patch.get_height() for patch in left.patches) == pytest.approx(120)
    assert "within 12" in " ".join(text.get_text() for text in right.texts)


def test_cohort_counts_every_known_age_once_and_says_what_is_missing() -> None:
    ages = [0.0, 11.9, 12.0, 100.0, 228.0, float("nan")]
    girls, boys = bone_age_by_sex(ages, ["F", "M", "M", "M", "F", "F"]).axes
    assert sum(patch.get_height() for patch in girls.patches) == 2
    assert sum(patch.get_height() for patch in boys.patches) == 3
    assert "1 case without reference" in boys.get_xlabel()


def test_best_epoch_is_marked() -> None:
    axes = learning_curve(history(best=3)).axes[0]
    assert "best: 9.0 months at epoch 3" in legend_texts(axes)


def test_validation_missing_in_some_epochs_is_no_obstacle() -> None:
    frame = history(best=3)
    frame.loc[[3, 5], "val_mae_months"] = np.nan
    assert "best: 10.0 months at epoch 2" in legend_texts(learning_curve(frame).axes[0])


def test_runs_are_ordered_by_their_best_epoch() -> None:
    runs = {"slow": history(scale=2.0), "good": history(), "bad": history(scale=3.0)}
    texts = legend_texts(learning_curves(runs).axes[0])
    assert [text.split(":")[0] for text in texts[:3]] == ["good", "slow", "bad"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: predicted_against_reference(predictions().iloc[:0]),
        lambda: bland_altman(predictions().iloc[:0]),
        lambda: error_distribution(predictions().iloc[:0]),
        lambda: predicted_against_reference(predictions().assign(predicted_months=np.nan)),
        lambda: error_by_subgroup([]),
        lambda: error_by_subgroup(metrics()["subgroups"], "accuracy"),
        lambda: learning_curve(history().iloc[:0]),
        lambda: learning_curve(history().assign(val_mae_months=np.nan)),
        lambda: learning_curves({}),
        lambda: bone_age_by_sex([float("nan")], ["F"]),
    ],
)
def test_nothing_to_draw_is_said(draw: Callable[[], Figure]) -> None:
    with pytest.raises(ReportError, match="expected"):
        draw()


def test_labels_of_bland_altman_stand_apart_beside_an_outlier() -> None:
    frame = predictions()
    frame.loc[0, "predicted_months"] = frame.loc[0, "reference_months"] + 400.0
    axes = bland_altman(frame).axes[0]
    low, high = axes.get_ylim()
    heights = sorted(float(text.xy[1]) for text in axes.texts)
    assert len(heights) == 3
    assert min(np.diff(heights)) >= 0.09 * (high - low)
    assert low < heights[0]
    assert heights[-1] < high


def test_shares_of_all_cases_are_said_once() -> None:
    frame = predictions()
    size = (frame["predicted_months"] - frame["reference_months"]).abs()
    (text,) = error_distribution(frame).axes[1].texts
    shares = [f"{100 * (size <= limit).mean():.0f}% within {limit} months" for limit in (6, 12, 24)]
    assert text.get_text().splitlines() == ["all cases", *shares]

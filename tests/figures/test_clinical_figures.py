"""Figures of calibration, diagnoses and prediction intervals."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from boneage_xai.analysis.calibration import calibration_curve, calibration_line
from boneage_xai.analysis.clinical import clinical_results
from boneage_xai.analysis.intervals import interval_results
from boneage_xai.errors import ReportError
from boneage_xai.figures.calibration import calibration_figure
from boneage_xai.figures.clinical import diagnosis_table
from boneage_xai.figures.intervals import intervals_by_prediction
from boneage_xai.figures.style import figure_bytes
from boneage_xai.figures.subgroups import error_by_subgroup


def predictions(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    reference = np.clip(rng.normal(127.0, 41.0, n), 1.0, 228.0)
    return pd.DataFrame(
        {
            "case_id": [str(i) for i in range(n)],
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
            "reference_months": reference,
            "predicted_months": 10.0 + 0.92 * reference + rng.normal(0.0, 10.0, n),
            "chronological_age_months": np.clip(reference + rng.normal(0.0, 14.0, n), 3.0, 190.0),
        }
    )


def calibration(n: int = 200) -> dict[str, object]:
    frame = predictions(n)
    ages = frame["reference_months"], frame["predicted_months"]
    return {"line": calibration_line(*ages), "curve": calibration_curve(*ages)}


def checked() -> pd.DataFrame:
    found = interval_results(predictions(), n_splits=1)
    assert found is not None
    return predictions().merge(found[1], on="case_id")


def coverage_by_age() -> Figure:
    found = interval_results(predictions(), n_splits=1)
    assert found is not None
    return error_by_subgroup(found[0]["groups"], "coverage", title="Inside", expected=0.9)


def significant_by_age() -> Figure:
    rows = clinical_results(predictions())["significant_by"]
    return error_by_subgroup(rows, "significant_errors", title="Significant")


FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "calibration": (lambda: calibration_figure(calibration()), 2),
    "calibration_of_one_case": (lambda: calibration_figure(calibration(1)), 2),
    "diagnoses": (lambda: diagnosis_table(clinical_results(predictions())), 1),
    "intervals": (lambda: intervals_by_prediction(checked(), 0.9), 2),
    "intervals_of_girls": (
        lambda: intervals_by_prediction(checked().query("sex == 'F'"), 0.9),
        2,
    ),
    "coverage": (coverage_by_age, 1),
    "significant": (significant_by_age, 1),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_its_axes_and_leaves_no_trace(name: str) -> None:
    draw, axes_count = FIGURES[name]
    before = dict(mpl.rcParams)
    figure = draw()
    assert dict(mpl.rcParams) == before
    assert len(figure.axes) == axes_count
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    assert figure_bytes(figure, dpi=40) == figure_bytes(draw(), dpi=40)


def test_diagnoses_show_every_case_once() -> None:
    found = clinical_results(predictions())
    shown = [text.get_text().splitlines()[0] for text in diagnosis_table(found).axes[0].texts]
    assert sum(int(number) for number in shown) == found["n"]


def test_intervals_show_the_cases_outside() -> None:
    table = checked()
    legends = [axes.get_legend() for axes in intervals_by_prediction(table, 0.9).axes]
    shown = [legend.get_texts()[1].get_text() for legend in legends if legend is not None]
    expected = [(~table.loc[table["sex"] == sex, "covered"]).sum() for sex in "FM"]
    assert shown == [f"outside: {number}" for number in expected]


def test_cases_without_an_interval_are_neither_inside_nor_outside() -> None:
    table = checked()
    girls = table["sex"] == "F"
    without = table.assign(
        low_months=table["low_months"].mask(girls, -np.inf),
        high_months=table["high_months"].mask(girls, np.inf),
        covered=table["covered"] | girls,
    )
    axes = intervals_by_prediction(without, 0.9).axes[0]
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["inside: 0", "outside: 0", f"no interval: {girls.sum()}"]
    assert "n = 0" in axes.get_title(loc="left")
    assert "inside" not in axes.get_title(loc="left")


def test_shares_are_in_percent_and_no_tick_is_above_all() -> None:
    for figure in (coverage_by_age(), significant_by_age()):
        figure.draw_without_rendering()
        axes = figure.axes[0]
        assert max(axes.get_yticks()) <= 1.0
        assert all(label.get_text().endswith("%") for label in axes.get_yticklabels())


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ReportError, match="chronological age"):
        diagnosis_table(clinical_results(predictions().drop(columns="chronological_age_months")))
    with pytest.raises(ReportError, match="bins"):
        calibration_figure({"curve": []})
    with pytest.raises(ReportError, match="interval"):
        intervals_by_prediction(checked().iloc[:0], 0.9)

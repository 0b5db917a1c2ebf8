"""The effect of the sex: against the network one by one, by hand, and where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import wilcoxon

from boneage_xai.analysis.run_analysis import RunOnCohort, prepare_run
from boneage_xai.analysis.sex_effect import (
    errors_without_sex,
    milestones,
    predict_both,
    summarise_sex_effect,
)
from boneage_xai.attribution.forward import sex_effects
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import DataError, ReportError
from boneage_xai.figures.sex_effect import sex_effect_by_age
from boneage_xai.figures.style import figure_bytes
from boneage_xai.models.checkpoint import load_run
from boneage_xai.predict import as_images


def prepared(run: Path, phantoms: Path) -> RunOnCohort:
    cohort = select_cohort(read_source(phantoms))
    return prepare_run(load_run(run), cohort, cache_folder=run.parent / "cache")


def made_up() -> pd.DataFrame:
    """Two girls and two boys, read 8 months older as boys; the girls are read rightly."""
    girl = np.array([20.0, 110.0, 20.0, 110.0])
    return pd.DataFrame(
        {
            "case_id": list("abcd"),
            "sex": ["F", "F", "M", "M"],
            "reference_months": [20.0, 110.0, 30.0, 116.0],
            "as_girl_months": girl,
            "as_boy_months": girl + 8.0,
            "effect_months": 8.0,
        }
    )


def test_both_answers_are_the_networks(sex_run: Path, phantoms: Path) -> None:
    ours = prepared(sex_run, phantoms)
    calls: list[tuple[int, int]] = []
    table = predict_both(ours, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (16, 16)
    rows = ours.cache.rows(list(table["case_id"]))
    images = as_images(ours.cache.pixels[rows], torch.device("cpu"))
    is_male = torch.tensor((table["sex"] == "M").to_numpy(), dtype=torch.float32)
    swapped = np.array(sex_effects(ours.run.network, images, is_male))
    sign = np.where(table["sex"] == "M", -1, 1)
    np.testing.assert_allclose(sign * table["effect_months"], swapped, atol=1e-3)
    assert table["effect_months"].abs().max() > 0


def test_a_network_without_the_sex_has_no_effect(image_run: Path, phantoms: Path) -> None:
    table = predict_both(prepared(image_run, phantoms))
    np.testing.assert_allclose(table["effect_months"], 0.0, atol=1e-4)


def test_errors_by_hand() -> None:
    errors = errors_without_sex(made_up())
    assert errors["given"].tolist() == ["other sex"] * 3 + ["sex withheld"] * 3
    # Right sex: 0, 0, −2, 2. Other sex: 8, 8, −10, −6. Withheld: 4, 4, −6, −2.
    np.testing.assert_allclose(errors["mae_months"], [8, 8, 8, 4, 4, 4])
    np.testing.assert_allclose(errors["mae_change_months"], [7, 8, 6, 3, 4, 2])
    np.testing.assert_allclose(errors["p_value"].iloc[0], wilcoxon([8, 8, 8, 4]).pvalue)
    assert errors_without_sex(made_up().assign(reference_months=np.nan)).empty


def test_effects_stand_beside_the_milestones_of_the_same_maturity() -> None:
    summary = summarise_sex_effect(made_up())
    assert summary["age_from_months"].tolist() == [0.0, 96.0]
    assert summary["n"].tolist() == [2, 2]
    np.testing.assert_allclose(summary[["effect_months", "low", "high"]], 8.0)
    marks = milestones()
    inside = marks[(marks["girls_months"] >= 96) & (marks["girls_months"] < 132)]
    # The pisiform and the adductor sesamoid appear then.
    assert len(inside) == summary["n_milestones"].iloc[1] > 0
    assert summary["milestone_months"].iloc[1] == inside["difference_months"].median()
    assert (marks["difference_months"] >= 0).all()
    np.testing.assert_allclose(
        marks["difference_months"], marks["boys_months"] - marks["girls_months"]
    )


def test_answers_beyond_the_bins_count_in_the_nearest() -> None:
    table = made_up().assign(as_girl_months=[-5.0, 300.0, -5.0, 300.0])
    assert summarise_sex_effect(table)["n"].tolist() == [2, 2]


def test_figure_and_refusals() -> None:
    table = made_up()
    summary, marks = summarise_sex_effect(table), milestones()
    figure = sex_effect_by_age(table, summary, marks)
    assert figure_bytes(figure) == figure_bytes(sex_effect_by_age(table, summary, marks))
    with pytest.raises(ReportError, match="at least one case"):
        sex_effect_by_age(table.iloc[:0], summary, marks)
    with pytest.raises(DataError, match="at least one case"):
        summarise_sex_effect(table.iloc[:0])

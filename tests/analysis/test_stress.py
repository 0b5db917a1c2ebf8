"""The stress test: against predictions one by one, statistics against scipy, the whole command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.stress import (
    EXAMPLES_FILE,
    read_examples,
    stress,
    summarise_stress,
)
from boneage_xai.analysis.stress_transforms import chosen_transforms, rotate
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError, ReportError
from boneage_xai.figures.stress import stress_effects, stress_pairs
from boneage_xai.figures.style import VERMILLION, figure_bytes
from boneage_xai.models.checkpoint import load_run
from boneage_xai.predict import predict_pixels
from boneage_xai.types import Radiograph
from reports.stress_section import made_larger, stress_sentences


def made_up(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    reference = rng.uniform(30, 200, n)
    original = reference + rng.normal(0, 6, n)
    rows = []
    for name, sd in (("rotation_90", 30.0), ("flip_left_right", 0.0), ("jpeg_50", 1.0)):
        delta = rng.normal(0, sd, n) if sd else np.zeros(n)
        rows += [
            {
                "case_id": str(case),
                "sex": "F",
                "reference_months": reference[case],
                "family": name.split("_")[0],
                "transform": name,
                "parameter": name,
                "original_months": original[case],
                "predicted_months": original[case] + delta[case],
                "delta_months": delta[case],
            }
            for case in range(n)
        ]
    return pd.DataFrame(rows)


def test_summary_against_scipy_and_by_definition() -> None:
    table = made_up()
    summary = summarise_stress(table).set_index("transform")
    assert list(summary.index) == ["rotation_90", "flip_left_right", "jpeg_50"]
    p_values = []
    for name, group in table.groupby("transform", sort=False):
        row = summary.loc[name]
        before = np.abs(group["original_months"] - group["reference_months"]).to_numpy()
        after = np.abs(group["predicted_months"] - group["reference_months"]).to_numpy()
        delta = group["delta_months"].to_numpy()
        np.testing.assert_allclose(row["mae_change_months"], after.mean() - before.mean())
        np.testing.assert_allclose(row["mean_delta_months"], delta.mean())
        np.testing.assert_allclose(row["mean_absolute_delta_months"], np.abs(delta).mean())
        assert row["low"] <= row["mae_change_months"] <= row["high"]
        for limit in (6, 12, 24):
            assert row[f"moved_over_{limit}_months"] == (np.abs(delta) > limit).mean()
        assert abs(row["worst_delta_months"]) == np.abs(delta).max()
        p_values.append(wilcoxon(after - before).pvalue if delta.any() else 1.0)
    np.testing.assert_allclose(summary["p_value"], p_values)
    np.testing.assert_allclose(summary["p_holm"], holm(p_values))
    assert summary.loc["rotation_90", "p_holm"] < 0.001 < summary.loc["flip_left_right", "p_holm"]


def test_ranks_that_contradict_the_means_are_no_harm() -> None:
    before = np.full(120, 6.0)
    after = before - np.where(np.arange(120) % 6, np.linspace(0.3, 0.5, 120), -2.5)
    table = pd.DataFrame(
        {
            "case_id": [str(n) for n in range(120)],
            "sex": "F",
            "reference_months": 100.0,
            "family": "one",
            "transform": "one",
            "parameter": "one",
            "original_months": 100.0 + before,
            "predicted_months": 100.0 + after,
            "delta_months": after - before,
        }
    )
    summary = summarise_stress(table)
    row = summary.iloc[0]
    assert row["low"] < 0 < row["mae_change_months"]
    assert row["p_holm"] < 0.001
    assert made_larger(summary).empty
    assert "No change of appearance could be shown" in " ".join(stress_sentences(summary))


def test_a_handful_of_cases_clears_no_change() -> None:
    assert "adds more than 0.5 month" in " ".join(stress_sentences(summarise_stress(made_up(40))))
    few = stress_sentences(summarise_stress(made_up(5)))
    assert "adds more than 0.5 month" not in " ".join(few)


def test_without_references_only_movements_are_told() -> None:
    summary = summarise_stress(made_up().assign(reference_months=np.nan))
    assert summary[["mae_change_months", "low", "p_value", "p_holm"]].isna().all(axis=None)
    assert (summary["n_labelled"] == 0).all()
    assert summary["mean_absolute_delta_months"].notna().all()
    figure_bytes(stress_effects(summary))
    with pytest.raises(DataError, match="at least one case"):
        summarise_stress(made_up().iloc[:0])


def test_every_row_is_the_prediction_of_the_changed_radiograph(
    sex_run: Path, phantoms: Path
) -> None:
    run = load_run(sex_run)
    cohort = select_cohort(read_source(phantoms))
    cohort = cohort.select([case.case_id for case in cohort][:3])
    modes = [module.training for module in run.network.modules()]
    table, examples = stress(run, cohort, chosen_transforms(["rotation_90", "brightness_20"]))
    assert modes == [module.training for module in run.network.modules()]
    assert len(table) == 6
    for case in cohort:
        original = read_radiograph(case.image)
        turned = Radiograph(rotate(original.pixels, 90), original.source)
        values = [
            predict_pixels(
                run.network,
                preprocess(one, run.preprocessing).pixels[None],
                np.array([case.sex.is_male]),
            )[0]
            for one in (original, turned)
        ]
        mine = table[(table["case_id"] == case.case_id) & (table["transform"] == "rotation_90")]
        row = mine.iloc[0]
        np.testing.assert_allclose(row["original_months"], values[0], atol=1e-3)
        np.testing.assert_allclose(row["predicted_months"], values[1], atol=1e-3)
        np.testing.assert_allclose(row["delta_months"], values[1] - values[0], atol=2e-3)
        assert row["reference_months"] == case.bone_age_months
    assert [one.family for one in examples] == ["rotation", "brightness"]
    for one in examples:
        deltas = table[table["family"] == one.family].set_index("case_id")["delta_months"]
        assert abs(one.delta_months) == deltas.abs().max()
        assert one.delta_months == deltas[one.case_id]


def test_stretching_the_contrast_undoes_a_change_of_contrast(sex_run: Path, phantoms: Path) -> None:
    run = load_run(sex_run)
    cohort = select_cohort(read_source(phantoms))
    table, _ = stress(run, cohort, chosen_transforms(["contrast_50", "inversion"]))
    moved = table.groupby("transform")["delta_months"].apply(lambda one: one.abs().mean())
    assert moved["contrast_50"] < 0.1 * moved["inversion_100"]


def test_figure_marks_what_the_test_finds() -> None:
    summary = summarise_stress(made_up())
    left, right = stress_effects(summary).axes
    filled = [
        line
        for line in left.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() == VERMILLION
    ]
    assert sum(len(line.get_xdata()) for line in filled) == 1
    shares = [[bar.get_width() for bar in group] for group in right.containers]
    np.testing.assert_allclose(shares[1], 100 * summary["moved_over_12_months"])
    assert figure_bytes(stress_effects(summary)) == figure_bytes(stress_effects(summary))
    with pytest.raises(ReportError, match="one row per transform"):
        stress_effects(pd.concat([summary, summary]))
    with pytest.raises(ReportError, match="as many originals"):
        stress_pairs([], [], [])


def test_damaged_examples_are_refused(tmp_path: Path) -> None:
    (tmp_path / EXAMPLES_FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="expected examples of a stress test"):
        read_examples(tmp_path / EXAMPLES_FILE)

"""What the sections of a report say of what their tables hold."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from analysis_fixture import MALICIOUS
from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.attribution.interface import BaselineName
from boneage_xai.files import read_json, write_json, write_table
from boneage_xai.store import AnalysisFolder
from report_page import Page, csv_of
from reports.commands import commands
from reports.report import write_report
from reports.wording import baseline_sentences, baseline_words, months


def test_stress_test_is_told_with_what_hurts_and_what_does_not(page: Page) -> None:
    told = page.text.partition("Changes of appearance")[2]
    assert "6 radiographs were changed in 2 ways before preprocessing" in told
    assert "Families none of whose changes adds more" not in told
    assert "contrast" in told


def test_the_sex_is_told_beside_milestones(page: Page) -> None:
    told = page.text.partition("read twice, as a girl's and as a boy's")[2]
    assert "As a boy's the answer is +10.0 months on average" in told
    assert "With the other sex the mean absolute error changes by" in told


def test_calibration_clinical_groups_and_intervals_say_what_their_tables_hold(
    page: Page, analysis_template: Path
) -> None:
    folder = AnalysisFolder.open(analysis_template)
    metrics, intervals = folder.metrics(), folder.intervals()
    assert intervals is not None
    assert "Predictions keep to the middle age" in page.text
    assert "(proxy)" in page.text
    assert "whether a child is delayed or advanced cannot be said" in page.text
    share = metrics["clinical"]["significant_errors"]["value"]
    assert f"{100 * share:.1f}% of {metrics['clinical']['n']} predictions" in page.text
    assert (
        "calibrated on 60 of the cases, chosen at random, and checked on the other 60" in page.text
    )
    shares = csv_of(page, "intervals-3.csv")
    assert shares["coverage"].iloc[0] == pytest.approx(intervals["overall"]["coverage"]["value"])
    checked = csv_of(page, "intervals-2.csv")
    inside = checked["reference_months"].between(checked["low_months"], checked["high_months"])
    assert inside.mean() == pytest.approx(shares["coverage"].iloc[0])
    stages = csv_of(page, "groups-2.csv")
    assert stages["n"].sum() == len(folder.predictions())
    curve = csv_of(page, "calibration-2.csv")
    total = (curve["n"] * curve["reference_months"]).sum()
    assert total == pytest.approx(folder.predictions()["reference_months"].sum())


@pytest.mark.usefixtures("unrendered")
def test_diagnoses_are_told_where_chronological_ages_are_known(analysis_folder: Path) -> None:
    frame = AnalysisFolder.open(analysis_folder).predictions()
    # A column may have any name, and its values too.
    frame["chronological_age_months"] = frame["reference_months"].clip(10, 180)
    frame[MALICIOUS] = np.where(np.arange(len(frame)) < 60, MALICIOUS, "")
    metrics = evaluate(frame, {}, n_resamples=20, columns=[MALICIOUS])
    write_json(analysis_folder / "metrics.json", metrics)
    text = write_report(analysis_folder).read_text(encoding="utf-8")
    assert MALICIOUS not in text
    page = Page(text)
    assert "(proxy)" not in page.text
    assert "The prediction changes the class (delayed, normal, advanced) of" in page.text
    assert f"By {MALICIOUS}" in page.text
    assert "not given" in page.text


@pytest.mark.usefixtures("unrendered")
def test_a_correction_is_told_with_the_cases_it_was_fitted_on(analysis_folder: Path) -> None:
    manifest = read_json(analysis_folder / "analysis.json")
    line = {"intercept_months": -2.5, "slope": 1.05}
    manifest["steps"]["evaluate"]["corrected"] = {
        "against": "prediction", "per_sex": True, "n": 200, "girls": line, "boys": line,
        "n_fitted_on": 12,
    }  # fmt: skip
    manifest["steps"]["evaluate"]["by"] = ["the site"]
    write_json(analysis_folder / "analysis.json", manifest)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "fitted on 200 validation cases, errors against the prediction" in text
    assert "girls: −2.5 months +1.050 × prediction" in text
    assert "12 of these cases are among the 120 analysed" in text
    made = commands(AnalysisFolder.open(analysis_folder))["evaluate"]
    assert "--by 'the site'" in made
    assert made.endswith("--corrected")


def test_scoreboard_says_which_methods_to_believe(page: Page) -> None:
    told = page.text.partition("How far the methods can be trusted")[2]
    assert "Nearest to the true effects of regions is integrated gradients" in told
    assert "correlation +0.70, 95% interval" in told
    assert "No agreement with the true effects could be shown for gradient." in told
    assert "or more in the mean over at most 6 cases): gradient." in told
    assert "deep lift: expected a network without gates, found <b>one</b>." in told
    summary = csv_of(page, "scoreboard-2.csv").set_index(["method", "score"])
    assert summary.loc[("gradient", "mass_accuracy"), "chance"] == 0.25
    assert len(csv_of(page, "scoreboard-3.csv")) == 12


@pytest.mark.usefixtures("unrendered")
def test_occlusion_answers_first_and_judges_every_method(page: Page, analysis_folder: Path) -> None:
    told = page.text.partition("Does each region matter?")[2].partition("What each region")[2]
    # Means over the nine cases: 9, 2, 40, 1.5 and 4 times 1.4.
    assert (
        "removing carpals matters most: without that region (inpainted) the prediction moves by "
        "12.6" in told
    )
    assert "then radius $x (2.8)" in told
    assert "not the patch alone: carpals, by +10.5 (95% interval" in told
    assert "holds after correction over all 2 (Wilcoxon's signed ranks, Holm)" in told
    assert "Not shown to matter more than such a patch: radius $x." in told
    assert "The moved patch of radius $x lies mostly beside the hand" in told
    assert "without the whole hand it is 56.0" in told
    assert "unlike any that the network has learnt from" in told
    summary = csv_of(page, "occlusion-4.csv").set_index(["fill", "region"])
    assert summary.loc[("mean", "carpals"), "delta_months"] == pytest.approx(-12.6)
    assert summary.loc[("mean", "radius $x"), "beyond_control_months"] == pytest.approx(-2.8)
    assert len(csv_of(page, "occlusion-5.csv")) == 90
    # Without a second method's table of attributions there is nothing to judge.
    (analysis_folder / "regions.parquet").unlink()
    without = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "A method agrees if" in told
    assert "A method agrees if" not in without


def test_interventions_are_told_with_what_they_change(page: Page) -> None:
    text = page.text
    assert "12 months younger and older" in text
    assert "0 of 6" in text
    by_case = csv_of(page, "interventions-3.csv")
    summary = csv_of(page, "interventions-2.csv").set_index("region")
    means = by_case.groupby("region")["slope_months_per_month"].mean()
    for region, value in summary["slope_months_per_month"].items():
        assert value == pytest.approx(means[region])
        assert months(value, signed=True, digits=2) in text


@pytest.mark.usefixtures("unrendered")
def test_the_report_says_which_baseline_and_why_it_matters(analysis_folder: Path) -> None:
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "that for a black image (the baseline)" in text
    assert "a map can only show what differs between the two" in text
    assert "Telling the network the other sex" in text
    assert "summed over a map, an estimated" in text


@pytest.mark.parametrize("name", get_args(BaselineName))
def test_every_baseline_has_words(name: str) -> None:
    assert baseline_words(name) in baseline_sentences(name)
    assert baseline_words(name) != f"a {name} image" or name == "black"
    assert len(baseline_sentences(name)) > len(baseline_sentences("unheard-of"))


@pytest.mark.usefixtures("unrendered")
def test_cases_that_did_not_converge_are_counted(analysis_folder: Path) -> None:
    table = pd.read_parquet(analysis_folder / "attributions.parquet")
    ours = table["method"] == "integrated_gradients"
    table.loc[table.index[ours], "converged"] = [False] * 2 + [True] * (ours.sum() - 2)
    write_table(analysis_folder / "attributions.parquet", table)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "In 2 of 6 cases the gap or the error of integration stayed larger than allowed" in text
    table.loc[table.index[ours], "converged"] = True
    write_table(analysis_folder / "attributions.parquet", table)
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "stayed larger than allowed" not in text


@pytest.mark.usefixtures("unrendered")
def test_folders_of_earlier_versions_are_reported(analysis_folder: Path) -> None:
    table = pd.read_parquet(analysis_folder / "attributions.parquet")
    added = ["nodes", "converged", "precision", "sex_effect_months"]
    write_table(analysis_folder / "attributions.parquet", table.drop(columns=added))
    text = Page(write_report(analysis_folder).read_text(encoding="utf-8")).text
    assert "that for a black image (the baseline)" in text
    assert "Telling the network the other sex" not in text

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boneage_xai.files import read_json, write_json
from boneage_xai.store import AnalysisFolder
from reports.groups_section import _regression
from reports.wording import estimate_text, months, performance_sentences, split_sentence


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(4.25, False, "4.2"), (-3.0, False, "−3.0"), (2.0, True, "+2.0"), (-0.01, True, "0.0"),
     (None, True, "–"), (float("nan"), True, "–")],
)  # fmt: skip
def test_months_as_text(value: float | None, signed: bool, text: str) -> None:
    assert months(value, signed=signed) == text


def test_estimates_as_text() -> None:
    share = {"value": 0.5, "low": 0.25, "high": 0.75}
    assert estimate_text("within_12_months", share) == ("50%", "25% to 75%")
    assert estimate_text("bias_months", {"value": 1.0, "low": -1.0, "high": 2.0}) == (
        "+1.0",
        "−1.0 to +2.0",
    )
    assert estimate_text("mae_months", {"value": 1.0, "low": None, "high": None}) == ("1.0", "")


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (
            (-0.1, -0.2, -0.05),
            r"towards the middle.*\(−1\.2 months per year of the mean of prediction and reference",
        ),
        ((0.1, 0.05, 0.2), "overstates the spread"),
        ((0.01, -0.1, 0.1), "No trend of the difference over age can be shown"),
    ],
)
def test_trend_is_told_by_the_interval_of_the_slope(
    analysis_folder: Path, slope: tuple[float, float, float], words: str
) -> None:
    metrics = AnalysisFolder.open(analysis_folder).metrics()
    metrics["agreement"]["slope"] = dict(zip(("value", "low", "high"), slope, strict=True))
    assert re.search(words, " ".join(performance_sentences(metrics, "toy")))


@pytest.mark.parametrize(
    ("high", "words"),
    [(-0.1, "closer than every baseline on"), (0.1, "not surely so in others")],
)
def test_closer_than_baselines_is_told_by_the_paired_interval(
    analysis_folder: Path, high: float, words: str
) -> None:
    metrics = AnalysisFolder.open(analysis_folder).metrics()
    metrics["paired"]["mean"]["mae_difference_months"]["high"] = high
    assert words in " ".join(performance_sentences(metrics, "toy"))


def test_a_wide_interval_is_no_finding_on_calibration() -> None:
    wide = {"value": 0.3, "low": -0.05, "high": 0.65}
    slope = {"value": 0.5, "low": -0.1, "high": 1.2}
    text = _regression({"regression_to_the_mean": wide, "sd_ratio": 0.9, "slope": slope})
    assert text.startswith("Whether predictions keep to the middle age cannot be told")
    assert "1, as it should be, is among them" in text


def test_held_out_cases_that_chose_the_best_epoch_are_told(analysis_folder: Path) -> None:
    manifest = read_json(analysis_folder / "analysis.json")
    manifest["data"]["split"] = "held-out"
    write_json(analysis_folder / "analysis.json", manifest)
    before = split_sentence(AnalysisFolder.open(analysis_folder))
    assert before.endswith("none of which the network was trained on")
    manifest["steps"]["evaluate"]["n_validation"] = 11
    write_json(analysis_folder / "analysis.json", manifest)
    after = split_sentence(AnalysisFolder.open(analysis_folder))
    assert after == f"{before}; 11 of them chose its best epoch"

"""Sexes that were exchanged on purpose are told; right ones, few cases and small gains are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.analysis.sex_check import FEWEST_CASES, sex_check, sex_warning
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_json, write_json
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import AnalysisFolder
from reports.blocks import Text
from reports.performance_sections import performance


def answers(n: int, effect_months: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predictions with the right and the wrong sex, 6 months of noise, and references."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(24, 200, n)
    right = reference + rng.normal(0, 6, n)
    wrong = right + np.where(rng.uniform(size=n) < 0.5, -1, 1) * effect_months
    return right, wrong, reference


def test_exchanged_sexes_are_told() -> None:
    right, wrong, reference = answers(200, 15)
    found = sex_check(wrong, right, reference)
    assert found["looks_inverted"]
    change = np.abs(right - reference).mean() - np.abs(wrong - reference).mean()
    assert found["mae_change_months"]["value"] == pytest.approx(change)
    assert "look inverted" in str(sex_warning(found))


@pytest.mark.parametrize("seed", range(20))
def test_right_sexes_and_networks_without_use_for_them_are_not(seed: int) -> None:
    right, wrong, reference = answers(200, 15, seed)
    assert not sex_check(right, wrong, reference)["looks_inverted"]
    assert not sex_check(right, right, reference)["looks_inverted"]
    assert sex_warning(sex_check(right, wrong, reference)) is None
    # A sex that the network took up as noise.
    rng = np.random.default_rng(seed)
    other = right + rng.normal(0, 2, right.size)
    assert not sex_check(right, other, reference)["looks_inverted"]


def test_few_cases_are_not_told() -> None:
    right, wrong, reference = answers(FEWEST_CASES - 1, 30)
    assert not sex_check(wrong, right, reference)["looks_inverted"]
    right, wrong, reference = answers(FEWEST_CASES, 30)
    assert sex_check(wrong, right, reference)["looks_inverted"]


def test_an_analysis_holds_the_check(sex_run: Path, phantoms: Path, tmp_path: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    prepared = prepare_run(load_run(sex_run), cohort, split="all", cache_folder=tmp_path / "cache")
    folder = evaluate_run(prepared, tmp_path / "out")
    check = folder.metrics()["sex_check"]
    assert check["n"] == len(cohort)
    assert not check["looks_inverted"]
    assert not _said_inverted(folder)
    content = read_json(folder.path / "metrics.json")
    content["sex_check"]["looks_inverted"] = True
    write_json(folder.path / "metrics.json", content)
    assert _said_inverted(folder)


def _said_inverted(folder: AnalysisFolder) -> bool:
    section = performance(folder)
    assert section is not None
    texts = [block for block in section.blocks if isinstance(block, Text)]
    return any("inverted" in paragraph for text in texts for paragraph in text.paragraphs)


def test_a_network_without_the_sex_changes_nothing(
    image_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    cohort = select_cohort(read_source(phantoms))
    model = load_run(image_run)
    prepared = prepare_run(model, cohort, split="all", cache_folder=tmp_path / "cache")
    check = evaluate_run(prepared, tmp_path / "out").metrics()["sex_check"]
    assert check["mae_change_months"]["value"] == pytest.approx(0, abs=1e-4)

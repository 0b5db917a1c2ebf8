"""The report's section on the worst cases: what it claims and what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from boneage_xai.analysis.failure_atlas import build_atlas
from boneage_xai.files import write_json, write_table
from boneage_xai.store import AnalysisFolder
from reports.blocks import Drawing, Table, Text
from reports.failure_section import cluster_sentence, failures, trait_sentences


def text_of(folder: AnalysisFolder) -> str:
    section = failures(folder)
    assert section is not None
    return " ".join(
        line for block in section.blocks if isinstance(block, Text) for line in block.paragraphs
    )


def test_planted_trait_is_told_and_cards_are_shown(analysis_folder: Path) -> None:
    folder = AnalysisFolder.open(analysis_folder)
    found = folder.failure_findings()
    assert found is not None
    text = text_of(folder)
    assert f"The {found['n_worst']} worst of 120 cases err by" in text
    assert "low contrast (effect −" in text
    assert "Not compared: marker found (the same for every case for which it is known)" in text
    section = failures(folder)
    assert section is not None
    cards = [one for one in section.blocks if isinstance(one, Drawing) and not one.vector]
    assert [one.data["error_months"].tolist() for one in cards if one.data is not None] == [
        [30.0],
        [-30.0],
    ]
    assert all("on one scale for all cards" in one.caption for one in cards)


def test_noise_is_said_to_be_noise(analysis_folder: Path) -> None:
    folder = AnalysisFolder.open(analysis_folder)
    cases = folder.predictions()
    rng = np.random.default_rng(0)
    traits = pd.DataFrame({"case_id": cases["case_id"], "contrast": rng.normal(size=len(cases))})
    cases["error_months"] = rng.normal(size=len(cases))
    table, found = build_atlas(cases, traits, n_permutations=19)
    write_table(analysis_folder / "failures.parquet", table)
    write_json(analysis_folder / "failures.json", found)
    text = text_of(folder)
    assert "Nothing that was measured sets the worst cases apart from the rest" in text
    assert "none is called a pattern" in text
    section = failures(folder)
    assert section is not None
    table_block = next(one for one in section.blocks if isinstance(one, Table))
    assert all(row[0].startswith("No pattern") for row in table_block.rows)


def test_too_few_cases_claim_nothing(analysis_folder: Path) -> None:
    cases = AnalysisFolder.open(analysis_folder).predictions().head(9)
    traits = pd.DataFrame({"case_id": cases["case_id"], "contrast": np.arange(9.0)})
    _, found = build_atlas(cases, traits, n_permutations=19)
    assert trait_sentences(found) == (
        "There are too few worst cases to compare them with the rest.",
    )
    assert "none is called a pattern" in cluster_sentence(found)

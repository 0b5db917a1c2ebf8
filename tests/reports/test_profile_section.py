"""The section on region profiles: its words are its numbers, controls count or say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage_xai.files import write_table
from boneage_xai.store import CONTROL_FOLDER, AnalysisFolder
from reports.blocks import Drawing, Section, Table, Text
from reports.commands import commands
from reports.profile_section import region_profiles
from reports.profile_wording import profiled, stage_sentences

METHOD = "integrated_gradients"
AREAS = {"DIP": 0.04, "PIP": 0.04, "MCP": 0.08, "radius": 0.04, "soft_tissue": 0.2}
# A third of the magnitude in MCP, which has a fifth of the hand's area; DIP holds little.
SHARES = {"DIP": 0.04, "PIP": 0.16, "MCP": 0.35, "radius": 0.15, "soft_tissue": 0.3}
RANDOM = {"DIP": 0.1, "PIP": 0.16, "MCP": 0.15, "radius": 0.15, "soft_tissue": 0.44}


def sums(shares: dict[str, float], n: int = 24) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = []
    for case in range(n):
        values = rng.dirichlet(900 * np.array(list(shares.values())))
        for region, value in zip(shares, values, strict=True):
            rows.append((f"g{case}", METHOD, region, 50 * value, 90 * value, AREAS[region]))
        rows.append((f"g{case}", METHOD, "background", 0.0, 10.0, 0.6))
    columns = ["case_id", "method", "region", "signed_months", "absolute_months", "area_fraction"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def girls(analysis_folder: Path) -> Path:
    """Return an analysis of girls in early and mid puberty."""
    reference = np.linspace(90, 150, 24)
    frame = pd.DataFrame(
        {
            "case_id": [f"g{case}" for case in range(24)],
            "sex": "F",
            "reference_months": reference,
            "predicted_months": reference + 3,
            "error_months": 3.0,
        }
    )
    write_table(analysis_folder / "predictions.parquet", frame)
    write_table(analysis_folder / "regions.parquet", sums(SHARES))
    return analysis_folder


def add_control(folder: Path, copy_of: str | None = None) -> Path:
    manifest = AnalysisFolder.open(folder).manifest
    of = manifest["run"]["model_id"] if copy_of is None else copy_of
    random = {"copy_of": of, "seed": 7, "batch_norm_measured_on": 24}
    run = {**manifest["run"], "model_id": "aaaaaaaaaaaa", "random_weights": random}
    out = folder / CONTROL_FOLDER
    AnalysisFolder.add_step(
        out, run=run, data=manifest["data"], step="attribute", detail={"methods": [METHOD]}
    )
    write_table(out / "regions.parquet", sums(RANDOM))
    return out


def section(folder: Path) -> Section:
    made = region_profiles(AnalysisFolder.open(folder))
    assert made is not None
    return made


def words(made: Section) -> str:
    return " ".join(" ".join(one.paragraphs) for one in made.blocks if isinstance(one, Text))


def test_answer_comes_first_in_the_numbers_of_the_profile(girls: Path) -> None:
    made = section(girls)
    first = made.blocks[0]
    assert isinstance(first, Text)
    found = profiled(AnalysisFolder.open(girls), METHOD)
    assert found is not None
    assert first.paragraphs == stage_sentences(found)
    mcp = found.profile.cell("early_mid_puberty", "F").set_index("region").loc["MCP"]
    low, high = 100 * mcp["share_of_hand_low"], 100 * mcp["share_of_hand_high"]
    expected = (
        f"Early and mid puberty – Girls (24): MCP joints {100 * mcp['share_of_hand']:.0f}% "
        f"({low:.0f}–{high:.0f}) of the magnitude inside the hand, {mcp['enrichment']:.1f} times "
        "what the area would give"
    )
    assert first.paragraphs[0].startswith(expected)
    assert "it agrees for PIP joints; it differs for DIP joints" in first.paragraphs[0]
    assert "--random-weights --out" in words(made)
    drawings = [one for one in made.blocks if isinstance(one, Drawing)]
    assert len(drawings) == 3
    assert all(one.vector for one in drawings)
    table = drawings[0].data
    assert table is not None
    assert table["share_of_whole"].between(0, 1).all()


def test_control_stands_beside_and_qualifies_what_agrees(girls: Path) -> None:
    add_control(girls)
    made = section(girls)
    text = words(made)
    assert "random weights (seed 7) on the same 24 cases" in text
    assert "more than the control – MCP joints (+2" in text
    assert "less – soft tissue (−1" in text
    # PIP holds more than its area would give, and so it does with random weights.
    assert "Not seen to be more than with random weights: PIP joints." in text
    table = next(one for one in made.blocks if isinstance(one, Table))
    assert table.data is not None
    cell = table.data.query("stage == 'all' and sex == 'all' and region == 'MCP'").iloc[0]
    difference = cell["share_of_hand"] - cell["control_share_of_hand"]
    assert cell["difference"] == pytest.approx(difference)
    verdicts = [one for one in made.blocks if isinstance(one, Table)][1]
    assert any("against random: less" in row[3] for row in verdicts.rows)


def test_control_of_another_network_is_not_used_and_told(girls: Path) -> None:
    add_control(girls, copy_of="bbbbbbbbbbbb")
    made = section(girls)
    notices = [one for one in made.blocks if isinstance(one, Text) and one.notice]
    assert len(notices) == 1
    assert "copy of model" in notices[0].paragraphs[0]
    found = profiled(AnalysisFolder.open(girls), METHOD)
    assert found is not None
    assert found.control is None
    assert found.difference is None


def test_control_on_other_region_maps_is_not_used(girls: Path) -> None:
    out = add_control(girls)
    moved = sums(RANDOM).assign(area_fraction=lambda frame: frame["area_fraction"] * 0.5)
    write_table(out / "regions.parquet", moved)
    assert "expected the same region maps" in words(section(girls))


def test_few_cases_conclude_nothing(analysis_folder: Path) -> None:
    # Six cases with a region of an unknown name, as the shared analysis has them.
    made = section(analysis_folder)
    assert "nothing is concluded" in words(made)
    table = next(one for one in made.blocks if isinstance(one, Table))
    assert {row[0] for row in table.rows} == {"carpals", "radius $x"}


def test_cases_evaluated_and_attributed_must_meet(girls: Path) -> None:
    others = sums(SHARES).assign(case_id="someone else")
    write_table(girls / "regions.parquet", others.drop_duplicates("region"))
    assert region_profiles(AnalysisFolder.open(girls)) is None


def test_command_of_a_control_makes_a_control(girls: Path) -> None:
    made = commands(AnalysisFolder.open(add_control(girls)))
    assert made["attribute"].endswith("--random-weights --seed 7")
    assert "--random-weights" not in commands(AnalysisFolder.open(girls))["attribute"]

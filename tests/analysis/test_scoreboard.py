from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.analysis import scoreboard as scoring
from boneage_xai.analysis.scoreboard import SCORES, summarise_scores
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import METHODS
from boneage_xai.errors import DataError
from boneage_xai.figures.scoreboard import scoreboard
from boneage_xai.types import Sex


class Brightness(nn.Module):
    """months = 100 times the mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.months = nn.Parameter(torch.tensor(100.0))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return self.months * image.mean(dim=(1, 2, 3)) + 0 * is_male


def scores() -> pd.DataFrame:
    rows = []
    for method, correlation in (("weak", 0.1), ("strong", 0.9), ("none", math.nan)):
        for case, mass in enumerate((0.2, 0.4, 0.9)):
            row = dict.fromkeys(SCORES, 1.0) | {
                "method": method,
                "case_id": str(case),
                "region_correlation": correlation,
                "mass_accuracy": mass,
                "mass_chance": mass / 2,
                "rank_chance": 0.3,
                "randomised_similarity": 0.6 if case == 0 else math.nan,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def test_means_limits_and_chance_by_hand() -> None:
    table = summarise_scores(scores()).set_index(["method", "score"])
    mass = table.loc[("weak", "mass_accuracy")]
    assert mass["value"] == pytest.approx(0.5)
    assert mass["chance"] == pytest.approx(0.25)
    assert 0.2 <= mass["low"] <= 0.5 <= mass["high"] <= 0.9
    assert table.loc[("weak", "rank_accuracy"), "chance"] == pytest.approx(0.3)
    single = table.loc[("weak", "randomised_similarity")]
    assert (single["n"], single["value"]) == (1, 0.6)
    assert np.isnan(single["low"])
    assert np.isnan(table.loc[("weak", "seconds"), "chance"])


def test_the_method_nearest_to_the_true_effects_comes_first() -> None:
    summary = summarise_scores(scores())
    assert list(dict.fromkeys(summary["method"])) == ["strong", "weak", "none"]
    missing = summary[(summary["method"] == "none") & (summary["score"] == "region_correlation")]
    assert missing["n"].tolist() == [0]
    assert missing["value"].isna().all()


def test_no_cases_are_refused() -> None:
    with pytest.raises(DataError, match="found none"):
        summarise_scores(scores().iloc[:0])


def test_both_path_methods_take_references_as_their_baseline() -> None:
    cache = SimpleNamespace(
        pixels=np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8),
        rows=lambda ids: np.array([int(one) for one in ids]),
    )
    prepared: Any = SimpleNamespace(
        run=SimpleNamespace(network=Brightness()),
        cohort={"0": SimpleNamespace(sex=Sex.MALE)},
        cache=cache,
        train_ids=("1", "2"),
        train_is_male=np.array([False, True]),
    )
    names = ("integrated_gradients", "expected_gradients", "guided_ig")
    allowed, refused, _ = scoring._allowed(
        prepared,
        "0",
        {name: METHODS[name] for name in names},
        AttributionSettings(baseline="expected"),
    )
    assert list(allowed) == ["integrated_gradients", "expected_gradients"]
    assert list(refused) == ["guided_ig"]


def test_figure_has_a_panel_per_score_and_the_methods_in_order() -> None:
    figure = scoreboard(summarise_scores(scores()))
    first = figure.axes[0]
    assert len(figure.axes) == 4
    assert [label.get_text() for label in first.get_yticklabels()] == ["strong", "weak", "none"]
    assert first.yaxis_inverted()

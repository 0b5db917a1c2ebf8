from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage_xai.store import AnalysisFolder
from reports.examples import attributed_cases, examples


def test_examples_are_spread_and_hold_the_largest_error() -> None:
    n = 40
    cases = pd.DataFrame(
        {
            "row": range(n),
            "case_id": [str(i) for i in range(n)],
            "sex": ["F", "M"] * (n // 2),
            "reference_months": np.linspace(10, 210, n),
            "predicted_months": np.linspace(10, 210, n),
            "error_months": np.where(np.arange(n) == 39, -50.0, 1.0),
        }
    )
    chosen = examples(cases, typical=6, worst=1)
    assert len(chosen) == chosen["case_id"].nunique() == 7
    spread = chosen.head(6)
    assert list(spread["sex"].value_counts()) == [3, 3]
    assert spread["reference_months"].is_monotonic_increasing
    assert spread["reference_months"].min() < 60 < 150 < spread["reference_months"].max()
    assert chosen["case_id"].iloc[-1] == "39"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_examples_of_few_cases_are_all_of_them_once(analysis_folder: Path, n: int) -> None:
    cases = attributed_cases(AnalysisFolder.open(analysis_folder))
    assert cases is not None
    chosen = examples(cases.head(n))
    assert sorted(chosen["row"]) == list(range(n))

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from boneage_xai.attribution.interventions import ALL_REGIONS, SUM_OF_REGIONS
from boneage_xai.errors import ReportError
from boneage_xai.figures.interventions import intervention_bars
from boneage_xai.figures.style import GREY, OLDER_COLOUR, YOUNGER_COLOUR, figure_bytes


def summary(n: int = 20) -> pd.DataFrame:
    slopes = {"DIP": -0.05, "carpals": 0.3, "ulna": 0.0, ALL_REGIONS: 0.2, SUM_OF_REGIONS: 0.25}
    return pd.DataFrame(
        {
            "region": list(slopes),
            "n": n,
            "n_changed": [n, n, 4, n, n],
            "slope_months_per_month": list(slopes.values()),
            "low": [value - 0.02 if n > 1 else np.nan for value in slopes.values()],
            "high": [value + 0.03 if n > 1 else np.nan for value in slopes.values()],
            "maturity_change": 0.1,
        }
    )


def test_bars_are_ordered_signed_and_the_totals_apart() -> None:
    (axes,) = intervention_bars(summary()).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [0.3, -0.05, 0.0, 0.2, 0.25]
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    older, younger, grey = (to_hex(colour) for colour in (OLDER_COLOUR, YOUNGER_COLOUR, GREY))
    assert colours == [older, younger, older, grey, grey]
    places = [bar.get_y() for bar in axes.patches]
    assert places[3] - places[2] > places[1] - places[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        "carpals",
        "DIP",
        "ulna (4 of 20)",
        "all regions at once",
        "sum of single regions",
    ]
    assert "−0.05" in [text.get_text() for text in axes.texts]
    assert "n = 20 phantoms" in axes.get_title(loc="left")
    assert figure_bytes(intervention_bars(summary())) == figure_bytes(intervention_bars(summary()))


def test_one_case_has_no_intervals() -> None:
    (axes,) = intervention_bars(summary(1)).axes
    assert not axes.containers[1:]
    assert "interval" not in axes.get_xlabel()


@pytest.mark.parametrize("table", [summary().iloc[:0], pd.concat([summary(), summary()])])
def test_tables_that_are_no_summary_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(ReportError, match="one row per region"):
        intervention_bars(table)

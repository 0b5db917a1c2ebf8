"""Charts are shown as Altair and Streamlit would show them, and kept where they may be."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from apps.views import charts, region_charts
from apps.views.certainty_charts import interval_chart
from apps.views.drawn import MOST_ELEMENTS, specification


def _cases(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    reference = rng.uniform(20, 200, n).round()
    error = rng.normal(0, 8, n)
    return pd.DataFrame(
        {
            "case_id": [str(number) for number in range(n)],
            "sex": np.where(np.arange(n) % 2, "M", "F"),
            "reference_months": reference,
            "predicted_months": reference + error,
            "error_months": error,
        }
    )


def _filled(spec: Any, tables: dict[str, Any]) -> Any:
    """Put the tables into a specification where it names them."""
    if isinstance(spec, list):
        return [_filled(part, tables) for part in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"name"} and spec["name"] in tables:
        return tables[spec["name"]]
    return {key: _filled(part, tables) for key, part in spec.items() if key != "datasets"}


def _told(spec: dict[str, Any]) -> str:
    """Return a specification with its tables in place and without the numbers of its views."""
    tables = {
        name: table.to_pylist() if isinstance(table, pa.Table) else table
        for name, table in spec["datasets"].items()
    }
    text = json.dumps(_filled(spec, tables), sort_keys=True)
    views = dict.fromkeys(json.loads(text).get("params", [{}])[0].get("views", []), "view")
    for name, word in views.items():
        text = text.replace(name, word)
    return text


def test_a_specification_is_what_altair_makes_and_leaves_the_chart() -> None:
    chart = charts.predicted_chart(_cases(30))
    ours = specification(chart)
    with alt.theme.enable("none"):
        altairs = chart.to_dict()
    assert _told(ours) == _told(altairs)
    assert isinstance(chart.layer[2].data, pd.DataFrame)


def test_many_points_are_drawn_on_a_canvas_and_few_are_described() -> None:
    few, many = (
        specification(charts.predicted_chart(_cases(n))) for n in (MOST_ELEMENTS, MOST_ELEMENTS + 1)
    )
    assert not {"config", "usermeta"} & few.keys()
    assert many["config"] == {"aria": False}
    assert many["usermeta"]["embedOptions"] == {"renderer": "canvas"}


def test_points_have_what_is_shown_of_a_case_and_no_more() -> None:
    (points,) = (
        table
        for table in specification(interval_chart(_intervals(_cases(30))))["datasets"].values()
        if "case_id" in table.column_names
    )
    assert sorted(points.column_names) == [
        "beyond_months", "case_id", "high_months", "low_months", "predicted_months",
        "reference_months", "sex_name",
    ]  # fmt: skip


def test_large_cohorts_have_points_for_the_largest_errors_and_a_few_others() -> None:
    cases = _cases(9_001)
    kept = charts.fewer_points(cases)
    assert len(kept) == charts.MOST_POINTS
    assert kept["case_id"].is_unique
    assert kept.index.is_monotonic_increasing
    worst = cases.reindex(cases["error_months"].abs().nlargest(500).index)
    assert set(worst["case_id"]) <= set(kept["case_id"])
    assert "2,000 of 9,001" in charts.fewer_words(9_001)


@pytest.mark.parametrize("n", [1, 2_000])
def test_smaller_cohorts_have_a_point_for_each_case(n: int) -> None:
    cases = _cases(n)
    assert charts.fewer_points(cases) is cases
    assert charts.fewer_words(n) == ""


def _intervals(cases: pd.DataFrame) -> pd.DataFrame:
    width = np.where(cases["predicted_months"] < 100, 10.0, 20.0)
    middle = cases["predicted_months"]
    return cases.assign(low_months=middle - width, high_months=middle + width, covered=True)


def test_a_band_of_steps_is_drawn_by_its_corners() -> None:
    table = _intervals(_cases(400))
    band = interval_chart(table).layer[0].data
    assert len(band) == 4
    girls = table.loc[table["sex"] == "F", "predicted_months"].sort_values().to_numpy()
    turn = int(np.searchsorted(girls, 100))
    np.testing.assert_array_equal(
        band["predicted_months"], [girls[0], girls[turn - 1], girls[turn], girls[-1]]
    )
    np.testing.assert_allclose(band["above"], [10, 10, 20, 20])


def test_cases_of_like_reach_share_a_chart() -> None:
    def table(*signed: float) -> pd.DataFrame:
        return region_charts.region_table(
            pd.DataFrame(
                {
                    "region": ["radius", "metacarpal_shafts", "ulna"],
                    "signed_months": signed,
                    "absolute_months": np.abs(signed),
                    "area_fraction": 0.1,
                }
            )
        )

    one, other = table(1.0, -6.5, 2.0), table(7.0, 3.0, -4.0)
    assert one["region"].tolist() == ["metacarpal shafts", "ulna", "radius"]
    assert one["text"].tolist() == ["−6.5", "+2.0", "+1.0"]
    assert region_charts.region_reach(one) == region_charts.region_reach(other) == 10
    specs = [specification(region_charts.region_chart(each, "months")) for each in (one, other)]
    assert [list(spec.pop("datasets")) for spec in specs] == [["table-0"], ["table-0"]]
    assert specs[0] == specs[1]
    assert region_charts.region_reach(table(0.0, 0.0, 0.0)) == 1.5

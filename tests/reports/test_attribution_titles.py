"""What stands above the maps of a report."""

from __future__ import annotations

import pytest

from reports.attribution_sections import _age, _title


def row(reference_months: float | None) -> dict[str, object]:
    return {
        "case_id": "7",
        "sex": "female",
        "reference_months": reference_months,
        "predicted_months": 3.4,
        "completeness_gap_months": None,
    }


@pytest.mark.parametrize(
    ("reference", "title", "age"),
    [
        (0.0, "reference 0.0, predicted 3.4", "reference 0"),
        (12.0, "reference 12.0, predicted 3.4", "reference 12"),
        (None, "predicted 3.4", "predicted 3"),
        (float("nan"), "predicted 3.4", "predicted 3"),
    ],
)
def test_a_reference_is_named_also_where_it_is_zero(
    reference: float | None, title: str, age: str
) -> None:
    assert _title(row(reference)).splitlines()[1:] == [title]
    assert _age(row(reference)) == age

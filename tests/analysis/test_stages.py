from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.analysis.literature import EXPECTATIONS, expectation_table
from boneage_xai.analysis.stages import STAGES, stage_indices, stage_of, with_stages
from boneage_xai.anatomy import REGION_NAMES
from boneage_xai.errors import DataError
from boneage_xai.phantom.growth import PUBERTY_ONSET_MONTHS
from boneage_xai.types import Sex


@pytest.mark.parametrize(
    ("sex", "age_months", "stage"),
    [
        (Sex.MALE, 0, "infancy"),
        (Sex.MALE, 13.9, "infancy"),
        (Sex.MALE, 14, "toddler"),
        (Sex.FEMALE, 10, "toddler"),
        (Sex.FEMALE, 24, "pre_puberty"),
        (Sex.MALE, 24, "toddler"),
        (Sex.MALE, 108, "early_mid_puberty"),
        (Sex.FEMALE, 155.9, "early_mid_puberty"),
        (Sex.FEMALE, 156, "late_puberty"),
        (Sex.MALE, 195, "late_puberty"),
        (Sex.FEMALE, 180, "after_puberty"),
        (Sex.MALE, 228, "after_puberty"),
        (Sex.FEMALE, -3, "infancy"),
    ],
)
def test_limits_by_sex(sex: Sex, age_months: float, stage: str) -> None:
    assert stage_of(sex, age_months).stage_id == stage


@given(st.sampled_from(Sex), st.floats(0, 300))
def test_stages_follow_each_other_without_gap_or_overlap(sex: Sex, age_months: float) -> None:
    holding = [
        stage.stage_id
        for stage in STAGES.values()
        if stage.from_months.of(sex) <= age_months < stage.to_months.of(sex)
    ]
    assert holding == [stage_of(sex, age_months).stage_id]


@pytest.mark.parametrize("sex", list(Sex))
def test_typical_ages_lie_in_their_stage_and_girls_are_earlier(sex: Sex) -> None:
    for stage in STAGES.values():
        assert stage_of(sex, stage.typical_months.of(sex)) is stage
        assert stage.typical_months.girls < stage.typical_months.boys
        assert stage.ages_text(sex).count("about") == int(stage.approximate)
    # The phantom's puberty begins where that of the stages does.
    assert STAGES["early_mid_puberty"].from_months == PUBERTY_ONSET_MONTHS


def test_reference_comes_before_prediction() -> None:
    cases = pd.DataFrame(
        {
            "case_id": ["a", "b"],
            "sex": ["F", "M"],
            "reference_months": [12.0, math.nan],
            "predicted_months": [100.0, 170.0],
        }
    )
    before = cases.copy()
    staged = with_stages(cases)
    assert staged["stage"].tolist() == ["toddler", "late_puberty"]
    assert staged["age_source"].tolist() == ["reference", "predicted"]
    pd.testing.assert_frame_equal(cases, before)


def test_cases_without_stage_are_refused() -> None:
    case = {"case_id": ["a"], "reference_months": [math.nan], "predicted_months": [math.nan]}
    with pytest.raises(DataError, match="case a: expected sex F or M"):
        with_stages(pd.DataFrame(case | {"sex": ["F"]}))
    with pytest.raises(DataError, match="found U"):
        with_stages(pd.DataFrame(case | {"sex": ["U"], "predicted_months": [30.0]}))
    with pytest.raises(DataError, match="found no"):
        with_stages(pd.DataFrame(case))
    with pytest.raises(DataError, match="NaN"):
        stage_of(Sex.MALE, math.nan)


def test_expectations_name_known_stages_and_regions_once_a_source() -> None:
    table = expectation_table()
    assert set(table["stage"]) == set(STAGES)
    assert set(table["region"]) <= set(REGION_NAMES.values())
    assert not table.duplicated(["source", "stage", "region"]).any()
    readers = table[table["kind"] == "readers"]
    assert set(readers["stage"]) == set(STAGES)
    # What rests on an approximate stage is approximate itself.
    for one in EXPECTATIONS:
        if one.kind == "readers" and any(STAGES[stage].approximate for stage in one.stages):
            assert one.trust == "approximate"


@pytest.mark.parametrize(
    ("age", "girl", "boy"),
    [
        *[(9.9, 0, 0), (10, 1, 0), (14, 1, 1), (24, 2, 1), (36, 2, 2), (84, 3, 2), (108, 3, 3)],
        *[(156, 4, 3), (168, 4, 4), (180, 5, 4), (192, 5, 4), (204, 5, 5), (228, 5, 5)],
    ],
)
def test_stages_end_earlier_for_girls(age: float, girl: int, boy: int) -> None:
    assert stage_indices([age, age], [False, True]).tolist() == [girl, boy]
    assert [list(STAGES).index(stage_of(sex, age).stage_id) for sex in (Sex.FEMALE, Sex.MALE)] == [
        girl,
        boy,
    ]

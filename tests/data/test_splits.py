"""Splitting a cohort: a partition, drawn alike from every sex and age, whatever the row order."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.data.splits import split_cohort
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Case, Cohort, Sex


def cohort_of(facts: list[tuple[Sex, float | None]]) -> Cohort:
    cases = (
        Case(f"{i:05d}", Path(f"{i}.png"), sex, bone_age_months=age)
        for i, (sex, age) in enumerate(facts)
    )
    return Cohort("made", tuple(cases))


def random_cohort(n: int, seed: int = 0) -> Cohort:
    draw = random.Random(seed)
    return cohort_of([(draw.choice(list(Sex)), draw.triangular(1, 228, 140)) for _ in range(n)])


FACTS = st.lists(
    st.tuples(st.sampled_from(Sex), st.none() | st.floats(0, 240)), min_size=2, max_size=80
)


@settings(max_examples=100, deadline=None)
@given(facts=FACTS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5), data=st.data())
def test_split_is_a_partition_independent_of_row_order(
    facts: list[tuple[Sex, float | None]], fraction: float, seed: int, data: st.DataObject
) -> None:
    cohort = cohort_of(facts)
    split = split_cohort(cohort, fraction, seed)
    assert sorted(split.train + split.validation) == [case.case_id for case in cohort]
    assert split.train
    assert split.validation
    shuffled = Cohort("made", tuple(data.draw(st.permutations(cohort.cases))))
    assert split_cohort(shuffled, fraction, seed) == split


@settings(max_examples=60, deadline=None)
@given(facts=FACTS, fraction=st.floats(0.05, 0.95))
def test_every_stratum_gives_its_share_to_within_one_case(
    facts: list[tuple[Sex, float | None]], fraction: float
) -> None:
    cohort = cohort_of(facts)
    validation = set(split_cohort(cohort, fraction, 3).validation)
    share = len(validation) / len(cohort)

    def stratum(case: Case) -> tuple[Sex, int | None]:
        age = case.bone_age_months
        return case.sex, None if age is None else int(age // 12)

    totals = Counter(stratum(case) for case in cohort)
    taken = Counter(stratum(case) for case in cohort if case.case_id in validation)
    assert all(abs(taken[key] - total * share) < 1 + 1e-9 for key, total in totals.items())


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(12611, 0.2, 2523), (30, 0.1, 3), (10, 0.2, 2), (2, 0.99, 1), (3, 0.01, 1)],
)
def test_number_of_validation_cases(n: int, fraction: float, expected: int) -> None:
    assert len(split_cohort(random_cohort(n), fraction, 0).validation) == expected


def test_another_seed_gives_another_split() -> None:
    cohort = random_cohort(200)
    first, second = (set(split_cohort(cohort, 0.5, seed).validation) for seed in (1, 2))
    # Independent halves share about half of their members.
    assert 20 < len(first & second) < 80


def test_split_does_not_depend_on_the_process() -> None:
    """The parts must be those of every other run: Python's own hash would change them."""
    cohort = cohort_of([(Sex.MALE, 100.0)] * 10)
    assert split_cohort(cohort, 0.3, 7).validation == ("00001", "00002", "00003")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fraction_must_leave_both_parts(fraction: float) -> None:
    with pytest.raises(ConfigError, match="validation_fraction: expected"):
        split_cohort(random_cohort(5), fraction, 0)


@pytest.mark.parametrize("n", [0, 1])
def test_too_small_a_cohort_is_refused(n: int) -> None:
    with pytest.raises(DataError, match="expected at least 2 cases"):
        split_cohort(random_cohort(n), 0.5, 0)

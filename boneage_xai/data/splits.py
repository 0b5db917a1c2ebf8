"""Splitting a cohort into training and validation cases, stratified by sex and age."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Case, Cohort

STRATUM_WIDTH_MONTHS = 12.0


@dataclass(frozen=True)
class Split:
    """Case ids of the two parts, each sorted.

    Args:
        train: ids to learn from.
        validation: ids to measure on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]


def split_cohort(cohort: Cohort, validation_fraction: float, seed: int) -> Split:
    """Split a cohort at random, with the same shares of each sex and age in both parts.

    Each year of bone age of each sex is a stratum (so are the cases without a reference). A
    stratum gives its share rounded down; the places left go to the strata that rounding cost
    most. Inside a stratum the cases whose hash of seed and id is lowest are taken, so that the
    split depends on ids, sexes and ages alone, not on the order of rows.

    Args:
        cohort: at least two cases.
        validation_fraction: share for validation, between 0 and 1; the number is rounded up,
            which gives the 10,088 / 2,523 of the published studies for 0.2 of 12,611.
        seed: another seed gives another split.

    Returns:
        Two parts that together hold every case once; neither is empty.

    Raises:
        ConfigError: a fraction outside (0, 1).
        DataError: fewer than two cases.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise ConfigError(
            f"validation_fraction: expected a number between 0 and 1, found {validation_fraction}"
        )
    if len(cohort) < 2:
        raise DataError(
            f"cohort {cohort.name}: expected at least 2 cases to split, found {len(cohort)}"
        )
    strata: dict[tuple[str, int], list[str]] = defaultdict(list)
    for case in cohort:
        strata[_stratum(case)].append(case.case_id)
    # Rounded first: 0.1 * 30 is a little over 3 in binary and must not become 4.
    wanted = math.ceil(round(len(cohort) * validation_fraction, 9))
    wanted = min(max(wanted, 1), len(cohort) - 1)

    shares = {key: len(ids) * wanted / len(cohort) for key, ids in strata.items()}
    counts = {key: math.floor(share) for key, share in shares.items()}
    lost = sorted(
        strata, key=lambda key: (counts[key] - shares[key], _rank(seed, f"{key[0]}{key[1]}"))
    )
    for key in lost[: wanted - sum(counts.values())]:
        counts[key] += 1

    validation = {
        case_id
        for key, ids in strata.items()
        for case_id in sorted(ids, key=lambda case_id: _rank(seed, case_id))[: counts[key]]
    }
    train = sorted(case.case_id for case in cohort if case.case_id not in validation)
    return Split(train=tuple(train), validation=tuple(sorted(validation)))


def leaked_cases(train: Mapping[str, str], validation: Mapping[str, str]) -> tuple[str, ...]:
    """Return the validation cases whose radiograph is also a training case's.

    Args:
        train: case id to the hash of its pixels.
        validation: the same of the other part.
    """
    known = set(train.values())
    return tuple(case_id for case_id, digest in validation.items() if digest in known)


def _stratum(case: Case) -> tuple[str, int]:
    if case.bone_age_months is None:
        return case.sex.value, -1
    return case.sex.value, int(case.bone_age_months // STRATUM_WIDTH_MONTHS)


def _rank(seed: int, text: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=16).digest()

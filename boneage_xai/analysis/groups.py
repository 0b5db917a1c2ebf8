"""Ways to group cases: sex, age in bins and years, developmental stage, any column of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.metrics import N_RESAMPLES, error_metrics
from boneage_xai.analysis.stages import STAGES, stage_indices
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE, age_bin_indices
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Sex

MISSING = "not given"
MOST_GROUPS = 40


@dataclass(frozen=True, eq=False)
class Grouping:
    """A partition of the cases.

    Args:
        by: what the cases are grouped by.
        codes: (n,) the group of each case.
        keys: what the cases of each group have in common, in the order of the codes.
    """

    by: str
    codes: npt.NDArray[np.intp]
    keys: tuple[Mapping[str, Any], ...]


def column_grouping(values: pd.Series[Any], column: str) -> Grouping:
    """Group cases by what a column of their label table says.

    Args:
        values: (n,) text; an empty text or a missing value makes the group ``MISSING``.
        column: the column's header.

    Returns:
        The grouping, its groups sorted by name.

    Raises:
        ConfigError: more than ``MOST_GROUPS`` different values.
    """
    named = values.fillna("").astype(str).str.strip().replace("", MISSING)
    codes, names = pd.factorize(named, sort=True)
    if len(names) > MOST_GROUPS:
        raise ConfigError(
            f"--by {column}: expected at most {MOST_GROUPS} different values, found {len(names)}"
        )
    keys = tuple({"column": column, "group": str(name)} for name in names)
    return Grouping(f"column {column}", codes.astype(np.intp), keys)


def standard_groupings(
    predictions: pd.DataFrame, age_bins: Sequence[float] = AGE_BINS_MONTHS
) -> dict[str, Grouping]:
    """Group cases by sex, age bin, both, year of age, and developmental stage.

    Args:
        predictions: sex ('F' or 'M') and reference_months per case.
        age_bins: edges in months, see ``age_bin_indices``.

    Returns:
        ``sex``, ``age``, ``SEX_BY_AGE``, ``year``, ``stage`` and ``sex×stage``.

    Raises:
        DataError: a reference outside the age bins.
    """
    is_male = predictions["sex"].to_numpy(dtype=object) == Sex.MALE.value
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    male = is_male.astype(np.intp)
    bins = age_bin_indices(reference, age_bins)
    if (bins < 0).any():
        raise DataError(
            f"groups: expected reference bone ages inside the age bins ({age_bins[0]:g} to "
            f"{age_bins[-1]:g} months), found {reference[bins < 0][0]:g}"
        )
    stages = stage_indices(reference, is_male)
    years = np.floor(reference / 12.0).astype(np.intp)
    spans = [[float(low), float(high)] for low, high in pairwise(age_bins)]
    age_keys = [{"age_months": span} for span in spans]
    stage_keys = [{"stage": stage.name.lower()} for stage in STAGES.values()]
    year_keys = [{"year": year} for year in range(int(years.max(initial=0)) + 1)]
    sex_keys: list[dict[str, Any]] = [{"sex": Sex.FEMALE.value}, {"sex": Sex.MALE.value}]

    def crossed(by: str, codes: npt.NDArray[np.intp], keys: list[dict[str, Any]]) -> Grouping:
        both = tuple({**sex, **key} for sex in sex_keys for key in keys)
        return Grouping(by, male * len(keys) + codes, both)

    found = (
        Grouping("sex", male, tuple(sex_keys)),
        Grouping("age", bins, tuple(age_keys)),
        crossed(SEX_BY_AGE, bins, [dict(key) for key in age_keys]),
        Grouping("year", years, tuple(year_keys)),
        Grouping("stage", stages, tuple(stage_keys)),
        crossed("sex×stage", stages, [dict(key) for key in stage_keys]),
    )
    return {grouping.by: grouping for grouping in found}


def group_metrics(
    errors_months: npt.ArrayLike,
    groupings: Sequence[Grouping],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[dict[str, Any]]:
    """Return the error metrics of every group that holds a case.

    Args:
        errors_months: (n,) predicted minus reference, months.
        groupings: partitions of the cases.
        seed: of the resampling.
        n_resamples: number of resamples.

    Returns:
        Per group ``by``, its keys, then the entries of ``error_metrics``.
    """
    errors = np.asarray(errors_months, dtype=np.float64)
    groups: list[dict[str, Any]] = []
    for grouping in groupings:
        order = np.argsort(grouping.codes, kind="stable")
        ends = np.cumsum(np.bincount(grouping.codes, minlength=len(grouping.keys)))
        for keys, end, start in zip(grouping.keys, ends, [0, *ends[:-1]], strict=True):
            if end > start:
                table = error_metrics(errors[order[start:end]], seed=seed, n_resamples=n_resamples)
                groups.append({"by": grouping.by, **keys, **table})
    return groups

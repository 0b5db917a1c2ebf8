"""Error metrics per sex, per age bin, and per sex and age bin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.metrics import N_RESAMPLES, error_metrics
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Sex

AGE_BINS_MONTHS: tuple[float, ...] = (0.0, 24.0, 60.0, 96.0, 132.0, 168.0, 204.0, 240.0)
"""Edges of the default age bins: two bins up to 5 years, then every 3 years."""


SEX_BY_AGE = "sex×age"


def age_bin_indices(
    reference_months: npt.ArrayLike, age_bins: Sequence[float] = AGE_BINS_MONTHS
) -> npt.NDArray[np.intp]:
    """Return the age bin each case falls into.

    Args:
        reference_months: (n,) reference bone age, months.
        age_bins: increasing edges in months; bins are ``[low, high)``, the last ``[low, high]``.

    Returns:
        (n,) index of the bin; -1 for an age outside all bins or not a number.

    Raises:
        ConfigError: fewer than two edges, or edges that do not increase.
    """
    edges = np.asarray(age_bins, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ConfigError(
            f"age bins: expected two or more increasing edges in months, found {list(age_bins)}"
        )
    ages = np.asarray(reference_months, dtype=np.float64)
    indices = np.searchsorted(edges, ages, side="right") - 1
    indices = np.where(ages == edges[-1], edges.size - 2, indices)
    inside = (ages >= edges[0]) & (ages <= edges[-1])
    return np.where(inside, indices, -1).astype(np.intp)


def subgroup_metrics(
    predictions: pd.DataFrame,
    *,
    age_bins: Sequence[float] = AGE_BINS_MONTHS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[dict[str, Any]]:
    """Return the metrics of every subgroup that holds a case.

    The subgroups of each kind (``sex``, ``age``, ``SEX_BY_AGE``) partition the cases.

    Args:
        predictions: one row per case with case_id, sex ('F' or 'M'), reference_months and
            predicted_months.
        age_bins: edges in months, see ``age_bin_indices``.
        seed: of the resampling.
        n_resamples: number of resamples.

    Returns:
        Per subgroup ``by``, then ``sex`` and/or ``age_months`` ``[low, high]``, then the
        entries of ``error_metrics``. Empty subgroups are left out.

    Raises:
        DataError: a sex other than 'F' or 'M', or a reference outside the age bins.
        ConfigError: edges that do not increase.
    """
    sex = predictions["sex"].to_numpy(dtype=object)
    reference = predictions["reference_months"].to_numpy(dtype=np.float64)
    errors = predictions["predicted_months"].to_numpy(dtype=np.float64) - reference
    bins = age_bin_indices(reference, age_bins)
    case_ids = predictions["case_id"].to_numpy(dtype=object)
    sexes = tuple(member.value for member in Sex)
    strange = np.flatnonzero(~np.isin(sex.astype(str), sexes))
    if strange.size:
        first = int(strange[0])
        raise DataError(f"case {case_ids[first]}: expected sex F or M, found {sex[first]!r}")
    outside = np.flatnonzero(bins < 0)
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"case {case_ids[first]}: expected a reference bone age inside the age bins "
            f"({age_bins[0]:g} to {age_bins[-1]:g} months), found {reference[first]:g}"
        )

    groups: list[dict[str, Any]] = []

    def add(mask: npt.NDArray[np.bool_], **keys: Any) -> None:
        if mask.any():
            table = error_metrics(errors[mask], seed=seed, n_resamples=n_resamples)
            groups.append({**keys, **table})

    spans = [[float(low), float(high)] for low, high in pairwise(age_bins)]
    for name in sexes:
        add(sex == name, by="sex", sex=name)
    for index, span in enumerate(spans):
        add(bins == index, by="age", age_months=span)
    for name in sexes:
        for index, span in enumerate(spans):
            add((sex == name) & (bins == index), by=SEX_BY_AGE, sex=name, age_months=span)
    return groups

"""Attribution maps summed over hand regions, in months, for a case and for a cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import RegionMap

_RESAMPLES_AT_ONCE = 100


def aggregate(map_months: npt.NDArray[np.floating], regions: RegionMap) -> pd.DataFrame:
    """Sum a signed attribution map over each region.

    Every pixel belongs to exactly one region, background included, so the regions'
    signed months add up to the map's sum and their area fractions to 1. Labels that
    share a name are one region; a named region without pixels has zeros.

    Args:
        map_months: (H, W) signed attribution in months.
        regions: (H, W) labels with names.

    Returns:
        One row per region name in the order of the labels: region, signed_months,
        absolute_months (sum of magnitudes), area_fraction (of the whole image).

    Raises:
        DataError: shapes differ, a negative label, or a map that is not finite.
    """
    labels = regions.labels
    if map_months.shape != labels.shape:
        raise DataError(
            f"region map: expected the shape of the attribution {map_months.shape}, "
            f"found {labels.shape}"
        )
    if labels.size and labels.min() < 0:
        raise DataError(f"region map: expected labels from 0 up, found {labels.min()}")
    values = map_months.astype(np.float64).ravel()
    if not np.isfinite(values).all():
        raise DataError("attribution map: expected finite months, found NaN or infinity")
    # Background exists even where labels.json leaves it out and the map has none of it.
    length = max(regions.names, default=0) + 1
    flat = labels.ravel().astype(np.int64)
    columns = {
        "signed_months": np.bincount(flat, weights=values, minlength=length),
        "absolute_months": np.bincount(flat, weights=np.abs(values), minlength=length),
        "area_fraction": np.bincount(flat, minlength=length) / max(flat.size, 1),
    }
    by_label = pd.DataFrame(
        [
            (name, *(column[label] for column in columns.values()))
            for label, name in sorted(regions.names.items())
        ],
        columns=["region", *columns],
    )
    return by_label.groupby("region", sort=False, as_index=False).sum()


def summarise(
    frame: pd.DataFrame,
    by: Sequence[str] = (),
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Average region sums over a cohort, with percentile bootstrap intervals over cases.

    Cases are resampled whole, so the intervals keep the correlation between the regions
    of one case. Regions that a case's label map does not name are left out of the mean
    of that region, not counted as zero.

    Args:
        frame: rows of case_id, region, signed_months, absolute_months, area_fraction and
            the columns named in ``by`` (as in ``regions.parquet``).
        by: columns whose values are summarised apart, e.g. ``("method", "sex")``.
        resamples: number of bootstrap resamples.
        confidence: coverage of the interval.
        seed: of the resampling.

    Returns:
        One row per group and region: the ``by`` columns, region, n (cases), then
        signed_months, signed_low_months, signed_high_months, absolute_months,
        absolute_low_months, absolute_high_months, area_fraction. The limits are NaN
        where there are fewer than two cases.

    Raises:
        ConfigError: confidence or resamples out of range.
        DataError: a column is missing, or a case has a region twice within a group.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (percentile interval).
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(
            "bootstrap: expected confidence between 0 and 1 and at least one resample, "
            f"found {confidence} and {resamples}"
        )
    needed = ["case_id", "region", "signed_months", "absolute_months", "area_fraction", *by]
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise DataError(f"region table: expected columns {needed}, found no {missing}")
    repeated = frame.duplicated(["case_id", "region", *by])
    if repeated.any():
        row = frame[repeated].iloc[0]
        raise DataError(
            f"region table: expected region {row['region']} once for case {row['case_id']}, "
            f"found it more than once (add to `by` what tells the rows apart)"
        )
    if frame.empty:
        return pd.DataFrame(columns=[*by, *_SUMMARY_COLUMNS])
    grouped = frame.groupby(list(by), sort=False, dropna=False) if by else None
    tables = []
    for group in [frame] if grouped is None else [group for _, group in grouped]:
        table = _summarise_group(group, resamples, confidence, seed)
        for column in by:
            table[column] = group[column].iloc[0]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[[*by, *_SUMMARY_COLUMNS]]


_SUMMARY_COLUMNS = [
    "region",
    "n",
    "signed_months",
    "signed_low_months",
    "signed_high_months",
    "absolute_months",
    "absolute_low_months",
    "absolute_high_months",
    "area_fraction",
]


def _summarise_group(
    group: pd.DataFrame, resamples: int, confidence: float, seed: int
) -> pd.DataFrame:
    regions = list(dict.fromkeys(group["region"]))

    def per_case(column: str) -> npt.NDArray[np.float64]:
        wide = group.pivot(index="case_id", columns="region", values=column)
        return wide[regions].to_numpy(dtype=np.float64)

    signed, absolute = per_case("signed_months"), per_case("absolute_months")
    present = ~np.isnan(signed)
    signed_limits, absolute_limits = _bootstrap_limits(
        (signed, absolute), resamples, confidence, seed
    )
    return pd.DataFrame(
        {
            "region": regions,
            "n": present.sum(axis=0),
            "signed_months": np.nanmean(signed, axis=0),
            "signed_low_months": signed_limits[0],
            "signed_high_months": signed_limits[1],
            "absolute_months": np.nanmean(absolute, axis=0),
            "absolute_low_months": absolute_limits[0],
            "absolute_high_months": absolute_limits[1],
            "area_fraction": np.nanmean(per_case("area_fraction"), axis=0),
        }
    )


def _bootstrap_limits(
    tables: Sequence[npt.NDArray[np.float64]], resamples: int, confidence: float, seed: int
) -> list[npt.NDArray[np.float64]]:
    """Return per (cases, regions) table its (2, regions) limits of the mean."""
    enough = (~np.isnan(tables[0])).sum(axis=0) >= 2
    sampled = bootstrap_means(tables, resamples=resamples, seed=seed)
    return [percentile_limits(np.where(enough, means, np.nan), confidence) for means in sampled]


def bootstrap_means(
    tables: Sequence[npt.NDArray[np.float64]], *, resamples: int = 1000, seed: int = 0
) -> list[npt.NDArray[np.float64]]:
    """Average tables over cases that are drawn with replacement, the same ones for all tables.

    Args:
        tables: each (cases, columns), of the same cases; NaN in the same places of all, where a
            case is left out of the mean of that column.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        Per table its means, (resamples, columns); NaN where no case with a value was drawn.
    """
    rng = np.random.default_rng(seed)
    cases = tables[0].shape[0]
    present = (~np.isnan(tables[0])).astype(np.float64)
    filled = [np.nan_to_num(table) for table in tables]
    means: list[list[npt.NDArray[np.float64]]] = [[] for _ in tables]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        # How often each case is drawn says all about a resample, and makes it one product.
        weights = rng.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(np.float64)
        drawn = weights @ present
        for position, table in enumerate(filled):
            with np.errstate(invalid="ignore"):
                means[position].append((weights @ table) / drawn)
    return [np.concatenate(parts) for parts in means]


def percentile_limits(
    sampled: npt.NDArray[np.float64], confidence: float = 0.95
) -> npt.NDArray[np.float64]:
    """Return the percentile interval (2, columns) of resampled values (resamples, columns).

    NaN among the resampled values are left out; a column without any other has NaN limits.
    """
    tail = 100 * (1 - confidence) / 2
    limits = np.full((2, sampled.shape[1]), np.nan)
    known = ~np.isnan(sampled).all(axis=0)
    if known.any():
        limits[:, known] = np.nanpercentile(sampled[:, known], [tail, 100 - tail], axis=0)
    return limits

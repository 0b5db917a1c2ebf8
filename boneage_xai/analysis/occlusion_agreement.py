"""Attribution held against occlusion: do regions that get more months matter more when removed?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from boneage_xai.analysis.metrics import N_RESAMPLES, bootstrap_mean
from boneage_xai.anatomy import AGE_REGIONS, NOT_BONE
from boneage_xai.attribution.truth import rank_correlation, region_agreement
from boneage_xai.errors import DataError
from boneage_xai.store import AnalysisFolder

AREA_ALONE = "area_alone"
"""Stands among the methods for a map that is the same everywhere: months by area."""

OCCLUSION_BY = "occlusion_by_"
"""Prefix of a filling's name where occlusion itself is held against interventions."""

AGREES_FROM = 0.3
"""Mean rank correlation from which a method agrees: a convention. By chance that of a single case
with eight regions scatters by 0.38."""

BOTH = "agrees with both"
ONLY_OCCLUSION = "agrees with occlusion only"
ONLY_INTERVENTIONS = "agrees with interventions only"
NEITHER = "disagrees with both"
OCCLUSION = "agrees with occlusion"
NOT_OCCLUSION = "does not agree with occlusion"
UNKNOWN = "too few cases to say"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What an analysis folder says on attribution, occlusion and interventions.

    Args:
        with_occlusion: of ``agreement_with_occlusion``, None where nothing can be compared.
        with_interventions: of ``agreement_with_interventions``, None without interventions.
        verdicts: of ``verdicts``, None where nothing can be compared.
    """

    with_occlusion: pd.DataFrame | None = None
    with_interventions: pd.DataFrame | None = None
    verdicts: pd.DataFrame | None = None


def compared(folder: AnalysisFolder) -> Comparison:
    """Compare what a folder holds: occlusion with attributions, both with interventions.

    Args:
        folder: of an analysis with occlusion.

    Returns:
        What can be compared; parts are None where a table, or a case in both, is missing.
    """
    occlusion, regions = folder.occlusion(), folder.regions()
    if occlusion is None or regions is None:
        return Comparison()
    # Cases may have been chosen otherwise, and maps may name other regions.
    if not _share(regions, _of_bone(occlusion)):
        return Comparison()
    with_occlusion = agreement_with_occlusion(regions, occlusion)
    interventions = folder.interventions()
    truth = None
    if interventions is not None:
        truth = agreement_with_interventions(regions, occlusion, interventions)
    return Comparison(with_occlusion, truth, verdicts(with_occlusion, truth))


def agreement_with_occlusion(
    regions: pd.DataFrame,
    occlusion: pd.DataFrame,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """Correlate months per region with what removing the region does, by method and filling.

    Only single regions of bone count: background, marker and soft tissue are removed over such
    areas that what is left is hardly a radiograph.

    Args:
        regions: case_id, method, region, signed_months, absolute_months, area_fraction, as in
            ``regions.parquet``.
        occlusion: as ``analysis.region_occlusion.occlude_run`` writes it.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per method, and ``AREA_ALONE``, and per filling: method, fill, n (cases that have a rank
        correlation), then three of Spearman's rank correlations with their bootstrap 95% limits
        over cases (``_low``, ``_high``): ``magnitude`` of absolute_months with |change|, case by
        case; ``signed`` of signed_months with minus the change, case by case; ``means`` of the
        cohort's mean absolute_months with its mean |change|; and ``beyond_area``, magnitude minus
        that of the area alone, case by case. NaN where there is none.

    Raises:
        DataError: no case and region is in both tables.
    """
    keys = ["case_id", "region"]
    both = regions.drop(columns="area_fraction").merge(_of_bone(occlusion), on=keys)
    if both.empty:
        raise DataError(
            "occlusion: expected cases and regions of bone that are in the attributions too, "
            "found none"
        )
    both = both.assign(effect_months=-both["delta_months"])
    # The first method's rows stand for all: area and effect are the same for each.
    area = both[both["method"] == both["method"].iloc[0]].assign(
        method=AREA_ALONE, absolute_months=lambda table: table["area_fraction"], signed_months=0.0
    )
    everything = pd.concat([both, area], ignore_index=True)
    rows: list[dict[str, Any]] = []
    for fill, of_fill in everything.groupby("fill", sort=False):
        alone = _by_case(of_fill[of_fill["method"] == AREA_ALONE])["magnitude"]
        for method, group in of_fill.groupby("method", sort=False):
            per_case = _by_case(group)
            beyond = per_case["magnitude"] - alone.reindex(per_case.index)
            row: dict[str, Any] = {"method": method, "fill": fill}
            row["n"] = int(per_case["magnitude"].notna().sum())
            row |= _estimate("magnitude", per_case["magnitude"], seed, n_resamples)
            row |= _estimate("signed", per_case["signed"], seed, n_resamples)
            row |= _of_means(group, seed, n_resamples)
            row |= _estimate("beyond_area", beyond, seed, n_resamples)
            rows.append(row)
    return pd.DataFrame(rows)


def agreement_with_interventions(
    regions: pd.DataFrame, occlusion: pd.DataFrame, interventions: pd.DataFrame, *, seed: int = 0
) -> pd.DataFrame:
    """Correlate months per region, and occlusion, with the true effects of regions.

    Args:
        regions: as in ``regions.parquet``.
        occlusion: as ``analysis.region_occlusion.occlude_run`` writes it.
        interventions: as in ``interventions.parquet``.
        seed: of the resampling.

    Returns:
        Per method, and per filling as ``OCCLUSION_BY`` and its name: method, n, magnitude,
        magnitude_low, magnitude_high, as from ``attribution.truth.region_agreement``. Methods
        that share no case and region with the interventions are left out.
    """
    single = occlusion[occlusion["kind"] == "region"]
    tables: dict[str, pd.DataFrame] = {
        str(method): group for method, group in regions.groupby("method", sort=False)
    }
    for fill, group in single.groupby("fill", sort=False):
        tables[f"{OCCLUSION_BY}{fill}"] = group.assign(absolute_months=group["delta_months"].abs())
    first = single[single["fill"] == single["fill"].iloc[0]]
    tables[AREA_ALONE] = first.assign(absolute_months=first["area_fraction"])
    rows: list[dict[str, Any]] = []
    moved = interventions[interventions["region"].isin(AGE_REGIONS)]
    for method, table in tables.items():
        if not _share(table, moved):
            continue
        found = region_agreement(table, interventions, seed=seed)
        rows.append(
            {
                "method": method,
                "n": found.n,
                "magnitude": found.spearman,
                "magnitude_low": found.low,
                "magnitude_high": found.high,
            }
        )
    return pd.DataFrame(
        rows, columns=["method", "n", "magnitude", "magnitude_low", "magnitude_high"]
    )


def agrees(row: Mapping[Any, Any]) -> bool | None:
    """Say whether a mean rank correlation is agreement, None where there is no interval.

    Args:
        row: magnitude and magnitude_low.

    Returns:
        True where the mean is at least ``AGREES_FROM`` and the interval lies above 0.
    """
    if math.isnan(row["magnitude_low"]):
        return None
    return bool(row["magnitude"] >= AGREES_FROM and row["magnitude_low"] > 0)


def verdicts(
    with_occlusion: pd.DataFrame, with_interventions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Say of each method whether its regions are those that matter.

    A method agrees with occlusion if it does so under every filling, since what hangs on the
    filling tells of the filling.

    Args:
        with_occlusion: as from ``agreement_with_occlusion``.
        with_interventions: as from ``agreement_with_interventions``, None where there are none.

    Returns:
        Per method, ``AREA_ALONE`` left out: method, fills (those it agrees under, joined by
        commas) and verdict.
    """
    truth: dict[str, bool | None] = {}
    if with_interventions is not None:
        truth = {row["method"]: agrees(row) for row in with_interventions.to_dict("records")}
    rows = []
    for method, group in with_occlusion.groupby("method", sort=False):
        if method == AREA_ALONE:
            continue
        answers = {row["fill"]: agrees(row) for row in group.to_dict("records")}
        occlusion = None if None in answers.values() else all(answers.values())
        rows.append(
            {
                "method": method,
                "fills": ", ".join(fill for fill, answer in answers.items() if answer),
                "verdict": _verdict(occlusion, truth.get(str(method)), str(method) in truth),
            }
        )
    return pd.DataFrame(rows, columns=["method", "fills", "verdict"])


def _verdict(occlusion: bool | None, truth: bool | None, has_truth: bool) -> str:
    if occlusion is None or (has_truth and truth is None):
        return UNKNOWN
    if not has_truth:
        return OCCLUSION if occlusion else NOT_OCCLUSION
    if occlusion:
        return BOTH if truth else ONLY_OCCLUSION
    return ONLY_INTERVENTIONS if truth else NEITHER


def _of_bone(occlusion: pd.DataFrame) -> pd.DataFrame:
    return occlusion[(occlusion["kind"] == "region") & ~occlusion["region"].isin(NOT_BONE)]


def _share(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    keys = ["case_id", "region"]
    return not one[keys].merge(other[keys]).empty


def _by_case(group: pd.DataFrame) -> pd.DataFrame:
    """Return magnitude and signed by case_id."""
    found = {
        case_id: {
            "magnitude": rank_correlation(
                _array(case, "absolute_months"), np.abs(_array(case, "effect_months"))
            ),
            "signed": rank_correlation(
                _array(case, "signed_months"), _array(case, "effect_months")
            ),
        }
        for case_id, case in group.groupby("case_id", sort=False)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def _array(table: pd.DataFrame, column: str) -> Values:
    return table[column].to_numpy(dtype=np.float64)


def _estimate(name: str, values: pd.Series[float], seed: int, n_resamples: int) -> dict[str, float]:
    known = values.dropna()
    if known.empty:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    mean = bootstrap_mean(known, seed=seed, n_resamples=n_resamples)
    return {
        key: math.nan if value is None else value
        for key, value in zip(
            (name, f"{name}_low", f"{name}_high"),
            (mean["value"], mean["low"], mean["high"]),
            strict=True,
        )
    }


def _of_means(group: pd.DataFrame, seed: int, n_resamples: int) -> dict[str, float]:
    """Return the rank correlation of the cohort's means, and its limits."""
    wide = [
        table.pivot(index="case_id", columns="region", values=column).to_numpy(dtype=np.float64)
        for table, column in (
            (group, "absolute_months"),
            (group.assign(size_months=group["effect_months"].abs()), "size_months"),
        )
    ]
    present = (~np.isnan(wide[0])).astype(np.float64)
    filled = [np.nan_to_num(table) for table in wide]
    number = present.shape[0]
    drawn = np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=n_resamples
    )
    limits = [math.nan, math.nan]
    if number >= 2:
        resampled = _correlated_means(drawn.astype(np.float64), present, filled)
        if (~np.isnan(resampled)).any():
            limits = np.nanpercentile(resampled, [2.5, 97.5]).tolist()
    value = float(_correlated_means(np.ones((1, number)), present, filled)[0])
    return {"means": value, "means_low": limits[0], "means_high": limits[1]}


def _correlated_means(weights: Values, present: Values, filled: list[Values]) -> Values:
    """Return (k,) rank correlations of the two weighted mean rows; NaN without differences."""
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = (
            rankdata((weights @ table) / (weights @ present), axis=1, nan_policy="propagate")
            for table in filled
        )
        one = one - one.mean(axis=1, keepdims=True)
        other = other - other.mean(axis=1, keepdims=True)
        size = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        return np.asarray((one * other).sum(axis=1) / size, dtype=np.float64)

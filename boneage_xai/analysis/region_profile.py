"""Profiles over hand regions: which of them carry the prediction, at which stage and sex."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.literature import expectation_table
from boneage_xai.analysis.stages import STAGES, with_stages
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions.aggregation import bootstrap_means, percentile_limits

ALL = "all"
"""Stands for every stage, or both sexes, in the columns ``stage`` and ``sex``."""

FEW_CASES = 10
"""Cells with fewer cases are marked, and nothing is concluded from them."""

AGREE, DIFFER, CANNOT_TELL = "agree", "differ", "cannot tell"
MORE, LESS = "more", "less"

_NEEDED = ["case_id", "region", "signed_months", "absolute_months", "area_fraction"]
_MEASURES = (
    # column, ends of its interval
    ("signed_months", "signed_low_months", "signed_high_months"),
    ("absolute_months", "absolute_low_months", "absolute_high_months"),
    ("share_of_whole", "share_of_whole_low", "share_of_whole_high"),
    ("share_of_hand", "share_of_hand_low", "share_of_hand_high"),
    ("months_per_percent_area", "months_per_percent_area_low", "months_per_percent_area_high"),
    ("enrichment", "enrichment_low", "enrichment_high"),
)


@dataclass(frozen=True, eq=False)
class RegionProfile:
    """Where the attribution of one method lies, by stage and sex.

    Args:
        method: the attribution method.
        table: a row per stage, sex and region; ``all`` stands for every stage or both sexes.
            n (cases of the cell), few_cases, n_with_region (in how many the region has
            pixels), signed_months, absolute_months (sum of magnitudes), share_of_whole and
            share_of_hand (of the magnitude), months_per_percent_area, enrichment, each
            with the ends of its interval; area_fraction (of the image), area_of_hand (of the
            hand), rank_by_share and rank_by_enrichment among the regions of the hand. What
            concerns the hand is NaN for background and marker.
        left_out: why cases were left out, to how many.
        age_sources: ``reference`` and ``predicted`` to the number of cases staged by it.
    """

    method: str
    table: pd.DataFrame
    left_out: Mapping[str, int]
    age_sources: Mapping[str, int]

    def cell(self, stage: str = ALL, sex: str = ALL) -> pd.DataFrame:
        """Return the rows of one stage and sex, none where there was no case."""
        table = self.table
        return table[(table["stage"] == stage) & (table["sex"] == sex)].reset_index(drop=True)


def region_profile(
    regions: pd.DataFrame,
    cases: pd.DataFrame,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RegionProfile:
    """Profile the attribution of one method over regions, by stage and sex.

    Shares are those of each case, averaged, so that every child counts the same. Quotients by
    area (months per percent, enrichment) are quotients of two such means: a case in which a
    region is tiny or not seen cannot drive them. Enrichment is a region's share of the
    magnitude inside the hand over its share of the hand's area: 1 is what its area alone gives.

    Args:
        regions: rows of one method, as in ``regions.parquet``.
        cases: case_id, sex, reference_months and predicted_months; the stage is that of the
            reference where there is one, else of the prediction.
        resamples: bootstrap resamples of cases.
        confidence: coverage of the intervals.
        seed: of the resampling.

    Raises:
        DataError: a column is missing, several methods, a region twice in a case, or no case
            that is known and has a hand.
        ConfigError: confidence or resamples out of range.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (percentile interval).
    """
    _check_bootstrap(resamples, confidence)
    sums = _sums(regions)
    staged, unknown = _staged(cases, sums.case_ids)
    usable = sums.usable()
    left_out = {
        "without a known sex or bone age": unknown,
        "in which no hand was found": int((~sums.has_hand()).sum()),
        "without any attribution inside the hand": int((sums.has_hand() & ~usable).sum()),
    }
    staged = staged[staged["case_id"].isin(np.asarray(sums.case_ids)[usable])]
    if staged.empty:
        raise DataError(
            "regions: expected a case of known sex and age with attribution inside its hand, "
            f"found none among {len(sums.case_ids)}"
        )
    tables = []
    for stage, sex, case_ids in _cells(staged):
        cell = sums.select(case_ids)
        tables.append(_profile_cell(cell, resamples, confidence, seed).assign(stage=stage, sex=sex))
    table = pd.concat(tables, ignore_index=True)
    first = ["stage", "sex", "n", "few_cases", "region"]
    table = table[first + [column for column in table.columns if column not in first]]
    return RegionProfile(
        sums.method,
        table,
        {reason: number for reason, number in left_out.items() if number},
        {str(name): int(number) for name, number in staged["age_source"].value_counts().items()},
    )


def against_literature(profile: RegionProfile) -> pd.DataFrame:
    """Compare each region that the literature names for a stage with what its area would give.

    One rule: ``agree`` where the whole interval of the enrichment lies above 1, ``differ`` where
    it lies below, ``cannot tell`` where it holds 1, the cell has fewer than ``FEW_CASES`` cases or
    the region is seen in fewer.

    Args:
        profile: of ``region_profile``.

    Returns:
        A row per source, stage, sex and region named: the columns of
        ``literature.expectation_table``, then sex, n, share_of_hand, enrichment with its
        interval, both ranks, and verdict. Stages without cases have no row.
    """
    columns = ["share_of_hand", "enrichment", "enrichment_low", "enrichment_high"]
    kept = ["stage", "sex", "region", "n", "n_with_region", *columns]
    kept += ["rank_by_share", "rank_by_enrichment"]
    found = expectation_table().merge(profile.table[kept], on=["stage", "region"], how="inner")
    few = (found["n"] < FEW_CASES) | (found["n_with_region"] < FEW_CASES)
    verdict = _verdict(found["enrichment_low"], found["enrichment_high"], few, 1.0, AGREE, DIFFER)
    return found.assign(verdict=verdict)


def compare_with_control(
    regions: pd.DataFrame,
    control: pd.DataFrame,
    cases: pd.DataFrame,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the shares of a network with those of a control on the same cases, in pairs.

    The control has the same images, region maps and method, and another network: one with random
    weights. What both share is due to the images, not to what was learnt.

    Args:
        regions: rows of one method.
        control: the control's rows of the same method.
        cases: as for ``region_profile``; their stages count for both.
        resamples: bootstrap resamples of pairs.
        confidence: coverage of the interval.
        seed: of the resampling.

    Returns:
        A row per stage, sex and region of the hand: n (pairs), share_of_hand,
        control_share_of_hand, difference (mean over pairs) with its interval, and
        against_control: ``more`` or ``less`` where the interval leaves out 0, else
        ``cannot tell``, as in cells of fewer than ``FEW_CASES`` pairs.

    Raises:
        DataError: as ``region_profile``; other methods, no case in common, or region maps that
            differ.
        ConfigError: confidence or resamples out of range.
    """
    _check_bootstrap(resamples, confidence)
    ours, theirs = _sums(regions), _sums(control)
    if ours.method != theirs.method:
        raise DataError(f"control: expected method {ours.method}, found {theirs.method}")
    usable = set(np.asarray(ours.case_ids)[ours.usable()])
    usable &= set(np.asarray(theirs.case_ids)[theirs.usable()])
    staged, _ = _staged(cases, sorted(usable))
    if staged.empty:
        raise DataError(
            "control: expected cases in common with attribution in the hand, found none"
        )
    both = sorted(staged["case_id"])
    if set(ours.regions) != set(theirs.regions) or not np.allclose(
        ours.select(both).area, theirs.select(both, ours.regions).area, atol=1e-9
    ):
        raise DataError("control: expected the same region maps, found others for the same cases")
    inside = [region for region in ours.regions if region not in OUTSIDE_HAND]
    tables = []
    for stage, sex, case_ids in _cells(staged):
        shares = [one.select(case_ids, ours.regions).share_of_hand() for one in (ours, theirs)]
        difference = shares[0] - shares[1]
        limits = _limits(bootstrap_means([difference], resamples=resamples, seed=seed), confidence)
        low, high = limits[0] if len(case_ids) > 1 else np.full_like(limits[0], np.nan)
        table = pd.DataFrame(
            {
                "stage": stage,
                "sex": sex,
                "n": len(case_ids),
                "region": ours.regions,
                "share_of_hand": shares[0].mean(axis=0),
                "control_share_of_hand": shares[1].mean(axis=0),
                "difference": difference.mean(axis=0),
                "difference_low": low,
                "difference_high": high,
            }
        )
        tables.append(table[table["region"].isin(inside)])
    found = pd.concat(tables, ignore_index=True)
    few = found["n"] < FEW_CASES
    verdict = _verdict(found["difference_low"], found["difference_high"], few, 0.0, MORE, LESS)
    return found.assign(against_control=verdict)


def _verdict(
    low: pd.Series[float],
    high: pd.Series[float],
    few: pd.Series[bool],
    border: float,
    above: str,
    below: str,
) -> npt.NDArray[np.str_]:
    known: npt.NDArray[np.str_] = np.select(
        [few.to_numpy(), (low > border).to_numpy(), (high < border).to_numpy()],
        [CANNOT_TELL, above, below],
        CANNOT_TELL,
    )
    return known


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of one method per case and region, each (cases, regions), cases sorted by id."""

    method: str
    case_ids: list[str]
    regions: list[str]
    signed: npt.NDArray[np.float64]
    absolute: npt.NDArray[np.float64]
    area: npt.NDArray[np.float64]

    def inside(self) -> npt.NDArray[np.bool_]:
        return np.array([region not in OUTSIDE_HAND for region in self.regions])

    def has_hand(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self.area[:, self.inside()].sum(axis=1) > 0
        return found

    def usable(self) -> npt.NDArray[np.bool_]:
        attributed = self.absolute[:, self.inside()].sum(axis=1) > 0
        found: npt.NDArray[np.bool_] = self.has_hand() & attributed
        return found

    def share_of_hand(self) -> npt.NDArray[np.float64]:
        """Return shares of the magnitude inside the hand, 0 for what lies outside."""
        return _shares(self.absolute * self.inside())

    def select(self, case_ids: Sequence[str], regions: Sequence[str] | None = None) -> _Sums:
        row_of = {case_id: row for row, case_id in enumerate(self.case_ids)}
        rows = [row_of[case_id] for case_id in sorted(case_ids)]
        regions = self.regions if regions is None else list(regions)
        at = np.ix_(rows, [self.regions.index(region) for region in regions])
        picked = [self.case_ids[row] for row in rows]
        tables = (self.signed[at], self.absolute[at], self.area[at])
        return _Sums(self.method, picked, list(regions), *tables)


def _sums(regions: pd.DataFrame) -> _Sums:
    needed = ["method", *_NEEDED]
    if missing := [column for column in needed if column not in regions.columns]:
        raise DataError(f"region table: expected columns {needed}, found no {missing}")
    methods = sorted(regions["method"].unique())
    if len(methods) != 1:
        raise DataError(f"region table: expected rows of one method, found {methods or 'no row'}")
    repeated = regions.duplicated(["case_id", "region"])
    if repeated.any():
        row = regions[repeated].iloc[0]
        raise DataError(
            f"region table: expected region {row['region']} once for case {row['case_id']}, "
            "found it more than once"
        )
    frame = regions.assign(case_id=regions["case_id"].astype(str))
    names = list(dict.fromkeys(frame["region"]))
    # A region that a case's map does not name has no pixel there.
    wide = [
        frame.pivot(index="case_id", columns="region", values=column)[names]
        .fillna(0.0)
        .sort_index()
        for column in ("signed_months", "absolute_months", "area_fraction")
    ]
    values = [table.to_numpy(dtype=np.float64) for table in wide]
    return _Sums(str(methods[0]), [str(one) for one in wide[0].index], names, *values)


def _staged(cases: pd.DataFrame, case_ids: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Return the attributed cases with their stages, and how many are not known well enough."""
    known = cases.assign(case_id=cases["case_id"].astype(str))
    if known["case_id"].duplicated().any():
        twice = known.loc[known["case_id"].duplicated(), "case_id"].iloc[0]
        raise DataError(f"cases: expected case {twice} once, found it more than once")
    known = known[known["case_id"].isin(case_ids) & known["sex"].isin(["F", "M"])]
    has_age = known["reference_months"].notna() | known["predicted_months"].notna()
    staged = with_stages(known[has_age])
    return staged, len(case_ids) - len(staged)


def _cells(staged: pd.DataFrame) -> Iterator[tuple[str, str, list[str]]]:
    """Yield stage, sex and sorted case ids of every cell that has a case, ``all`` last."""
    for stage in (*STAGES, ALL):
        for sex in ("F", "M", ALL):
            rows = staged
            if stage != ALL:
                rows = rows[rows["stage"] == stage]
            if sex != ALL:
                rows = rows[rows["sex"] == sex]
            if len(rows):
                yield stage, sex, sorted(rows["case_id"])


def _profile_cell(cell: _Sums, resamples: int, confidence: float, seed: int) -> pd.DataFrame:
    inside = cell.inside()
    tables = [
        cell.signed,
        cell.absolute,
        _shares(cell.absolute),
        cell.share_of_hand(),
        cell.area,
        _shares(cell.area * inside),
    ]
    # The resampled means give the intervals of quotients too, on the same draws.
    resampled = _with_quotients(bootstrap_means(tables, resamples=resamples, seed=seed))
    means = _with_quotients([table.mean(axis=0, keepdims=True) for table in tables])
    n = len(cell.case_ids)
    columns: dict[str, object] = {
        "n": n,
        "few_cases": n < FEW_CASES,
        "region": cell.regions,
        "n_with_region": (cell.area > 0).sum(axis=0),
    }
    for (name, low, high), value, limits in zip(
        _MEASURES, means, _limits(resampled, confidence), strict=True
    ):
        shown = np.where(inside, 1.0, np.nan) if name in ("share_of_hand", "enrichment") else 1.0
        columns[name] = value[0] * shown
        columns[low], columns[high] = limits * shown if n > 1 else np.full_like(limits, np.nan)
    columns["area_fraction"] = tables[4].mean(axis=0)
    columns["area_of_hand"] = np.where(inside, tables[5].mean(axis=0), np.nan)
    table = pd.DataFrame(columns)
    for name, measure in (("rank_by_share", "share_of_hand"), ("rank_by_enrichment", "enrichment")):
        table[name] = table[measure].rank(ascending=False, method="min")
    return table


def _with_quotients(
    tables: Sequence[npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return means in the order of the measures from means of sums, shares and areas."""
    signed, absolute, of_whole, of_hand, area, area_of_hand = tables
    with np.errstate(divide="ignore", invalid="ignore"):
        per_percent = np.where(area > 0, absolute / (100 * area), np.nan)
        enrichment = np.where(area_of_hand > 0, of_hand / area_of_hand, np.nan)
    return signed, absolute, of_whole, of_hand, per_percent, enrichment


def _shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return shares


def _limits(
    sampled: Sequence[npt.NDArray[np.float64]], confidence: float
) -> list[npt.NDArray[np.float64]]:
    return [percentile_limits(values, confidence) for values in sampled]


def _check_bootstrap(resamples: int, confidence: float) -> None:
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(
            "bootstrap: expected confidence between 0 and 1 and at least one resample, "
            f"found {confidence} and {resamples}"
        )

"""Interventions on phantoms: what a region's age does to a model's prediction.

A phantom is drawn again with one region older or younger and nothing else changed, so the
difference between two predictions is caused by that region alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.models.interface import Model
from boneage_xai.phantom.cohorts import PhantomCase
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.growth import region_maturities
from boneage_xai.phantom.redrawing import draw_with_region_ages
from boneage_xai.phantom.rendering import draw
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.predict import Progress, predict_pixels
from boneage_xai.types import FloatImage, Radiograph

Predictor = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.bool_]], npt.NDArray[np.float64]]
"""From prepared pixels (n, S, S) and is_male (n,) to months (n,)."""

ALL_REGIONS = "all_regions"
"""Name of the intervention that moves every region at once."""

SUM_OF_REGIONS = "sum_of_regions"
"""Name of the sum of the effects of single regions, which equals that of all if they add up."""

TOTAL_NAMES = {ALL_REGIONS: "all regions at once", SUM_OF_REGIONS: "sum of single regions"}
"""Both as people read them."""

DELTA_MONTHS = 12.0
"""Default step in age to either side."""

OLDEST_MONTHS = 240.0
"""No region is made older than this; every centre of the median hand is complete by 222."""

_PICTURES_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class _Pair:
    """The row of the table that two prepared pictures decide, younger first."""

    row: int
    pictures: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
    is_male: bool


def run_predictor(run: Model, batch_size: int = 64) -> Predictor:
    """Return a model as a function from prepared pixels and sex to months."""
    return lambda pixels, is_male: predict_pixels(run.network, pixels, is_male, batch_size)


def intervene(
    model: Predictor,
    cases: Sequence[PhantomCase],
    *,
    preprocessing: PreprocessSettings,
    settings: PhantomSettings | None = None,
    faults: tuple[Fault, ...] = (),
    regions: Sequence[str] = AGE_REGIONS,
    delta_months: float = DELTA_MONTHS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure the effect of each region's age on a model's prediction.

    For every case and region the hand is drawn with that region at its own age minus and plus
    ``delta_months`` (within 0 and ``OLDEST_MONTHS``), in 8 bits as on disk, and prepared as the
    model needs it. The slope is the difference of the predictions over that of the ages.

    Args:
        model: from prepared pixels (n, S, S) uint8 and is_male (n,) to months (n,); see
            ``run_predictor`` for a network.
        cases: the phantoms.
        preprocessing: how radiographs are prepared for the model.
        settings: size, side and nuisances of the cohort.
        faults: faults of the cohort.
        regions: regions to move, each by itself and all at once.
        delta_months: step in age to either side, in months.
        progress: called with (cases done, cases in all).

    Returns:
        Per case a row for each region, for ``ALL_REGIONS`` and for ``SUM_OF_REGIONS``: case_id,
        sex, age_months, region, slope_months_per_month, span_months (distance in age),
        maturity_change (of the region, or their mean), changed_px (pixels of the radiograph
        that differ; for the sum, summed over regions). Where no pixel differs the slope is 0.

    Raises:
        ConfigError: no cases, unknown or repeated regions, a step that is not above 0, or a
            hand whose age leaves no room to move.
        AttributionError: the model's answer is not one finite number per picture.
    """
    _check(cases, regions, delta_months)
    moves: dict[str, tuple[str, ...]] = {region: (region,) for region in regions}
    moves[ALL_REGIONS] = tuple(regions)
    rows: list[dict[str, Any]] = []
    pending: list[_Pair] = []
    for done, case in enumerate(cases, start=1):
        hand = case.hand
        younger = max(hand.age_months - delta_months, 0.0)
        older = min(hand.age_months + delta_months, OLDEST_MONTHS)
        drawing = draw(hand, settings, case.seed, planted=case.planted(faults))
        for name, moved in moves.items():
            ages = [dict.fromkeys(moved, age) for age in (younger, older)]
            before, after = (_in_8_bits(draw_with_region_ages(drawing, age)) for age in ages)
            maturity = [region_maturities(hand, age) for age in ages]
            changed = int(np.count_nonzero(before != after))
            if changed:
                pictures = _prepare(before, preprocessing), _prepare(after, preprocessing)
                if not np.array_equal(*pictures):
                    pending.append(_Pair(len(rows), pictures, hand.sex.is_male))
            rows.append(
                {
                    "case_id": case.case_id,
                    "sex": hand.sex.value,
                    "age_months": hand.age_months,
                    "region": name,
                    "slope_months_per_month": 0.0,
                    "span_months": older - younger,
                    "maturity_change": _mean_change(maturity, moved),
                    "changed_px": changed,
                }
            )
        if 2 * len(pending) >= _PICTURES_AT_ONCE or done == len(cases):
            _fill_slopes(model, pending, rows)
            pending.clear()
        if progress is not None:
            progress(done, len(cases))
    return _with_sums(pd.DataFrame(rows), tuple(regions))


def _check(cases: Sequence[PhantomCase], regions: Sequence[str], delta_months: float) -> None:
    if not cases:
        raise ConfigError("interventions: expected at least one phantom, found none")
    if not regions or len(set(regions)) != len(regions) or not set(regions) <= set(AGE_REGIONS):
        raise ConfigError(
            f"interventions: expected regions among {', '.join(AGE_REGIONS)}, each once, "
            f"found {', '.join(regions) or 'none'}"
        )
    if not 0 < delta_months < math.inf:
        raise ConfigError(f"interventions: expected a step over 0 months, found {delta_months}")
    for case in cases:
        if not case.hand.age_months - delta_months < OLDEST_MONTHS:
            raise ConfigError(
                f"case {case.case_id}: expected an age under {OLDEST_MONTHS + delta_months:g} "
                f"months, found {case.hand.age_months:g}"
            )


def _in_8_bits(pixels: FloatImage) -> npt.NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)


def _prepare(
    grey: npt.NDArray[np.uint8], preprocessing: PreprocessSettings
) -> npt.NDArray[np.uint8]:
    pixels = grey.astype(np.float32) / np.float32(255)
    return preprocess(Radiograph(pixels, Path("phantom")), preprocessing).pixels


def _mean_change(maturity: Sequence[Mapping[str, float]], moved: Sequence[str]) -> float:
    before, after = maturity
    return float(np.mean([after[region] - before[region] for region in moved]))


def _fill_slopes(model: Predictor, pairs: Sequence[_Pair], rows: list[dict[str, Any]]) -> None:
    """Predict both pictures of every pair and write the slopes into the rows."""
    if not pairs:
        return
    pixels = np.stack([picture for pair in pairs for picture in pair.pictures])
    is_male = np.repeat(np.array([pair.is_male for pair in pairs], dtype=np.bool_), 2)
    months = np.asarray(model(pixels, is_male), dtype=np.float64)
    if months.shape != (len(pixels),) or not np.isfinite(months).all():
        raise AttributionError(
            f"interventions: expected {len(pixels)} finite predictions in months, "
            f"found {months.shape} with {int((~np.isfinite(months)).sum())} that are not finite"
        )
    for pair, (before, after) in zip(pairs, months.reshape(-1, 2), strict=True):
        row = rows[pair.row]
        row["slope_months_per_month"] = float(after - before) / row["span_months"]


def _with_sums(table: pd.DataFrame, regions: tuple[str, ...]) -> pd.DataFrame:
    """Return the table with the sum of the single effects of each case."""
    single = table[table["region"] != ALL_REGIONS].groupby("case_id", sort=False)
    sums = table[table["region"] == ALL_REGIONS].set_index("case_id")
    sums = sums.assign(
        region=SUM_OF_REGIONS,
        slope_months_per_month=single["slope_months_per_month"].sum(),
        changed_px=single["changed_px"].sum(),
    ).reset_index()
    order = {name: place for place, name in enumerate((*regions, ALL_REGIONS, SUM_OF_REGIONS))}
    cases = {case_id: place for place, case_id in enumerate(sums["case_id"])}
    both = pd.concat([table, sums[table.columns]], ignore_index=True)
    places = both["case_id"].map(cases) * len(order) + both["region"].map(order)
    return both.iloc[np.argsort(places.to_numpy(), kind="stable")].reset_index(drop=True)

"""Scores of maps against what is known of a phantom: where age shows, and what regions do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.data.preprocess import SourceMap
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import ARCHIVE_ERRORS
from boneage_xai.phantom.sensitivity import AgeSensitivity

TRUTH_SHARE = 0.9
"""Default share of the sensitivity to age that the true pixels hold."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocalisationScores:
    """Where |map| lies compared with where age shows, each score with its chance level.

    Args:
        mass_accuracy: share of |map| on true pixels; NaN for a map of zeros.
        rank_accuracy: share of true pixels among as many pixels of largest |map|.
        chance_image: both scores for relevance spread evenly over the image.
        chance_hand_mass: mass accuracy for relevance spread evenly over the hand.
        chance_hand_rank: rank accuracy for pixels of the hand in random order, before others.
        n_true_px: how many pixels are true.
    """

    mass_accuracy: float
    rank_accuracy: float
    chance_image: float
    chance_hand_mass: float
    chance_hand_rank: float
    n_true_px: int


@dataclass(frozen=True, eq=False)
class RegionAgreement:
    """Rank correlation of a map's regions with the true effects of regions.

    Args:
        by_case: case_id, n_regions and spearman, NaN where one side has no differences.
        spearman: mean over cases that have one.
        low: limit of its bootstrap interval, NaN for fewer than two cases.
        high: likewise.
        n: cases that have one.
    """

    by_case: pd.DataFrame
    spearman: float
    low: float
    high: float
    n: int


def read_sensitivity(path: Path) -> AgeSensitivity:
    """Read the maps of sensitivity to age of one phantom.

    Args:
        path: ``.npz`` as ``boneage-xai phantom --sensitivity`` writes it.

    Raises:
        DataError: a file that is missing, damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            maps = {name: archive[name] for name in archive.files}
        delta_months = float(maps.pop("delta_months"))
        whole = maps.pop("whole").astype(np.float32)
        by_region = {name: values.astype(np.float32) for name, values in maps.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such map of sensitivity") from error
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: expected maps of sensitivity to age, found {error}") from error
    return AgeSensitivity(whole, by_region, delta_months)


def amounts_on_input(values: npt.NDArray[np.floating[Any]], source_map: SourceMap) -> Values:
    """Bring amounts per pixel from the source grid to the network's input grid.

    Each source pixel's amount goes to the input pixels it covers, in proportion to the area, so
    the sum over the part of the source that was used is kept.

    Args:
        values: (H, W) amounts on the source grid.
        source_map: how the radiograph was brought to the input.

    Returns:
        (S, S) float64, 0 in the padding.

    Raises:
        DataError: the values do not have the size of the source radiograph.
    """
    if values.shape != source_map.source_shape:
        raise DataError(
            f"map: expected the source's shape {source_map.source_shape}, found {values.shape}"
        )
    left, top, width, height = source_map.crop_px
    content_left, content_top, content_width, content_height = source_map.content_px
    used = values[top : top + height, left : left + width].astype(np.float64)
    out = np.zeros((source_map.size_px, source_map.size_px))
    out[content_top : content_top + content_height, content_left : content_left + content_width] = (
        _shares(height, content_height) @ used @ _shares(width, content_width).T
    )
    return out


def localisation(
    map_months: npt.NDArray[np.floating[Any]],
    sensitivity: npt.NDArray[np.floating[Any]],
    hand: npt.NDArray[np.bool_],
    share: float = TRUTH_SHARE,
) -> LocalisationScores:
    """Score where a map lies against where the image changes with age.

    Args:
        map_months: (H, W) signed map.
        sensitivity: (H, W) sensitivity to age on the same grid (``amounts_on_input``).
        hand: (H, W) True on the hand.
        share: the true pixels are the fewest that hold this share of the sensitivity.

    Returns:
        Both scores and their chance levels; equal |map| counts as in random order.

    Raises:
        DataError: shapes that differ, values that are not finite, a sensitivity that is
            negative or 0 everywhere, or a hand without pixels.
        ConfigError: a share outside (0, 1].

    Source: Arras, Osman & Samek, CLEVR-XAI, 2022, whose truth is a mask; here it is cut from
    a map.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"truth: expected a share in (0, 1], found {share}")
    if not map_months.shape == sensitivity.shape == hand.shape or hand.dtype != np.bool_:
        raise DataError(
            "truth: expected map, sensitivity and mask of one shape, found "
            f"{map_months.shape}, {sensitivity.shape} and {hand.shape} of {hand.dtype}"
        )
    relevance = np.abs(map_months.astype(np.float64)).ravel()
    amounts = sensitivity.astype(np.float64).ravel()
    if not (np.isfinite(relevance).all() and np.isfinite(amounts).all()):
        raise DataError("truth: expected finite values, found NaN or infinity")
    if amounts.min() < 0 or amounts.sum() == 0 or not hand.any():
        raise DataError("truth: expected a sensitivity above 0 somewhere, below 0 nowhere, a hand")
    descending = np.argsort(-amounts, kind="stable")
    held = np.cumsum(amounts[descending])
    n_true = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1
    true = np.zeros(amounts.size, dtype=np.bool_)
    true[descending[:n_true]] = True
    total = relevance.sum()
    in_hand = hand.ravel()
    return LocalisationScores(
        mass_accuracy=float(relevance[true].sum() / total) if total > 0 else math.nan,
        rank_accuracy=_rank_accuracy(relevance, true),
        chance_image=n_true / true.size,
        chance_hand_mass=float(true[in_hand].mean()),
        chance_hand_rank=_rank_accuracy(in_hand.astype(np.float64), true),
        n_true_px=n_true,
    )


def region_agreement(
    regions: pd.DataFrame,
    interventions: pd.DataFrame,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RegionAgreement:
    """Correlate, in each case, |map| per region with the true effect of each region.

    Args:
        regions: case_id, region, absolute_months, one method's (``regions.aggregation``).
        interventions: case_id, region, slope_months_per_month
            (``attribution.interventions.intervene``); totals are left out.
        resamples: bootstrap resamples of cases.
        confidence: coverage of the interval.
        seed: of the resampling.

    Returns:
        Spearman's rank correlation by case over the regions with an age of their own, and its
        mean with a percentile bootstrap interval over cases.

    Raises:
        ConfigError: confidence or resamples out of range.
        DataError: a column is missing, a case has a region twice, or no case is in both.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(
            "bootstrap: expected confidence between 0 and 1 and at least one resample, "
            f"found {confidence} and {resamples}"
        )
    keys = ["case_id", "region"]
    sides = []
    for table, column in ((regions, "absolute_months"), (interventions, "slope_months_per_month")):
        missing = [name for name in (*keys, column) if name not in table.columns]
        if missing or table.duplicated(keys).any():
            raise DataError(
                f"regions: expected {', '.join((*keys, column))} and each region once a case, "
                f"found {'no ' + ', '.join(missing) if missing else 'one more than once'}"
            )
        sides.append(table.loc[table["region"].isin(AGE_REGIONS), [*keys, column]])
    both = sides[0].merge(sides[1], on=keys)
    if both.empty:
        raise DataError("regions: expected a case with maps and interventions, found none")
    rows = [
        {
            "case_id": case_id,
            "n_regions": len(group),
            "spearman": rank_correlation(
                group["absolute_months"].to_numpy(dtype=np.float64),
                group["slope_months_per_month"].abs().to_numpy(dtype=np.float64),
            ),
        }
        for case_id, group in both.groupby("case_id", sort=False)
    ]
    by_case = pd.DataFrame(rows)
    known = by_case["spearman"].dropna().to_numpy(dtype=np.float64)
    low = high = math.nan
    if len(known) >= 2:
        drawn = np.random.default_rng(seed).integers(0, len(known), (resamples, len(known)))
        tail = 100 * (1 - confidence) / 2
        low, high = np.percentile(known[drawn].mean(axis=1), [tail, 100 - tail]).tolist()
    mean = float(known.mean()) if len(known) else math.nan
    return RegionAgreement(by_case, mean, low, high, len(known))


def _shares(source: int, target: int) -> Values:
    """Return (target, source) the share of each source pixel that each target pixel covers."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    high = np.minimum(edges[1:, None], pixels + 1)
    low = np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(high - low, 0, None))


def _rank_accuracy(relevance: Values, true: npt.NDArray[np.bool_]) -> float:
    """Return the share of true pixels in the first as many, ties in expectation."""
    n_true = int(true.sum())
    cut = np.partition(relevance, relevance.size - n_true)[relevance.size - n_true]
    above, tied = relevance > cut, relevance == cut
    left = n_true - int(above.sum())
    return float((true[above].sum() + left * true[tied].mean()) / n_true)


def rank_correlation(one: Values, other: Values) -> float:
    """Return Spearman's rank correlation of (n,) values, NaN where one side has no differences."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])

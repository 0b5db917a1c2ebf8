"""Groups of worst cases that share something, named by what they share.

Any cases, also some that were drawn at random, fall into groups and can be described. A group
counts as a pattern only where a rule like "boys, 120 to 144 months, low contrast" gathers more of
the worst cases than the best rule does for as many cases drawn at random: the whole search,
grouping and naming included, is repeated on random draws (a permutation test of the largest
statistic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import fcluster, ward
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from boneage_xai.analysis.failure_descriptors import (
    AGE,
    MALE,
    SHARE_PREFIX,
    STAGE_PREFIX,
    descriptor_of,
)
from boneage_xai.analysis.failure_traits import DIRECTIONS, LEVEL
from boneage_xai.analysis.metrics import bootstrap_mean

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

N_PERMUTATIONS = 499
MOST_CLUSTERS = 6
FEWEST_MEMBERS = 4
MOST_TERMS = 3
COMMON_SHARE = 0.8
"""Share of a group that a trait must hold for before it is tried in its rule."""

_AGE_STEP_MONTHS = 12.0
_WIDEST_AGE_SHARE = 0.5
_MOST_MISSING = 0.2
_CLIP_SD = 3.0
# What a further term must add to the log-likelihood ratio: 95% of chi-squared with 1 degree.
_LEAST_GAIN = 3.84


@dataclass(frozen=True)
class Term:
    """One part of a rule.

    Args:
        column: the trait.
        words: what cases that fulfil it are called.
        low: least value, None for no limit.
        high: value below which it lies (at most, for traits other than age), None for no limit.
    """

    column: str
    words: str
    low: float | None
    high: float | None

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"descriptor": self.column, "words": self.words, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class _Space:
    """All cases as the search sees them.

    Args:
        columns: traits that take part.
        values: (n, d) as measured.
        scaled: (n, d) standardised over all cases, unknown ones at the mean.
        terms: per trait the terms other than age that a group may share.
        masks: (t, n) which cases fulfil them.
        term_list: t terms in the order of the masks.
    """

    columns: tuple[str, ...]
    values: FloatArray
    scaled: FloatArray
    term_list: tuple[Term, ...]
    masks: Mask


def find_clusters(
    table: pd.DataFrame,
    columns: Sequence[str],
    *,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
) -> tuple[list[dict[str, Any]], npt.NDArray[np.intp]]:
    """Group the worst cases, over- and under-estimated apart, and say which groups are patterns.

    Args:
        table: a row per case: case_id, worst (bool), error_months and the traits.
        columns: names of the traits; stages are left to the age, and traits that are unknown for
            more than a fifth of the cases are left out.
        seed: of the random draws and of the bootstrap.
        n_permutations: random draws.

    Returns:
        Per group, patterns first: direction, name, terms, pattern, p_value (of the permutation
        test, corrected over all groups), n (its cases), mean_error_months with its bootstrap 95%
        interval, n_matching (cases of any error that fulfil the rule), n_matching_worst (those
        among the worst of the direction), rate and rate_elsewhere (their shares of all that fulfil
        it and of all others), matching_error_months with its interval, typical_case_id and
        case_ids; silhouette of the grouping of its direction (None for a single group). And (n,)
        the group of each case, −1 for none.

    Source: Ward, Journal of the American Statistical Association, 1963, with the number of groups
    by the silhouette of Rousseeuw, 1987; permutation of the largest statistic: Westfall and Young,
    Resampling-Based Multiple Testing, 1993.
    """
    worst = table["worst"].to_numpy(dtype=np.bool_)
    errors = table["error_months"].to_numpy(dtype=np.float64)
    signs = {"over": errors > 0, "under": errors <= 0}
    members = {one: np.flatnonzero(worst & signs[one]) for one in DIRECTIONS}
    space = _space(table, columns)
    found = {one: _groups(space, rows) for one, rows in members.items()}
    largest = _largest_by_chance(
        space, [len(members[one]) for one in DIRECTIONS], seed, n_permutations
    )
    labels = np.full(len(table), -1, dtype=np.intp)
    clusters = []
    for direction in DIRECTIONS:
        silhouette, groups = found[direction]
        for rows, terms, statistic in groups:
            p_value = float((1 + (largest >= statistic).sum()) / (1 + n_permutations))
            clusters.append(
                _describe(table, space, direction, members[direction], rows, terms, seed)
                | {
                    "p_value": p_value,
                    "pattern": bool(terms) and p_value < LEVEL,
                    "silhouette": silhouette,
                    "rows": rows,
                }
            )
    clusters.sort(key=lambda one: (not one["pattern"], one["p_value"], -one["n"]))
    for number, one in enumerate(clusters):
        labels[one.pop("rows")] = number
    return clusters, labels


def _space(table: pd.DataFrame, columns: Sequence[str]) -> _Space:
    used = []
    for column in columns:
        one = table[column].to_numpy(dtype=np.float64)
        known = one[np.isfinite(one)]
        if column.startswith(STAGE_PREFIX) or len(known) < (1 - _MOST_MISSING) * len(one):
            continue
        if np.ptp(known) > 0:
            used.append(column)
    values = table[used].to_numpy(dtype=np.float64)
    mean, deviation = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    scaled = np.clip(np.nan_to_num((values - mean) / deviation), -_CLIP_SD, _CLIP_SD)
    # Shares of one map add up to 1: together they weigh as much as one trait.
    shares = np.array([column.startswith(SHARE_PREFIX) for column in used], dtype=np.bool_)
    scaled[:, shares] /= np.sqrt(max(int(shares.sum()), 1))
    terms: list[Term] = []
    for at, column in enumerate(used):
        trait = descriptor_of(column)
        if trait.binary:
            terms += [Term(column, trait.low, None, 0.5), Term(column, trait.high, 0.5, None)]
        elif column != AGE:
            low, high = np.nanpercentile(values[:, at], [25, 75])
            terms.append(Term(column, trait.low, None, float(low)))
            terms.append(Term(column, trait.high, float(high), None))
    masks: npt.NDArray[Any] = np.array(
        [_fulfils(values[:, used.index(one.column)], one) for one in terms]
    )
    return _Space(tuple(used), values, scaled, tuple(terms), masks.reshape(len(terms), len(table)))


def _fulfils(values: FloatArray, term: Term) -> Mask:
    met = np.isfinite(values)
    if term.low is not None:
        met &= values >= term.low
    if term.high is not None:
        met &= values < term.high if term.column == AGE else values <= term.high
    return np.asarray(met)


def matching(table: pd.DataFrame, terms: Sequence[Term]) -> Mask:
    """Return (n,) which cases of a table fulfil every term of a rule."""
    met = np.ones(len(table), dtype=np.bool_)
    for term in terms:
        met &= _fulfils(table[term.column].to_numpy(dtype=np.float64), term)
    return met


_Group = tuple[npt.NDArray[np.intp], tuple[Term, ...], float]


def _groups(space: _Space, rows: npt.NDArray[np.intp]) -> tuple[float | None, list[_Group]]:
    """Return the silhouette and the groups of the worst cases of one direction with their rules."""
    if not rows.size:
        return None, []
    silhouette, parts = _partition(space.scaled[rows])
    hit = np.zeros(len(space.values), dtype=np.bool_)
    hit[rows] = True
    joined: dict[tuple[Term, ...], tuple[list[int], float]] = {}
    for part in range(int(parts.max()) + 1):
        own = rows[parts == part]
        terms, statistic = _rule(space, own, hit)
        there, _ = joined.get(terms, ([], 0.0))
        # Groups that share a rule are one group to whoever reads it.
        joined[terms] = (there + own.tolist(), statistic)
    return silhouette, [
        (np.array(own, dtype=np.intp), terms, statistic)
        for terms, (own, statistic) in joined.items()
    ]


def _partition(scaled: FloatArray) -> tuple[float | None, npt.NDArray[np.intp]]:
    n = len(scaled)
    most = min(MOST_CLUSTERS, n // FEWEST_MEMBERS)
    alone = np.zeros(n, dtype=np.intp)
    if most < 2 or not scaled.shape[1]:
        return None, alone
    distances = pdist(scaled)
    if not distances.any():
        return None, alone
    tree, square = ward(distances), squareform(distances)
    best: tuple[float, npt.NDArray[np.intp]] | None = None
    for k in range(2, most + 1):
        parts = fcluster(tree, k, criterion="maxclust") - 1
        if not 2 <= len(np.unique(parts)) < n:
            continue
        score = float(silhouette_score(square, parts, metric="precomputed"))
        if best is None or score > best[0]:
            best = score, parts.astype(np.intp)
    return (None, alone) if best is None else best


def _rule(space: _Space, own: npt.NDArray[np.intp], hit: Mask) -> tuple[tuple[Term, ...], float]:
    """Return the rule that tells a group's kind of failure best, and how well it does.

    Terms that the group shares are added one by one, each time the one that raises the
    log-likelihood ratio of the worst cases against the rule most.
    """
    shared = (
        space.masks[:, own].mean(axis=1) >= COMMON_SHARE if len(space.term_list) else np.zeros(0)
    )
    terms = [term for term, common in zip(space.term_list, shared, strict=True) if common]
    masks = [mask for mask, common in zip(space.masks, shared, strict=True) if common]
    age = _age_term(space, own)
    if age is not None:
        terms.append(age)
        masks.append(_fulfils(space.values[:, space.columns.index(AGE)], age))
    chosen: list[int] = []
    met, statistic = np.ones(len(hit), dtype=np.bool_), 0.0
    stack = np.array(masks, dtype=np.bool_).reshape(len(masks), len(hit))
    while stack.size and len(chosen) < MOST_TERMS:
        gained = _enrichment(stack & met, hit)
        gained[chosen] = -np.inf
        best = int(np.argmax(gained))
        if gained[best] < statistic + _LEAST_GAIN:
            break
        chosen.append(best)
        met, statistic = met & stack[best], float(gained[best])
    order = {MALE: 0, AGE: 1}
    rule = sorted((terms[one] for one in chosen), key=lambda term: order.get(term.column, 2))
    return tuple(rule), statistic


def _age_term(space: _Space, own: npt.NDArray[np.intp]) -> Term | None:
    if AGE not in space.columns:
        return None
    ages = space.values[:, space.columns.index(AGE)]
    ends = np.nanpercentile(ages[own], [10, 90])
    low = float(np.floor(ends[0] / _AGE_STEP_MONTHS) * _AGE_STEP_MONTHS)
    high = float((np.floor(ends[1] / _AGE_STEP_MONTHS) + 1) * _AGE_STEP_MONTHS)
    term = Term(AGE, f"{low:g} to {high:g} months", low, high)
    return term if _fulfils(ages, term).mean() <= _WIDEST_AGE_SHARE else None


def _enrichment(met: Mask, hit: Mask) -> FloatArray:
    """Return how much more often cases that fulfil a rule are among the worst than others.

    Args:
        met: (r, n) which cases fulfil each rule.
        hit: (n,) the worst cases.

    Returns:
        (r,) log-likelihood ratio (G) of the 2 × 2 table; 0 or less where they are not more often.
    """
    n, worst = met.shape[1], int(hit.sum())
    inside = met.sum(axis=1).astype(np.float64)
    both = (met & hit).sum(axis=1).astype(np.float64)
    observed = np.array([both, inside - both, worst - both, n - inside - worst + both])
    expected = np.array(
        [inside * worst, inside * (n - worst), (n - inside) * worst, (n - inside) * (n - worst)]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(observed > 0, observed * np.log(observed * n / expected), 0.0)
    ratio = 2 * parts.sum(axis=0)
    return np.asarray(np.where(both * n > inside * worst, ratio, -ratio))


def _largest_by_chance(
    space: _Space, sizes: Sequence[int], seed: int, n_permutations: int
) -> FloatArray:
    """Return (n_permutations,) the largest statistic of any group of cases drawn at random."""
    rng = np.random.default_rng(seed)
    largest = np.zeros(n_permutations)
    for turn in range(n_permutations):
        drawn = rng.permutation(len(space.values))[: sum(sizes)]
        start = 0
        for size in sizes:
            _, groups = _groups(space, np.sort(drawn[start : start + size]))
            start += size
            largest[turn] = max([largest[turn], *(one[2] for one in groups)])
    return largest


def _describe(
    table: pd.DataFrame,
    space: _Space,
    direction: str,
    worst: npt.NDArray[np.intp],
    rows: npt.NDArray[np.intp],
    terms: tuple[Term, ...],
    seed: int,
) -> dict[str, Any]:
    errors = table["error_months"].to_numpy(dtype=np.float64)
    met = matching(table, terms)
    inside = int(met[worst].sum())
    centre = space.scaled[rows].mean(axis=0)
    nearest = rows[int(np.argmin(np.square(space.scaled[rows] - centre).sum(axis=1)))]
    elsewhere = int((~met).sum())
    ids = table["case_id"].astype(str).to_numpy()
    return {
        "direction": direction,
        "name": rule_words(terms),
        "terms": [term.record() for term in terms],
        "n": int(rows.size),
        "mean_error_months": bootstrap_mean(errors[rows], seed=seed),
        "n_matching": int(met.sum()),
        "n_matching_worst": inside,
        "rate": inside / int(met.sum()),
        "rate_elsewhere": (len(worst) - inside) / elsewhere if elsewhere else None,
        "matching_error_months": bootstrap_mean(errors[met], seed=seed),
        "typical_case_id": str(ids[nearest]),
        "case_ids": [str(one) for one in ids[rows]],
    }


def rule_words(terms: Sequence[Term]) -> str:
    """Return a rule in plain words, e.g. ``boys, 120 to 144 months, low contrast``."""
    if not terms:
        return "nothing that was measured sets them apart"
    words = [term.words for term in terms]
    # A trait alone does not say whose it is.
    return ", ".join(words if terms[0].column == MALE else ["children", *words])


def pattern_names(clusters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of those groups that are patterns."""
    return [str(one["name"]) for one in clusters if one["pattern"]]

"""The worst cases of an analysis, and the traits in which they differ from all other cases.

Worst cases of noise look special, too, if one looks at enough traits: every comparison has an
interval, p-values are corrected over all of them, and a picture's traits are compared again among
children of the same sex and stage, since much of a picture depends on age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import fisher_exact, mannwhitneyu, norm, rankdata

from boneage_xai.analysis.failure_descriptors import descriptor_of
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Direction = Literal["over", "under"]

LEVEL = 0.05
"""What stays below it after the correction is called a difference, or a pattern."""

WORST_SHARE = 0.05
FEWEST_WORST = 10
"""Worst cases are this share of all, but at least so many where a third of the cases are."""

FEWEST_COMPARED = 5
"""With fewer cases on a side, a trait is not compared."""

DIRECTIONS: tuple[Direction, Direction] = ("over", "under")
_Z = float(norm.ppf(0.975))


def worst_cases(errors_months: npt.ArrayLike, worst: int | None = None) -> Mask:
    """Mark the cases with the largest errors, whatever their sign.

    Args:
        errors_months: (n,) predicted minus reference, months.
        worst: how many; None takes ``WORST_SHARE`` of them, at least ``FEWEST_WORST`` or a third.

    Returns:
        (n,) bool; of equal errors the earlier case comes first.

    Raises:
        DataError: no cases, or an error that is not finite.
        ConfigError: fewer than 1, or as many as there are cases.
    """
    errors = np.asarray(errors_months, dtype=np.float64)
    if errors.ndim != 1 or errors.size < 2 or not np.isfinite(errors).all():
        raise DataError("worst cases: expected two or more finite errors in months, found others")
    if worst is None:
        worst = max(round(WORST_SHARE * errors.size), min(FEWEST_WORST, errors.size // 3), 1)
    if not 1 <= worst < errors.size:
        raise ConfigError(f"worst: expected 1 to {errors.size - 1} cases, found {worst}")
    marked = np.zeros(errors.size, dtype=np.bool_)
    marked[np.argsort(-np.abs(errors), kind="stable")[:worst]] = True
    return marked


def compare_traits(
    table: pd.DataFrame, columns: Sequence[str], strata: Sequence[Any]
) -> pd.DataFrame:
    """Compare worst cases with the rest in every trait: all of them, over- and under-estimated.

    Args:
        table: a row per case: worst (bool), error_months and the traits.
        columns: names of the traits.
        strata: (n,) what children of the same sex and stage have in common.

    Returns:
        A row per trait and group (``all``, ``over``, ``under``): descriptor, group, measure
        (``rank`` or ``risk``), n_worst, n_rest, worst_value and rest_value (medians, or shares with
        the trait), effect with low and high (95%), p_value, p_holm over all rows, and the same
        effect among children of the same sex and stage: adjusted, adjusted_low, adjusted_high,
        adjusted_p. ``rank``: the rank-biserial correlation, −1 where every worst case lies below
        every other, 0 without a difference. ``risk``: how many times as often cases with the trait
        are among the worst as those without. NaN stands for what cannot be told.

    Raises:
        DataError: a trait that is not known.

    Source: rank-biserial correlation with the Mann–Whitney test and the interval of Newcombe,
    Statistics in Medicine, 2006 (method 5); risk ratio with Fisher's exact test and the interval of
    Katz et al., Biometrics, 1978, with halves added where a count is 0. Within strata: van Elteren,
    1960, and Mantel and Haenszel with the variance of Greenland and Robins, Biometrics, 1985.
    """
    worst = table["worst"].to_numpy(dtype=np.bool_)
    over = table["error_months"].to_numpy(dtype=np.float64) > 0
    groups = {"all": worst, "over": worst & over, "under": worst & ~over}
    codes = pd.factorize(pd.Series(list(strata)))[0]
    rows: list[dict[str, Any]] = []
    for column in columns:
        trait = descriptor_of(column)
        values = table[column].to_numpy(dtype=np.float64)
        for group, members in groups.items():
            use = np.isfinite(values) & (members | ~worst)
            x, hit, stratum = values[use], members[use], codes[use]
            row: dict[str, Any] = {
                "descriptor": column,
                "group": group,
                "measure": "risk" if trait.binary else "rank",
                "n_worst": int(hit.sum()),
                "n_rest": int((~hit).sum()),
            }
            found = _compare(x, hit, binary=trait.binary)
            # Who a child is cannot be compared among children that are the same.
            again = [np.nan] * 4
            if not trait.of_child and np.isfinite(found["p_value"]):
                again = _within_strata(x, hit, stratum, binary=trait.binary)
            names = ("adjusted", "adjusted_low", "adjusted_high", "adjusted_p")
            rows.append(row | found | dict(zip(names, again, strict=True)))
    result = pd.DataFrame(rows)
    place = int(result.columns.get_loc("p_value")) + 1  # type: ignore[arg-type]
    result.insert(place, "p_holm", holm(result["p_value"]))
    return result


def _compare(x: FloatArray, hit: Mask, *, binary: bool) -> dict[str, float]:
    unknown = dict.fromkeys(
        ("worst_value", "rest_value", "effect", "low", "high", "p_value"), np.nan
    )
    if min(hit.sum(), (~hit).sum()) < FEWEST_COMPARED or np.ptp(x) == 0:
        return unknown
    middle = np.mean if binary else np.median
    values = {"worst_value": float(middle(x[hit])), "rest_value": float(middle(x[~hit]))}
    if binary:
        effect, low, high = risk_ratio(x > 0.5, hit)
        table = [[np.sum((x > 0.5) & h), np.sum((x <= 0.5) & h)] for h in (hit, ~hit)]
        p_value = float(fisher_exact(table).pvalue)
    else:
        effect, low, high = rank_biserial(x[hit], x[~hit])
        p_value = float(mannwhitneyu(x[hit], x[~hit], method="asymptotic").pvalue)
    return {**values, "effect": effect, "low": low, "high": high, "p_value": p_value}


def rank_biserial(worst: npt.ArrayLike, rest: npt.ArrayLike) -> tuple[float, float, float]:
    """Return the rank-biserial correlation of two samples with its 95% interval.

    Args:
        worst: (m,) values.
        rest: (n,) values.

    Returns:
        Share of pairs in which the first is larger minus share in which it is smaller, and the
        ends of its interval.

    Source: Newcombe, Statistics in Medicine, 2006, method 5, for the share of pairs in which the
    first is larger (ties count half).
    """
    a, b = np.asarray(worst, dtype=np.float64), np.asarray(rest, dtype=np.float64)
    share = _share_larger(a, b)

    def spread(theta: float) -> float:
        more = (a.size + b.size) / 2 - 1
        inflated = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return _Z * float(np.sqrt(theta * (1 - theta) * inflated / (a.size * b.size)))

    # At 0 and 1 the spread is 0, too, which is not the end that is looked for.
    inner = 1e-9
    low = 0.0 if share == 0 else brentq(lambda t: share - t - spread(t), 0.0, share - inner)
    high = 1.0 if share == 1 else brentq(lambda t: t - share - spread(t), share + inner, 1.0)
    return 2 * share - 1, 2 * low - 1, 2 * high - 1


def risk_ratio(exposed: npt.ArrayLike, hit: npt.ArrayLike) -> tuple[float, float, float]:
    """Return how many times as often exposed cases are hit as others, with its 95% interval.

    Args:
        exposed: (n,) bool.
        hit: (n,) bool.

    Returns:
        The ratio of the two shares and the ends of its interval; halves are added to all four
        counts where one of them is 0.
    """
    with_trait, affected = np.asarray(exposed, np.bool_), np.asarray(hit, np.bool_)
    counts = np.array(
        [
            [np.sum(with_trait & affected), np.sum(with_trait & ~affected)],
            [np.sum(~with_trait & affected), np.sum(~with_trait & ~affected)],
        ],
        dtype=np.float64,
    )
    if (counts == 0).any():
        counts += 0.5
    (a, b), (c, d) = counts
    ratio = (a / (a + b)) / (c / (c + d))
    spread = np.exp(_Z * np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    return float(ratio), float(ratio / spread), float(ratio * spread)


def _share_larger(a: FloatArray, b: FloatArray) -> float:
    ranks = rankdata(np.concatenate([a, b]))[: a.size]
    return float((ranks.sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def _within_strata(
    x: FloatArray, hit: Mask, stratum: npt.NDArray[np.intp], *, binary: bool
) -> list[float]:
    """Return effect, low, high and p among cases of the same stratum, NaN where there are none."""
    parts = [(x[stratum == one], hit[stratum == one]) for one in np.unique(stratum)]
    parts = [(values, h) for values, h in parts if h.any() and not h.all()]
    if not parts:
        return [np.nan] * 4
    return _mantel_haenszel(parts) if binary else _van_elteren(parts)


def _van_elteren(parts: Sequence[tuple[FloatArray, Mask]]) -> list[float]:
    total = weights = variance = 0.0
    for values, hit in parts:
        m, n = int(hit.sum()), int((~hit).sum())
        weight = m * n / (m + n + 1)
        _, ties = np.unique(values, return_counts=True)
        # Without a correction for ties the variance would be (m + n + 1) / (12 m n).
        lost = float((ties**3 - ties).sum()) / ((m + n) * (m + n - 1))
        total += weight * _share_larger(values[hit], values[~hit])
        variance += weight**2 * (m + n + 1 - lost) / (12 * m * n)
        weights += weight
    if variance == 0:
        return [np.nan] * 4
    effect, error = 2 * total / weights - 1, 2 * float(np.sqrt(variance)) / weights
    low, high = max(effect - _Z * error, -1.0), min(effect + _Z * error, 1.0)
    return [effect, low, high, 2 * float(norm.sf(abs(effect) / error))]


def _mantel_haenszel(parts: Sequence[tuple[FloatArray, Mask]]) -> list[float]:
    upper = lower = spread = 0.0
    for values, hit in parts:
        trait = values > 0.5
        n1, n0 = int(trait.sum()), int((~trait).sum())
        a, c, n = int((trait & hit).sum()), int((~trait & hit).sum()), n1 + n0
        upper += a * n0 / n
        lower += c * n1 / n
        spread += ((a + c) * n1 * n0 - a * c * n) / n**2
    if min(upper, lower, spread) <= 0:
        return [np.nan] * 4
    ratio, error = upper / lower, float(np.sqrt(spread / (upper * lower)))
    ends = [ratio * float(np.exp(sign * _Z * error)) for sign in (-1, 1)]
    return [ratio, *ends, 2 * float(norm.sf(abs(np.log(ratio)) / error))]

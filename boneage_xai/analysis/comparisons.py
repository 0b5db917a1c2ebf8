"""Tests of groups: whether each is biased and differs from the rest, with Holm's correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata, wilcoxon

from boneage_xai.analysis.groups import Grouping
from boneage_xai.analysis.metrics import FEW_CASES, FloatArray
from boneage_xai.analysis.multiplicity import holm_of_known


def group_tests(errors_months: npt.ArrayLike, grouping: Grouping) -> list[dict[str, Any]]:
    """Test each group of a partition for bias, and its absolute errors against all others'.

    Args:
        errors_months: (n,) predicted minus reference, months.
        grouping: the partition; its groups are one family of tests.

    Returns:
        Per group that holds a case: ``by``, its keys, ``n``, ``few_cases``; ``bias_p`` of
        Wilcoxon's signed-rank test that errors lie evenly around 0; ``mae_difference_months``,
        the group's MAE minus that of all other cases, and ``difference_p`` of the
        Mann-Whitney test between their absolute errors (normal approximation, ties and
        continuity corrected); both with ``_holm`` beside them. Groups under 20 cases are not
        tested: their p-values are None, and do not count in the correction.

    Source:
        Mann and Whitney, Annals of Mathematical Statistics, 1947.
    """
    errors = np.asarray(errors_months, dtype=np.float64)
    absolute = np.abs(errors)
    n = errors.size
    ranks = rankdata(absolute)
    ties = np.unique(absolute, return_counts=True)[1].astype(np.float64)
    tie_term = float((ties**3 - ties).sum())
    total = float(absolute.sum())
    rows: list[dict[str, Any]] = []
    for code, keys in enumerate(grouping.keys):
        mask = grouping.codes == code
        count = int(mask.sum())
        if not count:
            continue
        own = float(absolute[mask].sum())
        tested = count >= FEW_CASES
        rest = n - count
        rows.append(
            {
                "by": grouping.by,
                **keys,
                "n": count,
                "few_cases": not tested,
                "bias_p": _bias_p(errors[mask]) if tested else None,
                "mae_difference_months": own / count - (total - own) / rest if rest else None,
                "difference_p": _rank_p(float(ranks[mask].sum()), count, n, tie_term)
                if tested and rest >= FEW_CASES
                else None,
            }
        )
    for name in ("bias_p", "difference_p"):
        for row, adjusted in zip(rows, holm_of_known([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    return rows


def _bias_p(errors: FloatArray) -> float:
    return float(wilcoxon(errors).pvalue) if errors.any() else 1.0


def _rank_p(rank_sum: float, count: int, n: int, tie_term: float) -> float:
    """Return the two-sided p-value of a rank sum of ``count`` among ``n`` cases."""
    rest = n - count
    u = rank_sum - count * (count + 1) / 2.0
    variance = count * rest / 12.0 * ((n + 1) - tie_term / (n * (n - 1.0)))
    if variance <= 0.0:
        return 1.0
    distance = max(abs(u - count * rest / 2.0) - 0.5, 0.0)
    return float(2.0 * norm.sf(distance / np.sqrt(variance)))

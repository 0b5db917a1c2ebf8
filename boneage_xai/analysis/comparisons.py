"""Tests of groups: whether each is biased and differs from the rest, with Holm's correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_1samp, ttest_ind

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
        Student's test that the mean error is 0; ``mae_difference_months``, the group's MAE minus
        that of all other cases, and ``difference_p`` of Welch's test that it is 0; both with
        ``_holm`` beside them. Tests of ranks would ask something else: errors that are skewed
        about a mean of 0 are no bias. Groups under 20 cases are not tested: their p-values are
        None, and do not count in the correction.

    Source:
        Welch, Biometrika, 1947.
    """
    errors = np.asarray(errors_months, dtype=np.float64)
    absolute = np.abs(errors)
    rows: list[dict[str, Any]] = []
    for code, keys in enumerate(grouping.keys):
        mask = grouping.codes == code
        count = int(mask.sum())
        if not count:
            continue
        own, others = absolute[mask], absolute[~mask]
        tested = count >= FEW_CASES
        rows.append(
            {
                "by": grouping.by,
                **keys,
                "n": count,
                "few_cases": not tested,
                "bias_p": _mean_p(errors[mask]) if tested else None,
                "mae_difference_months": float(own.mean() - others.mean()) if others.size else None,
                "difference_p": _difference_p(own, others)
                if tested and others.size >= FEW_CASES
                else None,
            }
        )
    for name in ("bias_p", "difference_p"):
        for row, adjusted in zip(rows, holm_of_known([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    return rows


def _mean_p(values: FloatArray) -> float:
    """Return the two-sided p-value of Student's test that the mean is 0."""
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(ttest_1samp(values, 0.0).pvalue)


def _difference_p(own: FloatArray, rest: FloatArray) -> float:
    """Return the two-sided p-value of Welch's test that both means are the same."""
    if np.ptp(own) == 0 and np.ptp(rest) == 0:
        return float(own[0] == rest[0])
    return float(ttest_ind(own, rest, equal_var=False).pvalue)

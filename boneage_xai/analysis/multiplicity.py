"""Correction of p-values where many questions are asked at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from boneage_xai.errors import DataError

LEVEL = 0.05


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p-values corrected so that the chance of any false finding stays below the level.

    Args:
        p_values: (m,) in [0, 1]; NaN marks a test that could not be made and does not count.

    Returns:
        (m,) corrected p-values, at most 1, in the given order; NaN where there was NaN.

    Raises:
        DataError: not one dimension, or a value outside [0, 1].

    Source:
        Holm, Scandinavian Journal of Statistics, 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if values.ndim != 1 or not ((values[known] >= 0) & (values[known] <= 1)).all():
        raise DataError("Holm: expected p-values from 0 to 1 in one dimension, found others")
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(values.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return corrected


def holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    """Return what :func:`holm` does for a list in which None marks a test that was not made."""
    corrected = holm([np.nan if value is None else value for value in p_values])
    return [
        None if known is None else float(value)
        for known, value in zip(p_values, corrected, strict=True)
    ]


def difference_shown(
    p_holm: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Say where a difference of means is shown: test and interval must agree.

    Signed ranks ask whether more cases are better than worse, and may point the other way than the
    mean where a few cases differ by much. So a small p alone does not say which mean is smaller.

    Args:
        p_holm: (m,) corrected p-values, NaN where there is none.
        low: (m,) lower ends of the 95% intervals of the difference, NaN where there is none.
        high: (m,) upper ends.

    Returns:
        (m,) whether p is below ``LEVEL`` and the interval leaves out 0.
    """
    p, lower, upper = (np.asarray(one, dtype=np.float64) for one in (p_holm, low, high))
    return np.asarray((p < LEVEL) & ((lower > 0) | (upper < 0)))

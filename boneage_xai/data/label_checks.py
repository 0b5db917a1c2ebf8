"""What the bone ages of a table look like as a whole: notes, for each may also be as it should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from boneage_xai.data.problems import Problem

# Hands of up to 20 months alone are a rare cohort; ages of up to 20 years are every cohort's.
OLDEST_IN_YEARS = 20.0
FEWEST_AGES = 5


def label_suspicions(path: Path, ages_months: Sequence[float | None]) -> list[Problem]:
    """Tell whether the ages of a table look like years.

    Args:
        path: the table.
        ages_months: bone age of each sound row, None where the table has none.

    Returns:
        A note, or nothing.
    """
    ages = [age for age in ages_months if age is not None]
    if len(ages) < FEWEST_AGES or max(ages) > OLDEST_IN_YEARS:
        return []
    sentence = (
        f"{path}: the bone age looks like years, for the {len(ages)} ages are "
        f"{min(ages):g} to {max(ages):g}, expected months"
    )
    return [Problem("ages_like_years", "note", sentence, None, path)]


def heaping(ages_months: npt.ArrayLike) -> dict[str, dict[str, float]] | None:
    """Tell how many bone ages are whole or half years: readers of an atlas choose its plates.

    Args:
        ages_months: (n,) bone ages, NaN where unknown.

    Returns:
        By ``"12"`` and ``"6"``, the months whose multiples are meant: ``share`` of the ages, and
        ``expected`` if every month between the lowest and the highest were as frequent; None
        for fewer than 5 ages.
    """
    ages = np.asarray(ages_months, dtype=np.float64)
    ages = ages[~np.isnan(ages)]
    if ages.size < FEWEST_AGES:
        return None
    months = np.arange(np.floor(ages.min()), np.ceil(ages.max()) + 1)
    return {
        str(step): {
            "share": float((ages % step == 0).mean()),
            "expected": float((months % step == 0).mean()),
        }
        for step in (12, 6)
    }

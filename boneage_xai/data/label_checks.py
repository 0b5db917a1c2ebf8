"""What the bone ages of a table look like as a whole: notes, for each may also be as it should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

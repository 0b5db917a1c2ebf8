"""Developmental stages of the hand by sex, as readers of bone age part them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.anatomy import BySex
from boneage_xai.errors import DataError
from boneage_xai.types import Sex


@dataclass(frozen=True)
class Stage:
    """A span of bone age over which the same signs tell the age.

    Args:
        stage_id: id, as it stands in tables.
        name: what it is called.
        from_months: bone age at which it begins.
        to_months: bone age before which it ends; infinite for the last.
        typical_months: bone age at which a hand of this stage is drawn.
        approximate: whether one of its limits is approximate.
    """

    stage_id: str
    name: str
    from_months: BySex
    to_months: BySex
    typical_months: BySex
    approximate: bool

    def ages_text(self, sex: Sex) -> str:
        """Return its limits for a sex in years, or in months below 3 years, as text."""
        low, high = self.from_months.of(sex), self.to_months.of(sex)
        about = "about " if self.approximate else ""
        if math.isinf(high):
            return f"from {about}{low / 12:g} years"
        if high <= 36:
            return f"{about}{low:g}–{high:g} months"
        return f"{about}{low / 12:g}–{high / 12:g} years"


_ENDLESS = BySex(math.inf, math.inf)

# Boys from 16 to 17 have no stage in the source's ranges: their fingers still fuse, so they
# count to late puberty.
_ROWS: tuple[tuple[str, str, BySex, BySex, bool], ...] = (
    # id, name, ends before boys and girls, typical boys and girls, whether approximate
    ("infancy", "Infancy", BySex(14, 10), BySex(7, 5), False),
    ("toddler", "Toddler", BySex(36, 24), BySex(25, 17), False),
    ("pre_puberty", "Pre-puberty", BySex(108, 84), BySex(72, 54), True),
    ("early_mid_puberty", "Early and mid puberty", BySex(168, 156), BySex(138, 120), True),
    ("late_puberty", "Late puberty", BySex(204, 180), BySex(186, 168), True),
    ("after_puberty", "After puberty", _ENDLESS, BySex(214, 194), True),
)


def _stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    begins = BySex(0, 0)
    for stage_id, name, ends, typical, approximate in _ROWS:
        found[stage_id] = Stage(stage_id, name, begins, ends, typical, approximate)
        begins = ends
    return found


STAGES: Mapping[str, Stage] = MappingProxyType(_stages())
"""Every stage by id, youngest first.

Source: Gilsanz and Ratib, Hand Bone Age, 2005. The limits of infancy and toddlers are theirs; the
later ones are approximate.
"""


def stage_of(sex: Sex, age_months: float) -> Stage:
    """Return the stage that a bone age falls into.

    Args:
        sex: sex, which sets the limits.
        age_months: bone age in months; negative ones, which a network may predict, count to
            the first stage.

    Raises:
        DataError: not a number.
    """
    if math.isnan(age_months):
        raise DataError("stage: expected a bone age in months, found NaN")
    return next(stage for stage in STAGES.values() if age_months < stage.to_months.of(sex))


def stage_indices(reference_months: npt.ArrayLike, is_male: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Return (n,) the developmental stage of each case as a position in ``STAGES``.

    Args:
        reference_months: (n,) reference bone age, months.
        is_male: (n,) bool.
    """
    ages = np.asarray(reference_months, dtype=np.float64)
    girls, boys = (
        np.array([stage.to_months.of(sex) for stage in STAGES.values()][:-1])
        for sex in (Sex.FEMALE, Sex.MALE)
    )
    indices = np.where(
        np.asarray(is_male, dtype=np.bool_),
        np.searchsorted(boys, ages, side="right"),
        np.searchsorted(girls, ages, side="right"),
    )
    return indices.astype(np.intp)


def with_stages(cases: pd.DataFrame) -> pd.DataFrame:
    """Add the stage of each case: by its reference bone age, or else by its prediction.

    Args:
        cases: rows of case_id, sex (``F`` or ``M``), reference_months and predicted_months.

    Returns:
        The rows with age_months, age_source (``reference`` or ``predicted``) and stage added.

    Raises:
        DataError: a column is missing, a sex that is neither, or a case without any age.
    """
    needed = ["case_id", "sex", "reference_months", "predicted_months"]
    if missing := [column for column in needed if column not in cases.columns]:
        raise DataError(f"cases: expected columns {needed}, found no {missing}")
    referenced = cases["reference_months"].notna()
    ages = cases["reference_months"].where(referenced, cases["predicted_months"]).astype(float)
    stages = []
    for case_id, sex, age_months in zip(cases["case_id"], cases["sex"], ages, strict=True):
        if sex not in ("F", "M") or math.isnan(age_months):
            raise DataError(
                f"case {case_id}: expected sex F or M and a bone age in months, "
                f"found {sex} and {age_months}"
            )
        stages.append(stage_of(Sex(sex), age_months).stage_id)
    return cases.assign(
        age_months=ages,
        age_source=referenced.map({True: "reference", False: "predicted"}),
        stage=stages,
    )

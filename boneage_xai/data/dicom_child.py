"""What a DICOM header states about the child: sex and age."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from pydicom.dataset import Dataset

from boneage_xai.types import Sex

DAYS_PER_MONTH = 365.25 / 12
MAX_CHRONOLOGICAL_AGE_MONTHS = 300.0
"""It may run past skeletal maturity; beyond 25 years it is days, a filler or a typing error."""

_AGE = re.compile(r"(\d{1,3})([DWMY])")
_MONTHS_PER_UNIT = {"D": 1 / DAYS_PER_MONTH, "W": 7 / DAYS_PER_MONTH, "M": 1.0, "Y": 12.0}


def sex_of(dataset: Dataset) -> Sex | None:
    """Return the sex that is stated, None unless M or F."""
    stated = str(dataset.get("PatientSex", "") or "").strip().upper()
    return {"M": Sex.MALE, "F": Sex.FEMALE}.get(stated)


def age_months_of(dataset: Dataset) -> float | None:
    """Return the age that is stated, or that between birth and study, None without either.

    An age is stated in whole units, so that 8 years may be 9 years less a day: where the dates lie
    within that unit, they say it more exactly.
    """
    between = _months_between(dataset)
    stated = _AGE.fullmatch(str(dataset.get("PatientAge", "") or "").strip().upper())
    if stated is None:
        return between
    unit = _MONTHS_PER_UNIT[stated[2]]
    months = int(stated[1]) * unit
    # Months have 28 to 31 days.
    slack = 3.5 / DAYS_PER_MONTH
    if between is not None and months - slack <= between <= months + unit + slack:
        return between
    return months


def _months_between(dataset: Dataset) -> float | None:
    born, seen = _date_of(dataset.get("PatientBirthDate")), _date_of(dataset.get("StudyDate"))
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / DAYS_PER_MONTH


def _date_of(value: Any) -> date | None:
    text = str(value or "").strip()
    if not re.fullmatch(r"\d{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None

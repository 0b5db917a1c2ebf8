"""How far the skeletal age of healthy children varies: the Brush Foundation table.

Standard deviations of skeletal age, as the atlas of Greulich and Pyle quotes them, by which
radiologists call a bone age delayed or advanced.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Chronological age in months: boys, girls; standard deviations in months.
BRUSH_SD_MONTHS: dict[int, tuple[float, float | None]] = {
    3: (0.69, 0.72),
    6: (1.13, 1.16),
    9: (1.43, 1.36),
    12: (1.97, 1.77),
    18: (3.52, 3.49),
    24: (3.92, 4.64),
    30: (4.52, 5.37),
    36: (5.08, 5.97),
    42: (5.40, 7.48),
    48: (6.66, 8.98),
    54: (8.36, 10.73),
    60: (8.79, 11.65),
    72: (9.17, 10.23),
    84: (8.91, 9.64),
    96: (9.10, 10.23),
    108: (9.00, 10.74),
    120: (9.79, 11.73),
    132: (10.09, 11.94),
    144: (10.38, 10.24),
    156: (10.44, 10.67),
    168: (10.72, 11.30),
    180: (11.32, 9.23),
    192: (12.86, 7.31),
    204: (13.05, None),
}

_BOYS = np.array([(age, boys) for age, (boys, _) in BRUSH_SD_MONTHS.items()])
_GIRLS = np.array([(age, girls) for age, (_, girls) in BRUSH_SD_MONTHS.items() if girls])


def skeletal_age_sd_months(age_months: npt.ArrayLike, is_male: npt.ArrayLike) -> FloatArray:
    """Return the standard deviation of skeletal age at a chronological age.

    Args:
        age_months: (n,) chronological age, months.
        is_male: (n,) bool.

    Returns:
        (n,) months, interpolated linearly between the table's ages; NaN outside of the table
        (3 to 204 months for boys, 3 to 192 for girls), where nothing is extrapolated, and
        where the age is NaN.

    Source:
        Brush Foundation study, in Greulich and Pyle, Radiographic Atlas of Skeletal
        Development of the Hand and Wrist, 2nd edition, 1959.
    """
    ages = np.asarray(age_months, dtype=np.float64)
    boys, girls = (
        np.interp(ages, table[:, 0], table[:, 1], left=np.nan, right=np.nan)
        for table in (_BOYS, _GIRLS)
    )
    return np.asarray(np.where(np.asarray(is_male, dtype=np.bool_), boys, girls), dtype=np.float64)

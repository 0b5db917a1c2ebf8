"""Linear correction of predictions for the age bias of a network, per sex or for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from boneage_xai.analysis.agreement import varies
from boneage_xai.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
Against = Literal["prediction", "reference"]

MIN_CASES = 20


@dataclass(frozen=True)
class Line:
    """A corrected bone age as ``intercept_months + slope × predicted``."""

    intercept_months: float
    slope: float


@dataclass(frozen=True)
class Correction:
    """A linear correction, as plain numbers that JSON can hold.

    Args:
        against: what errors were regressed on, see ``fit_correction``.
        per_sex: whether girls and boys have lines of their own.
        n: number of cases that it was fitted on.
        girls: line of the girls.
        boys: line of the boys.
    """

    against: Against
    per_sex: bool
    n: int
    girls: Line
    boys: Line

    def apply(self, predicted_months: npt.ArrayLike, is_male: npt.ArrayLike) -> FloatArray:
        """Return corrected predictions.

        Args:
            predicted_months: (n,) months as the network predicts them.
            is_male: (n,) bool.

        Returns:
            (n,) months; they are not cut to any range.
        """
        predicted = np.asarray(predicted_months, dtype=np.float64)
        male = np.asarray(is_male, dtype=np.bool_)
        slope = np.where(male, self.boys.slope, self.girls.slope)
        intercept = np.where(male, self.boys.intercept_months, self.girls.intercept_months)
        return np.asarray(intercept + slope * predicted, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them."""
        return {
            "against": self.against,
            "per_sex": self.per_sex,
            "n": self.n,
            "girls": vars(self.girls).copy(),
            "boys": vars(self.boys).copy(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Correction:
        """Return the correction that ``to_dict`` wrote.

        Raises:
            DataError: a key is missing or unknown, or a value of another kind.
        """
        try:
            against, lines = data["against"], [data["girls"], data["boys"]]
            girls, boys = (
                Line(float(line["intercept_months"]), float(line["slope"])) for line in lines
            )
            found = cls(against, bool(data["per_sex"]), int(data["n"]), girls, boys)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"correction: expected what was stored, found {error!r}") from error
        numbers = [girls.intercept_months, girls.slope, boys.intercept_months, boys.slope]
        if found.to_dict() != dict(data) or against not in get_args(Against):
            raise DataError(f"correction: expected what was stored, found {dict(data)}")
        if not np.isfinite(numbers).all():
            raise DataError(f"correction: expected finite numbers, found {numbers}")
        return found


def fit_correction(
    reference_months: npt.ArrayLike,
    predicted_months: npt.ArrayLike,
    is_male: npt.ArrayLike,
    *,
    against: Against = "prediction",
    per_sex: bool = True,
) -> Correction:
    """Fit a linear correction by least squares.

    Args:
        reference_months: (n,) reference bone age of cases that the network was not trained on.
        predicted_months: (n,) predicted bone age, months.
        is_male: (n,) bool.
        against: ``prediction`` regresses errors on predictions and so makes the reference
            equal the corrected prediction on average at every prediction, with the smallest
            mean square error; ``reference`` regresses predictions on references and inverts
            the line, so that errors no longer depend on the true age (no regression to the
            mean), at the price of larger errors.
        per_sex: whether girls and boys get lines of their own.

    Returns:
        The correction.

    Raises:
        DataError: shapes that do not match, values that are not finite, fewer than
            ``MIN_CASES`` cases for a line, or ages that do not vary.
        ConfigError: an unknown ``against``.

    Source:
        Rassmann et al., Pediatric Radiology, 2024 (Deeplasia): linear, errors on predictions.
        Lines per sex, and ``reference`` (Cole et al., Molecular Psychiatry, 2018, for brain
        age), are departures.
    """
    reference = np.asarray(reference_months, dtype=np.float64)
    predicted = np.asarray(predicted_months, dtype=np.float64)
    male = np.asarray(is_male, dtype=np.bool_)
    if reference.ndim != 1 or not reference.shape == predicted.shape == male.shape:
        raise DataError(
            "correction: expected reference, prediction and sex of the same cases, found shapes "
            f"{reference.shape}, {predicted.shape} and {male.shape}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(predicted).all()):
        raise DataError("correction: expected finite ages in months, found one that is not")
    if against not in get_args(Against):
        raise ConfigError(
            f"correction: expected against one of {', '.join(get_args(Against))}, found {against!r}"
        )
    if per_sex:
        girls = _line(reference[~male], predicted[~male], against, "girls")
        boys = _line(reference[male], predicted[male], against, "boys")
    else:
        girls = boys = _line(reference, predicted, against, "cases")
    return Correction(against, per_sex, int(reference.size), girls, boys)


def _line(reference: FloatArray, predicted: FloatArray, against: Against, who: str) -> Line:
    if reference.size < MIN_CASES:
        raise DataError(
            f"correction: expected at least {MIN_CASES} {who} to fit a line, found {reference.size}"
            + ("" if who == "cases" else "; one line for both sexes needs as many in all")
        )
    x, y = (predicted, reference) if against == "prediction" else (reference, predicted)
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean())) / float(centred @ centred) if varies(x) else 0.0
    if slope <= 0.0:
        raise DataError(
            f"correction: expected predictions that grow with the reference among the {who}, "
            "found none that do"
        )
    intercept = float(y.mean()) - slope * float(x.mean())
    if against == "prediction":
        return Line(intercept, slope)
    return Line(-intercept / slope, 1.0 / slope)

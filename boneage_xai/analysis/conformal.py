"""Prediction intervals with a promised coverage: split conformal, scaled, and per sex and age."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, age_bin_indices
from boneage_xai.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
IntervalMethod = Literal["absolute", "scaled", "mondrian", "mondrian-scaled"]

COVERAGE = 0.9
# A bin of its own needs enough cases for its quantile not to be its largest error or nearly so.
MIN_CELL_CASES = 50
# Difficulties are kept above this share of their median: an error cannot be expected to vanish.
_LEAST_DIFFICULTY = 0.4
_DEGREE = 3
_CENTRE_MONTHS, _SCALE_MONTHS = 120.0, 60.0


@dataclass(frozen=True)
class Conformal:
    """Calibrated prediction intervals, as plain numbers that JSON can hold.

    Args:
        method: how widths vary, see ``fit_conformal``.
        coverage: share of references that intervals are to contain.
        n: number of cases calibrated on.
        age_bins_months: edges of the bins by predicted age.
        difficulty: per sex (girls, boys) the polynomial coefficients of the expected absolute
            error on the prediction, lowest first; empty for methods that do not scale.
        difficulty_limits: smallest and largest expected absolute error, months.
        quantiles: per sex and age bin the half-width in units of the expected absolute error,
            or in months where nothing is scaled.
        pooled: per sex and age bin the number of cells that share the quantile; 1 where the
            cell has enough cases for its own.
    """

    method: IntervalMethod
    coverage: float
    n: int
    age_bins_months: tuple[float, ...]
    difficulty: tuple[tuple[float, ...], ...]
    difficulty_limits: tuple[float, float]
    quantiles: tuple[tuple[float, ...], ...]
    pooled: tuple[tuple[int, ...], ...]

    def half_width(self, predicted_months: npt.ArrayLike, is_male: npt.ArrayLike) -> FloatArray:
        """Return how far intervals reach to either side of predictions.

        Args:
            predicted_months: (n,) months as the network predicts them.
            is_male: (n,) bool.

        Returns:
            (n,) months; infinite where too few cases were calibrated on to promise anything.
        """
        predicted = np.asarray(predicted_months, dtype=np.float64)
        male = np.asarray(is_male, dtype=np.bool_).astype(np.intp)
        quantiles = np.array(self.quantiles)[male, _cells(predicted, self.age_bins_months)]
        if not self.difficulty:
            return np.asarray(quantiles, dtype=np.float64)
        low, high = self.difficulty_limits
        return np.asarray(
            quantiles * _difficulty(predicted, male, self.difficulty, low, high), dtype=np.float64
        )

    def interval(
        self, predicted_months: npt.ArrayLike, is_male: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray]:
        """Return (n,) lower and (n,) upper ends of intervals, months."""
        predicted = np.asarray(predicted_months, dtype=np.float64)
        half = self.half_width(predicted, is_male)
        return predicted - half, predicted + half

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them; None stands for an infinite width."""
        return {
            "method": self.method,
            "coverage": self.coverage,
            "n": self.n,
            "age_bins_months": list(self.age_bins_months),
            "difficulty": [list(row) for row in self.difficulty],
            "difficulty_limits": list(self.difficulty_limits),
            "quantiles": [[q if math.isfinite(q) else None for q in row] for row in self.quantiles],
            "pooled": [list(row) for row in self.pooled],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conformal:
        """Return the intervals that ``to_dict`` wrote.

        Raises:
            DataError: a key is missing or unknown, or a value of another kind.
        """
        try:
            least, most = data["difficulty_limits"]
            found = cls(
                method=data["method"],
                coverage=float(data["coverage"]),
                n=int(data["n"]),
                age_bins_months=tuple(float(edge) for edge in data["age_bins_months"]),
                difficulty=tuple(tuple(float(c) for c in row) for row in data["difficulty"]),
                difficulty_limits=(float(least), float(most)),
                quantiles=tuple(
                    tuple(math.inf if q is None else float(q) for q in row)
                    for row in data["quantiles"]
                ),
                pooled=tuple(tuple(int(count) for count in row) for row in data["pooled"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"intervals: expected what was stored, found {error!r}") from error
        cells = (2, len(found.age_bins_months) - 1)
        tables = (found.quantiles, found.pooled)
        shapes = [(len(rows), *{len(row) for row in rows}) for rows in tables]
        if (
            found.to_dict() != dict(data)
            or found.method not in get_args(IntervalMethod)
            or shapes != [cells, cells]
            or len(found.difficulty) != (2 if found.method.endswith("scaled") else 0)
        ):
            raise DataError("intervals: expected what was stored, found something else")
        return found


def conformal_quantile(scores: npt.ArrayLike, coverage: float) -> float:
    """Return the score that a new one stays below with probability ``coverage`` at least.

    Args:
        scores: (n,) scores of cases like the new one.
        coverage: from 0 to 1.

    Returns:
        The k-th smallest score with k = ceil((n + 1) · coverage); infinite where k exceeds n.

    Source:
        Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """
    values = np.asarray(scores, dtype=np.float64)
    # Rounded first: 0.9 · 10 is 9.000000000000002 to a computer in some orders.
    rank = math.ceil(round((values.size + 1) * coverage, 9))
    return float(np.partition(values, rank - 1)[rank - 1]) if rank <= values.size else math.inf


def fit_conformal(
    reference_months: npt.ArrayLike,
    predicted_months: npt.ArrayLike,
    is_male: npt.ArrayLike,
    *,
    method: IntervalMethod = "mondrian",
    coverage: float = COVERAGE,
    age_bins: tuple[float, ...] = AGE_BINS_MONTHS,
    seed: int = 0,
    min_cell_cases: int = MIN_CELL_CASES,
) -> Conformal:
    """Calibrate prediction intervals on cases that the network was not trained on.

    Args:
        reference_months: (n,) reference bone age, months.
        predicted_months: (n,) predicted bone age, months.
        is_male: (n,) bool.
        method: ``absolute`` gives every case the same width; ``scaled`` widths in proportion
            to the expected absolute error, a cubic of the prediction per sex that is fitted on a
            third of the cases and used for the others; ``mondrian`` a width per sex and bin of
            the prediction; ``mondrian-scaled`` both.
        coverage: share of references that intervals are to contain.
        age_bins: edges in months of the bins by predicted age; predictions beyond them belong
            to the outermost bins.
        seed: of the choice of that third.
        min_cell_cases: bins with fewer are joined to their neighbours of the same sex.

    Returns:
        The intervals. Coverage holds over all cases like the calibrating ones, and with
        ``mondrian`` within each sex and joined bin.

    Raises:
        DataError: shapes that do not match, values that are not finite, or no cases.
        ConfigError: an unknown method, or a coverage outside (0, 1).

    Source:
        Papadopoulos et al., ECML, 2002 (split conformal); Lei et al., JASA, 2018 (scaled by a
        fitted spread); Vovk et al., 2005, section 4.5 (Mondrian). The joining of small bins is
        an addition.
    """
    reference = np.asarray(reference_months, dtype=np.float64)
    predicted = np.asarray(predicted_months, dtype=np.float64)
    male = np.asarray(is_male, dtype=np.bool_)
    if (
        reference.ndim != 1
        or not reference.size
        or not (reference.shape == predicted.shape == male.shape)
    ):
        raise DataError(
            "intervals: expected reference, prediction and sex of the same cases, at least one, "
            f"found shapes {reference.shape}, {predicted.shape} and {male.shape}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(predicted).all()):
        raise DataError("intervals: expected finite ages in months, found one that is not")
    if method not in get_args(IntervalMethod):
        raise ConfigError(
            f"intervals: expected a method of {', '.join(get_args(IntervalMethod))}, "
            f"found {method!r}"
        )
    if not 0.0 < coverage < 1.0:
        raise ConfigError(f"coverage: expected a share between 0 and 1, found {coverage}")
    scores = np.abs(predicted - reference)
    sexes = male.astype(np.intp)
    cells = _cells(predicted, age_bins)
    difficulty: tuple[tuple[float, ...], ...] = ()
    limits = (1.0, 1.0)
    kept = np.ones(reference.size, dtype=np.bool_)
    if method.endswith("scaled"):
        fitting = np.zeros(reference.size, dtype=np.bool_)
        chosen = np.random.default_rng(seed).permutation(reference.size)[: reference.size // 3]
        fitting[chosen] = True
        difficulty, limits = _fit_difficulty(predicted[fitting], sexes[fitting], scores[fitting])
        scores = scores / _difficulty(predicted, sexes, difficulty, *limits)
        kept = ~fitting
    n_bins = len(age_bins) - 1
    quantiles = np.full((2, n_bins), conformal_quantile(scores[kept], coverage))
    pooled = np.full((2, n_bins), 2 * n_bins)
    if method.startswith("mondrian"):
        for sex in (0, 1):
            own = kept & (sexes == sex)
            counts = np.bincount(cells[own], minlength=n_bins)
            for low, high in _joined(counts, min_cell_cases):
                inside = own & (cells >= low) & (cells < high)
                quantiles[sex, low:high] = conformal_quantile(scores[inside], coverage)
                pooled[sex, low:high] = high - low
    return Conformal(
        method=method,
        coverage=coverage,
        n=int(reference.size),
        age_bins_months=tuple(float(edge) for edge in age_bins),
        difficulty=difficulty,
        difficulty_limits=limits,
        quantiles=tuple(tuple(float(q) for q in row) for row in quantiles),
        pooled=tuple(tuple(int(count) for count in row) for row in pooled),
    )


def _cells(predicted: FloatArray, age_bins: tuple[float, ...]) -> npt.NDArray[np.intp]:
    return age_bin_indices(np.clip(predicted, age_bins[0], age_bins[-1]), age_bins)


def _joined(counts: npt.NDArray[np.intp], least: int) -> list[tuple[int, int]]:
    """Return spans [low, high) of neighbouring bins that hold ``least`` cases each if they can.

    The smallest span joins its smaller neighbour until all are large enough.
    """
    spans = [(index, index + 1) for index in range(len(counts))]
    totals = [int(count) for count in counts]
    while len(spans) > 1 and min(totals) < least:
        small = int(np.argmin(totals))
        sides = [side for side in (small - 1, small + 1) if 0 <= side < len(spans)]
        other = min(sides, key=lambda side: totals[side])
        first, second = sorted((small, other))
        spans[first : second + 1] = [(spans[first][0], spans[second][1])]
        totals[first : second + 1] = [totals[first] + totals[second]]
    return spans


def _powers(predicted: FloatArray, degree: int) -> FloatArray:
    scaled = (predicted - _CENTRE_MONTHS) / _SCALE_MONTHS
    return np.vander(scaled, degree + 1, increasing=True)


def _difficulty(
    predicted: FloatArray,
    sexes: npt.NDArray[np.intp],
    coefficients: tuple[tuple[float, ...], ...],
    low: float,
    high: float,
) -> FloatArray:
    """Return (n,) the expected absolute error at each prediction, months, within limits."""
    values = np.empty(predicted.size)
    for sex, row in enumerate(coefficients):
        mask = sexes == sex
        values[mask] = _powers(predicted[mask], len(row) - 1) @ np.array(row)
    return np.clip(values, low, high)


def _fit_difficulty(
    predicted: FloatArray, sexes: npt.NDArray[np.intp], absolute: FloatArray
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, float]]:
    """Fit the expected absolute error on the prediction, per sex, by least squares.

    A sex with few cases gets a lower degree, so that the curve is not drawn by noise.
    """
    rows: list[tuple[float, ...]] = []
    overall = float(absolute.mean()) if absolute.size else 1.0
    for sex in (0, 1):
        mask = sexes == sex
        degree = min(_DEGREE, int(mask.sum()) // 30)
        row = np.array([overall])
        if mask.sum() >= 2:
            row = np.linalg.lstsq(_powers(predicted[mask], degree), absolute[mask], rcond=None)[0]
        rows.append(tuple(float(value) for value in row))
    typical = max(overall, 1e-6)
    return tuple(rows), (_LEAST_DIFFICULTY * typical, typical / _LEAST_DIFFICULTY)

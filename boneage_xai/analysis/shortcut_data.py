"""Whether what is not the hand tells the age or the sex of the children of a cohort.

No network is asked. Per group of features a ridge regression predicts the age, and another the
sex, for cases that it was not fitted on; shuffled labels show what chance would reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from boneage_xai.analysis.agreement import varies
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
Target = Literal["age", "sex"]

SIGNIFICANCE = 0.05
"""Level of the tests of one audit together (Holm)."""

LEAST_R2: Mapping[str, float] = {
    "id": 0.01,
    "size": 0.05,
    "border": 0.05,
    "background": 0.15,
    "marker": 0.10,
}
"""Share of the variance of age below which a group raises no alarm. An id has nothing to do with
a hand. A thick hand scatters into the background, and a marker is exposed like the hand beside
it: so much they may tell for an honest reason."""

EVIDENCE_ONLY = ("intensity",)
"""Groups that raise no alarm by themselves: the brightness of a radiograph is also that of its
bones, which grow."""

LEAST_AUC = 0.65
"""Area under the curve for sex below which a group raises no alarm."""

FEWEST_CASES = 40
FEWEST_OF_A_SEX = 10
N_PERMUTATIONS = 999

_FOLDS = 5
_PENALTY = 10.0
_N_RESAMPLES = 500
_CONSTANT = 1e-9
_LEAST_R2_OF_OTHERS = 0.05


def audit_data(
    groups: Mapping[str, FloatArray],
    ages_months: npt.ArrayLike,
    is_male: npt.ArrayLike,
    *,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Test whether each group of features tells age or sex beyond chance.

    The statistic is the share of the variance of age (R²), or the area under the curve for sex,
    of predictions in five-fold cross-validation. Its p-value comes from shuffled labels, its 95%
    interval from resampled cases. An alarm needs p < ``SIGNIFICANCE`` after Holm's correction
    over all tests, and a statistic of at least ``LEAST_R2`` or ``LEAST_AUC``; the groups of
    ``EVIDENCE_ONLY`` raise none.

    Args:
        groups: name to (n, k) numbers; rows without any known number are left out of the group.
        ages_months: (n,) reference bone age, NaN where unknown.
        is_male: (n,) bool.
        seed: of folds, shuffling and resampling.
        n_permutations: how often labels are shuffled.

    Returns:
        A row per test: group, target, n, statistic (``r2`` or ``auc``), value, low, high,
        threshold (NaN for evidence only), p, p_holm, alarm; and per test that was not made,
        ``group: target``, why.

    Raises:
        ConfigError: fewer than one permutation.
        DataError: shapes that do not match.

    Source:
        Ojala and Garriga, Journal of Machine Learning Research, 2010 (permutation tests of
        predictors); Holm, Scandinavian Journal of Statistics, 1979.
    """
    ages = np.asarray(ages_months, dtype=np.float64)
    male = np.asarray(is_male, dtype=np.bool_)
    if n_permutations < 1:
        raise ConfigError(f"permutations: expected at least 1, found {n_permutations}")
    if ages.ndim != 1 or ages.shape != male.shape:
        raise DataError(
            f"data audit: expected as many ages as sexes, found {ages.shape} and {male.shape}"
        )
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for name, values in groups.items():
        if values.ndim != 2 or len(values) != len(ages):
            raise DataError(
                f"data audit: expected ({len(ages)}, k) numbers of {name}, found {values.shape}"
            )
        seen = np.isfinite(values).any(axis=1)
        for target in ("age", "sex"):
            used = seen & np.isfinite(ages) if target == "age" else seen
            reason = _why_not(values[used], target, ages[used], male[used])
            if reason:
                skipped[f"{name}: {target}"] = reason
                continue
            labels = ages[used] if target == "age" else male[used].astype(np.float64)
            rows.append(
                {"group": name, "target": target, "n": int(used.sum())}
                | _test(values[used], labels, target, name, seed, n_permutations)
            )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["p_holm"] = holm(table["p"].to_numpy(dtype=np.float64))
    table["alarm"] = (table["p_holm"] < SIGNIFICANCE) & (table["value"] >= table["threshold"])
    return table, skipped


_COLUMNS = [
    "group",
    "target",
    "n",
    "statistic",
    "value",
    "low",
    "high",
    "threshold",
    "p",
    "p_holm",
    "alarm",
]


def _why_not(values: FloatArray, target: str, ages: FloatArray, male: npt.NDArray[np.bool_]) -> str:
    """Return why a group cannot be tested, an empty text if it can."""
    if len(values) < FEWEST_CASES:
        return f"expected at least {FEWEST_CASES} cases, found {len(values)}"
    if target == "sex" and min(int(male.sum()), int((~male).sum())) < FEWEST_OF_A_SEX:
        return (
            f"expected at least {FEWEST_OF_A_SEX} cases of each sex, found {int(male.sum())} boys "
            f"and {int((~male).sum())} girls"
        )
    if target == "age" and not varies(ages):
        return "the same age for all cases"
    if not (_filled(values).std(axis=0) > _CONSTANT).any():
        return "the same for all cases"
    return ""


def _filled(values: FloatArray) -> FloatArray:
    """Return the numbers with the mean of the others where one is unknown."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(known, values, sums / np.maximum(counts, 1))


def _test(
    values: FloatArray, labels: FloatArray, target: str, name: str, seed: int, n_permutations: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(labels) for _ in range(n_permutations)]
    every = np.column_stack([labels, *shuffled])
    predicted = out_of_fold(_filled(values), every, rng)
    score = r2 if target == "age" else auc
    scores = score(every.T, predicted.T)
    drawn = rng.integers(0, len(labels), (_N_RESAMPLES, len(labels)))
    # A resample of one sex alone has no curve.
    resampled = score(labels[drawn], predicted[:, 0][drawn])
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    beyond = int((scores[1:] >= scores[0]).sum())
    return {
        "statistic": "r2" if target == "age" else "auc",
        "value": float(scores[0]),
        "low": float(low),
        "high": float(high),
        "threshold": _threshold(name, target),
        "p": (1 + beyond) / (1 + n_permutations),
    }


def _threshold(name: str, target: str) -> float:
    if name in EVIDENCE_ONLY:
        return np.nan
    return LEAST_R2.get(name, _LEAST_R2_OF_OTHERS) if target == "age" else LEAST_AUC


def out_of_fold(values: FloatArray, labels: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return ridge predictions for cases that the regression was not fitted on.

    Args:
        values: (n, k) numbers, all known.
        labels: (n, m) m sets of labels, predicted each by itself.
        rng: draws the folds.

    Returns:
        (n, m) predictions.
    """
    n, k = values.shape
    fold = rng.permutation(np.arange(n) % _FOLDS)
    predicted = np.empty_like(labels)
    for held in range(_FOLDS):
        out, fit = fold == held, fold != held
        mean, spread = values[fit].mean(axis=0), values[fit].std(axis=0)
        spread = np.where(spread > _CONSTANT, spread, np.inf)
        design, target = (values[fit] - mean) / spread, labels[fit]
        middle = target.mean(axis=0)
        gram = design.T @ design + _PENALTY * np.eye(k)
        weights = np.linalg.solve(gram, design.T @ (target - middle))
        predicted[out] = middle + (values[out] - mean) / spread @ weights
    return predicted


def r2(labels: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return the explained share of the variance along the last axis, negative if none."""
    left = np.square(labels - predicted).sum(axis=-1)
    total = np.square(labels - labels.mean(axis=-1, keepdims=True)).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(total > 0, 1 - left / total, np.nan))


def auc(labels: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return the area under the curve of 0 and 1 labels along the last axis, NaN for one kind."""
    ranks = rankdata(predicted, axis=-1)
    ones = labels.sum(axis=-1)
    zeros = labels.shape[-1] - ones
    with np.errstate(divide="ignore", invalid="ignore"):
        area = ((ranks * labels).sum(axis=-1) - ones * (ones + 1) / 2) / (ones * zeros)
    return np.asarray(np.where((ones > 0) & (zeros > 0), area, np.nan))

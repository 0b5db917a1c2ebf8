"""Bootstrap intervals of error metrics without resampling, for samples too large to resample.

The bootstrap distribution of a mean has cumulants that are known exactly, and that of a median is a
sum over the binomial distribution. What is computed here is therefore the percentile interval that
infinitely many resamples would give.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

# Standard deviations of the median's position that are searched on either side of the middle.
_SEARCHED = 6.0


def mean_interval(values: FloatArray, confidence: float) -> Interval:
    """Return the bootstrap percentile interval of a mean.

    Args:
        values: (n,) one value per case.
        confidence: share of resamples that the interval spans.

    Returns:
        Low and high, by a Cornish-Fisher expansion from the first four cumulants; what it
        leaves out is of the order n^-2 of a value's spread.

    Source:
        Cornish and Fisher, Revue de l'Institut International de Statistique, 1938.
    """
    n = values.size
    mean = float(values.mean())
    centred = values - mean
    square = np.square(centred)
    variance = float(square.mean())
    if variance == 0.0:
        return mean, mean
    skewness = float((square * centred).mean()) / variance**1.5 / math.sqrt(n)
    excess = (float(np.square(square).mean()) / variance**2 - 3.0) / n

    def quantile(share: float) -> float:
        z = float(norm.ppf(share))
        z += (
            (z**2 - 1.0) * skewness / 6.0
            + (z**3 - 3.0 * z) * excess / 24.0
            - (2.0 * z**3 - 5.0 * z) * skewness**2 / 36.0
        )
        return float(mean + z * math.sqrt(variance / n))

    return quantile(0.5 * (1.0 - confidence)), quantile(0.5 * (1.0 + confidence))


def median_interval(values: FloatArray, confidence: float) -> Interval:
    """Return the bootstrap percentile interval of a median.

    Args:
        values: (n,) one value per case.
        confidence: share of resamples that the interval spans.

    Returns:
        Low and high: two of the values. The median of a resample is at most the k-th smallest
        value when more than half of its draws are; of an even number of draws the upper
        middle one counts.

    Source:
        Efron, Annals of Statistics, 1979, section 3.
    """
    n = values.size
    reach = math.ceil(_SEARCHED * math.sqrt(n) / 2.0) + 1
    ranks = np.arange(max(1, n // 2 - reach), min(n, n // 2 + reach) + 1)
    at_most = binom.sf(n // 2, n, ranks / n)
    tails = [0.5 * (1.0 - confidence), 0.5 * (1.0 + confidence)]
    chosen = ranks[np.minimum(np.searchsorted(at_most, tails), ranks.size - 1)] - 1
    low, high = np.partition(values, chosen)[chosen]
    return float(low), float(high)

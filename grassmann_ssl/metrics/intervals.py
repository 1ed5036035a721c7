"""Confidence intervals of proportions, and of means whose range is known."""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import binomtest, t

FEWEST = 3  # values: the Student interval of two is 13 times as wide as they are apart, and says less than both


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval (low, high) of a probability, from `count` successes in `total` trials.

    All p in [0, 1] with |count/total - p| <= z sqrt(p (1 - p) / total), z = 1.96 the 97.5 % quantile of the normal distribution.
    Raises ValueError unless 0 <= count <= total and total >= 1. Source: Wilson 1927, by scipy.stats.
    """
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(
    values: Float[np.ndarray, " n"], low: float = -math.inf, high: float = math.inf
) -> tuple[float, float] | None:
    """Student's 95 % interval (low, high) of the mean of values that lie in [low, high], itself in that range; None for n < 3.

    g(x) in g(m) +- q s |g'(m)| / sqrt(n): m the mean, s the standard deviation (n - 1), q Student's 97.5 % quantile at n - 1 degrees of
    freedom. g is the identity without ends, log(x - low) with a lower one, log((x - low) / (high - x)) with both. It contains m, and is m
    alone where m is an end. Shape (n,). Raises ValueError for no value, a value outside the range, an upper end without a lower one, or
    unless low < high. Source: the delta method, as for proportions in Korn & Graubard 1998; quantiles by scipy.stats.
    """
    if not low < high or (math.isinf(low) and not math.isinf(high)):
        raise ValueError(
            f"the range must be low < high, with a lower end where it has an upper one, got {low} to {high}"
        )
    if not len(values) or not np.all(np.isfinite(values) & (values >= low) & (values <= high)):
        raise ValueError(f"values must be one or more, finite and in [{low}, {high}], got {values}")
    if len(values) < FEWEST:
        return None
    # Rounding must take the mean not past the range, nor an end past the mean or the range.
    mean = float(np.clip(np.mean(values), low, high))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    if not half or not low < mean < high:
        return mean, mean
    if math.isinf(low):
        ends = mean - half, mean + half
    elif math.isinf(high):
        factor = math.exp(half / (mean - low))
        ends = low + (mean - low) / factor, low + (mean - low) * factor
    else:
        share = (mean - low) / (high - low)
        reach = half / (high - low) / (share * (1 - share))
        ends = (
            low + (high - low) * float(expit(logit(share) - reach)),
            low + (high - low) * float(expit(logit(share) + reach)),
        )
    return max(low, min(ends[0], mean)), min(high, max(ends[1], mean))

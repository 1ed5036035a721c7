"""Confidence intervals of proportions."""

from scipy.stats import binomtest


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval (low, high) of a probability, from `count` successes in `total` trials.

    All p in [0, 1] with |count/total - p| <= z sqrt(p (1 - p) / total), z = 1.96 the 97.5 % quantile of the normal distribution.
    Raises ValueError unless 0 <= count <= total and total >= 1. Source: Wilson 1927, by scipy.stats.
    """
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)

"""The spectrum of a population from that of a sample of any size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

GRID = 80  # atoms of the spectrum to be found
POINTS = 60  # real parts at which the equation is asked to hold
SUM = 100.0  # weight of the two sums, which are known, against one point of the equation
DRAWS = 12  # simulated samples for an interval
GAP = 4.0  # ratio of neighbouring sample eigenvalues that a spectrum without a gap does not show
SURE = 0.8  # share of the eigenvalues of a nearly square sample that are not near 0 by their nature
SIDE = 64  # most of the smaller side of a simulated sample
GROUPS = 4  # of equal variances, for those dimensions of a simulated sample that are beyond as many times its rows


def population_spectrum(sample: Array, n: float, d: int, *, total: float | None = None) -> Array:
    """Eigenvalues (D,), decreasing, of a population's covariance, from those of a sample with n degrees of freedom, for any n / D.

    Where the sample's eigenvalues have a gap, a factor of 4 or more, those above it and those below it are two samples: of the bulk below
    with k fewer degrees of freedom, and of k spikes, each without what the bulk adds to it, l = -1/v(l_sample), v the Stieltjes transform
    of the bulk (Bai & Ding 2012). Each is solved by `_continuous`. `total` is an unbiased estimate of the variance, by default the
    sum of the sample's eigenvalues, of which `sample` holds the min(n, D) largest. Entries are assumed to be independent in some basis.
    """
    values = np.sort(sample)[::-1]
    total = float(values.sum()) if total is None else total
    positive = values[values > 0]
    if not positive.size or not total > 0:
        return np.zeros(d)
    gaps = positive[:-1] / positive[1:]
    gaps = gaps[: int(n / 2)]  # the smallest of a square sample lie far apart
    k = int(gaps.argmax()) + 1 if gaps.size else 0
    if not k or gaps[k - 1] < GAP or n - k < 4:
        return _continuous(positive, n, d, total)
    spikes, bulk = positive[:k], positive[k:]
    rest = n - k
    count = max(round(rest), len(bulk))
    v = ((1 / (bulk - spikes[:, None])).sum(1) - (count - len(bulk)) / spikes) / count
    below = float(bulk.sum()) * n / rest
    above = max(total - below, float(spikes.sum()) / 2)
    found = [
        population_spectrum(-1 / v, n, k, total=above),
        population_spectrum(bulk * n / rest, rest, d - k, total=below),
    ]
    return np.sort(np.concatenate(found))[::-1]


def _continuous(positive: Array, n: float, d: int, total: float) -> Array:
    """The same for positive eigenvalues (k,), decreasing, without a gap.

    The limit of the sample's spectrum obeys z = -1/v(z) + (D/n) sum_k w_k t_k / (1 + t_k v(z)), v the Stieltjes transform of the
    eigenvalues of the n x n Gram matrix / n, w_k the share of eigenvalues t_k of the population (Marchenko & Pastur 1967). It is
    linear in w: at points z around the sample's eigenvalues it is solved for w >= 0 on a grid of t by least squares, with sum w = 1 and
    D sum w_k t_k = total. Source: El Karoui 2008, Ann. Stat. 36, 2757.
    """
    largest, least = positive[0], positive[-1]
    if d / 2 < n < 2 * d:
        # The smallest of a nearly square sample go to 0 whatever the population: from them a grid would begin decades too low.
        least = max(least, positive[int(SURE * len(positive))] / 2)
    ratio = d / n
    # The Gram matrix has n eigenvalues: where D < n, n - D of them are 0.
    count = max(round(n), len(positive))
    real = _geometric(least / 2, 1.2 * largest, POINTS)
    z = np.concatenate([real * (1 + 0.3j), real * (1 + 1j), -real + 0j])
    v = ((1 / (positive - z[:, None])).sum(1) - (count - len(positive)) / z) / count
    # Below the smallest sample eigenvalue there may be more of the population only where rows are few.
    grid = np.concatenate([[0.0], _geometric(least * (0.05 if 2 * d > n else 0.5), 1.1 * largest, GRID)])
    size = np.abs(z)
    equation = ratio * grid / (1 + grid * v[:, None]) / size[:, None]
    target = (z + 1 / v) / size
    turned = slice(0, 2 * POINTS)  # on the negative axis everything is real
    sums = [np.full((1, len(grid)), SUM), SUM * d / total * grid[None]]
    system = np.concatenate([equation.real, equation.imag[turned], *sums])
    weights, _ = nnls(system, np.concatenate([target.real, target.imag[turned], [SUM, SUM]]), maxiter=100 * len(grid))
    # Whole dimensions are alive or dead: the mean of a part of both would be neither.
    alive = max(1, round((1 - weights[0] / weights.sum()) * d))
    found = np.zeros(d)
    found[:alive] = quantiles(grid[1:], weights[1:] / weights[1:].sum(), alive)
    found *= float(weights @ grid / weights.sum()) * d / found.sum()
    return found


def _geometric(first: float, last: float, count: int) -> Array:
    """numpy's geomspace, several times as fast."""
    found: Array = np.exp(np.linspace(math.log(first), math.log(last), count))
    return found


def quantiles(grid: Array, weights: Array, d: int) -> Array:
    """D eigenvalues, decreasing, of a distribution with shares `weights` at `grid`: the mean of each D-th part, so that the sum is kept."""
    order = np.argsort(grid)[::-1]
    share = np.concatenate([[0.0], np.cumsum(weights[order])])
    reached = np.concatenate([[0.0], np.cumsum((weights * grid)[order])])
    parts: Array = np.diff(np.interp(np.arange(d + 1) / d, share, reached)) * d
    return np.minimum.accumulate(parts).clip(min=0)


def bounds(sample: Array, n: float, spectrum: Array, total: float, confidence: float) -> Array:
    """Lower and upper bounds (2, D) of the eigenvalues l_k of a population's covariance, whatever estimate `spectrum` of them there is.

    W of n independent Gaussian rows in k dimensions has its eigenvalues between (1 -+ sqrt(k/n) -+ t/sqrt(n))^2, but for a probability of
    exp(-t^2/2) on either side. The first k directions of the population have shown at least l_k times the least of these, and the others no
    more than (sqrt(l_k) (1 + t/sqrt(n)) + sqrt(sum_{j >= k} l_j / n))^2. With s_k the eigenvalues of the sample,
        l_k <= s_k / (1 - sqrt(k/n) - t/sqrt(n))^2,    sqrt(l_k) >= (sqrt(s_k) - sqrt(sum_{j >= k} l_j / n)) / (1 + t/sqrt(n)),
    and k l_k <= `total`, a bound of the variance. `sample` (k,) holds the largest s_k; the others are 0, or rounding.
    Source: Davidson & Szarek 2001, theorem 2.13.
    """
    d = len(spectrum)
    k, values = np.arange(1, d + 1), np.zeros(d)
    values[: len(sample)] = sample
    away = math.sqrt(-2 * math.log((1 - confidence) / 2) / n)
    edge = np.maximum(1 - np.sqrt(k / n) - away, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        high = np.where(edge > 0, values / edge**2, np.inf)
    tail = np.sqrt(np.cumsum(spectrum[::-1])[::-1] / n)
    low = (np.maximum(np.sqrt(values) - tail, 0) / (1 + away)) ** 2
    low = np.maximum(low, values / (1 + away + np.sqrt((d - k + 1) / n)) ** 2)
    low, high = np.maximum.accumulate(low[::-1])[::-1], np.minimum.accumulate(np.minimum(high, total / k))
    return np.stack([np.minimum(low, spectrum), np.maximum(high, spectrum)])


def simulated(spectrum: Array, n: float, draws: int = DRAWS) -> tuple[Array, list[Array]]:
    """A population like this one, and estimates of its spectrum from simulated samples: the error of `population_spectrum`, seen.

    Gaussian rows, with n / D as given; both are made smaller, to a smaller side of at most SIDE. The draws are always the same.
    """
    d = len(spectrum)
    shrink = min(1.0, SIDE / min(n, d))
    rows, columns = max(4, round(n * shrink)), max(2, round(d * shrink))
    truth = quantiles(spectrum, np.full(d, 1 / d), columns)
    values = np.linalg.eigvalsh(gram_matrices(truth, rows, draws))[:, ::-1].clip(min=0)
    return truth, [population_spectrum(one, rows, columns) for one in values]


def gram_matrices(truth: Array, rows: int, draws: int) -> Array:
    """Gram matrices, on the smaller side, of samples of this many rows, by Bartlett's decomposition (Muirhead 1982, theorem 3.2.14)."""
    generator = np.random.default_rng(0)

    def factors(side: int, freedom: int) -> Array:
        """L (draws, side, side) with L L^T of Wishart's distribution."""
        found: Array = np.tril(generator.standard_normal((draws, side, side)), -1)
        found[:, np.arange(side), np.arange(side)] = np.sqrt(
            generator.chisquare(freedom - np.arange(side), (draws, side))
        )
        return found

    columns = len(truth)
    if columns <= rows:
        root = np.sqrt(truth)[:, None] * factors(columns, rows)
        return root @ root.transpose(0, 2, 1) / rows
    groups = min(GROUPS, columns // rows - GROUPS)
    single = GROUPS * rows if groups > 0 else columns
    root = generator.standard_normal((draws, rows, single)) * np.sqrt(truth[:single])
    gram: Array = root @ root.transpose(0, 2, 1)
    for part in np.array_split(truth[single:], groups) if groups > 0 else ():
        root = factors(rows, len(part))
        gram += part.mean() * (root @ root.transpose(0, 2, 1))
    return gram / rows

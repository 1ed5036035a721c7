"""The spectrum of a population from that of a sample of any size."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

GRID = 80  # atoms of the spectrum to be found
POINTS = 60  # points at which the equation is asked to hold, on each of
RAYS = (1 + 0.3j, 1 + 1j, -1.0)  # these lines from 0
COARSE = 2  # of them one in so many for a simulated sample, whose errors are those of its few rows
SUM = 100.0  # weight of the two sums, which are known, against one point of the equation
DRAWS = 8  # simulated samples for an interval
GAP = 4.0  # ratio of neighbouring sample eigenvalues that a spectrum without a gap does not show
SURE = 0.8  # share of the eigenvalues of a nearly square sample that are not near 0 by their nature
SIDE = 40  # most of the smaller side of a simulated sample
GROUPS = 4  # of equal variances, for those dimensions of a simulated sample that are beyond as many times its rows


def population_spectrum(sample: Array, n: float, d: int, *, total: float | None = None) -> Array:
    """Eigenvalues (D,), decreasing, of a population's covariance, from those of a sample with n degrees of freedom, for any n / D.

    Where the sample's eigenvalues have a gap, a factor of 4 or more, those above it and those below it are two samples: of the bulk below
    with k fewer degrees of freedom, and of k spikes, each without what the bulk adds to it, l = -1/v(l_sample), v the Stieltjes transform
    of the bulk (Bai & Ding 2012). Each is solved by `_continuous`. `total` is an unbiased estimate of the variance, by default the
    sum of the sample's eigenvalues, of which `sample` holds the min(n, D) largest. Entries are assumed to be independent in some basis.
    """
    total = float(sample.sum()) if total is None else total
    found: Array = population_spectra(np.sort(sample)[None, ::-1], n, d, np.array([total]))[0]
    return found


def population_spectra(samples: Array, n: float, d: int, totals: Array, coarse: int = 1) -> Array:
    """The spectra (S, D) of several samples (S, k), decreasing; `coarse` divides the numbers of points and of atoms."""
    found = np.zeros((len(samples), d))
    together: dict[int, list[int]] = {}  # number of positive eigenvalues -> samples without a gap that have it
    for at, (sample, total) in enumerate(zip(samples, totals, strict=True)):
        positive = sample[sample > 0]
        if not positive.size or not total > 0:
            continue
        gaps = positive[:-1] / positive[1:]
        gaps = gaps[: int(n / 2)]  # the smallest of a square sample lie far apart
        k = int(gaps.argmax()) + 1 if gaps.size else 0
        if not k or gaps[k - 1] < GAP or n - k < 4:
            together.setdefault(len(positive), []).append(at)
            continue
        spikes, bulk = positive[:k], positive[k:]
        rest = n - k
        v = _stieltjes(bulk[None], spikes[None], rest)[0]
        below = float(bulk.sum()) * n / rest
        above = max(total - below, float(spikes.sum()) / 2)
        parts = (
            population_spectra(np.sort(-1 / v)[None, ::-1], n, k, np.array([above]), coarse),
            population_spectra(bulk[None] * n / rest, rest, d - k, np.array([below]), coarse),
        )
        found[at] = np.sort(np.concatenate(parts, 1)[0])[::-1]
    for size, chosen in together.items():
        found[chosen] = _continuous(samples[chosen, :size], n, d, totals[chosen], coarse)
    return found


def _continuous(positive: Array, n: float, d: int, totals: Array, coarse: int) -> Array:
    """The same for positive eigenvalues (S, k), decreasing, without a gap.

    The limit of the sample's spectrum obeys z = -1/v(z) + (D/n) sum_k w_k t_k / (1 + t_k v(z)), v the Stieltjes transform of the
    eigenvalues of the n x n Gram matrix / n, w_k the share of eigenvalues t_k of the population (Marchenko & Pastur 1967). It is
    linear in w: at points z around the sample's eigenvalues it is solved for w >= 0 on a grid of t by least squares, with sum w = 1 and
    D sum w_k t_k = total. Source: El Karoui 2008, Ann. Stat. 36, 2757.
    """
    size = positive.shape[1]
    largest, least = positive[:, 0], positive[:, -1]
    if d / 2 < n < 2 * d:
        # The smallest of a nearly square sample go to 0 whatever the population: from them a grid would begin decades too low.
        least = np.maximum(least, positive[:, int(SURE * size)] / 2)
    points = POINTS // coarse
    away = _geometric(least / 2, 1.2 * largest, points)
    z = np.concatenate([ray * away for ray in RAYS], 1)
    v = np.concatenate([_stieltjes(positive, ray * away, n) for ray in RAYS], 1)
    # Below the smallest sample eigenvalue there may be more of the population only where rows are few.
    grid = _geometric(least * (0.05 if 2 * d > n else 0.5), 1.1 * largest, GRID // coarse)
    modulus = np.abs(z)
    equation = (d / n / modulus)[:, :, None] / (1 / grid[:, None] + v[:, :, None])
    target = (z + 1 / v) / modulus
    real, turned = len(RAYS) * points, 2 * points  # on the negative axis everything is real
    # The first atom is at 0, the last two equations are the sums.
    system = np.zeros((len(positive), real + turned + 2, grid.shape[1] + 1))
    system[:, :real, 1:], system[:, real:-2, 1:] = equation.real, equation.imag[:, :turned]
    system[:, -2], system[:, -1, 1:] = SUM, SUM * d / totals[:, None] * grid
    right = np.concatenate([target.real, target.imag[:, :turned], np.full((len(positive), 2), SUM)], 1)
    found = np.zeros((len(positive), d))
    for one, atoms, matrix, wanted in zip(found, grid, system, right, strict=True):
        weights, _ = nnls(matrix, wanted, maxiter=100 * len(wanted))
        # Whole dimensions are alive or dead: the mean of a part of both would be neither.
        alive = max(1, round((1 - weights[0] / weights.sum()) * d))
        one[:alive] = quantiles(atoms, weights[1:] / weights[1:].sum(), alive)
        one *= float(weights[1:] @ atoms / weights.sum()) * d / one.sum()
    return found


def _stieltjes(positive: Array, z: NDArray[Any], n: float) -> NDArray[Any]:
    """Stieltjes transforms at z (S, Z) of the n eigenvalues of Gram matrices, (S, k) of them positive and the others 0."""
    size = positive.shape[1]
    count = max(round(n), size)
    away = positive[:, None] - z[:, :, None]
    found: NDArray[Any] = (np.reciprocal(away, out=away).sum(2) - (count - size) / z) / count
    return found


def _geometric(first: Array, last: Array, count: int) -> Array:
    """Geometric sequences (S, count) from `first` (S,) to `last` (S,)."""
    found: Array = first[:, None] * np.exp(np.log(last / first)[:, None] * (np.arange(count) / (count - 1)))
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


def simulated(spectrum: Array, n: float, draws: int = DRAWS) -> tuple[Array, Array]:
    """A population (d,) like this one, and estimates (draws, d) of its spectrum from simulated samples: errors of `population_spectrum`.

    Gaussian rows, with n / D as given; both are made smaller, to a smaller side of at most SIDE. The draws are always the same.
    """
    d = len(spectrum)
    shrink = min(1.0, SIDE / min(n, d))
    rows, columns = max(4, round(n * shrink)), max(2, round(d * shrink))
    truth = quantiles(spectrum, np.full(d, 1 / d), columns)
    values = np.linalg.eigvalsh(gram_matrices(truth, rows, draws))[:, ::-1].clip(min=0)
    return truth, population_spectra(values, rows, columns, values.sum(1), COARSE)


def gram_matrices(truth: Array, rows: int, draws: int) -> Array:
    """Gram matrices, on the smaller side, of samples of this many rows."""
    columns = len(truth)
    if columns <= rows:
        root = np.sqrt(truth)[:, None] * _factors(draws, columns, rows)
        return root @ root.transpose(0, 2, 1) / rows
    groups = min(GROUPS, columns // rows - GROUPS)
    single = GROUPS * rows if groups > 0 else columns
    root = _normal(draws, rows, single) * np.sqrt(truth[:single])
    gram: Array = root @ root.transpose(0, 2, 1)
    for seed, part in enumerate(np.array_split(truth[single:], groups) if groups > 0 else ()):
        root = _factors(draws, rows, len(part), seed)
        gram += part.mean() * (root @ root.transpose(0, 2, 1))
    return gram / rows


@lru_cache(4)
def _normal(draws: int, rows: int, columns: int) -> Array:
    return np.random.default_rng((0, 0)).standard_normal((draws, rows, columns))


@lru_cache(8)
def _factors(draws: int, side: int, freedom: int, seed: int = 0) -> Array:
    """L (draws, side, side) with L L^T of Wishart's distribution: Bartlett's decomposition (Muirhead 1982, theorem 3.2.14)."""
    generator = np.random.default_rng((1, seed))
    found: Array = np.tril(generator.standard_normal((draws, side, side)), -1)
    found[:, np.arange(side), np.arange(side)] = np.sqrt(generator.chisquare(freedom - np.arange(side), (draws, side)))
    return found

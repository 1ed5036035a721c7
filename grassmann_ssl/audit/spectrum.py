"""The spectrum of a population from that of a sample of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

GRID = 80  # atoms of the spectrum to be found
POINTS = 60  # real parts at which the equation is asked to hold
SUM = 100.0  # weight of the two sums, which are known, against one point of the equation
DRAWS = 20  # simulated samples for an interval
GAP = 4.0  # ratio of neighbouring sample eigenvalues that a spectrum without a gap does not show
SIDE = 128  # smaller side of a simulated sample


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
    ratio = d / n
    # The Gram matrix has n eigenvalues: where D < n, n - D of them are 0.
    count = max(round(n), len(positive))
    real = np.geomspace(least / 2, 1.2 * largest, POINTS)
    z = np.concatenate([real * (1 + 0.3j), real * (1 + 1j), -real + 0j])
    v = ((1 / (positive - z[:, None])).sum(1) - (count - len(positive)) / z) / count
    # Below the smallest sample eigenvalue there may be more of the population only where rows are few.
    grid = np.concatenate([[0.0], np.geomspace(least * (0.05 if 2 * d > n else 0.5), 1.1 * largest, GRID)])
    size = np.abs(z)
    equation = ratio * grid / (1 + grid * v[:, None]) / size[:, None]
    target = (z + 1 / v) / size
    turned = slice(0, 2 * POINTS)  # on the negative axis everything is real
    sums = [np.full((1, len(grid)), SUM), SUM * d / total * grid[None]]
    system = np.concatenate([equation.real, equation.imag[turned], *sums])
    weights, _ = nnls(system, np.concatenate([target.real, target.imag[turned], [SUM, SUM]]), maxiter=100 * len(grid))
    return quantiles(grid, weights / weights.sum(), d)


def quantiles(grid: Array, weights: Array, d: int) -> Array:
    """D eigenvalues, decreasing, of a distribution with shares `weights` at `grid`: the mean of each D-th part, so that the sum is kept."""
    order = np.argsort(grid)[::-1]
    share = np.concatenate([[0.0], np.cumsum(weights[order])])
    reached = np.concatenate([[0.0], np.cumsum((weights * grid)[order])])
    parts: Array = np.diff(np.interp(np.arange(d + 1) / d, share, reached)) * d
    return np.minimum.accumulate(parts).clip(min=0)


def simulated(spectrum: Array, n: float, draws: int = DRAWS) -> tuple[Array, list[Array]]:
    """A population like this one, and estimates of its spectrum from simulated samples: the error of `population_spectrum`, seen.

    Gaussian rows, with n / D as given; both are made smaller, at most to a smaller side of SIDE: errors of the estimate of a larger one are
    smaller. The draws are always the same.
    """
    d = len(spectrum)
    shrink = min(1.0, SIDE / min(n, d))
    rows, columns = max(4, round(n * shrink)), max(2, round(d * shrink))
    truth = spectrum[((np.arange(columns) + 0.5) * d / columns).astype(int)]
    if not truth[0] > 0:
        truth = truth + (np.arange(columns) == 0) * spectrum[0]
    generator = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        root = generator.standard_normal((rows, columns)) * np.sqrt(truth)
        gram = root @ root.T if rows < columns else root.T @ root
        values = np.linalg.eigvalsh(gram)[::-1] / rows
        found.append(population_spectrum(values.clip(min=0)[: min(rows, columns)], rows, columns))
    return truth, found

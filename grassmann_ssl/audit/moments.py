"""Unbiased moments of a covariance from rows that come in independent units, in blocks for a jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from grassmann_ssl.audit.gram import Products, Units, products
from grassmann_ssl.audit.rows import CHUNK, distinct_rows, wide

Array = NDArray[np.float64]

BLOCKS = 20
EXACT = 256  # a Gram matrix of at most this side is formed in float64
BLOCK_BYTES = 3 * 2**29  # scatter matrices of all blocks together, half of each
FULL = 8  # rows per dimension from which the rank of a sample is not asked again of half of it
SUMMED = 4096  # rows that are summed before float64 takes over
UNITS = 4  # fewest independent units from which the dimensions used are estimated,
FEWEST = 12  # and from which blocks of them tell an interval
# Of its own deviations, from which a variance is taken to be there. Of 95 % intervals, with 1 those of equal eigenvalues cover in 99.5 %;
# with 2 five times as many of other populations end too low.
SEEN = 1.8


@dataclass(frozen=True)
class Estimate:
    """A number with a confidence interval; NaN where the rows do not tell it, infinite ends where they do not bound it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Jackknife:
    """Of log PR: its variance below and above with their degrees of freedom, how far the mean moves it, and its bias."""

    sides: tuple[tuple[float, float], tuple[float, float]]
    moved: float
    bias: float


@dataclass(frozen=True)
class Sample:
    """What the audit knows of the covariance S of rows z (N, D) that come in independent units.

    distinct     rows that differ: with copies among them, fewer than `rows`
    mean         (D,), every unit with the same weight
    noise        variance of the rounding of a row in its dtype, all dimensions together: eps^2 E|z|^2 / 12
    heaviest     share of the variance of the unit that is farthest from the mean
    total        tr S, unbiased
    square       tr S^2, unbiased; NaN for fewer than four units
    squared      (tr S)^2, unbiased
    eigenvalues  (min(N, D),) of the sample covariance, decreasing; 0 where they are rounding
    freedom      number of independent rows that would give the bias of these eigenvalues: N - 1 where every row is a unit
    half         the same of one half of the units, where some eigenvalues are 0 and rows are few; empty elsewhere
    rounding     eigenvalues of the sample below it are rounding of the decomposition, and are 0
    floor        eigenvalues of S below it are that, or rounding of the rows
    pairs        (B, B) sums over pairs of units in blocks b, c of tr(A_g A_h) + 2 e s_g . s_h + e^2, e less the mean of s_g . s_h over all
                 pairs, which centring makes negative; `traces` of tr A_g tr A_h; `counts` of these pairs; A_g, s_g as in `sample_of`
    blocks       (B,) sums of tr A_g over the units of each block, and `sizes` the number of these units
    directions   (B, D) sums over the same units of u_g, the mean of z/||z|| over unit g; `alike` of |u_g|^2, `lengths` of the share of
                 rows that have a direction: all but zero rows
    """

    rows: int
    units: int
    dimension: int
    distinct: int
    mean: Array
    noise: float
    heaviest: float
    total: float
    square: float
    squared: float
    eigenvalues: Array
    half: Array
    freedom: float
    rounding: float
    floor: float
    pairs: Array
    traces: Array
    counts: Array
    blocks: Array
    sizes: Array
    directions: Array
    alike: Array
    lengths: Array

    def dimensions_used(self, confidence: float) -> Estimate:
        """PR = (tr S)^2 / tr S^2, a ratio of unbiased estimates, with a jackknife interval over blocks of units.

        The jackknife of log PR counts the part of the variance that comes from pairs twice (Efron & Stein 1981); that part is measured on
        the pairs of blocks, and taken off once. The interval is even about sqrt(PR), and reaches as much further as the jackknife
        finds the estimate biased. Where all eigenvalues that are not 0 are equal, PR has its maximum and all variance comes from pairs:
        no estimate is far above, so that an interval is missed on one side only; upwards it takes the other part only where that is
        1.8 of its own deviations. It is [1, D] for fewer than 12 units; NaN for fewer than four, or where an estimate is not positive.
        Sources: Himeno & Yamada 2014, J. Multivar. Anal. 130, 27; Chen & Qin 2010; Satterthwaite 1946.
        """
        d = self.dimension
        if self.units < UNITS or not self.square > 0 or not self.squared > 0:
            return Estimate(float("nan"), 1.0, float(d))
        value = self.squared / self.square
        below, above, bias = math.inf, math.inf, 0.0
        if (jackknife := self._jackknife) is not None:
            below, above = (
                math.hypot(math.sqrt(v) * student(confidence, own), jackknife.moved) for v, own in jackknife.sides
            )
            bias = jackknife.bias
        low = value * math.exp(min(-bias, 0.0)) * max(1 - below / 2, 0.0) ** 2
        high = value * math.exp(max(-bias, 0.0)) * (1 + above / 2) ** 2
        return Estimate(*(min(max(v, 1.0), float(d)) for v in (value, low, high)))

    @cached_property
    def _jackknife(self) -> Jackknife | None:
        """How far log PR may be off; None where the blocks do not tell it."""
        count = len(self.sizes)
        whole = self.traces.sum(), self.pairs.sum()
        without = [without_each(m) for m in (self.traces, self.pairs)]
        if count < FEWEST or min(*whole, *without[0], *without[1]) <= 0:
            return None
        logs, kept = np.log(without[0] / without[1]), math.log(whole[0] / whole[1])
        # h_bc = m + e_b + e_c + r_bc: r is what comes from pairs alone.
        off = ~np.eye(count, dtype=bool)
        scale = self.counts.sum() / np.where(off, self.counts, 1)
        h = np.where(off, (self.pairs / whole[1] - self.traces / whole[0]) * scale, 0)
        mean = h.sum() / (count * (count - 1))
        own = (h.sum(1) - (count - 1) * mean) / (count - 2)
        rest = np.where(off, h - mean - own[:, None] - own, 0)
        pairs = float((rest**2).sum()) / (count * (count - 3)) * 2 / (count * (count - 1))
        first = jackknife_variance(logs)
        blocks = max(first - 2 * pairs, 0.0)
        seen = blocks if blocks > SEEN * first * math.sqrt(2 / (count - 1)) else 0.0
        freedom = (
            (seen + pairs) ** 2 / (seen**2 / (count - 1) + pairs**2 / (count * (count - 3) / 2))
            if pairs > 0
            else count - 1
        )
        # The jackknife keeps the mean. Where one row moves it, the ratio with the mean kept is another one.
        moved = math.log(self.squared / self.square) - kept
        sides = (blocks + pairs, count - 1.0), (seen + pairs, freedom)
        return Jackknife(sides, moved, (count - 1) * (float(logs.mean()) - kept))

    def variance(self, confidence: float) -> Estimate:
        """tr S with a jackknife interval of its logarithm over the blocks; without an upper end for two: both are as far from the mean."""
        if not self.total > 0 or len(self.sizes) < 3:
            return Estimate(max(self.total, 0.0), 0.0, float("inf") if len(self.sizes) < 3 else 0.0)
        logs = np.log((self.blocks.sum() - self.blocks) / (self.sizes.sum() - self.sizes))
        reach = math.exp(jackknife_reach(logs, confidence))
        return Estimate(self.total, self.total / reach, self.total * reach)

    def spread(self, confidence: float) -> Estimate:
        """The variance of directions 1 - |E z/||z|| |^2 with a jackknife interval over the blocks; [0, 1] for fewer than 12 units.

        |E z/||z|| |^2 is the mean of u_g . u_h over pairs of different units.
        """
        parts = (self.directions, self.alike, self.lengths, self.sizes)

        def variance(sums: Any, alike: Any, lengths: Any, sizes: Any) -> Any:
            return lengths / sizes - ((sums**2).sum(-1) - alike) / (sizes * (sizes - 1))

        whole = [part.sum(0) for part in parts]
        value, low, high = float(variance(*whole)), 0.0, 1.0
        if len(self.sizes) >= FEWEST:
            without = variance(*(total - part for total, part in zip(whole, parts, strict=True)))
            reach = jackknife_reach(without, confidence)
            low, high = value - reach, value + reach
        return Estimate(*(min(max(v, 0.0), 1.0) for v in (value, low, high)))


def without_each(table: Any) -> Any:
    """Sums (B,) of a symmetric table (B, B) of pairs of blocks without each block; of numpy or torch."""
    return table.sum() - 2 * table.sum(0) + table.diagonal()


def jackknife_variance(without: Array) -> float:
    """Variance of a number from its values (B,) without each of the blocks: (B - 1)/B sum (t_b - mean)^2."""
    return (len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum())


def jackknife_reach(without: Array, confidence: float) -> float:
    """Half the width of its interval, with Student's quantile at B - 1 degrees of freedom."""
    return math.sqrt(jackknife_variance(without)) * student(confidence, len(without) - 1)


def student(confidence: float, freedom: float) -> float:
    """How many standard deviations an interval of this confidence reaches, by Student's distribution."""
    return float(stdtrit(freedom, (1 + confidence) / 2))


@torch.no_grad()
def sample_of(z: Tensor, units: Tensor | None = None) -> Sample:
    """The moments of rows z (N, D), N >= 2, finite; `units` (N,) numbers the independent unit of every row, by default each its own.

    One Gram matrix on the smaller side: N x N, or the scatter matrices D x D of 20 blocks. In float64 up to a side of 256 and for float64
    rows, else in float32. Units are put into blocks at random, always the same. All G units count alike, whatever their rows: with s_g the
    mean of z - m over unit g, m the mean of the unit means, A_g that of (z - m)(z - m)^T, A = sum_g A_g, G_k = G (G - 1) ... (G - k + 1),
        tr S     = tr A / G + sum |s_g|^2 / G_2
        tr S^2   = [|A|^2 - sum |A_g|^2] / G_2 + 2 [sum s_g^T A s_g - 2 sum s_g^T A_g s_g] / G_3 + F / G_4
        (tr S)^2 = [(tr A)^2 - sum (tr A_g)^2] / G_2 + 2 [tr A sum |s_g|^2 - 2 sum |s_g|^2 tr A_g] / G_3 + F / G_4
        F        = (sum |s_g|^2)^2 + 2 |sum s_g s_g^T|^2 - 6 sum |s_g|^4
    are unbiased for any distribution of the units: every product is of different units, and sums over different ones follow from those
    over all by inclusion and exclusion, with sum_g s_g = 0. For units of one row they are those of Himeno & Yamada 2014.
    """
    n, d = z.shape
    number, weight, count = numbered(z, units)
    dtype = torch.float64 if z.dtype == torch.float64 or min(n, d) <= EXACT else torch.float32
    blocks = min(BLOCKS, count)
    if n > d:
        blocks = min(blocks, max(FEWEST, 2 * BLOCK_BYTES // (d * d * dtype.itemsize)))
    units_of = Units(number, weight, blocks_of(count, blocks).to(z.device), blocks)
    mean, length = _mean(z, weight, count)
    parts = products(z, mean, length, units_of, dtype)
    noise = float(torch.finfo(z.dtype).eps ** 2 * length.square().sum() / (12 * n))
    trace = parts.trace
    block_sizes, block_traces = units_of.over_blocks(torch.ones_like(trace)), units_of.over_blocks(trace)
    counts = torch.outer(block_sizes, block_sizes) - block_sizes.diag()
    traces = torch.outer(block_traces, block_traces) - units_of.over_blocks(trace**2).diag()
    total, square, squared = _unbiased(parts)
    shift = parts.length / max(count * (count - 1), 1)
    whole = float(trace.sum())
    scale = total / whole if whole > 0 else 0.0
    freedom = float(n - 1)
    if count < n and square > 0 and squared > 0:
        # Rows of a unit repeat each other: count the rows that would spread the eigenvalues as these do.
        spread = scale**2 * parts.whole - square
        freedom = min(freedom, max(1.0, squared / spread)) if spread > 0 else freedom
    values = parts.eigenvalues.double().flip(0) * scale
    rounded = 8 * torch.finfo(dtype).eps * float(values[0])
    values = torch.where(values > rounded, values, 0)
    values[n - 1 :] = 0  # rows less their mean are linearly dependent
    half = values[:0]
    if n < FULL * d and bool((values[: min(n - 1, d)] == 0).any()):
        half = parts.half().double().flip(0) * (2 * scale)
    return Sample(
        rows=n,
        units=count,
        dimension=d,
        distinct=distinct_rows(z),
        mean=mean.cpu().numpy(),
        noise=noise,
        heaviest=float(trace.max()) / whole if whole > 0 else 0.0,
        total=total,
        square=square,
        squared=squared,
        eigenvalues=values.cpu().numpy(),
        half=torch.where(half > rounded, half, 0).cpu().numpy(),
        freedom=freedom,
        rounding=rounded,
        floor=max(rounded, 2 * noise / d),
        pairs=(parts.pairs + 2 * shift * parts.inner + shift**2 * counts).cpu().numpy(),
        traces=traces.cpu().numpy(),
        counts=counts.cpu().numpy(),
        blocks=block_traces.cpu().numpy(),
        sizes=block_sizes.cpu().numpy(),
        directions=parts.directions.sums.cpu().numpy(),
        alike=parts.directions.alike.cpu().numpy(),
        lengths=parts.directions.lengths.cpu().numpy(),
    )


def numbered(z: Tensor, units: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """The number of the unit of every row, its weight 1 / (rows of its unit), and the number of units."""
    if units is None:
        return torch.arange(len(z), device=z.device), torch.ones(len(z), dtype=torch.float64, device=z.device), len(z)
    _, number, size = torch.unique(units.to(z.device), return_inverse=True, return_counts=True)
    return number, 1 / size.double()[number], len(size)


def blocks_of(count: int, blocks: int) -> Tensor:
    """The block of every unit, (count,): drawn at random, always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)) % blocks


def _mean(z: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean (D,) of the unit means in float64, and the lengths (N,) of the rows."""
    first, lengths = wide(z[0]), []
    away = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
    step = max(1, min(CHUNK // z.shape[1], SUMMED))
    for rows, own in zip(torch.split(z, step), torch.split(weight, step), strict=True):
        x = wide(rows)
        lengths.append(torch.linalg.vector_norm(x, dim=1))
        away += own.to(x.dtype) @ (x - first)
    return first.double() + away / count, torch.cat(lengths).double()


def _unbiased(parts: Products) -> tuple[float, float, float]:
    """tr S, tr S^2 and (tr S)^2, as in `sample_of`; NaN where there are too few units."""
    g = len(parts.trace)
    two, three, four = g * (g - 1), g * (g - 1) * (g - 2), g * (g - 1) * (g - 2) * (g - 3)
    trace = float(parts.trace.sum())
    if g < 2:
        return float("nan"), float("nan"), float("nan")
    total = trace / g + parts.length / two
    if g < UNITS:
        return total, float("nan"), float("nan")
    last = (parts.length**2 + 2 * parts.outer - 6 * parts.fourth) / four
    square = (parts.whole - parts.own) / two + 2 * (parts.across - 2 * parts.within) / three + last
    own = float(parts.trace.square().sum())
    squared = (trace**2 - own) / two + 2 * (trace * parts.length - 2 * parts.mixed) / three + last
    return total, square, squared

"""The numbers of an audit, each with its interval, convention and meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from grassmann_ssl.audit.decide import Live
from grassmann_ssl.audit.moments import Sample, student
from grassmann_ssl.audit.rule import participation, share_used
from grassmann_ssl.audit.spectrum import bounds, simulated
from grassmann_ssl.metrics.ranks import effective_rank

Array = NDArray[np.float64]

HEAVY = (
    2.0  # how much further alpha is off than for Gaussian rows, where tails are heavy: small eigenvalues spread more
)


@dataclass(frozen=True)
class Number:
    """One number of the population: its estimate and interval; the same of the sample alone, where that is biased; None where unknown."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    sample: float | None
    convention: str
    meaning: str

    def __str__(self) -> str:
        """The value, its interval and what it is, in a line."""
        ends = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        value = "unknown" if self.value is None else f"{self.value:.4g}{ends}"
        return f"{self.name} {value}: {self.meaning} ({self.convention})"

    def scaled(self, factor: float) -> Number:
        """The same number times a factor."""
        return replace(self, **{n: v * factor for n in ("value", "low", "high") if (v := getattr(self, n)) is not None})


def number(
    name: str,
    ends: Sequence[float],
    sample: float | None,
    convention: str,
    meaning: str,
    least: float = -math.inf,
    most: float = math.inf,
) -> Number:
    """A number from its value, low and high, cut to [least, most]; None for what is not finite."""
    value, low, high = (_finite(min(max(v, least), most)) for v in ends)
    return Number(name, value, low, high, sample, convention, meaning)


def entropy_rank(spectra: Array) -> Array:
    """exp(-sum p log p) (...,), p the shares of a spectrum (..., D); 0 where it is 0. Source: Roy & Vetterli 2007."""
    ranks: Array = effective_rank(torch.from_numpy(np.ascontiguousarray(spectra))).numpy()
    return ranks


def _rankme(spectra: Array) -> Array:
    return entropy_rank(np.sqrt(spectra))


def _alpha(spectra: Array) -> Array:
    """alpha (...,) of `alpha_req` for spectra (..., D), all positive eigenvalues alike; NaN for fewer than three."""
    alive = spectra > 0
    count = alive.sum(-1)
    # About its mean, so that the mean of y does not matter.
    x = np.log(np.arange(1, spectra.shape[-1] + 1))
    x = np.where(alive, x - ((x * alive).sum(-1) / np.maximum(count, 1))[..., None], 0)
    y = np.log(np.where(alive, spectra, 1))
    slopes: Array = np.where(count < 3, np.nan, -(x * y).sum(-1) / np.maximum((x * x).sum(-1), 1e-300))
    return slopes


def _condition(spectrum: Array) -> float:
    least = float(spectrum.min())
    return float(spectrum.max()) / least if least > 0 else math.inf


@dataclass(frozen=True)
class Spectral:
    """A number that is a `function` of spectra, (..., D) -> (...); between 1 and D, and its errors are factors, where it is a `rank`."""

    name: str
    function: Callable[[Array], Array]
    convention: str
    meaning: str
    rank: bool = True


SPECTRAL = (
    Spectral(
        "entropy_rank",
        entropy_rank,
        "exp of the entropy of the eigenvalues of S",
        "dimensions in use; small ones count more than in dimensions_used",
    ),
    Spectral(
        "rankme",
        _rankme,
        "exp of the entropy of their square roots; centred",
        "RankMe of the population; small dimensions count still more",
    ),
    Spectral(
        "alpha",
        _alpha,
        "least squares of log l_k on log k, all k alike; no interval where it is open which l_k are 0",
        "decay of the spectrum, l_k ~ k^-alpha",
        rank=False,
    ),
)


def spectral_numbers(
    sample: Sample, spectrum: Array, found: int, live: Live, confidence: float
) -> tuple[list[Number], Array]:
    """The numbers of the covariance S of a sample, and the band (2, D) of its spectrum, by `bounds`.

    Intervals of those that come from the estimated spectrum: what the same estimate makes of samples simulated from it, of the same N / D;
    further on one side by its bias; with the interval of the dimensions used for what simulated Gaussian rows do not show.
    """
    d, naive = sample.dimension, sample.eigenvalues
    used, variance = sample.dimensions_used(confidence), sample.variance(confidence)
    plain = participation(naive)
    numbers = [
        number(
            "dimensions_used",
            (used.value, used.low, used.high),
            plain or None,
            "participation ratio (tr S)^2 / tr S^2, unbiased for any N",
            "how many dimensions share the variance",
        ),
        number(
            "share_used",
            [share_used(v, d) for v in (used.value, used.low, used.high)],
            share_used(plain, d) if plain else None,
            "(PR - 1) / (D - 1)",
            "0: one dimension has all variance, 1: all have the same",
        ),
        number(
            "live_dimensions",
            (found, live.least, live.most),
            float((naive > 0).sum()),
            "eigenvalues above the threshold of the rule; bounds instead of an interval",
            "dimensions that vary at all",
        ),
        number(
            "total_variance",
            (variance.value, variance.low, variance.high),
            None,
            "tr S, unbiased",
            "variance of all dimensions together",
        ),
    ]
    if not spectrum[0] > 0:
        return numbers, np.stack([spectrum, spectrum])
    truth, draws = simulated(spectrum, sample.freedom)
    # With N and D, N / D as it is, errors of sums over the spectrum fall as 1 / N, of its largest eigenvalues as 1 / sqrt(N).
    scale = math.sqrt(len(truth) / d)
    known = live.least == live.most
    for one in SPECTRAL:
        value, both = float(one.function(spectrum)), one.function(np.vstack([truth, draws]))
        exact, seen = both[0], both[1:]
        if one.rank:
            low, high = _reach(np.log(seen / exact) * scale, confidence, math.log(used.high / used.low) / 2)
            ends, least, most = [value * math.exp(min(v, 700.0)) for v in (low, high)], 1.0, float(d)
        else:
            low, high = _reach(HEAVY * (seen - exact) * scale, confidence) if known else (-math.inf, math.inf)
            ends, least, most = [value + low, value + high], -math.inf, math.inf
        of_sample = _finite(float(one.function(naive)))
        numbers.append(number(one.name, (value, *ends), of_sample, one.convention, one.meaning, least, most))
    band = bounds(np.maximum(naive, sample.rounding), sample.freedom, spectrum, variance.high, confidence)
    with np.errstate(divide="ignore"):
        ends = [float(band[0, 0] / band[1, -1]), float(np.divide(band[1, 0], band[0, -1]))]
    numbers.append(
        number(
            "condition_number",
            (_condition(spectrum), *ends),
            _finite(_condition(naive)),
            "l_1 / l_D; bounds instead of an interval",
            "largest over smallest variance of a direction",
            1.0,
        )
    )
    return numbers, band


def _reach(errors: Array, confidence: float, further: float = 0.0) -> tuple[float, float]:
    """How far an interval reaches to either side, given simulated errors of the estimate and an independent reach of another cause."""
    if not np.isfinite(errors).all():
        return -math.inf, math.inf
    reach = math.hypot(student(confidence, len(errors) - 1) * float(errors.std(ddof=1)), further)
    bias = float(errors.mean())
    return min(-bias, 0.0) - reach, max(-bias, 0.0) + reach


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

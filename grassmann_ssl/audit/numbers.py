"""The numbers of an audit, each with its interval, convention and meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from grassmann_ssl.audit.decide import Live
from grassmann_ssl.audit.moments import Sample
from grassmann_ssl.audit.rule import participation, share_used
from grassmann_ssl.audit.spectrum import simulated
from grassmann_ssl.metrics.ranks import alpha_req, effective_rank

Array = NDArray[np.float64]


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


def entropy_rank(spectrum: Array) -> float:
    """exp(-sum p log p), p the shares of a spectrum; 0 where it is 0. Source: Roy & Vetterli 2007."""
    return float(effective_rank(torch.from_numpy(np.ascontiguousarray(spectrum))))


def _rankme(spectrum: Array) -> float:
    return entropy_rank(np.sqrt(spectrum))


def _alpha(spectrum: Array) -> float:
    slope = alpha_req(torch.from_numpy(np.ascontiguousarray(spectrum)))[0]
    return math.nan if slope is None else slope


def _condition(spectrum: Array) -> float:
    least = float(spectrum.min())
    return float(spectrum.max()) / least if least > 0 else math.inf


@dataclass(frozen=True)
class Spectral:
    """A number that is a function of the spectrum; `relative`: its errors are factors. Between 1 and D where `rank`."""

    name: str
    function: Callable[[Array], float]
    convention: str
    meaning: str
    relative: bool = True
    rank: bool = False


SPECTRAL = (
    Spectral(
        "entropy_rank",
        entropy_rank,
        "exp of the entropy of the eigenvalues of S",
        "dimensions in use; small ones count more than in dimensions_used",
        rank=True,
    ),
    Spectral(
        "rankme",
        _rankme,
        "exp of the entropy of their square roots; centred",
        "RankMe of the population; small dimensions count still more",
        rank=True,
    ),
    Spectral(
        "alpha",
        _alpha,
        "least squares of log l_k on log k, all k alike",
        "decay of the spectrum, l_k ~ k^-alpha",
        relative=False,
    ),
    Spectral("condition_number", _condition, "l_1 / l_D", "largest over smallest variance of a direction"),
)


def spectral_numbers(
    sample: Sample, spectrum: Array, found: int, live: Live, confidence: float
) -> tuple[list[Number], Array]:
    """The numbers of the covariance S of a sample, and the band (2, D) of its estimated spectrum.

    Intervals of those that come from the estimated spectrum: what the same estimate makes of 20 samples simulated from it, of the same
    N / D, its bias taken off, with the interval of the dimensions used for what simulated Gaussian rows do not show.
    """
    d, naive = sample.dimension, sample.eigenvalues
    used, variance = sample.dimensions_used(confidence), sample.variance(confidence)
    plain = participation(naive)
    numbers = [
        number(
            "dimensions_used",
            (used.value, used.low, used.high),
            plain,
            "participation ratio (tr S)^2 / tr S^2, unbiased for any N",
            "how many dimensions share the variance",
        ),
        number(
            "share_used",
            [share_used(v, d) for v in (used.value, used.low, used.high)],
            share_used(plain, d),
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
    wide = math.log(used.high / used.low) / 2
    for one in SPECTRAL:
        value, exact = one.function(spectrum), one.function(truth)
        seen = np.array([one.function(draw) for draw in draws])
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.log(seen / exact) if one.relative else seen - exact
        ends = _interval(value, errors, confidence, wide if one.relative else None)
        least, most = 1.0 if one.relative else -math.inf, float(d) if one.rank else math.inf
        numbers.append(
            number(one.name, (value, *ends), _finite(one.function(naive)), one.convention, one.meaning, least, most)
        )
    shares = np.linspace(0, 1, len(truth))
    ratios = np.stack([np.interp(np.linspace(0, 1, d), shares, _ratio(draw, truth)) for draw in draws])
    band: Array = spectrum / np.exp(np.quantile(ratios, [(1 + confidence) / 2, (1 - confidence) / 2], axis=0))
    # The k largest eigenvalues have no more than the whole variance.
    most = variance.high if math.isfinite(variance.high) else float(spectrum.sum())
    band[1] = np.maximum(np.minimum(band[1], most / np.arange(1, d + 1)), spectrum)
    return numbers, band


def _ratio(one: Array, truth: Array) -> Array:
    """log of an estimate over the truth."""
    tiny = 1e-12 * truth[0]
    ratio: Array = np.log(np.maximum(one, tiny) / np.maximum(truth, tiny))
    return ratio


def _interval(value: float, errors: Array, confidence: float, wide: float | None) -> tuple[float, float]:
    """Ends of the interval of a value whose simulated errors are given: factors where `wide`, their further log, is."""
    if not (np.isfinite(errors).all() and math.isfinite(value)):
        return -math.inf, math.inf
    reach = float(student.ppf((1 + confidence) / 2, len(errors) - 1)) * float(errors.std(ddof=1))
    if wide is None:
        low, high = (value - float(errors.mean()) + side * reach for side in (-1, 1))
    else:
        reach = math.hypot(reach, wide)
        low, high = (value * math.exp(min(side * reach - float(errors.mean()), 700.0)) for side in (-1, 1))
    return min(low, value), max(high, value)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

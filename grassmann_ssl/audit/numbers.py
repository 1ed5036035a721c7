"""The numbers of an audit, each with its interval, convention and meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from grassmann_ssl.audit.decide import Live
from grassmann_ssl.audit.moments import Sample
from grassmann_ssl.audit.rule import participation, share_used
from grassmann_ssl.audit.spectrum import simulated
from grassmann_ssl.metrics.ranks import alpha_req

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


def entropy_rank(spectrum: Array) -> float:
    """exp(-sum p log p), p the shares of a spectrum; 0 where it is 0. Source: Roy & Vetterli 2007."""
    positive = spectrum[spectrum > 0]
    if not positive.size:
        return 0.0
    p = positive / positive.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _rankme(spectrum: Array) -> float:
    return entropy_rank(np.sqrt(spectrum))


def _alpha(spectrum: Array) -> float:
    slope = alpha_req(torch.from_numpy(np.ascontiguousarray(spectrum)))[0]
    return math.nan if slope is None else slope


def _condition(spectrum: Array) -> float:
    least = float(spectrum.min())
    return float(spectrum.max()) / least if least > 0 else math.inf


# name, function of a spectrum, whether its errors are relative, range, convention, meaning
SPECTRAL: tuple[tuple[str, Callable[[Array], float], bool, str, str], ...] = (
    (
        "entropy_rank",
        entropy_rank,
        True,
        "exp of the entropy of the eigenvalues of S",
        "dimensions in use, with more weight on small ones",
    ),
    (
        "rankme",
        _rankme,
        True,
        "exp of the entropy of their square roots; centred",
        "the same with still more weight on small ones (RankMe)",
    ),
    ("alpha", _alpha, False, "least squares of log l_k on log k, all k alike", "decay of the spectrum, l_k ~ k^-alpha"),
    ("condition_number", _condition, True, "l_1 / l_D", "largest over smallest variance of a direction"),
)


def spectral_numbers(
    sample: Sample, spectrum: Array, found: int, live: Live, confidence: float
) -> tuple[list[Number], Array]:
    """The numbers of the covariance S of a sample, and the band (2, D) of its estimated spectrum.

    Intervals of those that come from the estimated spectrum: what the same estimate makes of 20 samples simulated from it, of the same
    N / D, its bias taken off, with the interval of the dimensions used for what simulated Gaussian rows do not show.
    """
    d, used, variance = sample.dimension, sample.dimensions_used(confidence), sample.variance(confidence)
    naive = sample.eigenvalues
    shares = [share_used(v, d) for v in (used.value, used.low, used.high)]
    numbers = [
        Number("dimensions_used", *_known(used.value, used.low, used.high), participation(naive), "participation ratio (tr S)^2 / tr S^2, unbiased for any N", "how many dimensions share the variance"),
        Number("share_used", *_known(*shares), share_used(participation(naive), d), "(PR - 1) / (D - 1)", "0: one dimension has all variance, 1: all have the same"),
        Number("live_dimensions", float(found), float(live.least), float(live.most), float((naive > 0).sum()), "eigenvalues above the threshold of the rule; bounds instead of an interval", "dimensions that vary at all"),
    ]  # fmt: skip
    size = _known(variance.value, variance.low, variance.high)
    last = Number("total_variance", *size, None, "tr S, unbiased", "variance of all dimensions together")
    if not spectrum[0] > 0:
        return [*numbers, last], np.stack([spectrum, spectrum])
    truth, draws = simulated(spectrum, sample.freedom)
    quantile = float(student.ppf((1 + confidence) / 2, len(draws) - 1))
    wide = math.log(used.high / used.low) / 2 if used.low > 0 else 0.0
    for name, function, relative, convention, meaning in SPECTRAL:
        value, exact = function(spectrum), function(truth)
        seen = np.array([function(one) for one in draws])
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.log(seen / exact) if relative else seen - exact
        low, high = _interval(value, errors, quantile, relative, wide)
        bounds = (
            (1.0, float(d))
            if name in ("entropy_rank", "rankme")
            else (1.0, math.inf)
            if relative
            else (-math.inf, math.inf)
        )
        at = [min(max(v, bounds[0]), bounds[1]) for v in (value, low, high)]
        numbers.append(Number(name, *_known(*at), _finite(function(naive)), convention, meaning))
    ratios = np.stack(
        [np.interp(np.linspace(0, 1, d), np.linspace(0, 1, len(truth)), _ratio(one, truth)) for one in draws]
    )
    band = spectrum / np.exp(np.quantile(ratios, [(1 + confidence) / 2, (1 - confidence) / 2], axis=0))
    return [*numbers, last], band


def _ratio(one: Array, truth: Array) -> Array:
    tiny = 1e-12 * truth[0]
    return np.log(np.maximum(one, tiny) / np.maximum(truth, tiny))


def _interval(value: float, errors: Array, quantile: float, relative: bool, wide: float) -> tuple[float, float]:
    finite = errors[np.isfinite(errors)]
    if len(finite) < len(errors) or not math.isfinite(value):
        return -math.inf, math.inf
    centre, reach = float(finite.mean()), math.hypot(quantile * float(finite.std(ddof=1)), wide if relative else 0.0)
    ends = (-centre - reach, -centre + reach)
    low, high = (value * math.exp(min(e, 700.0)) for e in ends) if relative else (value + e for e in ends)
    return min(low, value), max(high, value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(*values: float) -> Iterator[float | None]:
    return (_finite(float(value)) for value in values)

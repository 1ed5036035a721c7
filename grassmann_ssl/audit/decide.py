"""The verdict on a sample: each question of the rule answered where the rows decide it, and left open where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grassmann_ssl.audit.moments import FEWEST, UNITS, Estimate, Sample
from grassmann_ssl.audit.rule import Rule, Verdict, share_used
from grassmann_ssl.audit.spectrum import population_spectrum

Array = NDArray[np.float64]

DECIDED = 0.999  # confidence of the intervals that decide: one wrong answer in a thousand audits
PLENTY = 20  # rows per dimension from which the estimates themselves decide
SATURATED = 0.8  # share of the dimensions of all units that half of them show, where more units show no more dimensions
SPARE = 3  # rows beyond a dimension before it is called dead: with fewer, an eigenvalue near 0 is no surprise
LONE = 0.9  # share of the variance of one unit, a row or group, on which then all hangs that is said of dimensions
ROUNDED = 12.0  # a variance below this many of the noise of rounding, eps^2 |z|^2 / 12, is rounding of equal rows,
BLURRED = 192.0  # and below this many it may be rounding in the layers of an encoder: (4 eps)^2 |z|^2


@dataclass(frozen=True)
class Live:
    """Bounds of the number of live dimensions: `least` have shown themselves, no more than `most` can be there."""

    least: int
    most: int


def live_dimensions(sample: Sample, spectrum: Array, rule: Rule) -> tuple[int, Live]:
    """The number of live dimensions, from the estimated spectrum, and its bounds.

    At least ceil(PR) are live, by Cauchy-Schwarz, where there is a variance beyond rounding. If only r were live, the sample's l_{r+1}
    would lie below the threshold t = max(dead l_1, rounding) times (1 + sqrt(D/n))^2, the edge of a sample of the rest. If k were live, its
    l_k would lie above t (1 - sqrt(k/n))^2: dimensions below that are dead, if half of the units show as many as all do; rows that repeat
    each other do not, nor copies: as many rows must differ. A factor 2 on either side allows for heavy tails.
    """
    values, n, d = sample.eigenvalues, sample.freedom, sample.dimension
    threshold = max(rule.dead * values[0], sample.floor)
    edge = (1 + math.sqrt(d / n)) ** 2
    seen = int((values > 2 * threshold * edge).sum())
    used = sample.dimensions_used(DECIDED).low
    k = np.arange(1, len(values) + 1)
    lowest = max(rule.dead * values[0] / edge, 10 * sample.floor) * (1 - np.sqrt(np.minimum(k / n, 1))) ** 2 / 2
    # Nothing is told where a live dimension, too, might be rounding of the decomposition.
    told = (min(n, sample.distinct - 1) - k >= SPARE) & (lowest > sample.rounding) & (sample.heaviest <= LONE)
    dead = told & (values < lowest)
    most = int(dead.argmax()) if dead.any() else d
    if most < d and len(sample.half) and int((sample.half > lowest[most]).sum()) < SATURATED * most:
        most = d
    least = min(max(seen, 0 if _rounded(sample) else math.ceil(used - 1e-9)), most)
    found = int(((spectrum > 0) & (spectrum >= max(rule.dead * spectrum[0], sample.floor))).sum())
    found = min(max(found, least), most)
    plenty = sample.units >= PLENTY * d and _differ(sample) and sample.heaviest <= LONE
    return found, Live(found, found) if plenty else Live(least, most)


def _differ(sample: Sample) -> bool:
    """Whether rows that differ are enough to show all dimensions."""
    return sample.distinct - 1 - sample.dimension >= SPARE


@dataclass(frozen=True)
class Judged:
    """The verdict on a sample, the estimated spectrum (D,) of its population, and its live dimensions with their bounds."""

    verdict: Verdict
    spectrum: Array
    found: int
    live: Live


def judge_sample(
    sample: Sample,
    rule: Rule,
    *,
    directions: bool = False,
    classes: Mapping[str, Sample] | None = None,
    input_variance: float | None = None,
) -> Judged:
    """The verdict on the population of a sample, as `decide`, with what it rests on."""
    values, d = sample.eigenvalues, sample.dimension
    if sample.total > 0 and values[0] > 0:
        spectrum = population_spectrum(values, sample.freedom, d, total=sample.total)
    else:
        spectrum = np.zeros(d)
    found, live = live_dimensions(sample, spectrum, rule)
    verdict = decide(sample, live, rule=rule, directions=directions, classes=classes, input_variance=input_variance)
    return Judged(verdict, spectrum, found, live)


def decide(
    sample: Sample,
    live: Live,
    *,
    rule: Rule,
    directions: bool = False,
    classes: Mapping[str, Sample] | None = None,
    input_variance: float | None = None,
) -> Verdict:
    """The verdict on the population of a sample. A question is decided where its 99.9 % interval lies on one side of the threshold.

    With 20 independent rows per dimension or more the estimates themselves decide. Dimensional collapse is found where one of its forms
    is, and excluded where both are; it is open where one unit alone has 90 % of the variance. Classes of fewer than four units are not
    judged.
    """
    open_: dict[str, str] = {}
    kinds = []
    complete = _complete(sample, rule, input_variance)
    if complete is True:
        return Verdict(("complete",), {}, None, None)
    if complete is None:
        open_["complete"] = "the variance is near the rounding of the rows" + (
            "" if input_variance is None else ", or near the threshold"
        )
    if directions:
        spread = _below(sample.variance(DECIDED), rule.spread, sample)
        if spread:
            kinds.append("directional")
        elif spread is None:
            open_["directional"] = f"the variance of the directions is not told from {rule.spread:g}"
    lone = sample.heaviest > LONE
    soft, hard = (None, None) if lone else (_soft(sample, rule), _hard(live, sample.dimension, rule))
    if soft or hard:
        kinds.append("dimensional")
    elif soft is None or hard is None:
        open_["dimensional"] = _missing(sample, soft, live, rule)
    collapsed, unsure = _classes(classes or {}, sample, rule)
    if collapsed:
        kinds.append("class")
    elif unsure:
        open_["class"] = f"too few rows of {', '.join(unsure)}"
    return Verdict(tuple(kinds), open_, hard, soft, collapsed)


def _rounded(sample: Sample) -> bool:
    """Whether all variance may be rounding of equal rows."""
    return sample.total <= ROUNDED * sample.noise


def _complete(sample: Sample, rule: Rule, input_variance: float | None) -> bool | None:
    rounded = _rounded(sample)
    if rounded or sample.total <= BLURRED * sample.noise:
        return True if rounded and sample.units >= UNITS else None
    if input_variance is None:
        return False
    return _below(sample.variance(DECIDED), rule.complete * input_variance * sample.dimension, sample)


def _soft(sample: Sample, rule: Rule) -> bool | None:
    d = sample.dimension
    used = sample.dimensions_used(DECIDED)
    if math.isnan(used.value):
        return False if d == 1 else None
    shares = Estimate(*(share_used(v, d) for v in (used.value, used.low, used.high)))
    return _below(shares, rule.used, sample)


def _hard(live: Live, d: int, rule: Rule) -> bool | None:
    if live.most < rule.live * d:
        return True
    return False if live.least >= rule.live * d else None


def _classes(classes: Mapping[str, Sample], whole: Sample, rule: Rule) -> tuple[tuple[str, ...], list[str]]:
    collapsed, unsure = [], []
    for name, one in classes.items():
        if one.units < UNITS:
            continue
        threshold = rule.within * whole.total
        below = _rounded(one) or _below(one.variance(DECIDED), threshold, one)
        if below:
            collapsed.append(name)
        elif below is None:
            unsure.append(name)
    return tuple(collapsed), unsure


def _below(estimate: Estimate, threshold: float, sample: Sample) -> bool | None:
    """Whether a number of the population is below a threshold; None where the rows do not tell."""
    if sample.units >= PLENTY * sample.dimension:
        return bool(estimate.value < threshold)
    if estimate.high < threshold:
        return True
    return False if estimate.low >= threshold else None


def _missing(sample: Sample, soft: bool | None, live: Live, rule: Rule) -> str:
    """What is undecided of the dimensions, and how many rows would decide it."""
    if sample.heaviest > LONE:
        one = "row" if sample.units == sample.rows else "group"
        return f"one {one} alone has {100 * sample.heaviest:.4g} % of the variance: look at it, and audit the others without it"
    d, parts = sample.dimension, []
    rows = []
    if soft is None:
        used = sample.dimensions_used(DECIDED)
        if sample.units < FEWEST or math.isnan(used.value) or math.isinf(used.high / used.low):
            rows.append(FEWEST)
            parts.append(f"{sample.units} independent rows are too few for the dimensions used")
        else:
            threshold = 1 + rule.used * (d - 1)
            parts.append(f"the dimensions used, {used.low:.3g} to {used.high:.3g}, are not told from {threshold:.3g}")
            away = abs(math.log(used.value / threshold))
            reach = math.log(used.high / used.low) / 2
            wanted = sample.units * (reach / away) ** 2 if away > 0 else math.inf
            rows.append(math.ceil(min(wanted, PLENTY * d)))
    if live.least < rule.live * d <= live.most:
        parts.append(f"between {live.least} and {live.most} of {d} dimensions may be live")
        if sample.distinct < sample.rows and not _differ(sample):
            parts[-1] += f", since only {sample.distinct:,} of {sample.rows:,} rows are different"
        rows.append(4 * d if sample.units < 4 * d else PLENTY * d)
    more = f"; about {max(rows):,} independent rows would tell" if rows else ""
    return " and ".join(parts) + more

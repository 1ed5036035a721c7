"""Numbers of an audit beside the spectrum: of directions, of positive pairs, of classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from grassmann_ssl.audit.moments import BLOCKS, Estimate, Sample, sample_of
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.metrics.lidar import lidar
from grassmann_ssl.metrics.pairs import alignment, on_sphere, uniformity
from grassmann_ssl.metrics.probes import knn_accuracy, ridge_probe

Array = NDArray[np.float64]

PAIRED = 2048  # most pairs from which uniformity and LiDAR are estimated
PROBED = 20_000  # most rows of the probes
SPLIT = "half of the rows of each class, drawn once, to fit; the other half to test"


@dataclass(frozen=True)
class ClassRow:
    """One class: rows, dimensions used within it, and its share of the variance of all rows."""

    name: str
    rows: int
    dimensions_used: float | None
    low: float | None
    high: float | None
    share_of_variance: float | None


def concentration(directions: Sample, confidence: float) -> list[Number]:
    """Length of the mean direction |E z/||z|| |, and the variance of directions, 1 - |E z/||z|| |^2; both without bias of N."""
    spread = directions.variance(confidence)
    low, high = (min(max(v, 0.0), 1.0) for v in (spread.low, spread.high))
    value = min(max(spread.value, 0.0), 1.0)
    lengths = [math.sqrt(1 - v) for v in (value, high, low)]
    return [
        Number("concentration", *lengths, float(np.linalg.norm(directions.mean)), "|E z/||z|| |", "0: directions spread over the sphere, 1: all alike"),
        Number("spread", value, low, high, None, "1 - |E z/||z|| |^2, the variance of z/||z||", "the same as a variance"),
    ]  # fmt: skip


def pair_numbers(z: Tensor, positive: Tensor, units: Tensor | None, confidence: float) -> list[Number]:
    """Alignment, uniformity and LiDAR of positive pairs, with jackknife intervals over blocks of units."""
    few = slice(0, PAIRED)

    def aligned(keep: Tensor) -> float:
        return float(alignment(z[keep], positive[keep]))

    def uniform(keep: Tensor) -> float:
        return float(uniformity(z[few][keep]))

    def rank(keep: Tensor) -> float:
        return float(lidar(torch.stack([z[few][keep], positive[few][keep]], 1)))

    own = None if units is None else units[few]
    return [
        _number("alignment", _jackknife(aligned, len(z), units, confidence), (0, 4), "E |u - u+|^2, u = z/||z||", "0: positive pairs agree, 2: they are independent"),
        _number("uniformity", _jackknife(uniform, len(z[few]), own, confidence), (-8, 0), f"log E exp(-2 |u - u'|^2), first {PAIRED:,} rows", "lower is more uniform, 0 is collapse"),
        _number("lidar", _jackknife(rank, len(z[few]), own, confidence, 8), (0, z.shape[1]), f"two views, delta 1e-4, first {PAIRED:,} pairs", "dimensions that tell samples apart (LiDAR)"),
    ]  # fmt: skip


def class_rows(
    z: Tensor, label: Tensor, names: tuple[str, ...], units: Tensor | None, whole: Sample, confidence: float
) -> tuple[list[ClassRow], dict[str, Sample]]:
    """Every class with its moments; a class of one row has none."""
    rows, samples = [], {}
    for number, name in enumerate(names):
        chosen = (label == number).nonzero()[:, 0]
        if len(chosen) < 2:
            rows.append(ClassRow(name, len(chosen), None, None, None, None))
            continue
        one = sample_of(z[chosen], None if units is None else units[chosen])
        samples[name] = one
        used = one.dimensions_used(confidence)
        known = used.value == used.value
        share = one.total / whole.total if whole.total > 0 and math.isfinite(one.total) else None
        rows.append(
            ClassRow(name, len(chosen), *((used.value, used.low, used.high) if known else (None, None, None)), share)
        )
    return rows, samples


def label_numbers(z: Tensor, label: Tensor, names: tuple[str, ...], samples: dict[str, Sample]) -> list[Number]:
    """NC1, and accuracies of two probes with Wilson intervals; none for fewer than two classes of two rows."""
    if len(samples) < 2:
        return []
    numbers = [Number("nc1", _collapse_of_classes(z, label), None, None, None, "tr(S_W S_B^+) / C", "within over between classes; 0 is neural collapse")]  # fmt: skip
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)[:PROBED]
    own = label[order]
    rank = torch.zeros_like(own)
    for number in range(len(names)):
        member = own == number
        rank[member] = torch.arange(int(member.sum()), device=z.device)
    fit, test = order[rank % 2 == 0], order[rank % 2 == 1]
    given = (z[fit].float(), label[fit], z[test].float(), label[test])
    for name, share, meaning in (
        ("knn", knn_accuracy(*given, k=min(20, len(fit))), "accuracy of 20 nearest neighbours"),
        ("linear_probe", ridge_probe(*given).accuracy, "accuracy of ridge regression"),
    ):
        low, high = wilson_interval(round(share * len(test)), len(test))
        numbers.append(Number(name, share, low, high, None, SPLIT, meaning))
    return numbers


def _collapse_of_classes(z: Tensor, label: Tensor) -> float | None:
    """NC1 = tr(S_W S_B^+) / C, S_W and S_B the covariances within and between C classes. Source: Papyan, Han & Donoho 2020."""
    x = z.double() - z.double().mean(0)
    count = int(label.max()) + 1
    size = torch.bincount(label, minlength=count).double()
    means = x.new_zeros(count, x.shape[1]).index_add_(0, label, x) / size[:, None]
    within = x - means[label]
    # S_B = M^T M / C with M (C, D): its pseudo-inverse is that of M, on both sides.
    u, s, v = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    real = s > s[0] * max(means.shape) * torch.finfo(torch.float64).eps
    if not bool(real.any()) or float(s[0]) == 0:
        return None
    inside = (within @ v[real].T) / s[real]
    return float(inside.square().sum() / len(z))


def _number(name: str, found: Estimate, bounds: tuple[float, float], convention: str, meaning: str) -> Number:
    low, high = (min(max(v, bounds[0]), bounds[1]) for v in (found.low, found.high))
    return Number(name, found.value, low, high, None, convention, meaning)


def _jackknife(
    function: Callable[[Tensor], float], n: int, units: Tensor | None, confidence: float, blocks: int = BLOCKS
) -> Estimate:
    """A function of the rows kept, with a jackknife interval over blocks of units."""
    number = torch.arange(n) if units is None else units.cpu().unique(return_inverse=True)[1]
    count = min(blocks, int(number.max()) + 1)
    place = torch.randperm(int(number.max()) + 1, generator=torch.Generator().manual_seed(0))[number] % count
    value = function(torch.arange(n))
    kept = [(place != block).nonzero()[:, 0] for block in range(count)]
    if count < 3 or min(len(rows) for rows in kept) < 2:
        return Estimate(value, -math.inf, math.inf)
    without = np.array([function(rows) for rows in kept])
    deviation = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    reach = deviation * float(student.ppf((1 + confidence) / 2, count - 1))
    return Estimate(value, value - reach, value + reach)


def directions_of(z: Tensor) -> Tensor:
    """z / ||z|| in float32, or float64 for float64 rows; zero rows stay 0."""
    return on_sphere(z)

"""Numbers of an audit beside the spectrum: of directions, of positive pairs, of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grassmann_ssl.audit.moments import (
    BLOCKS,
    Sample,
    blocks_of,
    jackknife_reach,
    sample_of,
    without_each,
)
from grassmann_ssl.audit.numbers import Number, number
from grassmann_ssl.audit.rows import CHUNK
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.metrics.lidar import lidar, lidar_without
from grassmann_ssl.metrics.pairs import on_sphere
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


def concentration(sample: Sample, confidence: float) -> list[Number]:
    """Length of the mean direction |E z/||z|| |, and the variance of directions, 1 - |E z/||z|| |^2; both without bias of N."""
    spread = sample.spread(confidence)
    return [
        number(
            "concentration",
            [math.sqrt(1 - v) for v in (spread.value, spread.high, spread.low)],
            float(np.linalg.norm(sample.directions.sum(0))) / sample.units,
            "|E z/||z|| |",
            "0: directions spread over the sphere, 1: all alike",
        ),
        number(
            "spread",
            (spread.value, spread.low, spread.high),
            None,
            "1 - |E z/||z|| |^2, the variance of z/||z||",
            "1: directions spread, 0: all alike",
        ),
    ]


def pair_numbers(z: Tensor, positive: Tensor, units: Tensor | None, confidence: float) -> list[Number]:
    """Alignment, uniformity and LiDAR of positive pairs, with jackknife intervals over blocks of units."""
    few, few_positive = z[:PAIRED], positive[:PAIRED]
    own = None if units is None else units[:PAIRED]
    return [
        number(
            "alignment",
            _alignment(z, positive, units, confidence),
            None,
            "E |u - u+|^2, u = z/||z||",
            "0: positive pairs agree, 2: they are independent",
            0,
            4,
        ),
        number(
            "uniformity",
            _uniformity(few, own, confidence),
            None,
            f"log E exp(-2 |u - u'|^2), at most {PAIRED:,} rows",
            "lower is more uniform, 0 is collapse",
            -8,
            0,
        ),
        number(
            "lidar",
            _lidar(torch.stack([few, few_positive], 1), own, confidence),
            None,
            f"two views, delta 1e-4, at most {PAIRED:,} pairs; of as many pairs, since more of them raise it",
            "dimensions that tell samples apart",
            0,
            z.shape[1],
        ),
    ]


def class_rows(
    z: Tensor, label: Tensor, names: tuple[str, ...], units: Tensor | None, whole: Sample, confidence: float
) -> tuple[list[ClassRow], dict[str, Sample]]:
    """Every class with its moments; a class of one row has none."""
    rows, samples = [], {}
    for k, name in enumerate(names):
        chosen = (label == k).nonzero()[:, 0]
        if len(chosen) < 2:
            rows.append(ClassRow(name, len(chosen), None, None, None, None))
            continue
        one = sample_of(z[chosen], None if units is None else units[chosen])
        samples[name] = one
        used = one.dimensions_used(confidence)
        share = one.total / whole.total if whole.total > 0 and math.isfinite(one.total) else None
        if math.isnan(used.value):
            rows.append(ClassRow(name, len(chosen), None, None, None, share))
        else:
            rows.append(ClassRow(name, len(chosen), used.value, used.low, used.high, share))
    return rows, samples


def label_numbers(z: Tensor, label: Tensor, samples: dict[str, Sample]) -> list[Number]:
    """NC1, and accuracies of two probes with Wilson intervals; none for fewer than two classes of two rows."""
    if len(samples) < 2:
        return []
    label = torch.unique(label, return_inverse=True)[1]  # without classes all of whose rows are left out
    meaning = "variance within over between classes; 0 is neural collapse"
    convention = "tr(S_W S_B^+) / C, of the sample, without an interval"
    numbers = [Number("nc1", _collapse_of_classes(z, label), None, None, None, convention, meaning)]
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)[:PROBED]
    own = label[order]
    rank = torch.zeros_like(own)
    for k in range(int(label.max()) + 1):
        member = own == k
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
    size = torch.bincount(label).double()
    parts = list(zip(*(torch.split(v, max(1, CHUNK // z.shape[1])) for v in (z, label)), strict=True))
    means = size.new_zeros(len(size), z.shape[1])
    first = z[0].double()  # from there, so that a mean far away takes no digits
    for rows, own in parts:
        means.index_add_(0, own, rows.double() - first)
    means /= size[:, None]
    # S_B = M^T M / C with M (C, D): its pseudo-inverse is that of M, on both sides.
    _, s, v = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    real = s > s[0] * max(means.shape) * torch.finfo(torch.float64).eps
    real[len(size) - 1 :] = False  # means less their mean are linearly dependent
    if not bool(real.any()) or float(s[0]) == 0:
        return None
    turned = v[real].T / s[real]
    inside = [((rows.double() - first - means[own]) @ turned).square().sum() for rows, own in parts]
    return float(torch.stack(inside).sum() / len(z))


def _alignment(z: Tensor, positive: Tensor, units: Tensor | None, confidence: float) -> tuple[float, float, float]:
    """`alignment`, with a jackknife interval over blocks of units."""
    step = max(1, CHUNK // z.shape[1])
    pairs = zip(torch.split(z, step), torch.split(positive, step), strict=True)
    away = torch.cat([(on_sphere(a) - on_sphere(b)).square().sum(1).double() for a, b in pairs])
    place = _places(len(z), units).to(z.device)
    sums, sizes = (
        torch.zeros(int(place.max()) + 1, dtype=away.dtype, device=z.device).index_add_(0, place, v)
        for v in (away, torch.ones_like(away))
    )
    without = (away.sum() - sums) / (len(z) - sizes)
    return _interval(float(away.mean()), without.tolist(), confidence)


def _uniformity(z: Tensor, units: Tensor | None, confidence: float) -> tuple[float, float, float]:
    """`uniformity`, with a jackknife interval, from the sums of exp(-2 |u - u'|^2) over pairs of blocks."""
    u = on_sphere(z)
    place = _places(len(z), units).to(z.device)
    member = torch.nn.functional.one_hot(place).to(u.dtype).T
    lengths = torch.linalg.vecdot(u, u)
    pairs = torch.exp(-2 * (lengths[:, None] + lengths - 2 * u @ u.T).clamp_min(0)).fill_diagonal_(0)
    sums = (member @ pairs @ member.T).double()
    size = member.sum(1).double()
    counts = torch.outer(size, size) - size.diag()
    rest = [without_each(m) for m in (sums, counts)]
    without = torch.log(rest[0] / rest[1]).tolist() if bool((rest[1] > 0).all()) else []
    return _interval(math.log(float(sums.sum() / counts.sum())), without, confidence)


def _lidar(views: Tensor, units: Tensor | None, confidence: float) -> tuple[float, float, float]:
    """LiDAR, with a jackknife interval over blocks of units; without one where a block leaves fewer than two samples."""
    place = _places(len(views), units)
    if len(views) - int(torch.bincount(place).max()) < 2:
        return _interval(float(lidar(views)), [], confidence)
    value, without = lidar_without(views, place)
    return _interval(float(value), without.tolist(), confidence)


def _places(n: int, units: Tensor | None) -> Tensor:
    """The block of every row: units are kept together."""
    number = torch.arange(n) if units is None else torch.unique(units.cpu(), return_inverse=True)[1]
    count = int(number.max()) + 1
    return blocks_of(count, min(BLOCKS, count))[number]


def _interval(value: float, without: list[float], confidence: float) -> tuple[float, float, float]:
    """A value with its interval from the same without each of the blocks; no bounds for fewer than three."""
    if len(without) < 3:
        return value, -math.inf, math.inf
    reach = jackknife_reach(np.array(without), confidence)
    return value, value - reach, value + reach

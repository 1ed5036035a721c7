"""Detection of learning steps where they are known: precision and recall on exact curves with noise, and on deep runs labelled by eye."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import find_peaks

import theory
from grassmann_ssl.metrics.steps import detect_steps, eigenvalue_steps, first_crossing
from grassmann_ssl.training.schedules import log_spaced

Array = NDArray[np.float64]
NAME = "steps"
PAGE = "docs/encoders.md"
CURVES = Path(__file__).parent / "curves"
# The runs that the detector was made on; the others are held out.
MADE_ON = ("digits-conv-1", "digits-mlp-2", "emoji-conv-1-barlow_twins")
TOLERANCE = 0.15  # of log t: a step that is found further from its label is another
SEEDS = 60  # trajectories for each noise; the detector was made on other seeds
NOISE = ((0.0, 0.0), (0.03, 1e-3), (0.1, 0.02))  # in proportion to the value, and of the range
FINE = 4000
# Of the log time from a quarter to three quarters of a rise, above which it is no step by definition: 1. Near 1 it is unclear.
STEEP, GENTLE = 0.75, 1.3
# A step leaves a tenth of its height and reaches nine tenths, with so many records before and after.
BEFORE, AFTER, RECORDS = 0.1, 0.9, 3
APART, MERGED = (
    0.65,
    0.35,
)  # of a peak of the slope, by which the slope falls on both sides of a step; between them it is unclear
SMOOTH: dict[str, Callable[[Array], Array]] = {
    "ramp": lambda u: u,
    "decay": lambda u: 1 - np.exp(-4 * u),
    "fast decay": lambda u: 1 - np.exp(-300 * u),
    "root": np.sqrt,
    "square": np.square,
    "power": lambda u: 1 - (u + 1e-3) ** -0.5 / 30,
    "logarithm": lambda u: np.log1p(100 * u) / 5,
    "flat": np.ones_like,
}


@dataclass(frozen=True)
class Curve:
    """A curve over t > 0 with the times of its steps, and of what may be taken for one or not."""

    time: Array
    values: Array
    steps: tuple[float, ...]
    unclear: tuple[float, ...] = ()


@dataclass(frozen=True)
class Group:
    """Curves of one training: its eigenvalues, of each of which the highest rise counts, or its loss, whose falls count."""

    name: str
    curves: tuple[Curve, ...]
    loss: bool = False


def run(device: torch.device, repeats: int, seeds: int = SEEDS) -> list[dict[str, Any]]:
    """One record for every set of curves; `device` and `repeats` are not used, since nothing is timed."""
    sets: dict[str, list[Group]] = {}
    for group in (*deep(), *exact_groups(seeds), *smooth(seeds // 6 + 1)):
        sets.setdefault(group.name, []).append(group)
    return [{"set": name, **scored(groups)} for name, groups in sets.items()]


def found_in(group: Group) -> list[list[float]]:
    """The steps of every curve, as experiments on encoders take them."""
    time = group.curves[0].time
    if group.loss:
        return [list(detect_steps(time, curve.values, falling=True, log_time=True).times) for curve in group.curves]
    spectra = np.stack([curve.values for curve in group.curves], 1)
    return [[t for t in (one.highest,) if t is not None] for one in eigenvalue_steps(time, spectra, log_time=True)]


def scored(groups: Sequence[Group]) -> dict[str, Any]:
    """Counts over all curves of these groups, and the median error of log t of the steps that are right."""
    right = found = labelled = curves = 0
    errors: list[float] = []
    for group in groups:
        for curve, times in zip(group.curves, found_in(group), strict=True):
            own = matched(curve, times)
            right, found, labelled, curves = right + own[0], found + own[1], labelled + len(curve.steps), curves + 1
            errors += own[2]
    return {
        "curves": curves,
        "labelled": labelled,
        "found": found,
        "right": right,
        "error": float(np.median(errors)) if errors else None,
    }


def matched(curve: Curve, found: Sequence[float]) -> tuple[int, int, list[float]]:
    """How many steps are right, how many are found (less those that are unclear), and the errors of log t of the right ones."""
    left, errors, wrong = list(curve.steps), [], 0
    for t in found:
        nearest = min(left, key=lambda s: abs(np.log(t / s)), default=None)
        if nearest is not None and abs(np.log(t / nearest)) <= TOLERANCE:
            left.remove(nearest)
            errors.append(float(abs(np.log(t / nearest))))
        elif not any(abs(np.log(t / u)) <= 2 * TOLERANCE for u in curve.unclear):
            wrong += 1
    return len(errors), len(errors) + wrong, errors


def deep(folder: Path = CURVES) -> Iterator[Group]:
    """Stored spectra of deep trainings with their labels by eye."""
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        time, spectra = np.array(content["time"]), np.array(content["spectra"])
        known = path.name.startswith(MADE_ON)
        labels = zip(spectra.T, content["steps"], content["unclear"], strict=True)
        curves = tuple(Curve(time, values, tuple(steps), tuple(unclear)) for values, steps, unclear in labels)
        yield Group(f"deep runs, {'made on' if known else 'held out'}", curves)


# Exact curves


def times(rng: np.random.Generator, end: float) -> Array:
    """Records as experiments take them: log-spaced steps of a training that ends at `end`, without t = 0."""
    steps, records = int(rng.choice([300, 600, 3000])), int(rng.choice([60, 100, 200]))
    return np.array(sorted(log_spaced(steps, records) - {0})) * (end / steps)


def noisy(clean: Array, rng: np.random.Generator, relative: float, additive: float) -> Array:
    """With noise of each record in proportion to the curve, and of one size, in units of the largest range."""
    size = float(np.ptp(clean, axis=0).max())
    return clean * np.exp(relative * rng.standard_normal(clean.shape)) + additive * size * rng.standard_normal(
        clean.shape
    )


def exact_groups(seeds: int) -> Iterator[Group]:
    """`exact` for every noise and seed."""
    for relative, additive in NOISE:
        for seed in range(seeds):
            yield from exact(seed, relative, additive)


def exact(seed: int, relative: float, additive: float) -> Iterator[Group]:
    """Linear Barlow Twins with d modes, some of which are learned: its sorted eigenvalues, and its loss."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(3, 9))
    gamma = np.cumprod(rng.uniform(0.5, 0.95, d))
    s0 = 10 ** rng.uniform(-3.5, -0.3) * rng.uniform(0.5, 2, d)
    at = theory.stepwise.step_times(s0, gamma)
    learned = at[np.isfinite(at) & (at > 0)]
    end = float(np.quantile(learned, rng.uniform(0.4, 1.0)) * rng.uniform(1.05, 3.0)) if learned.size else 1.0
    time, fine = times(rng, end), np.geomspace(end * 1e-5, end, FINE)
    clean = np.sort(theory.stepwise.eigenvalues(fine, s0, gamma), 1)[:, ::-1]
    seen = np.sort(noisy(theory.stepwise.eigenvalues(time, s0, gamma), rng, relative, additive), 1)[:, ::-1]
    rises = tuple(_rise(time, seen[:, k], fine, clean[:, k]) for k in range(d))
    noise = f"noise {100 * relative:g} % and {100 * additive:g} % of the range" if relative else "no noise"
    yield Group(f"exact eigenvalues, {noise}", rises)
    loss = noisy(theory.stepwise.loss(time, s0, gamma)[:, None], rng, relative / 10, additive)[:, 0]
    yield Group(f"exact loss, {noise}", (_falls(time, loss, fine, theory.stepwise.loss(fine, s0, gamma)),), loss=True)


def smooth(seeds: int) -> Iterator[Group]:
    """Curves without steps, with noise of each size."""
    time = np.geomspace(0.1, 1e4, 200)
    for _, additive in NOISE:
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            for shape in SMOOTH.values():
                values = shape(time / time[-1])[:, None] + additive * rng.standard_normal((len(time), 1))
                yield Group("smooth curves without steps", (Curve(time, values[:, 0], ()),))


def _rise(time: Array, values: Array, fine: Array, clean: Array) -> Curve:
    """A curve with the label of its only rise, to 1, from the same curve without noise on a fine grid."""
    if clean[-1] < 0.5:  # not learned; where it has begun, its end is unclear
        return Curve(time, values, (), (float(fine[-1]),) if clean[-1] > BEFORE else ())
    if clean[0] > 0.5:
        return Curve(time, values, ())
    at, clear = _label(time, fine, (clean - clean[0]) / (1 - clean[0]))
    return Curve(time, values, (at,) if clear else (), () if clear is not None else (at,))


def _falls(time: Array, values: Array, fine: Array, clean: Array) -> Curve:
    """A loss with the labels of its falls: peaks of the slope of the same loss without noise, from the valley before to that after."""
    slope = -np.gradient(clean, np.log(fine))
    peaks, found = find_peaks(slope, prominence=0)
    peaks = np.array([k for k, p in zip(peaks, found["prominences"], strict=True) if p > MERGED * slope[k]], dtype=int)
    ends = [0, *(a + int(np.argmin(slope[a : b + 1])) for a, b in itertools.pairwise(peaks)), len(fine) - 1]
    steps: list[float] = []
    unclear: list[float] = []
    for k, peak in enumerate(peaks):
        part = slice(ends[k], ends[k + 1] + 1)
        height = clean[ends[k]] - clean[ends[k + 1]]
        at, clear = _label(time, fine[part], (clean[ends[k]] - clean[part]) / height)
        sides = max(slope[ends[k]], slope[ends[k + 1]]) / slope[peak]
        (steps if clear and sides <= 1 - APART else unclear).append(at)
    return Curve(time, values, tuple(steps), tuple(unclear))


def _label(time: Array, fine: Array, rise: Array) -> tuple[float, bool | None]:
    """The time of half of a rise from 0 to 1, and whether it is a step; None where that is unclear."""
    quarter, at, most, low, high = (float(first_crossing(fine, rise, q)) for q in (0.25, 0.5, 0.75, BEFORE, AFTER))
    duration = np.log(most / quarter) if quarter > fine[0] else np.inf
    if duration > GENTLE:
        return at, False
    enough = (time < low).sum() >= RECORDS and (time > high).sum() >= RECORDS
    return at, True if duration < STEEP and enough else None


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row for every set."""
    lines = [
        "| curves with known steps | curves | steps | precision | recall | median error of log t |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            error = "" if row["error"] is None else f"{row['error']:.3f}"
            lines.append(
                f"| {row['set']} | {row['curves']:,} | {row['labelled']} | {_share(row['right'], row['found'])} "
                f"| {_share(row['right'], row['labelled'])} | {error} |"
            )
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part} of {whole})" if whole else "none found"

"""Does the kernel of a wide network stay constant? Supervised, free and constrained training of two-layer ReLU networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.data import SOURCES, View, triplets
from grassmann_ssl.experiments.linear.measure import exponent
from grassmann_ssl.experiments.networks.kernel_arms import (
    ARMS,
    BLOWN_UP,
    LEFT,
    LOOKS,
    MEASURES,
    Task,
    Weights,
    exact_change,
    growth_rates,
    measure,
    predicted_exponent,
    train,
    train_free,
)
from grassmann_ssl.objectives import TRACE_LOSSES, objective
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, choice, setting, ticking

Arrays = dict[str, np.ndarray]

FINER = 5  # smaller steps for the free trace loss, which grows exponentially
TITLES = {
    "last_layer": "last-layer kernel",
    "whole": "whole tangent kernel",
    "movement": "last-layer weights",
    "switched": "units switched",
}


@dataclass(frozen=True, kw_only=True)
class KernelChangeConfig(RunConfig):
    """Kernel change of two-layer ReLU networks during training against width, with and without constraint."""

    NAME: ClassVar[str] = "kernel-change"
    EXAMPLE: ClassVar[str] = "kernel-change --widths 64 256 1024"
    data: str = "gaussian"
    """data set: digits, photos or gaussian"""
    objective: Annotated[str, choice(TRACE_LOSSES)] = "linear_contrastive"
    """trace loss"""
    dim: int = 3
    """embedding dimension d"""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """hidden widths, increasing, at least the input dimension (64 for digits and photos)"""
    triplets: int = 30
    """triplets (x, x+, x-) drawn from the data; the kernel is evaluated on all three views of each"""
    seeds: int = 6
    """networks per width, trained in one batch"""
    lr: float = 0.1
    """learning rate, t = learning rate x step; both layers are updated by lr / width times their gradient"""
    horizon: float = 20.0
    """end time of the training; constrained weights leave a saddle after a time that grows as log width"""
    free_time: float = 1.0
    """early time at which the kernel of the free trace loss is compared, before it diverges"""
    spectrum: tuple[float, ...] = (1.0, 0.7, 0.5, 0.36, 0.25, 0.18, 0.13, 0.09, 0.05, 0.03)
    """gaussian data: eigenvalues of the population cross-moment, before scaling; their number is the input dimension m"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in SOURCES:
            raise ConfigError(f"data: unknown data set {self.data!r}; known are {', '.join(SOURCES)}")
        if self.objective not in TRACE_LOSSES:
            hint = nearest(self.objective, TRACE_LOSSES)
            raise ConfigError(
                f"objective: unknown trace loss {self.objective!r}; known are {', '.join(TRACE_LOSSES)}{hint}"
            )
        self.need("dim", "triplets", least=1)
        self.need("seeds", least=2)
        self.need("widths", least=self.dim + 1)
        self.need("spectrum", least=0)
        self.need("lr", "horizon", above=0)
        self.need("free_time", above=0, most=self.horizon)
        if len(self.widths) < 2 or any(a >= b for a, b in pairwise(self.widths)):
            raise ConfigError(f"widths must be two or more, increasing, got {self.widths}")
        if self.lr > self.free_time:
            raise ConfigError(
                f"lr must be at most free_time = {self.free_time:g}, so that a step fits, got {self.lr:g}"
            )


def kernel_change(config: KernelChangeConfig, progress: Progress | None = None) -> Outcome:
    """Train every arm at every width, fit exponents and compare them with theory.

    Gaussian views have noise of 0.1; those of digits and photos shifts of up to one pixel and rotations of up to 5 degrees as well.
    Raises ConfigError, before training, for settings that cannot be run. Ctrl-C keeps the completed widths, from two on.
    """
    run = Run(config)
    generator = run.generator()
    task = draw_task(config, run, generator)
    steps, free_steps = (max(1, round(config.horizon / rate)) for rate in (config.lr, config.lr / FINER))
    early = round(config.free_time * FINER / config.lr)
    tick = ticking(progress, len(config.widths) * ((len(ARMS) - 1) * steps + free_steps))

    def trained(h: int) -> OfWidth:
        start = draw_start(config, h, task, generator)
        exact, growth = exact_change(task, start, config.lr * steps), growth_rates(task, start)
        measures = {name: np.full((len(ARMS), config.seeds), np.inf) for name in MEASURES}
        path: Arrays = {}
        for j, (name, arm) in enumerate(ARMS.items()):
            on_step = partial(tick, f"{arm.title}, width {h}")
            if name == "free":
                measured, path = train_free(task, start, config.lr / FINER, early, free_steps, on_step)
            else:
                measured = measure(task, start, train(task, start, arm, config.lr, steps, on_step), arm)
            for key, value in measured.items():
                measures[key][j] = np.where(np.isfinite(value), value, np.inf)
        return OfWidth(measures, exact, growth, path)

    found = run.parts(config.widths, trained, lambda h: f"width {h}", least=2)  # an exponent needs two
    completed = replace(config, widths=config.widths[: len(found)])
    record, arrays = _record(completed, found)
    return run.finish(_findings(completed, record), record, _metrics(completed, arrays), arrays)


@dataclass(frozen=True)
class OfWidth:
    """What was measured at one width: every measure (arms, S), the change (S,) by the exact flow, growth rates (S,), the free path."""

    measures: Arrays
    exact: np.ndarray
    growth: np.ndarray
    path: Arrays


def draw_task(config: KernelChangeConfig, run: Run, generator: torch.Generator) -> Task:
    """The views of the triplets and the losses of their outputs. Raises ConfigError for data that do not fit the settings."""
    with setting():
        data = triplets(config.data, View(), generator, config.spectrum)
    m = data.x.shape[-1]
    if config.widths[0] < m:
        raise ConfigError(
            f"widths must be at least the input dimension m = {m} of {config.data}, got {config.widths[0]}"
        )
    if config.triplets > len(data.x):
        raise ConfigError(f"triplets must be at most the {len(data.x)} of {config.data}, got {config.triplets}")
    chosen = torch.randperm(len(data.x), generator=generator)[: config.triplets]
    views = torch.cat([data.x[chosen], data.x_positive[chosen], data.x_negative[chosen]])
    targets = views @ torch.randn(m, config.dim, dtype=torch.float64, generator=generator)
    targets = (targets / targets.square().mean().sqrt()).to(run.device)
    trace, barlow = (loss_of_outputs(name, config.triplets) for name in (config.objective, "barlow_twins"))

    def supervised(f: Tensor) -> Tensor:
        return (f - targets).square().sum(-1).mean(-1)

    losses = {"supervised": supervised, "barlow_twins": barlow, "trace": trace}
    return Task(views.to(run.device), losses, quadratic_form(trace, len(views)).to(run.device))


def loss_of_outputs(name: str, count: int) -> Callable[[Tensor], Tensor]:
    """An objective as a function of the outputs (S, 3 count, d) for all views x, x+, x- -> (S,)."""
    chosen = objective(name)

    def loss(f: Tensor) -> Tensor:
        names = ("z", "z_positive", "z_negative")[: 3 if chosen.triplets else 2]
        return chosen.loss(**dict(zip(names, torch.split(f, count), strict=False)))

    return torch.vmap(loss)


def quadratic_form(loss: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """A (n, n) of a trace loss of outputs: one output column u has the loss u^T A u."""
    units = torch.eye(n, dtype=torch.float64)[..., None].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(units).sum(), units)  # 2 A e_i for every unit vector e_i
    graph = gradient[..., 0] / 2
    return (graph + graph.T) / 2


def draw_start(config: KernelChangeConfig, h: int, task: Task, generator: torch.Generator) -> Weights:
    """Q (S, h, m) and W2 (S, h, d) with orthonormal columns, uniformly drawn."""
    drawn = (
        torch.randn(config.seeds, h, columns, dtype=torch.float64, generator=generator)
        for columns in (task.views.shape[-1], config.dim)
    )
    q, w = (torch.linalg.qr(gaussian)[0].to(task.views) for gaussian in drawn)
    return q, w


def _fit(widths: tuple[int, ...], values: np.ndarray, logarithm: bool = True) -> dict[str, Any]:
    """Slope of log values (or values) against log width, one fit per seed: mean and standard error; values (widths, S).

    Widths at which some seed is not finite or 0 are left out; fewer than two leave no fit.
    """
    usable = np.isfinite(values).all(1) & ((values > 0).all(1) | (not logarithm))
    if usable.sum() < 2:
        return {"slope": None, "standard_error": None, "widths": int(usable.sum())}
    h, rows = np.array(widths)[usable], values[usable]
    slopes = exponent(h, rows) if logarithm else np.polyfit(np.log(h), rows, 1)[0]
    return {
        "slope": float(slopes.mean()),
        "standard_error": float(slopes.std(ddof=1) / np.sqrt(len(slopes))),
        "widths": int(usable.sum()),
    }


def _record(config: KernelChangeConfig, found: list[OfWidth]) -> tuple[dict[str, Any], Arrays]:
    table = {name: np.stack([one.measures[name] for one in found], 1) for name in MEASURES}
    exact = np.stack([one.exact for one in found])
    left, diverged = (np.stack([one.path[name] for one in found]) for name in ("left", "diverged"))
    rate = float(np.median(found[-1].growth))
    finite = np.all(np.isfinite(table["whole"]), axis=-1)
    last = list(ARMS).index("last")
    held = np.isfinite(table["last_layer"][last])
    growing = rate < 0
    record = {
        "titles": {name: arm.title for name, arm in ARMS.items()},
        "arms": {
            name: {
                what: _fit(config.widths, table[what][j])
                | {"median": _medians(table[what][j]), "predicted": predicted_exponent(arm, what, growing)}
                for what in MEASURES
                if name != "last" or what in ("last_layer", "movement")
            }
            | {"diverged_widths": [h for h, good in zip(config.widths, finite[j], strict=True) if not good]}
            for j, (name, arm) in enumerate(ARMS.items())
        },
        "exact_last": {
            "median": _medians(exact),
            "compared": int(held.sum()),
            "networks": held.size,
            "max_difference": float(np.abs(exact - table["last_layer"][last])[held].max(initial=0.0)),
        },
        "laziness": {
            "lambda": rate,
            "predicted_slope": theory.lazy.lazy_time_slope(rate) if growing else None,
            "left_at": LEFT,
            "diverged_at": BLOWN_UP,
            "left": _medians(left),
            "diverged": _medians(diverged),
            "left_fit": _fit(config.widths, left, logarithm=False),
            "diverged_fit": _fit(config.widths, diverged, logarithm=False),
        },
    }
    changes = [one.path["change"] for one in found]
    longest = max(len(change) for change in changes)
    paths = np.full((len(changes), longest, config.seeds), np.inf)
    for path, change in zip(paths, changes, strict=True):
        path[: len(change)] = change
    time = np.arange(longest) * LOOKS * config.lr / FINER
    return record, {**table, "exact_last": exact, "left": left, "diverged": diverged, "path": paths, "path_time": time}


def _medians(values: np.ndarray) -> list[float | None]:
    """The median over seeds (last axis) of each width, None where it is not finite."""
    return [float(x) if np.isfinite(x) else None for x in np.median(values, -1)]


def _metrics(config: KernelChangeConfig, arrays: Arrays) -> Arrays:
    arms, widths, seeds = np.meshgrid(list(ARMS), config.widths, range(config.seeds), indexing="ij")
    return {"arm": arms.ravel(), "width": widths.ravel(), "seed": seeds.ravel()} | {
        name: arrays[name].ravel() for name in MEASURES
    }


def _findings(config: KernelChangeConfig, record: dict[str, Any]) -> list[Finding]:
    """One finding per measure and arm; the exact flow and the lazy time last."""
    ends = f"{config.widths[0]} to {config.widths[-1]}"
    lines = []
    for name, arm in ARMS.items():
        values = record["arms"][name]
        blown = ", ".join(str(h) for h in values["diverged_widths"])
        when = config.free_time if name == "free" else config.horizon
        note = f"; networks diverged before t = {when:g} at h = {blown}" if blown else ""
        for what, title in TITLES.items():
            if what in values:
                fit, expected = values[what], values[what]["predicted"]
                median = [x for x in fit["median"] if x is not None]
                size = f"{median[0]:.2g} to {median[-1]:.2g} for h = {ends}" if median else "no network finite"
                fitted = fit["slope"] is not None
                law = f"h^{fit['slope']:.2f} ± {fit['standard_error']:.2f}; " if fitted else ""
                lines.append(
                    Finding(
                        f"{title}, {arm.title}",
                        None if expected is None else f"h^{expected:g}",
                        law + size + note,
                        f"{abs(fit['slope'] - expected):.2f} apart" if fitted and expected is not None else None,
                    )
                )
    exact, lazy = record["exact_last"], record["laziness"]
    lines.append(
        Finding(
            "last-layer kernel with W₁ fixed, against the exact flow",
            ", ".join(f"{x:.3f}" for x in exact["median"]),
            ", ".join("–" if x is None else f"{x:.3f}" for x in record["arms"]["last"]["last_layer"]["median"]),
            f"within {exact['max_difference']:.1g} in {exact['compared']} of {exact['networks']} networks"
            if exact["compared"]
            else "no network stayed finite",
        )
    )
    fit, predicted = lazy["left_fit"], lazy["predicted_slope"]
    never = "the trace loss has no growing mode: free training stays lazy"
    lines.append(
        Finding(
            f"time at which the free trace loss changes its last-layer kernel by {100 * LEFT:.0f} %",
            f"log(h) / (4 |λ|) + const: {predicted:.3f} log h" if predicted else never,
            (
                f"({fit['slope']:.2f} ± {fit['standard_error']:.2f}) log h; "
                if fit["slope"] is not None
                else "at fewer than two widths in all networks; "
            )
            + (
                f"diverges at t = {', '.join('–' if x is None else f'{x:.3g}' for x in lazy['diverged'])} for h = {ends}"
                if any(x is not None for x in lazy["diverged"])
                else "at no h do most networks diverge"
            ),
        )
    )
    return lines

"""Which modes collapse: simulated verdicts on a grid of starts or settings, against theory's boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

import theory
from grassmann_ssl.experiments.phase.fates import Fates, even_steps, fates, horizon
from grassmann_ssl.experiments.phase.plane import fixed_points
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking

Array = NDArray[np.float64]
Verdict = NDArray[np.bool_]
EDGE = np.linspace(0, 1, 65)  # samples along an edge of a cell, to find crossings of the boundary


@dataclass(frozen=True, kw_only=True)
class BasinConfig(RunConfig):
    """Map of collapse: simulated verdicts on a grid of starts (p, s) or of settings (eta, tau), against theory."""

    NAME: ClassVar[str] = "phase-basin"
    EXAMPLE: ClassVar[str] = "phase-basin --cells 400"
    axes: Literal["ps", "eta-tau"] = "ps"
    """axes of the grid: ps (starts, at one eta and tau) or eta-tau (settings, from one start)"""
    cells: int = 256
    """cells along each axis"""
    p_range: tuple[float, float] = (-0.6, 1.4)
    """axes ps: range of the initial eigenvalue p of the predictor"""
    s_range: tuple[float, float] = (0.0, 1.0)
    """axes ps: range of the initial eigenvalue s of the output correlations; >= 0"""
    eta: float = 0.15
    """axes ps: weight decay of predictor and trunk"""
    tau: float = 1.0
    """axes ps: target over online weights, W_a = tau W"""
    eta_range: tuple[float, float] = (0.01, 0.3)
    """axes eta-tau: range of weight decay; > 0"""
    tau_range: tuple[float, float] = (0.2, 1.2)
    """axes eta-tau: range of the target over online weights; > 0"""
    start: tuple[float, float] = (0.15, 0.06)
    """axes eta-tau: initial p and s of every cell; s > 0"""
    alpha_p: float = 1.0
    """learning rate of the predictor relative to the trunk's"""
    sigma2: float = 0.25
    """variance of the augmentation, X' = sigma2 I; the data have X = I"""
    memory: int = 256
    """memory limit of the simulation on the device, in MiB"""
    compiled: bool = False
    """fuse the steps by torch.compile, for large or repeated maps: compiled once, then much faster"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axes not in ("ps", "eta-tau"):
            raise ConfigError(f"axes must be ps or eta-tau, got {self.axes!r}")
        self.need("cells", "memory", least=1)
        self.need("alpha_p", "tau", above=0)
        self.need("eta", "sigma2", "s_range", least=0)
        self.need("p_range", "start")
        self.need("eta_range", "tau_range", above=0)
        for name in ("p_range", "s_range", "eta_range", "tau_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(f"{name} must run from a smaller to a larger number, got {low} {high}")
        if self.start[1] <= 0:
            raise ConfigError(
                f"start must have s > 0, got s = {self.start[1]}: a mode without correlations never learns"
            )

    @property
    def edges(self) -> tuple[Array, Array]:
        """Edges (cells + 1,) of the columns and of the rows of cells: p and s, or eta and tau."""
        x, y = (self.p_range, self.s_range) if self.axes == "ps" else (self.eta_range, self.tau_range)
        return np.linspace(*x, self.cells + 1), np.linspace(*y, self.cells + 1)

    @property
    def centres(self) -> tuple[Array, Array]:
        """Centres (cells, cells) of all cells: p and s, or eta and tau."""
        x, y = self.edges
        column, row = np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
        return column, row

    def settings(self, x: ArrayLike, y: ArrayLike) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start (p, s) and settings (eta, tau, alpha_p, sigma2) at points (x, y) of the map."""
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        shared = {"alpha_p": self.alpha_p, "sigma2": self.sigma2}
        if self.axes == "ps":
            return {"p": x, "s": y}, {"eta": self.eta, "tau": self.tau, **shared}
        p, s = (np.full(x.shape, value) for value in self.start)
        return {"p": p, "s": s}, {"eta": x, "tau": y, **shared}


def basin(config: BasinConfig, progress: Progress | None = None) -> Outcome:
    """Simulate every cell, and compare with theory's verdict at its centre, corners and edges.

    The two may differ only in cells that theory's boundary crosses, where theory's verdict varies over corners and edges. Raises
    ConfigError for a simulation of too many steps. KeyboardInterrupt propagates: a mode has no verdict before the end of its run.
    """
    run = Run(config)
    x, y = config.edges
    shape = (config.cells, config.cells)
    column, row = config.centres
    until, steps = schedule(config)
    tick = ticking(progress, steps * column.size)
    (simulated,) = run.parts(
        ("all cells",), lambda _: simulate_cells(config, until, steps, run.device, lambda n: tick("cells x steps", n))
    )
    collapsed, finite = simulated.collapsed.reshape(shape), simulated.finite.reshape(shape)

    predicted = predict(config, column, row)
    corners = predict(config, *np.meshgrid(x, y))
    crossed = _differ(corners[1:, 1:], corners[1:, :-1], corners[:-1, 1:], corners[:-1, :-1])
    differing = finite & (collapsed != predicted)
    for i, j in np.argwhere(differing & ~crossed):
        crossed[i, j] = _crosses_an_edge(config, x[j : j + 2], y[i : i + 2])
    unexplained = int((differing & ~crossed).sum())
    counts = {
        "cells": collapsed.size,
        "collapsed": int(collapsed.sum()),
        "collapsed_predicted": int(predicted.sum()),
        "crossed": int(crossed.sum()),
        "differing": int(differing.sum()),
        "differing_not_crossed": unexplained,
        "blown_up": int((~finite).sum()),
    }
    critical = theory.predictor.modes.critical_eta(config.tau, config.sigma2) if config.axes == "ps" else None
    record = {
        "counts": counts,
        "horizon": [float(np.min(until)), float(np.max(until))],
        "steps": steps,
        "eta_critical": None if critical is None else float(critical),
        "fixed_points": None if critical is None else fixed_points(**config.settings(0, 0)[1]),
    }
    metrics = {
        ("p", "eta")[config.axes == "eta-tau"]: column.ravel(),
        ("s", "tau")[config.axes == "eta-tau"]: row.ravel(),
        "collapsed": collapsed.ravel(),
        "collapsed_predicted": predicted.ravel(),
        "crossed": crossed.ravel(),
        "blown_up": ~finite.ravel(),
    }
    ends = {"end_p": simulated.p.reshape(shape), "end_s": simulated.s.reshape(shape)}
    arrays = {"x": x, "y": y, "boundary": boundary(config, corners), **ends}
    if config.axes == "eta-tau":
        arrays["critical_eta"] = theory.predictor.modes.critical_eta(y, config.sigma2)
    return run.finish(_findings(config, counts), record, metrics, arrays)


def schedule(config: BasinConfig) -> tuple[Array | float, int]:
    """End time, a number for a map of starts and (cells^2,) for a map of settings, and the number of steps.

    In a map of settings, cells closer to the critical eta than half a cell are crossed by the boundary and need not be resolved. Raises
    ConfigError for a simulation of too many steps.
    """
    start, settings = config.settings(*(v.ravel() for v in config.centres))
    shared = {"alpha_p": config.alpha_p, "sigma2": config.sigma2}
    farthest, finest = np.abs(start["p"]).max(), (config.s_range[1] - config.s_range[0]) / config.cells
    eta, tau = settings["eta"], settings["tau"]
    if config.axes == "eta-tau":
        half, critical = np.diff(config.edges[0])[0] / 2, theory.predictor.modes.critical_eta(tau, config.sigma2)
        eta = np.where(np.abs(eta - critical) < half, critical + half, eta)
    until = horizon(eta, tau, **shared, farthest=farthest, finest=finest)
    return until if until.ndim else float(until), even_steps(until, **start, **settings)


def simulate_cells(
    config: BasinConfig,
    until: Array | float,
    steps: int,
    device: torch.device,
    on_step: Callable[[int], object] = lambda cells: None,
) -> Fates:
    """The simulated end of every cell (cells^2,), row by row."""
    start, settings = config.settings(*(v.ravel() for v in config.centres))
    return fates(
        **start,
        **settings,
        until=until,
        steps=steps,
        device=device,
        memory=config.memory,
        compiled=config.compiled,
        on_step=on_step,
    )


def predict(config: BasinConfig, x: ArrayLike, y: ArrayLike) -> Verdict:
    """Theory's verdict at points (x, y) of the map."""
    start, settings = config.settings(x, y)
    return theory.predictor.basin.collapses(start["p"], start["s"], **settings)


def boundary(config: BasinConfig, corners: Verdict) -> Array:
    """Segments (k, 2, 2) of theory's boundary, one in every cell whose corners it separates into two pairs or one and three.

    Their ends are where the verdict changes along the edges of cells, to 1e-4 of an edge.
    """
    x, y = config.edges
    ends: dict[tuple[int, int], list[Array]] = {}
    across, up = np.argwhere(corners[:, 1:] != corners[:, :-1]), np.argwhere(corners[1:] != corners[:-1])
    for changes, toward in ((across, (0, 1)), (up, (1, 0))):
        if not len(changes):
            continue
        i, j = changes.T
        first, last = np.stack([x[j], y[i]]), np.stack([x[j + toward[1]], y[i + toward[0]]])
        low, high, at_low = np.zeros(len(i)), np.ones(len(i)), corners[i, j]
        for _ in range(14):
            middle = (low + high) / 2
            same = predict(config, *(first + middle * (last - first))) == at_low
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        for (row, column), point in zip(changes, (first + low * (last - first)).T, strict=True):
            for cell in ((row, column), (row - toward[1], column - toward[0])):
                ends.setdefault(cell, []).append(point)
    return np.array([pair for pair in ends.values() if len(pair) == 2]).reshape(-1, 2, 2)


def _differ(*verdicts: Verdict) -> Verdict:
    stack = np.stack(verdicts)
    return np.asarray(stack.any(0) & ~stack.all(0))


def _crosses_an_edge(config: BasinConfig, x: Array, y: Array) -> bool:
    along_x, along_y = x[0] + EDGE * (x[1] - x[0]), y[0] + EDGE * (y[1] - y[0])
    sides = [predict(config, along_x, level) for level in y] + [predict(config, level, along_y) for level in x]
    verdicts = np.concatenate(sides)
    return bool(verdicts.any() and not verdicts.all())


def _findings(config: BasinConfig, counts: dict[str, int]) -> list[Finding]:
    total = counts["cells"]
    lines = [
        Finding(
            "verdict of every cell",
            f"{counts['collapsed_predicted']:,} of {total:,} collapse",
            f"{counts['collapsed']:,} of {total:,} collapse",
            f"{counts['differing']} differ, {counts['differing_not_crossed']} of them outside the {counts['crossed']:,} cells "
            "that the boundary crosses",
        )
    ]
    if counts["blown_up"]:
        lines.append(Finding("simulations that blew up", "0", f"{counts['blown_up']}", "left out of the comparison"))
    if config.axes == "ps":
        critical = float(theory.predictor.modes.critical_eta(config.tau, config.sigma2))
        if config.eta > critical:
            lines.append(
                Finding(
                    "weight decay beyond the critical one",
                    f"eta = {config.eta:g} > {critical:.4g}: everything collapses",
                    f"{counts['collapsed']:,} of {total:,} collapse",
                    "as predicted" if counts["collapsed"] == total else "not as predicted",
                )
            )
    return lines

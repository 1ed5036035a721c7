"""Phase portraits of one mode: simulated trajectories against the predicted parabola, fixed points and separatrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import theory
from grassmann_ssl.experiments.phase.fates import even_steps, fell, horizon
from grassmann_ssl.experiments.phase.modes import modes
from grassmann_ssl.experiments.phase.panels import Panel, simulated
from grassmann_ssl.experiments.phase.paths import even_along, scattered
from grassmann_ssl.experiments.phase.plane import fixed_points, separatrix
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

Array = NDArray[np.float64]
FINER = 2  # times the steps that a verdict needs, for smooth curves
PARABOLA = 400  # points of the drawn parabola
FINEST = 1 / 256  # of the height of the figure: closer starts need not separate


@dataclass(frozen=True, kw_only=True)
class PortraitsConfig(RunConfig):
    """Phase portraits (p, s) of a mode of learning with a predictor: Fig. 3 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-portraits"
    EXAMPLE: ClassVar[str] = "phase-portraits --eta 0.1 0.2"
    tau: tuple[float, ...] = (1.0,)
    """target over online weights, W_a = tau W; one value for all panels, or one per panel (so for eta and alpha_p)"""
    eta: tuple[float, ...] = (0.0, 0.01, 1.0)
    """weight decay of predictor and trunk"""
    alpha_p: tuple[float, ...] = (1.0,)
    """learning rate of the predictor relative to the trunk's"""
    sigma2: float = 0.25
    """variance of the augmentation, X' = sigma2 I; the data have X = I"""
    p_range: tuple[float, float] = (-0.8, 1.4)
    """range of the initial eigenvalue p of the predictor"""
    s_range: tuple[float, float] = (0.0, 1.2)
    """range of the initial eigenvalue s of the output correlations; >= 0"""
    starts: tuple[int, int] = (11, 6)
    """starts per panel, along p and along s: one random point in every cell of this grid"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("tau", "alpha_p", above=0)
        self.need("eta", "sigma2", "s_range", least=0)
        self.need("p_range")
        self.need("starts", least=1)
        for name in ("p_range", "s_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(f"{name} must run from a smaller to a larger number, got {low} {high}")
        self.panels()

    def panels(self) -> list[dict[str, float]]:
        """tau, eta, alpha_p and sigma2 of every panel. Raises ConfigError for lists of different lengths."""
        given = {name: getattr(self, name) for name in ("tau", "eta", "alpha_p")}
        count = max(map(len, given.values()))
        for name, values in given.items():
            if len(values) not in (1, count):
                raise ConfigError(f"{name} must give 1 number or {count}, one a panel, got {len(values)}")
        return [
            {name: values[k % len(values)] for name, values in given.items()} | {"sigma2": self.sigma2}
            for k in range(count)
        ]


def portraits(config: PortraitsConfig, progress: Progress | None = None) -> Outcome:
    """Simulate the trajectories of every panel, and compare verdicts and the conserved quantity with theory.

    Raises ConfigError for a simulation of too many steps. Ctrl-C keeps the completed panels.
    """
    run = Run(config)
    panels = config.panels()
    p, s = scattered(config.p_range, config.s_range, config.starts, run.generator())
    plans = [_plan(config, settings, p, s) for settings in panels]
    tick = ticking(progress, len(p) * sum(steps for _, steps in plans))
    results, arrays, metrics = simulated(
        run,
        len(panels),
        lambda k: _panel(config, panels[k], plans[k], (p, s), run.device, partial(tick, "trajectories x steps")),
    )
    findings = [finding for result in results for finding in _findings(result)]
    return run.finish(findings, {"panels": results}, metrics, arrays)


def _panel(
    config: PortraitsConfig,
    settings: dict[str, float],
    plan: tuple[float, int],
    starts: tuple[Array, Array],
    device: torch.device,
    on_step: Callable[[int], object],
) -> Panel:
    """Simulate one panel: its record, its curves, and a row of metrics per trajectory."""
    (until, steps), (p, s) = plan, starts
    simulation = simulate(
        modes,
        {"p": torch.as_tensor(p, device=device), "s": torch.as_tensor(s, device=device)},
        settings,
        step=until / steps,
        steps=steps,
        log_every=1,
        on_step=on_step,
    )
    time, ps, ss = (value.numpy() for value in (simulation.time, simulation["p"], simulation["s"]))
    collapsed = fell(ss[steps // 2], ss[-1])
    predicted = theory.predictor.basin.collapses(p, s, **settings)
    result = settings | {
        "eta_critical": float(theory.predictor.modes.critical_eta(settings["tau"], settings["sigma2"])),
        "until": until,
        "steps": steps,
        "trajectories": len(p),
        "collapsed": int(collapsed.sum()),
        "collapsed_predicted": int(predicted.sum()),
        "differing": int((collapsed != predicted).sum()),
        "conservation_error": _drift(time, ps, ss, settings),
        "fixed_points": fixed_points(**settings),
    }
    rows = {
        "p": p,
        "s": s,
        "end_p": ps[-1],
        "end_s": ss[-1],
        "collapsed": collapsed,
        "predicted": predicted,
    }
    return result, {"path": even_along(ps, ss), **_curves(config, settings)}, rows


def _plan(config: PortraitsConfig, settings: dict[str, float], p: Array, s: Array) -> tuple[float, int]:
    until = horizon(**settings, farthest=np.abs(p).max(), finest=FINEST * (config.s_range[1] - config.s_range[0]))
    return float(until), FINER * even_steps(until, p, s, **settings)


def _curves(config: PortraitsConfig, settings: dict[str, float]) -> dict[str, Array]:
    """Theory's curves (k, 2): the invariant parabola, and the separatrix."""
    p = np.linspace(*config.p_range, PARABOLA)
    return {
        "parabola": np.stack([p, p**2 / settings["alpha_p"]], -1),
        "separatrix": separatrix((*config.p_range, *config.s_range), **settings),
    }


def _drift(time: Array, p: Array, s: Array, settings: dict[str, float]) -> float:
    """Largest |s - p^2 / alpha_p - exp(-2 eta t) c| over trajectories and times, eq. (14)."""
    c = s - p**2 / settings["alpha_p"]
    return float(np.abs(c - np.exp(-2 * settings["eta"] * time)[:, None] * c[0]).max())


def _findings(result: dict[str, Any]) -> list[Finding]:
    name = f"τ = {result['tau']:g}, η = {result['eta']:g}, α_p = {result['alpha_p']:g}"
    beyond = f" (all: η > {result['eta_critical']:.4g})" if result["eta"] > result["eta_critical"] else ""
    return [
        Finding(
            f"collapse, {name}",
            f"{result['collapsed_predicted']} of {result['trajectories']} collapse{beyond}",
            f"{result['collapsed']} of {result['trajectories']} collapse",
            f"{result['differing']} verdicts differ",
        ),
        Finding(
            f"s − p²/α_p, {name}",
            "decays as exp(−2ηt)" if result["eta"] else "is conserved",
            None,
            f"largest difference {result['conservation_error']:.1e} along {result['trajectories']} trajectories until "
            f"t = {result['until']:,.0f}",
        ),
    ]

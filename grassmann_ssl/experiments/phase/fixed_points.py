"""Fixed points of one mode against weight decay: closed forms, and simulated ends from both sides of the unstable one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import theory
from grassmann_ssl.experiments.phase.fates import Fates, even_steps, fates, horizon
from grassmann_ssl.experiments.phase.panels import Panel, simulated
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking

Array = NDArray[np.float64]
SETTLED = 2.0  # horizons: neighbours separate in the first and converge in the second
MEMORY = 256
CURVE = 300  # points of a drawn branch


@dataclass(frozen=True, kw_only=True)
class FixedPointsConfig(RunConfig):
    """Fixed points of a mode against weight decay: Fig. 4 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-fixed-points"
    EXAMPLE: ClassVar[str] = "phase-fixed-points --tau 0.5"
    tau: tuple[float, ...] = (1.0, 0.7, 1.0)
    """target over online weights, W_a = tau W; one value for all panels, or one per panel (so for alpha_p)"""
    alpha_p: tuple[float, ...] = (1.0, 1.0, 4.0)
    """learning rate of the predictor relative to the trunk's"""
    sigma2: float = 0.25
    """variance of the augmentation, X' = sigma2 I; the data have X = I"""
    etas: int = 28
    """weight decays per panel, evenly spaced from 0 (excluded) to `beyond` times the critical one"""
    beyond: float = 1.4
    """largest weight decay relative to the critical one; > 1"""
    offset: float = 0.02
    """distance of the two starts from the unstable fixed point, in units of tau / (1 + sigma2)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("tau", "alpha_p", "offset", above=0)
        self.need("sigma2", least=0)
        self.need("etas", least=4)
        self.need("beyond", above=1)
        self.panels()

    def panels(self) -> list[dict[str, Any]]:
        """tau, alpha_p and sigma2 of every panel. Raises ConfigError for lists of different lengths."""
        count = max(len(self.tau), len(self.alpha_p))
        for name in ("tau", "alpha_p"):
            if len(getattr(self, name)) not in (1, count):
                raise ConfigError(f"{name} must give 1 number or {count}, one a panel, got {len(getattr(self, name))}")
        return [
            {"tau": self.tau[k % len(self.tau)], "alpha_p": self.alpha_p[k % len(self.alpha_p)], "sigma2": self.sigma2}
            for k in range(count)
        ]


def fixed_points(config: FixedPointsConfig, progress: Progress | None = None) -> Outcome:
    """Simulate both starts at every weight decay, and compare their ends with the closed forms.

    Both start on the invariant parabola s = p^2 / alpha_p: below the critical eta at p_- +- offset tau / (1 + sigma2), beyond it
    around tau / (2 (1 + sigma2)), where the two fixed points merged. Raises ConfigError for a simulation of too many steps. Ctrl-C
    keeps the completed panels.
    """
    run = Run(config)
    panels = config.panels()
    plans = [_plan(config, settings) for settings in panels]
    total = sum(plan["steps"] * plan["p"].size for plan in plans)
    tick = ticking(progress, total)
    results, arrays, metrics = simulated(
        run, len(panels), lambda k: _panel(panels[k], plans[k], run.device, partial(tick, "starts x steps"))
    )
    findings = [finding for result in results for finding in _findings(result)]
    return run.finish(findings, {"panels": results}, metrics, arrays)


def _panel(
    settings: dict[str, Any], plan: dict[str, Any], device: torch.device, on_step: Callable[[int], object]
) -> Panel:
    """Simulate one panel: its record, theory's curves, and a row of metrics per start."""
    start_p, start_s = plan["p"], plan["p"] ** 2 / settings["alpha_p"]
    end = fates(
        start_p,
        start_s,
        eta=plan["eta"],
        **settings,
        until=plan["until"],
        steps=plan["steps"],
        device=device,
        memory=MEMORY,
        on_step=on_step,
    )
    predicted = np.where(plan["above"] & (plan["eta"] <= plan["critical"]), plan["upper"], 0.0)
    error = np.maximum(np.abs(end.p - predicted), np.abs(end.s - predicted**2 / settings["alpha_p"]))
    rows = {
        "eta": plan["eta"],
        "above": plan["above"],
        "start_p": start_p,
        "start_s": start_s,
        "end_p": end.p,
        "end_s": end.s,
        "collapsed": end.collapsed,
        "predicted_p": predicted,
    }
    return settings | _agreement(plan, end, error), _branches(settings, plan["critical"]), rows


def _branches(settings: dict[str, float], critical: float) -> dict[str, Array]:
    """Theory's curves from no weight decay to the critical one: eta (k,), and (p, s) of both branches (k, 2)."""
    eta = critical * (1 - np.linspace(1, 0, CURVE) ** 2)  # dense where the two branches meet
    branches = theory.predictor.modes.fixed_points(eta, tau=settings["tau"], sigma2=settings["sigma2"])
    unstable, stable = (np.stack([p, p**2 / settings["alpha_p"]], -1) for p in branches)
    return {"eta": eta, "stable": stable, "unstable": unstable}


def _plan(config: FixedPointsConfig, settings: dict[str, float]) -> dict[str, Any]:
    """Starts, closed forms, horizons and steps of one panel; every array is (2 etas,), starts above first."""
    critical = float(theory.predictor.modes.critical_eta(settings["tau"], settings["sigma2"]))
    # Half a spacing off: no weight decay is zero, where a mode collapses slower than exponentially, and none is the critical one.
    spacing = config.beyond * critical / config.etas
    one = spacing * (np.arange(config.etas) + 0.5)
    one[np.abs(one - critical) < spacing / 4] += spacing / 4
    eta = np.tile(one, 2)
    above = np.arange(eta.size) < config.etas
    lower, upper = theory.predictor.modes.fixed_points(
        np.minimum(eta, critical), tau=settings["tau"], sigma2=settings["sigma2"]
    )
    p = lower + np.where(above, 1, -1) * config.offset * settings["tau"] / (1 + settings["sigma2"])
    until = SETTLED * horizon(eta, **settings, farthest=np.abs(p).max(), finest=config.offset)
    steps = even_steps(until, p, p**2 / settings["alpha_p"], eta=eta, **settings)
    return {"eta": eta, "above": above, "upper": upper, "p": p, "until": until, "steps": steps, "critical": critical}


def _agreement(plan: dict[str, Any], end: Fates, error: Array) -> dict[str, Any]:
    below = plan["eta"] <= plan["critical"]
    survivors = plan["eta"][~end.collapsed]
    collapsing = plan["eta"][plan["above"] & end.collapsed]
    return {
        "eta_critical": plan["critical"],
        "steps": plan["steps"],
        "upper_error": float(error[plan["above"] & below].max()),
        "zero_error": float(error[~plan["above"] | ~below].max()),
        "starts_above": int((plan["above"] & below).sum()),
        "starts_above_surviving": int((plan["above"] & below & ~end.collapsed).sum()),
        "starts_below_collapsing": int((~plan["above"] & below & end.collapsed).sum()),
        "starts_beyond": int((~below).sum()),
        "starts_beyond_collapsing": int((~below & end.collapsed).sum()),
        "largest_surviving_eta": float(survivors.max()) if survivors.size else None,
        "smallest_collapsing_eta": float(collapsing.min()) if collapsing.size else None,
    }


def _findings(result: dict[str, Any]) -> list[Finding]:
    name = f"τ = {result['tau']:g}, α_p = {result['alpha_p']:g}"
    last, first = result["largest_surviving_eta"], result["smallest_collapsing_eta"]
    held = last is not None and first is not None and last < result["eta_critical"] < first
    return [
        Finding(
            f"ends from above p*₋, {name}",
            "p*₊, p*₊²/α_p",
            f"{result['starts_above_surviving']} of {result['starts_above']} survive",
            f"largest difference of p and s {result['upper_error']:.1e}",
        ),
        Finding(
            f"ends from below p*₋, {name}",
            "0, 0",
            f"{result['starts_below_collapsing']} of {result['starts_above']} collapse",
            f"largest p and s {result['zero_error']:.1e}, with those beyond the critical η",
        ),
        Finding(
            f"critical weight decay, {name}",
            f"η = τ²/(4(1 + σ²)) = {result['eta_critical']:.4g}",
            f"last survivor at {'none' if last is None else f'{last:.4g}'}, "
            f"first collapse from above p*₋ at {'none' if first is None else f'{first:.4g}'}",
            "in between" if held else "not in between",
        ),
        Finding(
            f"beyond the critical weight decay, {name}",
            "everything collapses",
            f"{result['starts_beyond_collapsing']} of {result['starts_beyond']} collapse",
            "as predicted" if result["starts_beyond_collapsing"] == result["starts_beyond"] else "not as predicted",
        ),
    ]

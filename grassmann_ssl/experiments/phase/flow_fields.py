"""Flow fields of the scalar model with anisotropic data: one weight and its predictor, with an equal or an EMA target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import theory
from grassmann_ssl.experiments.phase.fates import even_steps, fell, horizon
from grassmann_ssl.experiments.phase.panels import Panel, simulated
from grassmann_ssl.experiments.phase.paths import even_along, scattered
from grassmann_ssl.experiments.phase.plane import fixed_points, separatrix
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

Array = NDArray[np.float64]
TARGETS = ("equal", "following")
FINER = 2  # times the steps that a verdict needs, for smooth curves
FINEST = 1 / 256  # of the largest w^2: closer starts need not separate
SETTLED = 2.0  # horizons: neighbours separate in the first and converge in the second


@dataclass(frozen=True, kw_only=True)
class FlowFieldsConfig(RunConfig):
    """Flow fields in the plane of predictor and weight (w_p, w): Fig. 10 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-flow-fields"
    EXAMPLE: ClassVar[str] = "phase-flow-fields --eta 0.1 0.2"
    eta: tuple[float, ...] = (0.0, 0.03)
    """weight decays of predictor and weight, one column of panels each"""
    lambda_s: float = 1.0
    """eigenvalue of X + X', the second moment of a view"""
    lambda_d: float = 0.5
    """eigenvalue of X, the cross-moment of two views; at most lambda_s"""
    alpha_p: float = 1.0
    """learning rate of the predictor relative to the weight's"""
    beta: float = 1.0
    """EMA rate, in the panels with an EMA target"""
    target: float = 0.0
    """initial weight w_a of the EMA target"""
    wp_range: tuple[float, float] = (-0.8, 1.2)
    """range of the initial predictors w_p"""
    w_range: tuple[float, float] = (-1.0, 1.0)
    """range of the initial weights w"""
    starts: tuple[int, int] = (9, 8)
    """starts per panel, along w_p and along w: one random point in every cell of this grid"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("eta", least=0)
        self.need("lambda_s", "lambda_d", "alpha_p", "beta", above=0)
        self.need("target", "wp_range", "w_range")
        self.need("starts", least=1)
        if self.lambda_d > self.lambda_s:
            raise ConfigError(f"lambda_d must be at most lambda_s = {self.lambda_s:g}, got {self.lambda_d:g}")
        for name in ("wp_range", "w_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(f"{name} must run from a smaller to a larger number, got {low} {high}")


def equal_target(
    w_p: Tensor, w: Tensor, *, lambda_d: float, lambda_s: float, alpha_p: float, eta: float
) -> dict[str, Tensor]:
    """Eqs. (104)-(105) with w_a = w, and weight decay: dw_p/dt = alpha_p r w - eta w_p, dw/dt = w_p r - eta w, r = (l_d - w_p l_s) w."""
    residual = (lambda_d - lambda_s * w_p) * w
    return {"w_p": alpha_p * residual * w - eta * w_p, "w": w_p * residual - eta * w}


def following_target(
    w_p: Tensor, w: Tensor, w_a: Tensor, *, lambda_d: float, lambda_s: float, alpha_p: float, eta: float, beta: float
) -> dict[str, Tensor]:
    """Eqs. (104)-(106) with weight decay: the same with r = w_a l_d - w_p w l_s, and dw_a/dt = beta (w - w_a)."""
    residual = lambda_d * w_a - lambda_s * w_p * w
    return {
        "w_p": alpha_p * residual * w - eta * w_p,
        "w": w_p * residual - eta * w,
        "w_a": beta * (w - w_a),
    }


def flow_fields(config: FlowFieldsConfig, progress: Progress | None = None) -> Outcome:
    """Simulate both kinds of target at every weight decay, and compare ends and the conserved quantity with theory.

    With w_a = w, (w_p, w^2) obeys eqs. (11)-(12) with tau = l_d / l_s, sigma^2 = 0 and eta / l_s in units of time 1 / l_s: the basin
    of collapse is known. With an EMA target only the fixed points and w^2 - w_p^2 / alpha_p are. Raises
    ConfigError for a simulation of too many steps. Ctrl-C keeps the completed panels.
    """
    run = Run(config)
    w_p, w = scattered(config.wp_range, config.w_range, config.starts, run.generator())
    plans = {(eta, target): _plan(config, eta, target, w_p, w) for eta in config.eta for target in TARGETS}
    tick = ticking(progress, len(w) * sum(steps for _, steps in plans.values()))
    which = list(plans)
    results, arrays, metrics = simulated(
        run,
        len(which),
        lambda k: _panel(
            config, which[k], plans[which[k]], (w_p, w), run.device, partial(tick, "trajectories x steps")
        ),
    )
    findings = [finding for result in results for finding in _findings(config, result)]
    arrays["invariant"] = _both_signs(np.stack([config.wp_range, np.divide(config.wp_range, config.alpha_p**0.5)], -1))
    return run.finish(findings, {"panels": results, "eta_critical": _critical(config)}, metrics, arrays)


def _panel(
    config: FlowFieldsConfig,
    which: tuple[float, str],
    plan: tuple[float, int],
    starts: tuple[Array, Array],
    device: torch.device,
    on_step: Callable[[int], object],
) -> Panel:
    """Simulate the panel of `which`, its eta and target: its record, its curves, and a row of metrics per trajectory."""
    (eta, target), (until, steps), (w_p, w) = which, plan, starts
    settings = {"lambda_d": config.lambda_d, "lambda_s": config.lambda_s, "alpha_p": config.alpha_p, "eta": eta}
    state = {"w_p": torch.as_tensor(w_p, device=device), "w": torch.as_tensor(w, device=device)}
    if target == "following":
        state["w_a"] = torch.full_like(state["w"], config.target)
        settings["beta"] = config.beta
    simulation = simulate(
        following_target if target == "following" else equal_target,
        state,
        settings,
        step=until / steps,
        steps=steps,
        log_every=1,
        on_step=on_step,
    )
    time, ps, ws = (value.numpy() for value in (simulation.time, simulation["w_p"], simulation["w"]))
    collapsed = fell(ws[steps // 2] ** 2, ws[-1] ** 2)
    result = {
        "eta": eta,
        "target": target,
        "until": until,
        "steps": steps,
        "trajectories": len(w),
        "collapsed": int(collapsed.sum()),
        "collapsed_predicted": None,
        "differing": None,
        "conservation_error": _drift(time, ps, ws, config.alpha_p, eta),
        "end_error": _end_error(config, eta, ps[-1], ws[-1], collapsed),
        "fixed_points": _fixed_points(config, eta),
    }
    arrays = {"path": even_along(ps, ws)}
    if target == "equal":
        predicted = theory.predictor.basin.collapses(w_p, w**2, **as_modes(config, eta))
        arrays["separatrix"] = _separatrix(config, eta)
        result |= {"collapsed_predicted": int(predicted.sum()), "differing": int((collapsed != predicted).sum())}
    rows = {
        "eta": np.full(len(w), eta),
        "following": np.full(len(w), target == "following"),
        "w_p": w_p,
        "w": w,
        "end_w_p": ps[-1],
        "end_w": ws[-1],
        "collapsed": collapsed,
    }
    return result, arrays, rows


def as_modes(config: FlowFieldsConfig, eta: float) -> dict[str, float]:
    """Settings of eqs. (11)-(12) that (w_p, w^2) obeys where w_a = w, in units of time 1 / lambda_s."""
    return {
        "tau": config.lambda_d / config.lambda_s,
        "alpha_p": config.alpha_p,
        "eta": eta / config.lambda_s,
        "sigma2": 0.0,
    }


def _fixed_points(config: FlowFieldsConfig, eta: float) -> dict[str, Any]:
    """Those of (w_p, w^2), as points (w_p, w) of both signs of w; they do not depend on the target."""
    found = fixed_points(**as_modes(config, eta))
    mirrored = {
        name: [[p, sign * s**0.5] for p, s in found[name] for sign in ((1, -1) if s else (1,))]
        for name in ("stable", "saddles")
    }
    return found | mirrored


def _separatrix(config: FlowFieldsConfig, eta: float) -> Array:
    """Its two branches (2, k, 2) for w_a = w, points (w_p, w)."""
    extent = (*config.wp_range, 0.0, float(np.square(config.w_range).max()))
    p, s = separatrix(extent, **as_modes(config, eta)).T
    return _both_signs(np.stack([p, np.sqrt(s)], -1))


def _both_signs(line: Array) -> Array:
    """A curve (k, 2) of points (w_p, w), and its mirror image at w = 0: (2, k, 2)."""
    return np.stack([line, line * (1, -1)])


def _critical(config: FlowFieldsConfig) -> float:
    """lambda_d^2 / (4 lambda_s)."""
    return config.lambda_s * float(theory.predictor.modes.critical_eta(config.lambda_d / config.lambda_s, 0.0))


def _plan(config: FlowFieldsConfig, eta: float, target: str, w_p: Array, w: Array) -> tuple[float, int]:
    """End time and steps of the modes that the plane w_a = w reduces to; an EMA target adds its own time scale."""
    settings = as_modes(config, eta)
    largest = max(float(np.abs(w).max()), abs(config.target))
    until = SETTLED * float(horizon(**settings, farthest=float(np.abs(w_p).max()), finest=FINEST * largest**2))
    steps = FINER * even_steps(until, w_p, np.full(w.shape, largest**2), **settings)
    if target == "equal":
        return until / config.lambda_s, steps
    longer = 1 + config.lambda_s / config.beta * 20 / until
    faster = 1 + config.beta / config.lambda_s
    return longer * until / config.lambda_s, 2 * int(np.ceil(steps / 2 * longer * faster))


def _drift(time: Array, w_p: Array, w: Array, alpha_p: float, eta: float) -> float:
    """Largest |w^2 - w_p^2 / alpha_p - exp(-2 eta t) c|: Theorem 1, for any target."""
    c = w**2 - w_p**2 / alpha_p
    return float(np.abs(c - np.exp(-2 * eta * time)[:, None] * c[0]).max())


def _end_error(
    config: FlowFieldsConfig, eta: float, w_p: Array, w: Array, collapsed: NDArray[np.bool_]
) -> float | None:
    """Largest distance of a survivor from its fixed point (without weight decay: from the line of them); None without survivors."""
    if collapsed.all():
        return None
    _, upper = theory.predictor.modes.anisotropic_fixed_points(
        config.lambda_d, config.lambda_s, min(eta, _critical(config))
    )
    error = np.abs(w_p - upper)
    if eta > 0:
        error = np.hypot(error, np.abs(np.abs(w) - upper / config.alpha_p**0.5))
    return float(error[~collapsed].max())


def _findings(config: FlowFieldsConfig, result: dict[str, Any]) -> list[Finding]:
    name = f"η = {result['eta']:g}, " + ("w_a = w" if result["target"] == "equal" else f"w_a from {config.target:g}")
    count = f"{result['collapsed']} of {result['trajectories']} collapse"
    beyond = f"η > {_critical(config):.4g}: all collapse" if result["eta"] > _critical(config) else None
    if result["target"] == "equal":
        predicted = f"{result['collapsed_predicted']} of {result['trajectories']} collapse"
        verdict = Finding(f"collapse, {name}", beyond or predicted, count, f"{result['differing']} verdicts differ")
    elif beyond:
        agreed = "as predicted" if result["collapsed"] == result["trajectories"] else "not as predicted"
        verdict = Finding(f"collapse, {name}", beyond, count, agreed)
    else:
        verdict = Finding(f"collapse, {name}", None, count)
    lines = [verdict]
    if result["end_error"] is not None:
        fixed = "w_p* and ±w_p*/√α_p" if result["eta"] else "w_p = λ_d/λ_s"
        survive = f"{result['trajectories'] - result['collapsed']} survive"
        lines.append(Finding(f"fixed point, {name}", fixed, survive, f"largest distance {result['end_error']:.1e}"))
    return [
        *lines,
        Finding(
            f"w² − w_p²/α_p, {name}",
            "decays as exp(−2ηt)" if result["eta"] else "is conserved",
            None,
            f"largest difference {result['conservation_error']:.1e} until t = {result['until']:,.0f}",
        ),
    ]

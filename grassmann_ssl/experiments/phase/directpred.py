"""Predictors set in closed form against a trained one: which features a network keeps, and when it learns them."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.experiments.phase.networks import correlation, settings, trained
from grassmann_ssl.runs import Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import Simulation, simulate

ARMS = ("trained", "directpred", "directcopy")
EXPONENTS = {"directpred": 0.5, "directcopy": 1.0}
LOGGED = 60
ALIVE = 1e-3
# Relative distance to a threshold within which cells are not counted, since convergence is arbitrarily slow there.
MARGIN = 0.05
CURVE = 120  # points of theory's curves
JUMP = 1e-6  # relative distance of the points on both sides of a threshold


@dataclass(frozen=True, kw_only=True)
class DirectPredConfig(RunConfig):
    """DirectPred and DirectCopy against a trained predictor, on features of different augmentation variance."""

    NAME: ClassVar[str] = "phase-directpred"
    variance: tuple[float, ...] = (0.0, 0.25, 1.0, 3.0)
    """augmentation variances of the features; the data have X = I"""
    eta: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.22, 0.3)
    """weight decays"""
    seeds: int = 5
    """networks per setting"""
    start: float = 1.0
    """scale of the start: weights this times a random rotation, trained predictor this times the identity"""
    until: float = 150.0
    """end time of the simulation"""
    step: float = 0.05
    """step size of Runge-Kutta 4"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("variance", "eta", least=0)
        self.need("start", "until", above=0)
        self.need("step", above=0, most=0.2)
        self.need("seeds", least=1)


def set_from_correlation(weights: Tensor, *, variance: Tensor, eta: Tensor, exponent: Tensor) -> dict[str, Tensor]:
    """DirectSet: W_p = F^exponent at all times, F = W^T W; dW/dt = (W - (I + X') W W_p) W_p - eta W for symmetric W_p."""
    values, vectors = torch.linalg.eigh(correlation(weights))
    powers = values.clamp_min(0)[..., None, :] ** exponent
    predictor = (vectors * powers) @ vectors.mT
    residual = weights - (1 + variance[..., None]) * (weights @ predictor)
    return {"weights": residual @ predictor - eta * weights}


def directpred(config: DirectPredConfig, progress: Progress | None = None) -> Outcome:
    """Simulate every arm x weight decay x seed and compare the strengths of the features with the fixed points.

    The strength of feature i is the i-th diagonal entry of W W^T. A feature is kept iff eta is below 1 / (4 (1 + sigma_i^2)) and it
    starts above the unstable fixed point; DirectSet then gives it lambda = p_+^{1/exponent}, the trained predictor (alpha_p = 1) p_+^2.
    Ctrl-C keeps the completed arms.
    """
    run = Run(config)
    m, device = len(config.variance), run.device
    draw = torch.randn(config.seeds, m, m, dtype=torch.float64, generator=run.generator())
    weights = (config.start * torch.linalg.qr(draw)[0]).repeat(len(config.eta), 1, 1).to(device)
    eta = np.repeat(config.eta, config.seeds)
    count, one = len(eta), np.ones(len(eta))
    steps = max(LOGGED, round(config.until / config.step))
    tick = ticking(progress, len(ARMS) * count * steps)
    variance = torch.tensor(config.variance, dtype=torch.float64, device=device).repeat(count, 1)
    shared: dict[str, Any] = {"step": config.step, "steps": steps, "log_every": steps // LOGGED}

    def simulated(arm: str) -> Simulation:
        on_step = partial(tick, arm)
        if arm == "trained":
            identity = config.start * torch.eye(m, dtype=torch.float64, device=device).repeat(count, 1, 1)
            return simulate(
                trained,
                {"weights": weights, "predictor": identity},
                {"variance": variance} | settings(device, alpha_p=one, eta=eta, tau=one),
                **shared,
                on_step=on_step,
            )
        return simulate(
            set_from_correlation,
            {"weights": weights},
            {"variance": variance} | settings(device, eta=eta, exponent=EXPONENTS[arm] * one),
            **shared,
            on_step=on_step,
        )

    simulations = run.parts(ARMS, simulated)
    arms = ARMS[: len(simulations)]
    strengths = [
        one["weights"].square().sum(-1).reshape(-1, len(config.eta), config.seeds, m).numpy() for one in simulations
    ]
    time, measured = simulations[0].time.numpy(), np.stack(strengths)  # (arms, K, etas, seeds, m)
    predicted = predict(config, np.array(config.eta))
    findings: list[Finding] = []
    record: dict[str, Any] = {"steps": steps, "alive_above": ALIVE, "arms": {}}
    near = np.abs(np.array(config.eta)[:, None] / thresholds(config) - 1) < MARGIN
    for k, arm in enumerate(arms):
        end = measured[k, -1]
        kept, expected = end > ALIVE, np.broadcast_to((predicted[k] > 0)[:, None], end.shape)
        judged = np.broadcast_to(~near[:, None], end.shape)
        same = int((kept == expected)[judged].sum())
        both = kept & expected & judged
        error = float((np.abs(end / np.where(expected, predicted[k][:, None], 1.0) - 1))[both].max(initial=0.0))
        record["arms"][arm] = {"features": int(judged.sum()), "as_predicted": same, "strength_error": error}
        findings.append(
            Finding(
                f"{arm}: features kept",
                f"{int(expected[judged].sum())} of {int(judged.sum())}",
                f"{int(kept[judged].sum())} of {int(judged.sum())}",
                f"{same} as predicted, strengths within {error:.1e}",
            )
        )
    findings.append(
        Finding(
            f"weight decay above which a feature is dropped, for variances {', '.join(f'{v:g}' for v in config.variance)}",
            ", ".join(f"{v:.3g}" for v in thresholds(config)),
        )
    )
    shape = measured[:, -1].shape
    index = np.indices(shape).reshape(4, -1)
    metrics = {
        "arm": np.array(arms)[index[0]],
        "eta": np.array(config.eta)[index[1]],
        "seed": index[2],
        "feature": index[3],
        "strength": measured[:, -1].ravel(),
        "predicted": np.broadcast_to(predicted[: len(arms), :, None], shape).ravel(),
    }
    arrays = {"time": time, "measured": measured, "predicted": predicted, "thresholds": thresholds(config)}
    arrays["curve_eta"] = _curve_eta(config)
    arrays["curves"] = predict(config, arrays["curve_eta"])
    return run.finish(findings, record, metrics, arrays)


def thresholds(config: DirectPredConfig) -> np.ndarray:
    """Weight decay above which each feature is dropped, (m,)."""
    return theory.predictor.direct.direct_set_threshold(np.array(config.variance))


def _curve_eta(config: DirectPredConfig) -> np.ndarray:
    """Weight decays of theory's curves: evenly over those of the run, and on both sides of every threshold between them, where it jumps."""
    low, high = min(config.eta), max(config.eta)
    sides = np.outer(thresholds(config), 1 + np.array([-JUMP, JUMP])).ravel()
    inside = sides[(low < sides) & (sides < high)]
    return np.unique(np.concatenate([np.linspace(low, high, CURVE), inside]))


def predict(config: DirectPredConfig, etas: np.ndarray) -> np.ndarray:
    """Predicted final strengths (arms, etas, m) at weight decays (etas,), 0 where dropped."""
    eta, variance = np.meshgrid(etas, config.variance, indexing="ij")
    kept = eta < thresholds(config)
    eta, variance = eta[kept], variance[kept]
    result = np.zeros((len(ARMS), *kept.shape))
    for k, arm in enumerate(ARMS):
        low, high = theory.predictor.direct.direct_set_fixed_points(
            eta, exponent=EXPONENTS.get(arm, 0.5), sigma2=variance
        )
        if arm == "trained":
            start = (config.start, config.start**2)
            lost = theory.predictor.basin.collapses(*start, tau=1.0, alpha_p=1.0, eta=eta, sigma2=variance)
        else:
            lost = config.start**2 <= low
        result[k, kept] = np.where(lost, 0.0, high)
    return result

"""Predictors set in closed form against a trained one: which features a network keeps, by the flow and by SGD on sampled views."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.experiments.phase.networks import correlation, settings, trained
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import Simulation, simulate

ARMS = ("trained", "directpred", "directpred_sgd", "directcopy")
LOGGED = 60
ALIVE = 1e-3
# Relative distance to a threshold within which cells are not counted, since convergence is arbitrarily slow there.
MARGIN = 0.02
CURVE = 60  # points of theory's curves
STABLE = 2.5  # step size of Runge-Kutta 4 times the rate of a decay


@dataclass(frozen=True, kw_only=True)
class DirectPredConfig(RunConfig):
    """DirectPred as published (by the flow and by SGD) and DirectCopy against a trained predictor, on features of different
    augmentation variance."""

    NAME: ClassVar[str] = "phase-directpred"
    EXAMPLE: ClassVar[str] = "phase-directpred --seeds 6"
    variance: tuple[float, ...] = (0.0, 0.25, 1.0, 3.0)
    """augmentation variances of the features; the data have X = I"""
    eta: tuple[float, ...] = (
        0.03,
        0.056,
        0.0606,
        0.0644,
        0.069,
        0.09,
        0.121,
        0.129,
        0.16,
        0.194,
        0.206,
        0.225,
        0.242,
        0.258,
        0.3,
    )
    """weight decays; by default 3 % below and above every threshold 1 / (4 (1 + variance)), and between them"""
    start: tuple[float, ...] = (1.0, 0.3)
    """scales of the starts: weights this times a random rotation, trained predictor this times the identity"""
    seeds: int = 3
    """networks per setting"""
    epsilon: float = 0.1
    """DirectPred: p_j = sqrt(s_j) + epsilon max_j s_j (0.1: the paper's, tables)"""
    rho: float = 0.3
    """DirectPred: moving average of the correlation, F <- rho F + (1 - rho) E_B[f f^T] (0.3: the paper's)"""
    learning_rate: float = 0.05
    """of SGD, and of the moving average in the flow, whose rate is (1 - rho) / learning_rate"""
    batch: int = 128
    """SGD: pairs of views a step"""
    until: float = 300.0
    """end time of the simulation"""
    step: float = 0.1
    """step size of Runge-Kutta 4"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("variance", "eta", "epsilon", least=0)
        self.need("start", "until", above=0)
        self.need("step", "learning_rate", above=0, most=0.2)
        self.need("rho", least=0, most=0.99)
        self.need("seeds", "batch", least=1)
        if self.step * (1 - self.rho) / self.learning_rate > STABLE:
            raise ConfigError(
                f"step must be at most {STABLE * self.learning_rate / (1 - self.rho):.3g}, {STABLE:g} learning_rate / (1 - rho), "
                f"for a stable moving average, got {self.step:g}"
            )


def direct_copy(weights: Tensor, *, variance: Tensor, eta: Tensor) -> dict[str, Tensor]:
    """DirectCopy: W_p = F at all times, F = W^T W; dW/dt = (W - (I + X') W W_p) W_p - eta W for symmetric W_p."""
    predictor = correlation(weights)
    residual = weights - (1 + variance[..., None]) * (weights @ predictor)
    return {"weights": residual @ predictor - eta * weights}


def direct_predictor(average: Tensor, epsilon: float) -> Tensor:
    """W_p (..., d, d) of DirectPred, eq. (18): the eigenvectors of the averaged correlation, p_j = sqrt(s_j) + epsilon max_j s_j."""
    finite = torch.isfinite(average).all(-1).all(-1)[..., None, None]  # what blew up, the others go on
    values, vectors = torch.linalg.eigh(torch.where(finite, average, 0.0))
    values = values.clamp_min(0)
    predictor: Tensor = (vectors * (values.sqrt() + epsilon * values[..., -1:])[..., None, :]) @ vectors.mT
    return predictor


def direct_pred(
    weights: Tensor, average: Tensor, *, variance: Tensor, eta: Tensor, epsilon: float, rate: float
) -> dict[str, Tensor]:
    """DirectPred in the flow limit: W_p set from the average of E f f^T = W^T (I + X') W over views, which follows at `rate`."""
    predictor = direct_predictor(average, epsilon)
    seen = (1 + variance[..., None]) * weights
    residual = weights - seen @ predictor
    return {"weights": residual @ predictor - eta * weights, "average": rate * (weights.mT @ seen - average)}


def on_batches(config: DirectPredConfig, generator: torch.Generator) -> Callable[..., dict[str, Tensor]]:
    """DirectPred by SGD: gradients of (1/2)||W_p f - stop(f')||^2 on sampled views, both orders, and eq. (19) on the same batch."""

    def rule(weights: Tensor, average: Tensor, *, variance: Tensor, eta: Tensor) -> dict[str, Tensor]:
        shape = (3, len(weights), config.batch, weights.shape[1])
        clean, *noise = torch.randn(shape, dtype=weights.dtype, generator=generator, device=generator.device).to(
            weights
        )
        x, y = (clean + variance[:, None].sqrt() * one for one in noise)
        f, g = x @ weights, y @ weights
        predictor = direct_predictor(average, config.epsilon)
        slope = x.mT @ ((g - f @ predictor) @ predictor) + y.mT @ ((f - g @ predictor) @ predictor)
        seen = (f.mT @ f + g.mT @ g) / (2 * config.batch)
        return {
            "weights": slope / (2 * config.batch) - eta * weights,
            "average": (1 - config.rho) / config.learning_rate * (seen - average),
        }

    return rule


def directpred(config: DirectPredConfig, progress: Progress | None = None) -> Outcome:
    """Train every arm x start x weight decay x seed and compare the strengths of the features at the end with the reduced flow.

    The strength of feature i is the i-th diagonal entry of W W^T. The weights start with equal strengths, so that every feature
    follows one equation of its own (under DirectPred they share their largest): `predict`. Without epsilon a feature is kept iff eta is
    below 1 / (4 (1 + sigma_i^2)) and it starts above the unstable fixed point. Ctrl-C keeps the completed arms.
    """
    run = Run(config)
    m, device, generator = len(config.variance), run.device, run.generator()
    draw = torch.linalg.qr(torch.randn(config.seeds, m, m, dtype=torch.float64, generator=generator))[0]
    cells = (len(config.start), len(config.eta), config.seeds)
    scale = torch.tensor(config.start, dtype=torch.float64)[:, None, None, None, None]
    weights = (scale * draw).expand(*cells, m, m).reshape(-1, m, m).to(device)
    predictor = (scale * torch.eye(m, dtype=torch.float64)).expand(*cells, m, m).reshape(-1, m, m).to(device)
    eta = np.tile(np.repeat(config.eta, config.seeds), len(config.start))
    one = np.ones(eta.size)
    variance = torch.tensor(config.variance, dtype=torch.float64, device=device).repeat(eta.size, 1)
    average = weights.mT @ ((1 + variance[..., None]) * weights)
    fixed = {"variance": variance} | settings(device, eta=eta)
    steps, sgd_steps = (max(LOGGED, round(config.until / each)) for each in (config.step, config.learning_rate))
    tick = ticking(progress, eta.size * (3 * steps + sgd_steps))
    averaged = partial(direct_pred, epsilon=config.epsilon, rate=(1 - config.rho) / config.learning_rate)
    flows: dict[str, tuple[Any, dict[str, Tensor], dict[str, Any]]] = {
        "trained": (
            trained, {"weights": weights, "predictor": predictor}, fixed | settings(device, alpha_p=one, tau=one)
        ),
        "directpred": (averaged, {"weights": weights, "average": average}, fixed),
        "directpred_sgd": (on_batches(config, generator), {"weights": weights, "average": average}, fixed),
        "directcopy": (direct_copy, {"weights": weights}, fixed),
    }  # fmt: skip

    def simulated(arm: str) -> Simulation:
        rule, state, constants = flows[arm]
        sgd = arm == "directpred_sgd"
        found = simulate(
            rule,
            state,
            constants,
            step=config.learning_rate if sgd else config.step,
            steps=sgd_steps if sgd else steps,
            method="discrete" if sgd else "rk4",
            log_every=(sgd_steps if sgd else steps) // LOGGED,
            on_step=partial(tick, arm),
        )
        if not torch.isfinite(found["weights"][-1]).all():
            name = "learning_rate" if sgd else "step"
            raise ConfigError(f"{name} must be lower, got {getattr(config, name):g}: networks of the arm {arm} blew up")
        return found

    simulations = run.parts(ARMS, simulated)
    arms = ARMS[: len(simulations)]
    paths = [one["weights"].square().sum(-1).reshape(-1, *cells, m).numpy() for one in simulations]
    measured = np.stack([path[-1] for path in paths])  # (arms, starts, etas, seeds, m)
    predicted = predict(config, np.array(config.eta))[: len(arms)]
    counted = np.abs(np.array(config.eta)[:, None] / thresholds(config) - 1) >= MARGIN
    findings: list[Finding] = []
    record: dict[str, Any] = {"steps": steps, "alive_above": ALIVE, "arms": {}}
    for k, arm in enumerate(arms):
        kept, expected = measured[k] > ALIVE, np.broadcast_to((predicted[k] > ALIVE)[..., None, :], measured[k].shape)
        judged = np.broadcast_to(counted[:, None], kept.shape)
        same = int((kept == expected)[judged].sum())
        both = kept & expected & judged
        error = np.abs(measured[k] / np.where(expected, predicted[k][..., None, :], 1.0) - 1)[both]
        median, worst = (float(f(error)) if error.size else 0.0 for f in (np.median, np.max))
        record["arms"][arm] = {
            "features": int(judged.sum()),
            "as_predicted": same,
            "kept": int(kept[judged].sum()),
            "strength_error": worst,
            "median_strength_error": median,
        }
        findings.append(
            Finding(
                f"{arm}: features kept from starts {', '.join(f'{v:g}' for v in config.start)}",
                f"{int(expected[judged].sum())} of {int(judged.sum())}",
                f"{int(kept[judged].sum())} of {int(judged.sum())}",
                f"{same} as predicted; strengths within {worst:.1e}, median {median:.1e}",
            )
        )
    findings.append(
        Finding(
            f"weight decay above which a feature is dropped, for variances {', '.join(f'{v:g}' for v in config.variance)}",
            ", ".join(f"{v:.3g}" for v in thresholds(config)),
            "trained: between " + ", ".join(_bracket(config, measured[0], j) for j in range(m)),
        )
    )
    index = np.indices(measured.shape).reshape(5, -1)
    metrics = {
        "arm": np.array(arms)[index[0]],
        "start": np.array(config.start)[index[1]],
        "eta": np.array(config.eta)[index[2]],
        "seed": index[3],
        "feature": index[4],
        "strength": measured.ravel(),
        "predicted": np.broadcast_to(predicted[..., None, :], measured.shape).ravel(),
    }
    arrays = {"measured": measured, "predicted": predicted, "thresholds": thresholds(config)}
    arrays |= {f"time_{arm}": one.time.numpy() for arm, one in zip(arms, simulations, strict=True)}
    arrays |= {f"path_{arm}": path for arm, path in zip(arms, paths, strict=True)}
    sides = np.outer(thresholds(config), (1 - MARGIN, 1, 1 + MARGIN)).ravel()
    low, high = min(config.eta), max(config.eta)
    inside = sides[(low < sides) & (sides < high)]
    arrays["curve_eta"] = np.unique([*np.linspace(low, high, CURVE), *config.eta, *inside])
    arrays["curves"] = predict(config, arrays["curve_eta"])
    return run.finish(findings, record, metrics, arrays)


def thresholds(config: DirectPredConfig) -> np.ndarray:
    """Weight decay above which each feature is dropped from every start, (m,)."""
    return theory.predictor.direct.direct_set_threshold(np.array(config.variance))


def _bracket(config: DirectPredConfig, strengths: np.ndarray, feature: int) -> str:
    """The largest weight decay at which a feature is kept from some start, and the smallest beyond at which it is not."""
    kept = (strengths[..., feature] > ALIVE).any((0, 2))
    eta = np.array(config.eta)
    last = eta[kept].max(initial=0.0)
    beyond = eta[eta > last]
    return f"{last:.3g} and {beyond.min():.3g}" if beyond.size else f"{last:.3g} and more"


def predict(config: DirectPredConfig, etas: np.ndarray) -> np.ndarray:
    """Strengths (arms, starts, etas, m) at the end by the reduced flows of theory, one equation a feature.

    DirectPred without the lag of its average, which moves no fixed point, and SGD without its noise.
    """
    start = np.array(config.start)[:, None, None]
    eta, sigma2 = etas[:, None], np.array(config.variance)
    start, eta, sigma2 = np.broadcast_arrays(start, eta, sigma2)
    direct = theory.predictor.direct
    one = theory.predictor.modes.mode_flow(
        config.until, start, start**2, tau=1.0, alpha_p=1.0, eta=eta, sigma2=sigma2
    ).s
    two = direct.direct_pred_flow(
        config.until, start**2, epsilon=config.epsilon, sigma2=sigma2, eta=eta, observed=1 + sigma2
    )
    three = direct.direct_set_flow(config.until, start**2, exponent=1.0, sigma2=sigma2, eta=eta)
    return np.stack([one, two, two, three])

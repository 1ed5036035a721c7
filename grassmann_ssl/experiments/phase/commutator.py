"""Do the eigenspaces of predictor and correlations align? The commutator [F, W_p] during training, and its bound."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

import theory
from grassmann_ssl.experiments.phase.networks import correlation, settings, trained
from grassmann_ssl.runs import Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

LOGGED = 60


@dataclass(frozen=True, kw_only=True)
class CommutatorConfig(RunConfig):
    """The commutator of predictor and correlations, against target and weight decay: Fig. 9 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-commutator"
    EXAMPLE: ClassVar[str] = "phase-commutator --tau 0.5 1.0"
    tau: tuple[float, ...] = (0.2, 0.6, 1.0)
    """targets over online weights, W_a = tau W"""
    eta: tuple[float, ...] = (0.0, 0.05, 0.2)
    """weight decays of predictor and weights"""
    seeds: int = 5
    """networks per setting"""
    dim: int = 4
    """output dimension d"""
    inputs: int = 8
    """input dimension m"""
    scale: float = 0.2
    """initial weights: this times a standard Gaussian matrix / sqrt(m); the predictor deviates from p0 I by half as much"""
    p0: float = 0.5
    """the initial predictor is near this times the identity"""
    alpha_p: float = 1.0
    """learning rate of the predictor relative to the weights'"""
    sigma2: float = 0.1
    """augmentation variance, X' = sigma2 I; the data have X = I"""
    until: float = 20.0
    """end time of the simulation"""
    step: float = 0.02
    """step size of Runge-Kutta 4"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("tau", "eta", "sigma2", least=0)
        self.need("scale", "alpha_p", "until", above=0)
        self.need("p0")
        self.need("step", above=0, most=0.2)
        self.need("seeds", "dim", least=1)
        self.need("inputs", least=self.dim)


def commutator(config: CommutatorConfig, progress: Progress | None = None) -> Outcome:
    """Simulate symmetrised networks and compare ||[F, W_p]|| with eqs. (7)-(8) and the bound of theorem 3.

    Ctrl-C ends the simulation early: the steps logged until then are compared.
    """
    run = Run(config)
    pairs = [(tau, eta) for tau in config.tau for eta in config.eta]
    tau, eta = (np.repeat(column, config.seeds) for column in zip(*pairs, strict=True))
    count, generator = len(tau), run.generator()
    # every setting starts from the same networks
    weights, predictor = start(config, generator)
    weights, predictor = (v.repeat(len(pairs), 1, 1).to(run.device) for v in (weights, predictor))
    steps = max(LOGGED, round(config.until / config.step))
    tick = ticking(progress, count * steps)
    one = np.ones(count)
    simulation = run.keep(
        simulate,
        trained,
        {"weights": weights, "predictor": predictor},
        {"variance": torch.full((count, config.inputs), config.sigma2, dtype=torch.float64, device=run.device)}
        | settings(run.device, alpha_p=config.alpha_p * one, eta=eta, tau=tau, symmetric=one),
        step=config.step,
        steps=steps,
        log_every=steps // LOGGED,
        on_step=lambda n: tick("networks x steps", n),
    )
    time = simulation.time.numpy()
    f, p = correlation(simulation["weights"]).numpy(), simulation["predictor"].numpy()
    size = np.linalg.norm(theory.predictor.matrices.commutator(f, p), axis=(-2, -1))
    exact, margin = _predict(config, time, f[0], p[0], tau, eta)
    error = float(np.abs(size - exact).max())
    bound = slowest_decay(time, margin, exact[0])
    held = margin.min(0) > 0
    broken = int((size[:, held] > bound[:, held] * (1 + 1e-6) + 1e-12).any(0).sum())
    grew = size.max(0) > 1.01 * size[0]
    findings = [
        Finding(
            f"||[F, W_p]|| of {count} networks",
            "eqs. (7)-(8)",
            None,
            f"largest difference {error:.1e} until t = {time[-1]:g}",
        ),
        Finding(
            "networks whose K stays positive",
            f"{int(held.sum())} of {count}: commutator below e^(-2 t inf K)",
            f"{int(held.sum()) - broken} stay below",
            "theorem 3 holds" if not broken else f"{broken} do not",
        ),
        Finding(
            "networks whose commutator grows on the way",
            f"only where K turns negative ({int((~held).sum())})",
            f"{int(grew.sum())}, of them {int((grew & ~held).sum())} with negative K",
            "as predicted" if not (grew & held).any() else "not as predicted",
        ),
    ]
    record = {
        "error": error,
        "held": int(held.sum()),
        "broken": broken,
        "grew": int(grew.sum()),
        "grew_held": int((grew & held).sum()),
        "steps": steps,
    }
    metrics = {
        "time": np.repeat(time, count),
        "tau": np.tile(tau, len(time)),
        "eta": np.tile(eta, len(time)),
        "seed": np.tile(np.tile(np.arange(config.seeds), len(pairs)), len(time)),
        "commutator": size.ravel(),
        "predicted": exact.ravel(),
        "margin": margin.ravel(),
    }
    shape = (len(time), len(config.tau), len(config.eta), config.seeds)
    arrays = {
        "time": time,
        "measured": size.reshape(shape),
        "predicted": exact.reshape(shape),
        "bound": bound.reshape(shape),
        "margin": margin.reshape(shape),
    }
    return run.finish(findings, record, metrics, arrays)


def start(config: CommutatorConfig, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial weights (seeds, m, d) and symmetric predictors (seeds, d, d)."""
    weights = torch.randn(config.seeds, config.inputs, config.dim, dtype=torch.float64, generator=generator)
    predictor = torch.randn(config.seeds, config.dim, config.dim, dtype=torch.float64, generator=generator)
    off = config.scale / 2 * (predictor + predictor.mT) / (2 * config.dim**0.5)
    return config.scale * weights / config.inputs**0.5, config.p0 * torch.eye(config.dim, dtype=torch.float64) + off


def slowest_decay(time: np.ndarray, margin: np.ndarray, first: np.ndarray) -> np.ndarray:
    """e^{-2 t inf K} ||[F, W_p](0)||, theorem 3: the bound while K stays positive.

    Shapes (K,), smallest eigenvalues of K at these times (K, N), (N,) -> (K, N).
    """
    bound: np.ndarray = np.exp(-2 * margin.min(0) * time[:, None]) * first
    return bound


def _predict(
    config: CommutatorConfig, time: np.ndarray, f: np.ndarray, p: np.ndarray, tau: np.ndarray, eta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """||[F, W_p]|| (K, N) and the smallest eigenvalue of K (K, N) along eqs. (7)-(8)."""
    sizes, margins = [], []
    for n in range(len(tau)):
        setting = {"tau": tau[n], "alpha_p": config.alpha_p, "eta": eta[n], "sigma2": config.sigma2}
        flow = theory.predictor.matrices.symmetric_flow(time, p[n], f[n], **setting)
        sizes.append(
            np.linalg.norm(theory.predictor.matrices.commutator(flow.correlation, flow.predictor), axis=(-2, -1))
        )
        k = theory.predictor.matrices.commutator_matrix(flow.correlation, flow.predictor, **setting)
        margins.append(np.linalg.eigvalsh(k)[:, 0])
    return np.stack(sizes, -1), np.stack(margins, -1)

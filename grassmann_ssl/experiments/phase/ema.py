"""How an EMA target follows the weights: their correlation, from a target that starts at zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

import theory
from grassmann_ssl.experiments.phase.networks import aligned, correlation, modes_of, settings, trained
from grassmann_ssl.runs import Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

LOGGED = 60
FINE = 3001  # times of the integral (15)


@dataclass(frozen=True, kw_only=True)
class EmaConfig(RunConfig):
    """Correlation of EMA target and weights, against momentum and weight decay: Fig. 7 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-ema"
    EXAMPLE: ClassVar[str] = "phase-ema --gamma-a 0.9 0.99"
    gamma_a: tuple[float, ...] = (0.9, 0.98, 0.996, 0.999)
    """momenta of the EMA target; beta = (1 - gamma_a) / learning rate"""
    eta: tuple[float, ...] = (0.0, 0.01, 0.1)
    """weight decays (as in the paper)"""
    runs: int = 10
    """networks per setting (as in the paper)"""
    dim: int = 3
    """output dimension d, the number of modes"""
    inputs: int = 8
    """input dimension m"""
    p_range: tuple[float, float] = (0.15, 0.9)
    """range of the uniformly drawn initial eigenvalues p of the predictor; s = p^2 / alpha_p, on the invariant parabola"""
    alpha_p: float = 1.0
    """learning rate of the predictor relative to the weights'"""
    sigma: float = 0.03
    """standard deviation of the augmentation (as in the paper); the data have X = I"""
    until: float = 30.0
    """end time of the simulation"""
    learning_rate: float = 0.02
    """learning rate of the weights"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("gamma_a", least=0, most=1)
        self.need("eta", "sigma", least=0)
        self.need("p_range", "alpha_p", "until", above=0)
        self.need("learning_rate", above=0, most=0.1)
        self.need("runs", "dim", least=1)
        self.need("inputs", least=self.dim)


def ema(config: EmaConfig, progress: Progress | None = None) -> Outcome:
    """Train aligned networks whose target starts at 0, and compare tau and the correlation with eqs. (13) and (15).

    Ctrl-C ends the training early: the steps logged until then are compared.
    """
    run = Run(config)
    generator = run.generator()
    pairs = [(eta, gamma) for eta in config.eta for gamma in config.gamma_a]
    eta, gamma = (np.repeat(column, config.runs) for column in zip(*pairs, strict=True))
    count, beta = len(eta), (1 - gamma) / config.learning_rate
    low, high = config.p_range
    drawn = torch.rand(config.runs, config.dim, dtype=torch.float64, generator=generator).numpy()
    p0 = np.tile(low + (high - low) * drawn, (len(pairs), 1))
    s0 = p0**2 / config.alpha_p
    start = aligned(p0, s0, config.inputs, generator)
    steps = max(LOGGED, round(config.until / config.learning_rate))
    tick = ticking(progress, count * steps)
    simulation = run.keep(
        simulate,
        trained,
        {
            "weights": start.weights.to(run.device),
            "predictor": start.predictor.to(run.device),
            "target": torch.zeros_like(start.weights, device=run.device),
        },
        {"variance": torch.full((count, config.inputs), config.sigma**2, dtype=torch.float64, device=run.device)}
        | settings(run.device, alpha_p=np.full(count, config.alpha_p), eta=eta, beta=beta),
        step=config.learning_rate,
        steps=steps,
        method="discrete",
        log_every=steps // LOGGED,
        on_step=lambda n: tick("networks x steps", n),
    )
    time = simulation.time.numpy()
    w, a = simulation["weights"], simulation["target"]
    s = modes_of(correlation(w), start.vectors)
    tau = modes_of(a.mT @ w, start.vectors) / np.where(s > 0, s, 1.0)
    norms = torch.linalg.matrix_norm(w) * torch.linalg.matrix_norm(a)
    measured = ((w * a).sum((-2, -1)) / torch.where(norms > 0, norms, 1)).numpy()
    flow = theory.predictor.modes.mode_flow(
        time, p0, s0, tau=0.0, alpha_p=config.alpha_p, eta=eta[:, None], sigma2=config.sigma**2, beta=beta[:, None]
    )
    exact_tau, exact_s = (np.moveaxis(v, -1, 0) for v in (flow.tau, flow.s))
    # corr = sum tau s / sqrt(sum tau^2 s sum s); from t > 0, since a target of zero has no direction
    total = np.sqrt((exact_tau**2 * exact_s).sum(-1) * exact_s.sum(-1))
    exact = (exact_tau * exact_s).sum(-1) / np.where(total > 0, total, 1.0)
    integral_error = _integral_error(config, p0[: config.runs])
    alive = np.moveaxis(exact_s, 0, -1).min((1, 2)) > 1e-6
    error = float(np.abs(measured - exact)[1:].max())
    tau_error = float(np.abs(tau - exact_tau)[:, alive].max(initial=0.0))
    findings = [
        Finding(
            f"corr(W_a, W) of {count} trained networks",
            "eqs. (11)-(13)",
            None,
            f"largest difference {error:.1e} until t = {time[-1]:g}",
        ),
        Finding(
            f"tau of the modes of the {int(alive.sum())} trained networks that theory keeps from collapse",
            "eq. (13)",
            None,
            f"largest difference {tau_error:.1e} until t = {time[-1]:g}",
        ),
        Finding(
            "tau by the integral (15) against tau by eq. (13): theory with theory, nothing trained",
            None,
            None,
            f"largest difference {integral_error:.1e} until t = {config.until:g}",
        ),
    ]
    shape = (len(time), len(config.eta), len(config.gamma_a), config.runs)
    record = {
        "error": error,
        "tau_error": tau_error,
        "integral_error": integral_error,
        "alive": int(alive.sum()),
        "steps": steps,
    }
    metrics = {
        "time": np.repeat(time, count),
        "eta": np.tile(eta, len(time)),
        "gamma_a": np.tile(gamma, len(time)),
        "run": np.tile(np.tile(np.arange(config.runs), len(pairs)), len(time)),
        "correlation": measured.ravel(),
        "predicted": exact.ravel(),
    }
    arrays = {"time": time, "measured": measured.reshape(shape), "predicted": exact.reshape(shape)}
    return run.finish(findings, record, metrics, arrays)


def _integral_error(config: EmaConfig, p0: np.ndarray) -> float:
    """Largest difference of tau by eq. (15) and by eq. (13), at the first weight decay and every moving average."""
    time, worst = np.linspace(0, config.until, FINE), 0.0
    for gamma in config.gamma_a:
        if gamma < 1:
            beta = (1 - gamma) / config.learning_rate
            flow = theory.predictor.modes.mode_flow(
                time,
                p0,
                p0**2 / config.alpha_p,
                tau=0.0,
                alpha_p=config.alpha_p,
                eta=config.eta[0],
                sigma2=config.sigma**2,
                beta=beta,
            )
            if (flow.p > 0).all():
                rebuilt = theory.predictor.modes.ema_from_predictor(time, flow.p, beta)
                worst = max(worst, float(np.abs(rebuilt - flow.tau).max()))
    return worst

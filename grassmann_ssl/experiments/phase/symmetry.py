"""Does a predictor become symmetric by itself? Its symmetric and antisymmetric parts during training."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

import theory
from grassmann_ssl.experiments.phase.networks import settings, trained
from grassmann_ssl.runs import Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

LOGGED = 60
EXACT = 1e-12  # below it the integration of theory is not exact


@dataclass(frozen=True, kw_only=True)
class SymmetryConfig(RunConfig):
    """Symmetric and antisymmetric parts of the predictor, against weight decay: Fig. 8 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-symmetry"
    EXAMPLE: ClassVar[str] = "phase-symmetry --eta 0 0.01"
    eta: tuple[float, ...] = (0.001, 0.01, 0.05)
    """weight decays (as in the paper)"""
    seeds: int = 5
    """networks per setting"""
    dim: int = 4
    """output dimension d"""
    inputs: int = 8
    """input dimension m"""
    scale: float = 0.3
    """initial predictor: 0.5 I plus this times a standard Gaussian matrix / sqrt(d)"""
    sigma2: float = 0.1
    """augmentation variance, X' = sigma2 I; the data have X = I"""
    until: float = 40.0
    """end time of the simulation"""
    step: float = 0.05
    """step size of Runge-Kutta 4"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("eta", "sigma2", "scale", least=0)
        self.need("until", above=0)
        self.need("step", above=0, most=0.2)
        self.need("seeds", "dim", least=1)
        self.need("inputs", least=self.dim)


def symmetry(config: SymmetryConfig, progress: Progress | None = None) -> Outcome:
    """Simulate networks with F = W_p^T W_p at the start, alpha_p = 1, W_a = W, and compare both parts with eqs. (2)-(3).

    From such a start F = W_p^T W_p holds for all times (theorem 1). Ctrl-C ends the simulation early: the steps logged until then are
    compared.
    """
    run = Run(config)
    generator = run.generator()
    eta = np.repeat(config.eta, config.seeds)
    count, copies = len(eta), len(config.eta)
    frame = torch.linalg.qr(
        torch.randn(config.seeds, config.inputs, config.dim, dtype=torch.float64, generator=generator)
    )[0]
    noise = torch.randn(config.seeds, config.dim, config.dim, dtype=torch.float64, generator=generator)
    predictor = 0.5 * torch.eye(config.dim, dtype=torch.float64) + config.scale * noise / config.dim**0.5
    weights = frame @ predictor
    steps = max(LOGGED, round(config.until / config.step))
    tick = ticking(progress, count * steps)
    one = np.ones(count)
    simulation = run.keep(
        simulate,
        trained,
        {
            "weights": weights.repeat(copies, 1, 1).to(run.device),
            "predictor": predictor.repeat(copies, 1, 1).to(run.device),
        },
        {"variance": torch.full((count, config.inputs), config.sigma2, dtype=torch.float64, device=run.device)}
        | settings(run.device, alpha_p=one, eta=eta, tau=one),
        step=config.step,
        steps=steps,
        log_every=steps // LOGGED,
        on_step=lambda n: tick("networks x steps", n),
    )
    time = simulation.time.numpy()
    measured = parts(simulation["predictor"].numpy())
    data: dict[str, Any] = {"mean_view": np.eye(config.inputs), "spread": config.sigma2 * np.eye(config.inputs)}
    flows = [
        theory.predictor.matrices.flow(time, weights.numpy(), predictor.numpy(), **data, alpha_p=1.0, eta=one_eta)
        for one_eta in config.eta
    ]
    exact = parts(np.moveaxis(np.concatenate([flow.predictor for flow in flows]), 0, 1))
    balance = theory.predictor.matrices.balance(simulation["weights"].numpy(), simulation["predictor"].numpy(), 1.0)
    errors = [float(np.abs(m - e).max()) for m, e in zip(measured, exact, strict=True)]
    drift = float(np.abs(balance).max())
    share = measured[1][-1] / np.maximum(measured[0][-1], np.finfo(float).tiny)
    predicted = exact[1][-1] / np.maximum(exact[0][-1], np.finfo(float).tiny)
    findings = [
        Finding(
            f"symmetric part of the predictor, {count} networks",
            "eqs. (2)-(3)",
            None,
            f"largest difference {errors[0]:.1e} until t = {time[-1]:g}",
        ),
        Finding(
            "its antisymmetric part",
            "eqs. (2)-(3)",
            None,
            f"largest difference {errors[1]:.1e} until t = {time[-1]:g}",
        ),
        Finding(
            "W^T W - W_p^T W_p",
            "0 at all times (theorem 1)",
            f"at most {drift:.1e}",
            "conserved" if drift < 1e-8 else "not conserved",
        ),
        *(
            Finding(
                f"antisymmetric over symmetric part at the end, eta = {one_eta:g}",
                _share(float(np.median(predicted[k * config.seeds : (k + 1) * config.seeds])))
                + (", 0 in the limit" if one_eta > 0 else ""),
                f"{np.median(share[k * config.seeds : (k + 1) * config.seeds]):.1e}, from "
                f"{np.median((measured[1][0] / measured[0][0])[: config.seeds]):.2g} at the start (medians over seeds)",
            )
            for k, one_eta in enumerate(config.eta)
        ),
    ]
    record = {"errors": errors, "balance_drift": drift, "steps": steps}
    metrics = {
        "time": np.repeat(time, count),
        "eta": np.tile(eta, len(time)),
        "seed": np.tile(np.tile(np.arange(config.seeds), copies), len(time)),
        "symmetric": measured[0].ravel(),
        "antisymmetric": measured[1].ravel(),
    }
    shape = (len(time), copies, config.seeds)
    arrays = {"time": time}
    for name, values in (("measured", measured), ("predicted", exact)):
        arrays |= {f"{name}_symmetric": values[0].reshape(shape), f"{name}_antisymmetric": values[1].reshape(shape)}
    return run.finish(findings, record, metrics, arrays)


def _share(value: float) -> str:
    """A predicted share, as far as the integration of theory is exact."""
    return f"{value:.1e}" if value >= EXACT else f"below {EXACT:g}"


def parts(predictor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """||(W_p + W_p^T)/2||_F and ||(W_p - W_p^T)/2||_F (...) of predictors (..., d, d)."""
    turned = np.swapaxes(predictor, -1, -2)
    return (
        np.linalg.norm((predictor + turned) / 2, axis=(-2, -1)),
        np.linalg.norm((predictor - turned) / 2, axis=(-2, -1)),
    )

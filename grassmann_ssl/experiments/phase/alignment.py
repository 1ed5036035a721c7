"""Alignment of the eigenspaces of predictor and correlations, with and without symmetrisation of the predictor."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.experiments.phase.networks import correlation, settings, trained
from grassmann_ssl.metrics.eigenspaces import eigenspaces
from grassmann_ssl.runs import Finding, Outcome, Progress, Run, RunConfig, Tick, ticking
from grassmann_ssl.training import Simulation, simulate

ARMS = ("regular", "symmetric")
LOGGED = 60


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(RunConfig):
    """Alignment of eigenspaces, with and without symmetrisation of the predictor: Fig. 2 of Tian, Chen and Ganguli (ICML 2021)."""

    NAME: ClassVar[str] = "phase-alignment"
    EXAMPLE: ClassVar[str] = "phase-alignment --seeds 3"
    seeds: int = 10
    """networks per arm"""
    dim: int = 5
    """output dimension d"""
    inputs: int = 10
    """input dimension m"""
    scale: float = 0.5
    """initial weights: this times a standard Gaussian matrix / sqrt(m); the target is drawn independently"""
    p0: float = 0.5
    """initial predictor: this times the identity plus half of a standard Gaussian matrix / sqrt(d)"""
    alpha_p: float = 1.0
    """learning rate of the predictor relative to the weights'"""
    eta: float = 0.04
    """weight decay of predictor and weights (the paper's value for STL-10)"""
    beta: float = 0.4
    """rate of the moving average (as in the paper)"""
    sigma2: float = 0.1
    """augmentation variance, X' = sigma2 I; the data have X = I"""
    until: float = 60.0
    """end time of the simulation"""
    learning_rate: float = 0.02
    """learning rate of gradient descent on the weights"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("seeds", "dim", least=1)
        self.need("inputs", least=self.dim)
        self.need("scale", "alpha_p", "until", above=0)
        self.need("eta", "beta", "sigma2", least=0)
        self.need("p0")
        self.need("learning_rate", above=0, most=0.1)


def alignment(config: AlignmentConfig, progress: Progress | None = None) -> Outcome:
    """Train both arms from the same starts, measure eigenvalues, alignment and asymmetry, and compare the regular arm with eqs. (2)-(4).

    Ctrl-C keeps what was logged at the learning rate until then, and leaves out the second training, at half of it.
    """
    run = Run(config)
    weights, predictor, target = _start(config, run.generator())
    steps = max(LOGGED, round(config.until / config.learning_rate))
    tick = ticking(progress, len(ARMS) * config.seeds * (1 + 2) * steps)

    def train(finer: int) -> Simulation:
        rate = config.learning_rate / finer
        return _train(config, run.device, weights, predictor, target, rate, finer * steps, tick)

    simulations = run.parts(
        (1, 2),
        lambda finer: run.keep(train, finer) if finer == 1 else train(finer),
        lambda finer: f"learning rate {config.learning_rate / finer:g}",
    )
    simulation = simulations[0]
    time = simulation.time.numpy()
    found = eigenspaces(correlation(simulation["weights"]), simulation["predictor"])
    measured = {name: v.numpy().reshape(len(time), len(ARMS), config.seeds, -1) for name, v in found.items()}
    errors = _flow_errors(config, weights, predictor, target, simulations)
    last = {name: np.median(v[-1], axis=1) for name, v in measured.items()}  # (arms, ...)
    halved = ""
    if len(errors) > 1:
        halved = f", {errors[1]:.1e} at half of it"
        halved += f", ratio {errors[0] / errors[1]:.2f} (first order: 2)" if errors[1] > 0 else ""
    findings = [
        Finding(
            "regular network at the end",
            "eqs. (2)-(4), as the learning rate shrinks",
            None,
            f"relative difference {errors[0]:.1e} at learning rate {config.learning_rate:g}{halved}",
        ),
        *(
            Finding(
                f"{arm} predictor: smallest |cos| of eigenvectors u of F and W_p u",
                "1 where eigenspaces align",
                f"{last['cosine'][k].min():.4f} (median over seeds), asymmetry {float(last['asymmetry'][k, 0]):.1e}",
            )
            for k, arm in enumerate(ARMS)
        ),
    ]
    record = {
        "steps": steps,
        "flow_errors": errors,
        "final_cosine": {arm: float(last["cosine"][k].min()) for k, arm in enumerate(ARMS)},
        "final_asymmetry": {arm: float(last["asymmetry"][k, 0]) for k, arm in enumerate(ARMS)},
    }
    shape = measured["f"].shape
    index = np.indices(shape).reshape(4, -1)
    metrics = {
        "time": time[index[0]],
        "arm": np.array(ARMS)[index[1]],
        "seed": index[2],
        "eigenvector": index[3],
        "f": measured["f"].ravel(),
        "p": measured["p"].ravel(),
        "cosine": measured["cosine"].ravel(),
    }
    return run.finish(findings, record, metrics, {"time": time, **measured})


def _start(config: AlignmentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(config.seeds, *shape, dtype=torch.float64, generator=generator)

    weights, target = (config.scale * draw(config.inputs, config.dim) / config.inputs**0.5 for _ in range(2))
    identity = torch.eye(config.dim, dtype=torch.float64)
    return weights, config.p0 * (identity + draw(config.dim, config.dim) / (2 * config.dim**0.5)), target


def _train(
    config: AlignmentConfig,
    device: torch.device,
    weights: Tensor,
    predictor: Tensor,
    target: Tensor,
    rate: float,
    steps: int,
    tick: Tick,
) -> Simulation:
    """Both arms in one batch: cells are arms x seeds, the second arm symmetrised throughout."""
    count = len(ARMS) * config.seeds
    one = np.ones(count)
    symmetric = np.repeat([0.0, 1.0], config.seeds)
    return simulate(
        trained,
        {
            "weights": weights.repeat(2, 1, 1).to(device),
            "predictor": torch.cat([predictor, (predictor + predictor.mT) / 2]).to(device),
            "target": target.repeat(2, 1, 1).to(device),
        },
        {"variance": torch.full((count, config.inputs), config.sigma2, dtype=torch.float64, device=device)}
        | settings(
            device, alpha_p=config.alpha_p * one, eta=config.eta * one, beta=config.beta * one, symmetric=symmetric
        ),
        step=rate,
        steps=steps,
        method="discrete",
        log_every=steps // LOGGED,
        on_step=lambda n: tick("networks x steps", n),
    )


def _flow_errors(
    config: AlignmentConfig, weights: Tensor, predictor: Tensor, target: Tensor, runs: list[Simulation]
) -> list[float]:
    """Relative differences of the first regular network from eqs. (2)-(4) at the end, at each learning rate."""
    m = config.inputs
    errors = []
    for simulation in runs:
        exact = theory.predictor.matrices.flow(
            float(simulation.time[-1]), weights[0].numpy(), predictor[0].numpy(), target[0].numpy(),
            mean_view=np.eye(m), spread=config.sigma2 * np.eye(m), alpha_p=config.alpha_p, eta=config.eta, beta=config.beta,
        )  # fmt: skip
        found = np.concatenate([simulation["weights"][-1, 0].numpy(), simulation["predictor"][-1, 0].numpy()])
        expected = np.concatenate([exact.weights, exact.predictor])
        errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return errors

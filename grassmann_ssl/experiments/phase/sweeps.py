"""Modes and alignment margin of a network in training, against weight decay, EMA rate and the predictor's learning rate."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

import theory
from grassmann_ssl.experiments.phase.networks import aligned, correlation, modes_of, settings, trained
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking
from grassmann_ssl.training import simulate

LOGGED = 60
ALIVE = 1e-3  # alpha_p s, the square of p on the invariant parabola, of a mode that survives


@dataclass(frozen=True, kw_only=True)
class SweepsConfig(RunConfig):
    """Which aligned modes survive, against weight decay, EMA rate and learning rate of the predictor: Fig. 5 of Tian, Chen and Ganguli
    (ICML 2021), and observations 1, 4, 5 and 10 of their Table 4."""

    NAME: ClassVar[str] = "phase-sweeps"
    EXAMPLE: ClassVar[str] = "phase-sweeps --until 20"
    eta: tuple[float, ...] = (0.04, 0.1, 0.15, 0.2, 0.25)
    """weight decays of the first sweep, at the first beta and alpha_p (0.04: the paper's for STL-10)"""
    beta: tuple[float, ...] = (0.4, 0.05, 0.02)
    """EMA rates of the second sweep, at the second eta and the first alpha_p (0.4: the paper's)"""
    alpha_p: tuple[float, ...] = (1.0, 0.1, 0.03)
    """learning rates of the predictor relative to the weights' in the third sweep, at the second eta and the first beta"""
    p0: float = 0.3
    """initial eigenvalue of the predictor, for all modes"""
    s0: tuple[float, ...] = (0.05, 0.2, 0.5)
    """initial eigenvalues of the correlations F, one per mode"""
    tau0: float = 0.1
    """initial target over online weights"""
    sigma2: float = 0.1
    """augmentation variance, X' = sigma2 I; the data have X = I"""
    inputs: int = 8
    """input dimension m, at least the number of modes"""
    until: float = 150.0
    """end time of the simulation"""
    learning_rate: float = 0.01
    """learning rate of gradient descent on the weights"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("eta", "sigma2", "tau0", least=0)
        self.need("beta", "s0", "alpha_p", "until", above=0)
        self.need("learning_rate", above=0, most=0.1)
        self.need("p0")
        self.need("inputs", least=len(self.s0))
        if len(self.eta) < 2:
            raise ConfigError(
                f"eta needs at least two values, got {len(self.eta)}: the second is that of the sweeps of beta and alpha_p"
            )

    @property
    def cells(self) -> list[tuple[float, float, float]]:
        """(eta, beta, alpha_p) of every network: the sweep of eta, that of beta, that of alpha_p."""
        by_eta = [(eta, self.beta[0], self.alpha_p[0]) for eta in self.eta]
        by_beta = [(self.eta[1], beta, self.alpha_p[0]) for beta in self.beta]
        return by_eta + by_beta + [(self.eta[1], self.beta[0], alpha_p) for alpha_p in self.alpha_p]

    @property
    def sweeps(self) -> dict[str, slice]:
        """Name of what is swept, and its cells."""
        sizes = {name: len(getattr(self, name)) for name in ("eta", "beta", "alpha_p")}
        ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
        return {name: slice(end - sizes[name], end) for name, end in ends.items()}


def sweeps(config: SweepsConfig, progress: Progress | None = None) -> Outcome:
    """Train one network per cell, in one batch, and compare its modes with eqs. (11)-(13) and the margin (17).

    Ctrl-C ends the training early: the steps logged until then are compared.
    """
    run = Run(config)
    eta, beta, alpha_p = (np.array(column) for column in zip(*config.cells, strict=True))
    count, d = len(eta), len(config.s0)
    start = aligned(
        np.full((count, d), config.p0), np.tile(np.array(config.s0), (count, 1)), config.inputs, run.generator()
    )
    steps = max(LOGGED, round(config.until / config.learning_rate))
    tick = ticking(progress, count * steps)
    device = run.device
    simulation = run.keep(
        simulate,
        trained,
        {
            "weights": start.weights.to(device),
            "predictor": start.predictor.to(device),
            "target": config.tau0 * start.weights.to(device),
        },
        {"variance": torch.full((count, config.inputs), config.sigma2, dtype=torch.float64, device=device)}
        | settings(device, alpha_p=alpha_p, eta=eta, beta=beta),
        step=config.learning_rate,
        steps=steps,
        method="discrete",
        log_every=steps // LOGGED,
        on_step=lambda n: tick("networks x steps", n),
    )
    time, vectors = simulation.time.numpy(), start.vectors
    p = modes_of(simulation["predictor"], vectors)
    s = modes_of(correlation(simulation["weights"]), vectors)
    tau = modes_of(simulation["target"].mT @ simulation["weights"], vectors) / np.where(s > 0, s, 1.0)
    predicted = theory.predictor.modes.mode_flow(
        time, np.full((count, d), config.p0), np.array(config.s0), tau=config.tau0, alpha_p=alpha_p[:, None],
        eta=eta[:, None], sigma2=config.sigma2, beta=beta[:, None],
    )  # fmt: skip
    margins = {}
    for name, (one_p, one_s, one_tau) in {
        "measured": (p, s, tau),
        "predicted": tuple(np.moveaxis(v, -1, 0) for v in predicted),
    }.items():
        margins[name] = theory.predictor.modes.alignment_margin(
            one_p, one_s, tau=one_tau, alpha_p=alpha_p[:, None], eta=eta[:, None], sigma2=config.sigma2
        ).min(-1)
    alive, expected = (alpha_p[:, None] * end > ALIVE for end in (s[-1], predicted.s[..., -1]))
    errors = {
        name: float(np.abs(measured - np.moveaxis(exact, -1, 0)).max())
        for name, measured, exact in (
            ("p", p, predicted.p),
            ("s", alpha_p[:, None] * s, alpha_p[:, None, None] * predicted.s),
            ("tau", tau * expected, predicted.tau * expected[..., None]),
        )
    }
    findings = [
        Finding(
            f"{label} of {count} trained networks x {d} modes",
            f"eq. ({number})",
            None,
            f"largest difference {errors[name]:.1e} until t = {time[-1]:g}, at learning rate {config.learning_rate:g}",
        )
        for name, label, number in (
            ("p", "p", 11),
            ("s", "alpha_p s", 12),
            ("tau", "tau, where theory keeps them,", 13),
        )
    ]
    survivors = {}
    for name, cells in config.sweeps.items():
        theirs, ours = (which[cells].sum(1).tolist() for which in (expected, alive))
        same = bool(np.array_equal(alive[cells], expected[cells]))
        survivors[name] = {"predicted": theirs, "measured": ours, "same": same}
        findings.append(
            Finding(
                f"modes of {d} that survive at {name} = {', '.join(f'{v:g}' for v in getattr(config, name))}",
                ", ".join(map(str, theirs)),
                ", ".join(map(str, ours)),
                "the same modes" if same else "not the same modes",
            )
        )
    smallest = [float(v) for v in margins["predicted"].min(0)]
    findings.append(
        Finding(
            "smallest alignment margin K along the way, eq. (17): eigenspaces align where K > 0",
            ", ".join(f"{v:.2g}" for v in smallest),
            ", ".join(f"{v:.2g}" for v in margins["measured"].min(0)),
        )
    )
    record = {"steps": steps, "errors": errors, "survivors": survivors, "smallest_margins": smallest}
    index = np.indices(p.shape).reshape(3, -1)
    metrics = {
        "time": time[index[0]],
        "eta": eta[index[1]],
        "beta": beta[index[1]],
        "alpha_p": alpha_p[index[1]],
        "mode": index[2],
        "p": p.ravel(),
        "s": s.ravel(),
        "tau": tau.ravel(),
    }
    arrays = {
        "time": time,
        "eta": eta,
        "beta": beta,
        "alpha_p": alpha_p,
        **{f"measured_{n}": v for n, v in (("p", p), ("s", s), ("tau", tau), ("margin", margins["measured"]))},
        **{
            f"predicted_{n}": np.moveaxis(v, -1, 0)
            for n, v in (("p", predicted.p), ("s", predicted.s), ("tau", predicted.tau))
        },
        "predicted_margin": margins["predicted"],
    }
    return run.finish(findings, record, metrics, arrays)

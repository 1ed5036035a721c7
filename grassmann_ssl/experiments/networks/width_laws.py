"""Trained constrained layers against theory: exact flow, modes, both metrics, and a free layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear import agreement, measure
from grassmann_ssl.manifolds import principal_angles
from grassmann_ssl.metrics import effective_rank, first_crossing
from grassmann_ssl.training import Trajectory

Arrays = dict[str, np.ndarray]

FALLEN = 0.1  # speeds are compared when the excess loss has fallen to this share of its start
RESOLVED = 0.05  # of the fastest rate: slower coordinates are not resolved while the fastest decays


@dataclass(frozen=True)
class Problem:
    """The shared problem, on the host: C (m, m) with its spectrum, starts M(0) (S, m, d), moments, and some samples (N, m)."""

    matrix: Tensor
    eigenvalues: np.ndarray
    vectors: np.ndarray
    starts: Tensor
    moments: Moments
    samples: Tensor

    @property
    def dim(self) -> int:
        """The number of outputs d."""
        return self.starts.shape[-1]

    def one_layer(self, time: np.ndarray) -> np.ndarray:
        """The exact constrained flow of one layer from the starts, (K, S, m, d)."""
        return np.moveaxis(theory.constrained.grassmann_flow(time, self.starts.numpy(), self.matrix.numpy()), -3, 0)

    def excess(self, weights: np.ndarray) -> np.ndarray:
        """tr(W^T C W) above its minimum over orthonormal weights, (..., m, d) -> (...)."""
        loss = (np.swapaxes(weights, -1, -2) @ self.matrix.numpy() * np.swapaxes(weights, -1, -2)).sum((-2, -1))
        excess: np.ndarray = loss - self.eigenvalues[: self.dim].sum()
        return excess


def errors_by_rate(
    problem: Problem, times: Mapping[float, np.ndarray], products: Mapping[tuple[int, float], Tensor]
) -> dict[tuple[int, float], np.ndarray]:
    """||P - P_exact||_2 (K, S) of every hidden width and learning rate against the one-layer flow."""
    exact = {rate: problem.one_layer(time) for rate, time in times.items()}
    return {(h, rate): measure.projector_errors(weights, exact[rate]) for (h, rate), weights in products.items()}


def order(rates: tuple[float, ...], errors: np.ndarray) -> float | None:
    """Slope of log error against log learning rate: 1 where halving the rate halves the error. None for one rate."""
    return float(measure.exponent(np.array(rates), errors)) if len(rates) > 1 else None


def largest_difference(runs: Tensor) -> float | None:
    """The largest ||P_h - P_h'||_2 over pairs of widths, times and seeds; runs (H, K, S, m, d). None for one width."""
    pairs = combinations(range(len(runs)), 2)
    apart = [float(measure.projector_errors(runs[a], runs[b].numpy()).max()) for a, b in pairs]
    return max(apart) if apart else None


def modes(problem: Problem, time: np.ndarray, runs: Tensor) -> tuple[dict[str, Any], Arrays]:
    """Modes of runs (H, K, S, m, d): occupations v_j^T P v_j, principal angles, and the rate of every coordinate T_ij."""
    d, eigenvalues = problem.dim, problem.eigenvalues
    target = torch.as_tensor(problem.vectors[:, :d])
    angles = principal_angles(runs, target.expand(*runs.shape[:-2], *target.shape)).numpy()
    expected = 2 * (eigenvalues[d:, None] - eigenvalues[:d])  # rates of T_ij, (m - d, d)
    start = theory.constrained.tangent_coordinates(problem.starts.numpy(), problem.matrix.numpy())
    law = start * np.exp(-expected * time[:, None, None, None])
    exact = np.arctan(np.linalg.svd(law, compute_uv=False)[..., ::-1])
    decay, until = _decay_rates(problem, time, runs, expected.max())
    resolved = expected > RESOLVED * expected.max()
    shown = torch.as_tensor(problem.vectors[:, : d + 2])
    first = torch.as_tensor(problem.one_layer(time)[:, 0])
    record = {
        "max_angle_error": float(np.abs(angles - exact).max()),
        "final_largest_angle": float(np.median(angles[:, -1].max(-1))),
        "exact_final_largest_angle": float(np.median(exact[-1].max(-1))),
        "rates_measured_until": until,
        "median_rate_error": float(np.median(np.abs(decay / expected - 1)[:, resolved])),
        "rate_ratio": float(np.median((decay / expected)[:, resolved])),
    }
    arrays = {
        "angles": angles,
        "exact_angles": exact,
        "decay_rates": decay,
        "exact_decay_rates": expected,
        "occupations": (runs[:, :, 0].mT @ shown).square().sum(-2).numpy(),
        "exact_occupations": (first.mT @ shown).square().sum(-2).numpy(),
    }
    return record, arrays


def _decay_rates(problem: Problem, time: np.ndarray, runs: Tensor, fastest: float) -> tuple[np.ndarray, float]:
    """Rates (H, m - d, d) of log |T_ij|, median over seeds, until the fastest has fallen by e^3, and that time."""
    last = max(1, int(np.searchsorted(time, 3 / fastest, side="right")) - 1)
    rows = torch.as_tensor(problem.vectors).mT @ runs[:, [0, last]]
    t = torch.linalg.solve(rows[..., : problem.dim, :], rows[..., problem.dim :, :], left=False).abs()
    return np.median((t[:, 0] / t[:, 1]).log().numpy() / time[last], axis=1), float(time[last])


def speeds(problem: Problem, time: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """How much faster than one layer, (H, S): ratio of the times at which the excess (H, K, S) falls to FALLEN of its start.

    0 where it does not within the run.
    """
    fine = np.linspace(0, 2 * time[-1], 8 * len(time))  # beyond the end of the run: faster runs arrive earlier
    reference = _falling_times(fine, problem.excess(problem.one_layer(fine)))
    measured = np.stack([_falling_times(time, one) for one in excess])
    known = np.isfinite(measured) & np.isfinite(reference)
    return np.where(known, reference, 0.0) / np.where(known, measured, 1.0)


def _falling_times(time: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """When each run (K, S) first falls to FALLEN of its start, log-linear between logged times; nan where it does not."""
    return first_crossing(time, np.log(FALLEN) - np.log(np.maximum(excess, 1e-300) / excess[0]), 0.0)


def collapse(problem: Problem, trajectory: Trajectory, constrained: Tensor) -> tuple[dict[str, Any], Arrays]:
    """Collapse of a free layer to rank one. `constrained` (m, d): final weights of the first constrained run."""
    time, matrix = trajectory.time.numpy(), problem.matrix.numpy()
    spectra = measure.spectra(trajectory, problem.moments)
    exact = np.moveaxis(theory.constrained.free_flow(time, problem.starts.numpy(), matrix)[0], -3, 0)
    covariances = np.swapaxes(exact, -1, -2) @ problem.moments.covariance.numpy() @ exact
    rank = effective_rank(torch.as_tensor(np.linalg.eigvalsh(covariances))).numpy()
    along = problem.samples.numpy() @ problem.vectors[:, 0]
    samples, side = problem.samples[torch.as_tensor(along.argsort())], np.sign(np.sort(along))
    halfway = np.abs(rank[:, 0] - (rank[0, 0] + rank[-1, 0]) / 2)
    shown = [0, 1 + int(halfway[1:].argmin()), len(time) - 1]
    weights = torch.stack([trajectory.weights[k, 0].double() for k in shown] + [constrained])
    outputs = torch.nn.functional.normalize(samples @ weights, dim=-1)
    cosines = (outputs @ outputs.mT).numpy()
    off = ~np.eye(len(side), dtype=bool)
    record: dict[str, Any] = {
        "shown_times": [float(time[k]) for k in shown],
        "final_effective_rank": float(np.median(spectra["effective_rank"][-1])),
        "exact_final_effective_rank": float(np.median(rank[-1])),
        "mean_cosine": [float(np.abs(c[off]).mean()) for c in cosines],
        "sign_agreement": float((np.sign(cosines[2]) == np.outer(side, side))[off].mean()),
        "log_norm": float(np.median(trajectory.log_norm[-1].numpy())),
        "slope": agreement.collapse_slope(time, spectra["singular_values"], matrix, trajectory.learning_rate),
    }
    arrays = {
        "free_time": time,
        "cosines": cosines,
        "effective_rank": spectra["effective_rank"],
        "exact_effective_rank": rank,
    }
    if problem.dim > 1:
        size = np.linalg.svd(exact, compute_uv=False)
        arrays |= {
            "size_ratio": spectra["singular_values"][..., 1] / spectra["singular_values"][..., 0],
            "exact_size_ratio": size[..., 1] / size[..., 0],
        }
    return record, arrays

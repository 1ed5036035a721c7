"""Measurements on a recorded trajectory: spectra, ranks, exponents, slopes, angles."""

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data import Moments
from grassmann_ssl.manifolds import principal_angles
from grassmann_ssl.metrics import effective_rank, participation_ratio
from grassmann_ssl.training import Trajectory


def spectra(trajectory: Trajectory, moments: Moments) -> dict[str, np.ndarray]:
    """Spectra (decreasing) and ranks of the recorded (possibly rescaled) weights, per logged step and run.

    singular_values (K, S, d) of W; cross_eigenvalues (K, S, d) of C = W^T Gamma W; covariance_eigenvalues (K, S, d) of the centred
    covariance of the embedding over single views; effective_rank and participation_ratio (K, S) of these; rankme (K, S), the
    effective rank of the singular values of the uncentred embedding; weight_effective_rank (K, S) of the singular values of W;
    orthonormality_error (K, S), ||W^T W - I||_F.
    """
    w = trajectory.weights.double()
    singular = torch.linalg.svdvals(w)
    cross, covariance, second = (
        torch.linalg.eigvalsh(w.mT @ (moment @ w)).flip(-1)
        for moment in (moments.cross, moments.covariance, moments.second)
    )
    identity = torch.eye(w.shape[-1], dtype=w.dtype)
    measured = {
        "singular_values": singular,
        "cross_eigenvalues": cross,
        "covariance_eigenvalues": covariance,
        "effective_rank": effective_rank(covariance),
        "participation_ratio": participation_ratio(covariance),
        "rankme": effective_rank(second.clamp_min(0).sqrt()),
        "weight_effective_rank": effective_rank(singular),
        "orthonormality_error": torch.linalg.matrix_norm(w.mT @ w - identity),
    }
    return {name: value.numpy() for name, value in measured.items()}


def exponent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """alpha of y ~ x^alpha, the least-squares slope of log y against log x. Shapes (n,), (n, ...) -> (...), n >= 2."""
    return np.asarray(np.polyfit(np.log(x), np.log(y), 1)[0])


def relative_change(now: Tensor, then: Tensor) -> Tensor:
    """||now - then||_F / ||then||_F of every run. Shapes (S, ...) twice -> (S,)."""
    change: Tensor = (now - then).flatten(1).norm(dim=1) / then.flatten(1).norm(dim=1)
    return change


def collapse_slope(time: np.ndarray, singular_values: np.ndarray) -> np.ndarray | None:
    """Slope of log(sigma_2 / sigma_1) by least squares, per run (S,); None if the asymptotic regime is not reached.

    The regime: sigma_2 / sigma_1 between 1e-2 and 1e-12 (below that, rounding); the later half of these logged steps is
    fitted, when faster modes have decayed. At least 10 logged steps are needed in every run.
    """
    if singular_values.shape[-1] < 2:
        return None
    ratio = singular_values[..., 1] / singular_values[..., 0]
    slopes = []
    for run in ratio.T:
        window = np.flatnonzero((run < 1e-2) & (run > 1e-12))
        window = window[len(window) // 2 :]
        if len(window) < 10:
            return None
        slopes.append(np.polyfit(time[window], np.log(run[window]), 1)[0])
    return np.array(slopes)


def angles_to(weights: Tensor, subspace: np.ndarray) -> np.ndarray:
    """The largest principal angle (radians) between each weight matrix's column space and a fixed subspace.

    `subspace` (m, k) orthonormal; where k < d the k leading left singular vectors of the weights are taken.
    Shapes (..., m, d), (m, k) -> (...).
    """
    w, target = weights.double(), torch.as_tensor(subspace)
    k = target.shape[-1]
    basis = torch.linalg.qr(w)[0] if k == w.shape[-1] else torch.linalg.svd(w, full_matrices=False)[0][..., :k]
    return principal_angles(basis, target.expand(*w.shape[:-2], *target.shape)).amax(-1).numpy()


def projector_errors(weights: Tensor, bases: np.ndarray) -> np.ndarray:
    """||P - P'||_2 = sin(largest principal angle) of orthonormal bases, pair by pair. Shapes (..., m, d) twice -> (...)."""
    return principal_angles(weights.double(), torch.as_tensor(bases)).amax(-1).sin().numpy()

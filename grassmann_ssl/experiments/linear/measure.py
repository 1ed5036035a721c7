"""What is read off a recorded trajectory, without any theory: spectra, ranks, step times, slopes, angles."""

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data import Moments
from grassmann_ssl.manifolds import principal_angles
from grassmann_ssl.metrics import effective_rank, participation_ratio
from grassmann_ssl.training import Trajectory


def spectra(trajectory: Trajectory, moments: Moments) -> dict[str, np.ndarray]:
    """Per logged step and run, all of the recorded (possibly rescaled) weights, spectra in decreasing order.

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


def half_rise_times(time: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    """When each sorted eigenvalue of C first reaches 1/2, linearly interpolated between logged steps; nan where it does not.

    Shapes (K,), (K, S, d) -> (S, d), in units of `time`.
    """
    above = eigenvalues >= 0.5
    reached = above.any(0)
    after = np.clip(above.argmax(0), 1, None)
    before_value, after_value = (np.take_along_axis(eigenvalues, i[None], 0)[0] for i in (after - 1, after))
    rise = np.where(reached & (after_value > before_value), after_value - before_value, 1.0)
    fraction = np.clip((0.5 - before_value) / rise, 0, 1)
    return np.where(reached, time[after - 1] + fraction * (time[after] - time[after - 1]), np.nan)


def collapse_slope(time: np.ndarray, singular_values: np.ndarray) -> np.ndarray | None:
    """Slope of log(sigma_2 / sigma_1) by least squares, per run (S,); None where the asymptotic regime is not reached.

    The regime: sigma_2 / sigma_1 between 1e-2 and 1e-12 (below that, rounding); of these logged steps the later half is fitted,
    so that faster modes have died out. At least 10 logged steps are needed in every run.
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

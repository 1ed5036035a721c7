"""Where embeddings of Gaussian data end in the limit of infinite time: what theory knows of every objective."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

import theory
from grassmann_ssl.data import Moments


@dataclass(frozen=True)
class Inputs:
    """The population in its eigenbasis, one row per noise level: signal and total variances (B, m), scaled to largest total variance 1."""

    gamma: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, spectrum: tuple[float, ...], noise: tuple[float, ...]) -> "Inputs":
        """Signal variances under additive noise of these standard deviations (B,)."""
        signal = np.sort(np.array(spectrum))[::-1]
        total = signal + np.array(noise)[:, None] ** 2
        return cls(signal / total[:, :1], total / total[:, :1])

    def moments(self, device: torch.device) -> Moments:
        """Population moments (B, 1, m, m) of identically distributed views and independent negatives, mean zero."""
        cross, second = (
            torch.diag_embed(torch.tensor(v.copy(), device=device))[:, None] for v in (self.gamma, self.sigma)
        )
        zero = torch.zeros_like(cross)
        return Moments(cross, zero, second, second, second, zero[..., 0])


Variances = Callable[[Inputs, int], np.ndarray | None]
"""(inputs, d) -> those (B, d) of the embedding, decreasing; inf where the loss is unbounded below, None where there is no prediction"""


@dataclass(frozen=True)
class Limits:
    """What theory knows of an objective.

    attraction   (gamma, sigma, beta) -> b_j of the modes, which small weights grow by
    scales       (gamma, sigma, beta, strength of a penalty by name) -> s_j^2 of free weights
    orthonormal  variances under W^T W = I
    normal       (inputs, d, strength) -> variances under sliced normality
    predictor    whether a predictor with stop-gradient applies to it
    leave_open   penalties under which it prefers no subspace, so that no effective rank is predicted
    """

    attraction: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    scales: Callable[..., np.ndarray]
    orthonormal: Variances
    normal: Callable[[Inputs, int, float], np.ndarray | None]
    predictor: bool = False
    leave_open: tuple[str, ...] = ()

    def variances(self, inputs: Inputs, d: int, beta: float, **penalty: float) -> np.ndarray:
        """Those (B, d) of free weights under a penalty, decreasing.

        With noise of one size for all modes growth and gain both fall with j: the first d modes are the ones in use.
        """
        rows = zip(inputs.gamma, inputs.sigma, strict=True)
        return np.stack([np.sort((s * self.scales(g, s, beta, **penalty))[:d])[::-1] for g, s in rows])


def predictor_variances(inputs: Inputs, d: int, decay: float) -> np.ndarray:
    """sigma_j w_j^2 at the upper fixed point w_j^2 = w_p^2 (alpha_p = 1), 0 where weight decay is above the critical one."""
    modes, rows = theory.predictor.modes, []
    for gamma, sigma in zip(inputs.gamma, inputs.sigma, strict=True):
        below = decay < modes.anisotropic_critical_eta(gamma, sigma)
        upper = np.zeros_like(gamma)
        if below.any():
            upper[below] = modes.anisotropic_fixed_points(gamma[below], sigma[below], decay)[1]
        rows.append(np.sort((sigma * upper**2)[:d])[::-1])
    return np.stack(rows)


def _largest(inputs: Inputs, d: int) -> np.ndarray:
    """Trace losses take the smallest eigenvalues of their matrix, -Gamma / 2; InfoNCE falls with every eigenvalue of W^T Sigma W.

    The latter are largest, all at once, on the top d (Cauchy's interlacing).
    """
    return inputs.sigma[:, :d]


def _nearest_to_one(of: Callable[[Inputs], np.ndarray], inputs: Inputs, d: int) -> np.ndarray | None:
    """Of ||W^T C W - I||^2 and a constant, `of` the eigenvalues of C: Barlow Twins in Gamma, spectral contrastive and VICReg in Sigma.

    Noise of one size n in all modes makes Sigma - Gamma = n I, so that tr W^T (Sigma - Gamma) W = n d whatever W.
    """
    rows = []
    for values, sigma in zip(of(inputs), inputs.sigma, strict=True):
        indices = theory.barlow_twins.minimum(values, d).indices
        if indices is None:
            return None
        rows.append(np.sort(sigma[list(indices)])[::-1])
    return np.stack(rows)


def _prefers_none(inputs: Inputs, d: int) -> None:
    """The alignment loss alone, tr W^T (Sigma - Gamma) W = n d, prefers no subspace."""


def _unbounded(inputs: Inputs, d: int, strength: float) -> np.ndarray:
    """The distance of slices is bounded, the loss is not."""
    return np.full_like(inputs.sigma[:, :d], np.inf)


def _unknown(inputs: Inputs, d: int, strength: float) -> None:
    """No closed form."""


def _aligned(inputs: Inputs, d: int, strength: float) -> np.ndarray:
    alignment = ((inputs.sigma - inputs.gamma) / inputs.sigma)[:, :d]
    return np.stack([theory.sigreg.variances(a, strength) for a in alignment])


def _quartic(name: str, orthonormal: Variances, normal: Callable[..., np.ndarray | None], **more: object) -> Limits:
    def loss(gamma: np.ndarray, sigma: np.ndarray, beta: float) -> theory.regularisation.Quartic:
        return theory.regularisation.quartic(name, gamma, sigma, beta=beta)

    return Limits(
        lambda gamma, sigma, beta: loss(gamma, sigma, beta).attraction,
        lambda gamma, sigma, beta, **penalty: theory.regularisation.scales(loss(gamma, sigma, beta), sigma, **penalty),
        orthonormal,
        normal,
        **more,  # type: ignore[arg-type]
    )


_in_gamma, _in_sigma = (partial(_nearest_to_one, of) for of in (lambda i: i.gamma, lambda i: i.sigma))
LIMITS = {
    "barlow_twins": _quartic("barlow_twins", _in_gamma, _unknown),
    "spectral_contrastive": _quartic("spectral_contrastive", _in_sigma, _unknown),
    "squared_vicreg": _quartic("squared_vicreg", _in_sigma, _unknown),
    "infonce": Limits(
        lambda gamma, sigma, beta: gamma / 2,
        lambda gamma, sigma, beta, **penalty: theory.regularisation.infonce_scales(gamma, sigma - gamma, **penalty),
        _largest,
        _unknown,
    ),
    "linear_contrastive": _quartic("linear_contrastive", _largest, _unbounded),
    "squared_contrastive": _quartic("squared_contrastive", _largest, _unbounded),
    "linear_noncontrastive": _quartic("linear_noncontrastive", _largest, _unbounded),
    "squared_noncontrastive": _quartic(
        "squared_noncontrastive", _prefers_none, _aligned, predictor=True, leave_open=("orthogonality",)
    ),
}

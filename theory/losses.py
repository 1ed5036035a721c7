"""Minimum and learning rates of the spectral contrastive loss (HaoChen et al., NeurIPS 2021, arXiv 2106.04156).

Linear model f(x) = W^T x, weights W (m, d), with cross-moment Gamma = E x x'^T of two views of one sample, symmetric,
and second moment Sigma = E x x^T of single views, both (m, m):
    L(W) = -2 E f(x)^T f(x') + E (f(x)^T f(y))^2 = -2 tr(W^T Gamma W) + ||W^T Sigma W||_F^2,  y an independent view.
Learning rates belong to gradient descent on this L (no factor 1/2), W - lr (-4 Gamma W + 4 Sigma W W^T Sigma W).
All functions raise ValueError for matrices that are not finite, symmetric or of one shape, and for a Sigma with a
negative eigenvalue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh

from theory import _validation as check
from theory._validation import Array

RELATIVE_CUTOFF = 1e-10  # of Sigma: smaller eigenvalues, relative to the largest, are taken for zero
LARGEST_DENSE = 200  # Hessians up to this size are formed


def spectral_contrastive_minimiser(cross: ArrayLike, second: ArrayLike, d: int) -> tuple[Array, Array, float]:
    """Correlations mu (d,), minimising weights (m, d) and minimum of the spectral contrastive loss.

    Gamma v_j = mu_j Sigma v_j, v_j^T Sigma v_k = delta_jk, mu decreasing: the columns of W are v_j sqrt(max(mu_j, 0)),
    W^T Sigma W = diag(max(mu, 0)) and min L = -sum_j max(mu_j, 0)^2; every W Q, Q in O(d), is a minimiser too.
    cross = Gamma, second = Sigma. A singular Sigma (dead pixels) is handled on its range, eigenvalues above 1e-10 of
    the largest; if the range has fewer than d dimensions, mu ends in zeros. A mu_j <= 0 gives a zero column.
    Raises ValueError if Gamma leaves that range (no data do that; L would be unbounded below) or unless 1 <= d <= m.
    Source: section 3 of the paper, from Eckart & Young; the linear form is derived here.
    """
    gamma, sigma = _moments(cross, second)
    m = sigma.shape[0]
    d = check.dimension(d, m)
    sizes, vectors = np.linalg.eigh(sigma)
    kept = sizes > RELATIVE_CUTOFF * sizes[-1]
    if not kept.any():
        raise ValueError("second must not be zero")
    basis = vectors[:, kept]
    outside = np.abs(gamma - basis @ (basis.T @ gamma)).max()
    if outside > np.sqrt(RELATIVE_CUTOFF) * sizes[-1]:
        raise ValueError(
            f"cross must vanish where second does, got an entry of {outside:.3g} outside the range of second "
            f"(smallest eigenvalue {sizes[0]:.3g}, largest {sizes[-1]:.3g})"
        )
    mu_all, inner = eigh(basis.T @ gamma @ basis, basis.T @ sigma @ basis)
    r = min(d, mu_all.size)
    mu, weights = np.zeros(d), np.zeros((m, d))
    mu[:r] = mu_all[::-1][:r]
    weights[:, :r] = basis @ inner[:, ::-1][:, :r] * np.sqrt(np.maximum(mu[:r], 0.0))
    return mu, weights, float(-(np.maximum(mu, 0.0) ** 2).sum())


def spectral_contrastive_max_learning_rate(cross: ArrayLike, second: ArrayLike, d: int) -> float:
    """Largest stable learning rate of gradient descent at the minimiser: 2 / largest eigenvalue of the Hessian.

    Hess[D] = -4 Gamma D + 4 Sigma D (W^T Sigma W) + 4 Sigma W (D^T Sigma W + W^T Sigma D), D (m, d); its largest
    eigenvalue by Lanczos to machine precision. Local. inf if the Hessian has no positive eigenvalue.
    Errors as `spectral_contrastive_minimiser`. Derived here.
    """
    gamma, sigma = _moments(cross, second)
    _, weights, _ = spectral_contrastive_minimiser(gamma, sigma, d)
    sw = sigma @ weights
    wsw = weights.T @ sw

    def product(flat: Array) -> Array:
        direction = flat.reshape(weights.shape)
        overlap = direction.T @ sw
        return (4 * (-gamma @ direction + sigma @ direction @ wsw + sw @ (overlap + overlap.T))).ravel()

    size = weights.size
    if size <= LARGEST_DENSE:
        largest = np.linalg.eigvalsh(np.stack([product(row) for row in np.eye(size)]))[-1]
    else:
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(size)  # a fixed start keeps the answer repeatable
        largest = eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0]
    return 2 / float(largest) if largest > 0 else np.inf


def spectral_contrastive_grassmann_max_learning_rate(cross: ArrayLike, second: ArrayLike) -> float:
    """A learning rate below which every step on the Grassmannian lowers the loss: 2 / K, from any point, for every d.

    K = 4 (gamma_1 - gamma_m) + 4 max_{s in [sigma_m, sigma_1]} s (sigma_1 - s) + 2 (sigma_1 - sigma_m)^2
    bounds the Riemannian Hessian from above: for a tangent D (U^T D = 0) with S = U^T Sigma U it is
    4 [tr(D U^T Gamma U D^T) - tr(D^T Gamma D)] + 4 tr(D^T Sigma D S - D^T D S^2) + 4 [tr(X^2) + ||X||^2],
    X = D^T Sigma U, and ||(I - U U^T) Sigma U||_2 <= (sigma_1 - sigma_m) / 2. Holds for geodesic steps and for the QR
    and polar retractions, which turn each principal angle by the arctan of the geodesic one. Sufficient, not
    necessary. inf if K = 0. Derived here, verified in tests.
    """
    gamma, sigma = _moments(cross, second)
    g, s = np.linalg.eigvalsh(gamma), np.linalg.eigvalsh(sigma)
    low, high = max(float(s[0]), 0.0), float(s[-1])
    inner = float(np.clip(high / 2, low, high))
    bound = 4 * float(g[-1] - g[0]) + 4 * inner * (high - inner) + 2 * (high - low) ** 2
    return 2 / bound if bound > 0 else np.inf


def _moments(cross: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    gamma, sigma = check.symmetric("cross", cross), check.symmetric("second", second)
    if gamma.shape != sigma.shape:
        raise ValueError(f"cross and second need one shape (m, m), got {gamma.shape} and {sigma.shape}")
    sizes = np.linalg.eigvalsh(sigma)
    if sizes[0] < -RELATIVE_CUTOFF * np.abs(sizes).max():
        raise ValueError(f"second must be positive semi-definite, got a smallest eigenvalue of {sizes[0]:.3g}")
    return gamma, sigma

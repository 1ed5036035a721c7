"""Minima of self-supervised losses of a linear model: spectra, collapsed dimensions, and how fast descent may go there.

Model f(x) = W^T x with weights W (m, d), cross-moment Gamma = E x x'^T of two views of one sample, symmetric, and second moment
Sigma = E x x^T of single views. Many losses are quartic in W, with one symmetric matrix B, the attraction:
    L(W) = -2 tr(W^T B W) + ||W^T Sigma W||_F^2 + const,        W - lr (-4 B W + 4 Sigma W W^T Sigma W) is a step of descent,
    B = Gamma                          spectral contrastive (HaoChen et al., NeurIPS 2021, arXiv 2106.04156), const 0:
                                       -2 E f(x)^T f(x') + E (f(x)^T f(y))^2, y an independent view
    B = (1 - beta) Sigma + beta Gamma  VICReg in squared form (Cabannes et al., ICML 2023, arXiv 2302.02774), const d:
                                       beta E||f(x) - f(x')||^2 + ||E f f^T - I||_F^2
Learning rates belong to descent on L as written (no factor 1/2). Adding a constant moves only the minimum.
All functions raise ValueError for arrays that are not finite, symmetric or of one shape, and for a Sigma with a negative
eigenvalue.
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

# Quartic losses


def quartic_minimiser(attraction: ArrayLike, second: ArrayLike, d: int) -> tuple[Array, Array, float]:
    """Spectrum mu (d,), minimising weights (m, d) and minimum of -2 tr(W^T B W) + ||W^T Sigma W||_F^2.

    B v_j = mu_j Sigma v_j, v_j^T Sigma v_k = delta_jk, mu decreasing: the columns of W are v_j sqrt(max(mu_j, 0)),
    W^T Sigma W = diag(max(mu, 0)) and min L = -sum_j max(mu_j, 0)^2; every W Q, Q in O(d), is a minimiser too.
    attraction = B, second = Sigma. A singular Sigma (dead pixels) is handled on its range, eigenvalues above 1e-10 of
    the largest; if the range has fewer than d dimensions, mu ends in zeros. A mu_j <= 0 gives a zero column.
    Raises ValueError if B leaves that range (no data do that; L would be unbounded below) or unless 1 <= d <= m.
    Source: HaoChen et al., section 3, from Eckart & Young, for B = Gamma; the linear form is derived here.
    """
    b, sigma = moments("attraction", attraction, second)
    m = sigma.shape[0]
    d = check.dimension(d, m)
    sizes, vectors = np.linalg.eigh(sigma)
    kept = sizes > RELATIVE_CUTOFF * sizes[-1]
    if not kept.any():
        raise ValueError("second must not be zero")
    basis = vectors[:, kept]
    outside = np.abs(b - basis @ (basis.T @ b)).max()
    if outside > np.sqrt(RELATIVE_CUTOFF) * sizes[-1]:
        raise ValueError(
            f"attraction must vanish where second does, got an entry of {outside:.3g} outside the range of second "
            f"(smallest eigenvalue {sizes[0]:.3g}, largest {sizes[-1]:.3g})"
        )
    mu_all, inner = eigh(basis.T @ b @ basis, basis.T @ sigma @ basis)
    r = min(d, mu_all.size)
    mu, weights = np.zeros(d), np.zeros((m, d))
    mu[:r] = mu_all[::-1][:r]
    weights[:, :r] = basis @ inner[:, ::-1][:, :r] * np.sqrt(np.maximum(mu[:r], 0.0))
    return mu, weights, float(-(np.maximum(mu, 0.0) ** 2).sum())


def quartic_max_learning_rate(attraction: ArrayLike, second: ArrayLike, d: int) -> float:
    """Largest stable learning rate of gradient descent at the minimiser: 2 / largest eigenvalue of the Hessian.

    Hess[D] = -4 B D + 4 Sigma D (W^T Sigma W) + 4 Sigma W (D^T Sigma W + W^T Sigma D), D (m, d); its largest
    eigenvalue by Lanczos to machine precision. Local. inf if the Hessian has no positive eigenvalue.
    Errors as `quartic_minimiser`. Derived here.
    """
    b, sigma = moments("attraction", attraction, second)
    _, weights, _ = quartic_minimiser(b, sigma, d)
    sw = sigma @ weights
    wsw = weights.T @ sw

    def product(flat: Array) -> Array:
        direction = flat.reshape(weights.shape)
        overlap = direction.T @ sw
        return (4 * (-b @ direction + sigma @ direction @ wsw + sw @ (overlap + overlap.T))).ravel()

    size = weights.size
    if size <= LARGEST_DENSE:
        largest = np.linalg.eigvalsh(np.stack([product(row) for row in np.eye(size)]))[-1]
    else:
        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(size)  # a fixed start keeps the answer repeatable
        largest = eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0]
    return 2 / float(largest) if largest > 0 else np.inf


def quartic_grassmann_max_learning_rate(attraction: ArrayLike, second: ArrayLike) -> float:
    """A learning rate below which every step on the Grassmannian lowers the loss: 2 / K, from any point, for every d.

    K = 4 (b_1 - b_m) + 4 max_{s in [sigma_m, sigma_1]} s (sigma_1 - s) + 2 (sigma_1 - sigma_m)^2
    bounds the Riemannian Hessian from above: for a tangent D (U^T D = 0) with S = U^T Sigma U it is
    4 [tr(D U^T B U D^T) - tr(D^T B D)] + 4 tr(D^T Sigma D S - D^T D S^2) + 4 [tr(X^2) + ||X||^2],
    X = D^T Sigma U, and ||(I - U U^T) Sigma U||_2 <= (sigma_1 - sigma_m) / 2. Holds for geodesic steps and for the QR
    and polar retractions, which turn each principal angle by the arctan of the geodesic one. Sufficient, not
    necessary. inf if K = 0. Derived here, verified in tests.
    """
    b, sigma = moments("attraction", attraction, second)
    values, s = np.linalg.eigvalsh(b), np.linalg.eigvalsh(sigma)
    low, high = max(float(s[0]), 0.0), float(s[-1])
    inner = float(np.clip(high / 2, low, high))
    bound = 4 * float(values[-1] - values[0]) + 4 * inner * (high - inner) + 2 * (high - low) ** 2
    return 2 / bound if bound > 0 else np.inf


# Spectra


def correlations(cross: ArrayLike, second: ArrayLike) -> Array:
    """Correlations mu (m,) of two views, decreasing: the eigenvalues of Sigma^{-1/2} Gamma Sigma^{-1/2}.

    The spectrum of canonical correlation analysis, -1 <= mu <= 1 for moments of data. On dead directions of Sigma mu is 0.
    Spectral contrastive learning ends with W^T Sigma W = diag(max(mu_j, 0)), j <= d. Errors as `quartic_minimiser`.
    Source: HaoChen et al., section 3; the linear form is derived here.
    """
    b, sigma = moments("cross", cross, second)
    return np.sort(quartic_minimiser(b, sigma, sigma.shape[0])[0])[::-1]


def truncated_spectrum(mu: ArrayLike, beta: float) -> Array:
    """Embedding variances that squared VICReg ends with: max(0, 1 - beta + beta mu), entry by entry.

    mu: the d largest `correlations`; beta >= 0 weighs the invariance term. Source: Cabannes et al.
    Raises ValueError for beta < 0.
    """
    weight = check.number("beta", beta, least=0)
    return np.maximum(0.0, 1 - weight + weight * check.array("mu", mu))


def squared_vicreg_attraction(cross: ArrayLike, second: ArrayLike, beta: float, penalty: float = 0.0) -> Array:
    """The attraction (m, m) of squared VICReg with a ridge: B = (1 - beta) Sigma + beta Gamma - penalty I.

    L = beta E||f(x) - f(x')||^2 + ||E f f^T - I||_F^2 + 2 penalty ||W||_F^2 = -2 tr(W^T B W) + ||W^T Sigma W||_F^2 + d;
    ||W||_F is the norm of f in the reproducing kernel Hilbert space of the linear kernel. beta, penalty >= 0. Derived here.
    Raises ValueError for beta < 0 or penalty < 0.
    """
    gamma, sigma = moments("cross", cross, second)
    weight, ridge = check.number("beta", beta, least=0), check.number("penalty", penalty, least=0)
    return (1 - weight) * sigma + weight * gamma - ridge * np.eye(sigma.shape[0])


def interplay_matrix(cross: ArrayLike, second: ArrayLike, beta: float, penalty: float) -> Array:
    """T_penalty (m, m) = (1 - beta) I + beta T - penalty K^{-1}, whose leading eigenvectors squared VICReg with a ridge learns.

    T = Sigma^{-1/2} Gamma Sigma^{-1/2} and K = Sigma in the coordinates Sigma^{-1/2} x; augmentations (T) and architecture (K)
    compete. The minimum of the loss of `squared_vicreg_attraction` has W^T Sigma W with the eigenvalues max(0, t_j), t_j the d
    largest eigenvalues of this matrix. The factor 2 of the penalty 2 penalty ||W||_F^2 is what makes that exact.
    Raises ValueError unless Sigma is positive definite (1e-10, relative). Source: Cabannes et al., linear form derived here.
    """
    b = squared_vicreg_attraction(cross, second, beta, penalty)
    sizes, vectors = np.linalg.eigh(check.symmetric("second", second))
    if sizes[0] <= RELATIVE_CUTOFF * sizes[-1]:
        raise ValueError(f"second must be positive definite, got a smallest eigenvalue of {sizes[0]:.3g}")
    whiten = (vectors / np.sqrt(sizes)) @ vectors.T
    result: Array = whiten @ b @ whiten
    return (result + result.T) / 2


# Collapse at the origin


def infonce_attraction(signal_matrix: ArrayLike, noise_matrix: ArrayLike, extra_alignment: float = 0.0) -> Array:
    """What pulls small weights out of the origin under InfoNCE: B = A - extra_alignment N, so that L = -tr(W^T B W) + quartic.

    Data x = b + e with signal covariance A (m, m) and augmentation noise N (m, m); the alignment term is weighed by
    1 + extra_alignment >= 0. At extra_alignment = 0 the noise cancels, and the quartic term is (3/4) tr((W^T (A + N) W)^2).
    Similarity -|z - z'|^2 / 2, temperature 1, infinitely many negatives. Derived here; compare Ziyin et al., ICLR 2023,
    arXiv 2210.00638. Raises ValueError for extra_alignment < -1 or a covariance that is not positive semi-definite.
    """
    a, n = moments("signal_matrix", signal_matrix, noise_matrix, "noise_matrix")
    return (
        check.positive_semidefinite("signal_matrix", a) - check.number("extra_alignment", extra_alignment, least=-1) * n
    )


def collapsed_dimensions(attraction: ArrayLike, penalty: float) -> int:
    """How many of the m input directions weight decay keeps at zero: the number of eigenvalues of B - penalty I that are <= 0.

    For a loss -tr(W^T B W) + quartic + penalty ||W||_F^2 near the origin; torch.optim.SGD(weight_decay=eta) is penalty = eta / 2.
    In a loss -2 tr(W^T B W) pass 2 B. d outputs then learn at most m minus this many dimensions, and the origin is a saddle
    if there are any. Eigenvalues below m eps max|eigenvalue| count as 0. penalty >= 0.
    Source: Ziyin et al., ICLR 2023, arXiv 2210.00638 (theorem numbers not checked); verified in tests for InfoNCE.
    Raises ValueError for penalty < 0.
    """
    b = check.symmetric("attraction", attraction)
    values = np.asarray(np.linalg.eigvalsh(b) - check.number("penalty", penalty, least=0), dtype=np.float64)
    return int((~check.above_rounding(values)).sum())


# Data with known spectra


def extent_bias_moments(large: int, small: int, noise: float, amplitude: float = 1.0) -> tuple[Array, Array]:
    """Gamma and Sigma (m, m), m = large + small, of two binary features of different extent.

    x = [amplitude b_1 1_large, b_2 1_small] + N(0, noise^2 I) with independent signs b = +-1 shared by the two views.
    Gamma has the nonzero eigenvalues amplitude^2 large and small: with amplitude 1 the feature that covers more pixels is
    learned first, in Barlow Twins by the ratio of the extents (extent bias); with large = small = m / 2 the eigenvalue
    amplitude^2 m / 2 belongs to the brighter one (amplitude bias). Sigma = Gamma + noise^2 I.
    Raises ValueError unless large, small >= 1 and noise >= 0. Derived here.
    """
    columns = _features(large, small, amplitude)
    gamma = columns.T @ columns
    return gamma, gamma + check.number("noise", noise, least=0) ** 2 * np.eye(gamma.shape[0])


def extent_bias_samples(
    rng: np.random.Generator, n: int, large: int, small: int, noise: float, amplitude: float = 1.0
) -> tuple[Array, Array]:
    """n pairs of views x, x' (n, m) of the two features of `extent_bias_moments`; same signs, noise drawn for each view.

    Raises ValueError unless n, large, small >= 1 and noise >= 0.
    """
    columns = _features(large, small, amplitude)
    spread = check.number("noise", noise, least=0)
    count = check.integer("n", n)
    clean = rng.choice([-1.0, 1.0], (count, 2)) @ columns
    x, positive = (clean + spread * rng.standard_normal(clean.shape) for _ in range(2))
    return x, positive


def _features(large: int, small: int, amplitude: float) -> Array:
    """One row for each feature, (2, m)."""
    first, second = check.integer("large", large), check.integer("small", small)
    rows = np.zeros((2, first + second))
    rows[0, :first], rows[1, first:] = check.number("amplitude", amplitude), 1.0
    return rows


def moments(name: str, matrix: ArrayLike, second: ArrayLike, second_name: str = "second") -> tuple[Array, Array]:
    """A symmetric matrix and a positive semi-definite one of one shape (m, m). Raises ValueError for any other."""
    first, sigma = check.symmetric(name, matrix), check.positive_semidefinite(second_name, second)
    if first.shape != sigma.shape:
        raise ValueError(f"{name} and {second_name} need one shape (m, m), got {first.shape} and {sigma.shape}")
    return first, sigma

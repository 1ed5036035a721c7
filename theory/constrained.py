"""Trace losses and Barlow Twins with orthonormal weights, and what trace losses do without them.

Esser, Mukherjee & Ghoshdastidar, arXiv 2309.02011, study f(x) = W^T x with weights W (..., m, d) and losses
tr(W^T C W), C (m, m) symmetric, perhaps indefinite, with eigenvalues lambda_1 <= ... <= lambda_m and eigenvectors v_k.
    free        : dW/dt = -2 C W                  collapses to rank 1 (or to zero)
    constrained : dW/dt = -2 (I - W W^T) C W      with W^T W = I, converges to the span of v_1 .. v_d
The closed forms below are derived here and verified in tests; the paper states its theorems in another form.
Constrained Barlow Twins uses the conventions of `theory.stepwise`: cross-moment Gamma, gamma_1 >= ... >= gamma_m.
Unit of time everywhere: t = learning rate x step of gradient descent on the loss as written (no factor 1/2).
Leading dimensions of W are batch dimensions; a vector of times adds an axis T in front of (m, d), a scalar none. Only
spans have a meaning under the constraint: the bases returned are orthonormal and otherwise arbitrary.
All functions raise ValueError for arrays that are not finite or do not fit each other, and for t < 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory import stepwise
from theory._subspaces import graded_span
from theory._validation import Array

EPS = np.finfo(np.float64).eps


def spectrum(matrix: ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues (m,) in increasing order and eigenvectors (m, m) in the columns: C = V diag(lambda) V^T.

    Raises ValueError if `matrix` (m, m) is not symmetric (1e-8, relative) or not finite.
    """
    lambda_, vectors = np.linalg.eigh(check.symmetric("matrix", matrix))
    return lambda_, vectors


# Without the constraint


def free_flow(t: ArrayLike, weights: ArrayLike, matrix: ArrayLike) -> tuple[Array, Array]:
    """Free gradient flow of tr(W^T C W) as (direction (..., T, m, d), log_norm (..., T)).

    W(t) = e^{-2 C t} W(0) = exp(log_norm) direction with ||direction||_F = 1; neither overflows however late.
    Relative error about eps max|lambda| t, that of the exponents. Raises ValueError if weights (..., m, d) are zero.
    Derived here, from dW/dt = -2 C W.
    """
    at, scalar = check.times(t)
    lambda_, vectors = spectrum(matrix)
    rows = vectors.T @ check.weights(weights, lambda_.size, "matrix")
    sizes = np.abs(rows).max(-1)
    if np.any(sizes.max(-1) == 0):
        raise ValueError("weights must not be zero: a flow that stays at zero has no direction")
    with np.errstate(divide="ignore"):
        exponent = np.log(sizes)[..., None, :] - 2 * lambda_ * at[:, None]  # (..., T, m)
    top = exponent.max(-1, keepdims=True)
    unit = rows / np.where(sizes > 0, sizes, 1.0)[..., None]
    scaled = vectors @ (np.exp(exponent - top)[..., None] * unit[..., None, :, :])
    norm = np.sqrt((scaled**2).sum((-2, -1)))
    direction, log_norm = scaled / norm[..., None, None], top[..., 0] + np.log(norm)
    return (direction[..., 0, :, :], log_norm[..., 0]) if scalar else (direction, log_norm)


def collapse_slope(matrix: ArrayLike) -> float:
    """Late slope in t of log(sigma_2 / sigma_1) of freely trained weights: -2 (lambda_2 - lambda_1).

    Validity: once lambda_1 and lambda_2 dominate, for d >= 2 and generic weights. Raises ValueError for m < 2.
    Derived here, from dW/dt = -2 C W.
    """
    lambda_, _ = spectrum(matrix)
    if lambda_.size < 2:
        raise ValueError(f"matrix needs at least 2 rows, got shape {lambda_.size} x {lambda_.size}")
    return float(-2 * (lambda_[1] - lambda_[0]))


def limit_direction(matrix: ArrayLike) -> Array:
    """Unit vector v_1 (m,), up to sign, along which all columns of freely trained weights end.

    Raises ValueError if lambda_1 is repeated (up to m eps max|lambda|): the limit then keeps a higher rank.
    Derived here, from dW/dt = -2 C W.
    """
    lambda_, vectors = spectrum(matrix)
    if lambda_.size > 1 and lambda_[1] - lambda_[0] <= lambda_.size * EPS * np.abs(lambda_).max():
        raise ValueError(f"matrix needs a single smallest eigenvalue, got {lambda_[0]} and {lambda_[1]}")
    return vectors[:, 0].copy()


def norm_rate(matrix: ArrayLike) -> float:
    """Late slope in t of log ||W|| of freely trained weights: -2 lambda_1.

    Positive: the norm diverges. Negative: the weights vanish, a complete collapse. Derived here, from dW/dt = -2 C W.
    """
    return float(-2 * spectrum(matrix)[0][0])


def max_free_learning_rate(matrix: ArrayLike) -> float:
    """Learning rate above which free gradient descent W - 2 lr C W differs in kind from the flow: 1 / lambda_m.

    |1 - 2 lr lambda| < 1 for all lambda > 0 below it; above it these modes oscillate and grow. inf if lambda_m <= 0.
    Modes with lambda < 0 grow at every learning rate, as they do in the flow. Derived here.
    """
    largest = float(spectrum(matrix)[0][-1])
    return 1 / largest if largest > 0 else np.inf


def two_layer_mode(t: ArrayLike, m0: ArrayLike, lambda_: ArrayLike) -> Array:
    """Mode values (..., T, k) of two free linear layers W = W_1 W_2, balanced.

    m_j(t) = m_j(0) / (1 + 4 lambda_j m_j(0) t) solves dm/dt = -4 lambda m^2, where W_1^T W_1 = W_2 W_2^T.
    m0 (..., k) >= 0, lambda_ (k,). For lambda_j < 0 the mode is inf from `blow_up_time` on, where the solution ends.
    Raises ValueError for m0 < 0. Derived here.
    """
    at, scalar = check.times(t)
    start, rates = check.modes("m0", m0, "lambda_", lambda_)
    denominator = 1 + 4 * rates * start[..., None, :] * at[:, None]
    alive = denominator > 0
    result = np.where(alive, start[..., None, :] / np.where(alive, denominator, 1.0), np.inf)
    return result[..., 0, :] if scalar else result


def blow_up_time(m0: ArrayLike, lambda_: ArrayLike) -> Array:
    """Time (..., k) at which `two_layer_mode` becomes infinite: 1 / (4 |lambda_j| m_j(0)) for lambda_j < 0, else inf.

    m0 (..., k) >= 0, lambda_ (k,). Raises ValueError for m0 < 0. Derived here.
    """
    start, rates = check.modes("m0", m0, "lambda_", lambda_)
    with np.errstate(divide="ignore", over="ignore"):
        return 1 / (4 * np.maximum(-rates, 0.0) * start)


# With the constraint


def tangent_coordinates(weights: ArrayLike, matrix: ArrayLike) -> Array:
    """Coordinates T (..., m - d, d) of span(W) around the bottom-d eigenspace V_d of C.

    T = (V_rest^T W)(V_d^T W)^{-1}; singular values of T = tan(principal angles). Along the constrained flow
    T_ij(t) = T_ij(0) e^{-2 t (lambda_{d+i} - lambda_j)}, exact and decoupled.
    weights (..., m, d): any basis. Raises ValueError if V_d^T W is singular (up to m eps): no such coordinates there.
    Derived here.
    """
    lambda_, vectors = spectrum(matrix)
    w = _full_rank(weights, lambda_.size)
    d = w.shape[-1]
    rows = vectors.T @ w
    inside, outside = rows[..., :d, :], rows[..., d:, :]
    smallest = np.linalg.svd(inside, compute_uv=False)[..., -1].min()
    if smallest <= lambda_.size * EPS:
        raise ValueError(
            "weights must not be orthogonal to a direction of the bottom-d eigenspace, "
            f"got V_d^T W with a smallest singular value of {smallest:.3g}"
        )
    return np.swapaxes(np.linalg.solve(np.swapaxes(inside, -1, -2), np.swapaxes(outside, -1, -2)), -1, -2)


def grassmann_flow(t: ArrayLike, weights: ArrayLike, matrix: ArrayLike) -> Array:
    """Orthonormal bases (..., T, m, d) of the constrained gradient flow: span W(t) = span(e^{-2 C t} W(0)), exact.

    weights (..., m, d): any basis of the start. Holds for every t >= 0, near and on saddles and for d = m: the result
    is exact for a start and eigenvalues changed by a few eps. A start within eps of a saddle therefore leaves it after
    t ~ log(1/eps) / (2 gap), as it does in training. Raises ValueError if the weights have rank below d. Derived here.
    """
    at, scalar = check.times(t)
    lambda_, vectors = spectrum(matrix)
    rows = vectors.T @ _full_rank(weights, lambda_.size)
    result = vectors @ graded_span(rows, -2 * lambda_, at)
    return result[..., 0, :, :] if scalar else result


def orthogonal_iteration(steps: ArrayLike, weights: ArrayLike, matrix: ArrayLike, learning_rate: float) -> Array:
    """Orthonormal bases (..., T, m, d) after whole steps of W <- qf(W - 2 learning_rate C W), qf the Q factor of QR.

    span W_k = span((I - 2 learning_rate C)^k W_0), exact:
    T_ij(k) = T_ij(0) [(1 - 2 learning_rate lambda_{d+i}) / (1 - 2 learning_rate lambda_j)]^k.
    This is projected gradient descent; a Riemannian step agrees with it to second order in the learning rate. Beyond
    learning_rate = 1 / (lambda_d + lambda_m), if positive, it converges to another eigenspace.
    steps: whole numbers >= 0, scalar or (T,). Raises ValueError for learning_rate <= 0 or if the rank falls below d.
    Derived here.
    """
    counts, scalar = check.step_numbers(steps)
    rate = check.positive_number("learning_rate", learning_rate)
    lambda_, vectors = spectrum(matrix)
    rows = vectors.T @ _full_rank(weights, lambda_.size)
    shrink = -2 * rate * lambda_
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(shrink > -1, np.log1p(np.maximum(shrink, -1.0)), np.log(np.abs(1 + shrink)))
    result = vectors @ graded_span(rows, rates, counts.astype(np.float64), np.where(1 + shrink < 0, -1.0, 1.0))
    return result[..., 0, :, :] if scalar else result


def gap(matrix: ArrayLike, d: int) -> float:
    """Spectral gap lambda_{d+1} - lambda_d of the constrained flow.

    Late principal angles to the bottom-d eigenspace shrink as e^{-2 gap t}, the excess loss as e^{-4 gap t}.
    Raises ValueError unless 1 <= d < m. Derived here.
    """
    lambda_, _ = spectrum(matrix)
    d = check.dimension(d, lambda_.size, proper=True)
    return float(lambda_[d] - lambda_[d - 1])


def max_learning_rate(matrix: ArrayLike) -> float:
    """Largest stable learning rate of Riemannian gradient descent at the minimum: 1 / (lambda_m - lambda_1).

    There T_ij <- T_ij [1 - 2 lr (lambda_{d+i} - lambda_j)] to first order, for every d < m. inf for a multiple of I.
    Local to the bottom-d eigenspace. Derived here.
    """
    lambda_, _ = spectrum(matrix)
    spread = float(lambda_[-1] - lambda_[0])
    return 1 / spread if spread > 0 else np.inf


# Barlow Twins with the constraint


@dataclass(frozen=True, eq=False)
class BarlowTwinsMinimum:
    """The minimum of ||U^T Gamma U - I||_F^2 over U^T U = I_d.

    regime "top": the top-d eigenspace; "bottom": the bottom-d eigenspace; "mixed": neither of them and in general no
    eigenspace, since directions that combine modes with gamma above and below 1 reach 1 exactly.
    """

    regime: Literal["top", "bottom", "mixed"]
    loss: float
    eigenvalues: Array  # of U^T Gamma U at the minimum (d,), decreasing
    indices: tuple[int, ...] | None  # of the eigenvectors that span the minimiser, counted from 0; None if mixed


def barlow_twins_minimum(gamma: ArrayLike, d: int) -> BarlowTwinsMinimum:
    """Minimum of constrained Barlow Twins L(U) = ||U^T Gamma U - I||_F^2, U^T U = I_d, for gamma (m,) decreasing.

    The eigenvalues c_1 >= ... >= c_d of U^T Gamma U interlace, gamma_{m-d+i} <= c_i <= gamma_i (Cauchy), and all such
    c are attained (Fan & Pall, 1957), so c_i = 1 clipped to these bounds and the minimum is sum_i (c_i - 1)^2:
      all gamma <= 1 : "top";  all gamma >= 1 : "bottom";  otherwise "mixed", with loss 0 if at least d of the gamma
      are >= 1 and at least d are <= 1, and a positive loss if fewer are on one side.
    Both comparisons with 1 allow for rounding, 10 m eps max(1, |gamma|): Gamma / gamma_1 counts as all <= 1.
    For d = m there is one subspace, reported as "top". Ties at 1 leave more minimisers than the one named.
    Raises ValueError unless gamma decreases and 1 <= d <= m. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    m = values.size
    d = check.dimension(d, m)
    lower, upper = values[m - d :], values[:d]
    rounding = 10 * m * EPS * max(1.0, float(np.abs(values).max()))
    if d == m or values[0] <= 1 + rounding:
        return BarlowTwinsMinimum("top", float(((upper - 1) ** 2).sum()), upper, tuple(range(d)))
    if values[-1] >= 1 - rounding:
        return BarlowTwinsMinimum("bottom", float(((lower - 1) ** 2).sum()), lower, tuple(range(m - d, m)))
    c = np.clip(1.0, lower, upper)
    return BarlowTwinsMinimum("mixed", float(((c - 1) ** 2).sum()), c, None)


def barlow_twins_rates(gamma: ArrayLike, inside: Sequence[int]) -> Array:
    """Rates (m - d, d) at which U = V_in + V_out B returns to the eigenspace V_in: dB_ij/dt = -rate_ij B_ij.

    rate_ij = 4 (gamma_j - gamma_i)(1 - gamma_j), indices counted from 0: i runs over the others in increasing order,
    j over `inside` as given. A negative rate: the eigenspace is a saddle or a maximum. First order in B.
    Raises ValueError if `inside` repeats an index or leaves 0 .. m-1. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    chosen = [int(j) for j in inside]
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= j < values.size for j in chosen):
        raise ValueError(f"inside must be different indices from 0 to {values.size - 1}, got {inside!r}")
    within, outside = values[chosen], np.delete(values, chosen)
    return 4 * (within - outside[:, None]) * (1 - within)


def barlow_twins_subspace(gamma_matrix: ArrayLike, d: int) -> Array:
    """Orthonormal basis (m, d) of the predicted minimiser of constrained Barlow Twins.

    Raises ValueError in the mixed regime, where the minimiser is no eigenspace. Derived here.
    """
    gamma, vectors = stepwise.spectrum(gamma_matrix)
    return vectors[:, _indices(gamma, d)]


def max_barlow_twins_learning_rate(gamma: ArrayLike, d: int) -> float:
    """Largest stable learning rate of Riemannian gradient descent at the predicted minimiser: 2 / max rate_ij.

    inf if no rate is positive (d = m, or all gamma equal). Local. Raises ValueError in the mixed regime. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    largest = barlow_twins_rates(values, _indices(values, d)).max(initial=0.0)
    return 2 / float(largest) if largest > 0 else np.inf


def _indices(gamma: Array, d: int) -> list[int]:
    minimum = barlow_twins_minimum(gamma, d)
    if minimum.indices is None:
        raise ValueError(
            f"gamma from {gamma[-1]:.3g} to {gamma[0]:.3g} lies on both sides of 1: the minimiser is no eigenspace. "
            "Divide Gamma by its largest eigenvalue to make it the top-d eigenspace"
        )
    return list(minimum.indices)


def _full_rank(weights: ArrayLike, m: int) -> Array:
    """Weights (..., m, d) with unit columns, refused unless their rank is d. Rows keep their relative accuracy."""
    w = check.weights(weights, m, "matrix")
    w = w / np.maximum(np.linalg.norm(w, axis=-2, keepdims=True), np.finfo(np.float64).tiny)
    sizes = np.linalg.svd(w, compute_uv=False)
    if np.any(sizes[..., -1] <= m * EPS * sizes[..., 0]):
        raise ValueError(f"weights need rank {w.shape[-1]}, got columns that depend on each other")
    return w

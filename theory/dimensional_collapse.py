"""Dimensional collapse of contrastive learning in linear models (Jing et al., ICLR 2022, arXiv 2110.09348).

Model f(x) = W^T x with weights W (..., m, d): our W is the paper's W transposed. n pairs x_i, x'_i in R^m, z = W^T x, and
    L = -(1/n) sum_i log [ e^{-|z_i - z'_i|^2 / 2} / (sum_{j != i} e^{-|z_i - z_j|^2 / 2} + e^{-|z_i - z'_i|^2 / 2}) ],
the mean over samples where the paper has the sum: our X is 1/n of the paper's, our t n times the paper's. Gradient flow:
    dW/dt = X W,  X = S0 - S1 symmetric, S0 from the contrast between samples and S1 from the spread of the augmentation.
Where X is negative the weights shrink: strong augmentation collapses dimensions. With two layers, f(x) = W2^T W1^T x, even
X > 0 does: small modes grow slower. Unit of time: t = learning rate x step of gradient descent on L.
All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import exprel, logsumexp

from theory import _validation as check
from theory import constrained
from theory._validation import Array
from theory.landscape import moments

LARGEST_EXPONENT, LARGEST = 700.0, 1e300  # that float64 holds


def contrast_matrix(x: ArrayLike, x_positive: ArrayLike, weights: ArrayLike) -> Array:
    """X (..., m, m) of the flow dW/dt = X W at weights (..., m, d): minus the gradient of InfoNCE is X W, exactly.

    X = S0 - S1,  S0 = (1/n) sum_i sum_{j != i} alpha_ij (x_i - x_j)(x_i - x_j)^T,
                  S1 = (1/n) sum_i (1 - alpha_ii)(x'_i - x_i)(x'_i - x_i)^T,
    alpha_ij = e^{-|z_i - z_j|^2 / 2} / Z_i for j != i, alpha_ii = e^{-|z_i - z'_i|^2 / 2} / Z_i, Z_i such that sum_j alpha_ij = 1.
    x, x_positive (n, m), n >= 2; x' is only ever a positive. Source: Lemmas 1 and 2 of the paper, with 1/n for its sums.
    Raises ValueError unless n >= 2 and the shapes fit.
    """
    anchor, positive = check.array("x", x, ndim=2), check.array("x_positive", x_positive, ndim=2)
    if anchor.shape != positive.shape or anchor.shape[0] < 2:
        raise ValueError(f"x and x_positive need one shape (n, m) with n >= 2, got {anchor.shape} and {positive.shape}")
    n, m = anchor.shape
    w = check.array("weights", weights, at_least=2)
    if w.shape[-2] != m:
        raise ValueError(f"weights must have shape (..., {m}, d) to fit x, got {w.shape}")
    z, shift = anchor @ w, positive - anchor
    logits = -((z[..., :, None, :] - z[..., None, :, :]) ** 2).sum(-1) / 2
    diagonal = np.arange(n)
    logits[..., diagonal, diagonal] = -((shift @ w) ** 2).sum(-1) / 2
    alpha = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    away = 1 - alpha[..., diagonal, diagonal]
    alpha[..., diagonal, diagonal] = 0.0
    both = alpha + np.swapaxes(alpha, -1, -2)
    contrast = anchor.T @ (both.sum(-1)[..., None] * anchor - both @ anchor)
    result: Array = (contrast - shift.T @ (away[..., None] * shift)) / n
    return result


def small_weights_matrix(anchor: ArrayLike, difference: ArrayLike) -> Array:
    """X (m, m) at small weights and infinitely many samples: 2 Cov(x) - E (x' - x)(x' - x)^T.

    anchor: covariance Cov(x) of the anchor views (m, m); difference: second moment of x' - x (m, m). n samples give exactly
    (1 - 1/n) of it, with their unbiased covariance; few noisy samples have negative directions that the population has not.
    With signal A and augmentation noise N,
      noise on both views (Cov(x) = A + N, difference 2 N):       X = 2 A: no collapse from small weights, however much noise
      clean anchor, noise on x' only (Cov(x) = A, difference N):  X = 2 A - N: directions with n_j > 2 a_j collapse
    Derived here from `contrast_matrix` with alpha_ij = 1/n.
    Raises ValueError unless both are positive semi-definite and of one shape.
    """
    covariance, spread = moments("anchor", anchor, difference, "difference")
    return 2 * check.positive_semidefinite("anchor", covariance) - spread


def collapsed_directions(matrix: ArrayLike) -> int:
    """How many singular values of W vanish relative to the others: the number of negative eigenvalues of X (m, m).

    Negative means beyond rounding, < -m eps max|eigenvalue|. Of d outputs max(0, d - m + this number) collapse to zero.
    Validity: X constant, or keeping the sign on these directions. Source: Theorem 1 of the paper.
    Raises ValueError unless X is symmetric.
    """
    values = np.asarray(np.linalg.eigvalsh(check.symmetric("matrix", matrix)), dtype=np.float64)
    return int(check.above_rounding(-values).sum())


def frozen_flow(t: ArrayLike, weights: ArrayLike, matrix: ArrayLike) -> tuple[Array, Array]:
    """Weights e^{X t} W(0) under a constant X, as (direction (..., T, m, d), log_norm (..., T)), ||direction||_F = 1.

    weights (..., m, d), matrix X (m, m). Neither part overflows however late. Exact for constant X; for InfoNCE right as long
    as the weights are small. Raises ValueError for t < 0 or zero weights. Source: the proof of Theorem 1 of the paper.
    """
    return constrained.free_flow(t, weights, -check.symmetric("matrix", matrix) / 2)


def two_layer_singular_values(t: ArrayLike, s1: ArrayLike, s2: ArrayLike, strength: ArrayLike) -> tuple[Array, Array]:
    """Singular values of both layers (..., T, d) from aligned layers with s1, s2 (..., d) and x_j = v_j^T X v_j = strength (d,).

    ds1/dt = s1 s2^2 x, ds2/dt = s2 s1^2 x. With the conserved c = s1^2 - s2^2 and phi(z) = 2 x t (e^z - 1) / z, z = 2 x c t,
        s1(t)^2 = s1^2 / (1 - s2^2 phi(z)),   s2(t)^2 = s2^2 / (1 - s1^2 phi(-z));
    balanced layers (c = 0): s(t) = s / sqrt(1 - 2 s^2 x t). Small modes grow slowest: the product s1 s2 has low rank.
    inf from `blow_up_times` on. Validity: X constant, V2^T U1 = I and a basis that diagonalises X; each layer follows
    dW1 = X W1 W2 W2^T dt, dW2 = W1^T X W1 W2 dt. Raises ValueError for t < 0 or negative singular values.
    Source: section 5 of the paper (the sign of its c is a slip); the unbalanced solution is derived here.
    """
    at, scalar = check.times(t)
    first, second, x = _layers(s1, s2, strength)
    gone = at[:, None] >= blow_up_times(first, second, x)[..., None, :]
    u, v = first[..., None, :] ** 2, second[..., None, :] ** 2
    result = []
    for own, other in ((u, v), (v, u)):
        with np.errstate(over="ignore"):
            z = 2 * x * (own - other) * at[:, None]
            far = np.abs(z) > 1
            difference = np.where(far, own - other, 1.0)
            phi = np.expm1(np.minimum(z, LARGEST_EXPONENT)) / difference
            phi = np.where(far, phi, 2 * x * at[:, None] * exprel(np.clip(z, -1, 1)))
            left = 1 - other * np.clip(phi, -LARGEST, LARGEST)
        alive = ~gone & (left > 0)
        moving = np.where(alive, np.sqrt(own / np.where(alive, left, 1.0)), np.inf)
        result.append(np.where(own > 0, moving, 0.0))
    return (result[0][..., 0, :], result[1][..., 0, :]) if scalar else (result[0], result[1])


def blow_up_times(s1: ArrayLike, s2: ArrayLike, strength: ArrayLike) -> Array:
    """Times (..., d) at which the modes of `two_layer_singular_values` diverge: 1 / (2 x mean), in practice X shrinks before.

    mean = (s1^2 - s2^2) / log(s1^2 / s2^2), the logarithmic mean, s^2 for balanced layers. inf for x <= 0 or a zero layer.
    s1, s2 (..., d), strength x (d,). Derived here. Raises ValueError for negative singular values.
    """
    first, second, x = _layers(s1, s2, strength)
    alive = (x > 0) & (first > 0) & (second > 0)
    one, two = np.where(alive, first, 1.0), np.where(alive, second, 1.0)
    mean = np.minimum(one, two) ** 2 * exprel(2 * np.abs(np.log(one) - np.log(two)))
    with np.errstate(over="ignore", divide="ignore"):  # later than the largest number is inf
        return np.where(alive, 1 / (2 * np.where(alive, x, 1.0) * mean), np.inf)


def _layers(s1: ArrayLike, s2: ArrayLike, strength: ArrayLike) -> tuple[Array, Array, Array]:
    first, x = check.modes("s1", s1, "strength", strength)
    second = check.non_negative("s2", s2, at_least=1)
    if first.shape != second.shape:
        raise ValueError(f"s1 and s2 need one shape (..., d), got {first.shape} and {second.shape}")
    return first, second, x

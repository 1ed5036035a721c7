"""Steepest descent in the spectral norm on the Grassmannian: all principal angles move at one speed.

Trace losses L = tr(W^T C W), W^T W = I, of `theory.constrained`: C (m, m) with eigenvalues lambda_1 <= .. <= lambda_m. Among the tangents
of spectral norm 1 the steepest is minus the polar factor of the gradient,
    dW/dt = -msign(G),  G = (I - W W^T) C W,  msign(G) = X Y^T for G = X diag(s > 0) Y^T,
which is Muon on the Grassmannian. Unit of time: t = learning rate x step, and t is an angle: in a time of 1 a principal angle can turn by
one radian, whatever the eigenvalues. It ends after a finite time, where gradient flow ends after log(1 / angle) / (2 gap).
Principal vectors of span(W) and the bottom-d eigenspace: W = P cos(theta) + Q sin(theta) up to a rotation, P (m, d) in the eigenspace and Q
in its complement. Derived here and verified in tests, but for what is said to be measured.
All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory import constrained
from theory._subspaces import EPS, full_rank, orthonormal
from theory._validation import Array

NO_ANGLE = 1e-12  # below it a principal vector in the complement is rounding
TOLERANCE = 1e-8  # of the conditions of the exact law, relative to the spread of the eigenvalues


def angles(weights: ArrayLike, matrix: ArrayLike) -> Array:
    """Principal angles (..., d), increasing, between span(W), weights (..., m, d) of rank d, and the bottom-d eigenspace of C.

    The largest is the earliest time at which the flow can arrive, for every C and every start: it is a distance, and along the flow it
    changes by at most the spectral norm of the velocity, 1. Where `flow` holds it arrives exactly then. From random starts it takes longer,
    most where it passes a saddle, but still of the order of one radian. Measured for lambda_j = -j^-alpha, 8 starts each, until the excess
    is that of angles of 0.01: 1.05 to 2.06 times the largest angle (median 1.19) for m = 20, d = 4, alpha = 1, where gradient flow needs
    t = 26 to 72; 1.20 to 1.91 times (median 1.39) for m = 40, d = 10, alpha = 3/2, where it needs 318 to 871.
    Raises ValueError where the eigenspace is not unique, lambda_d = lambda_{d+1} up to m eps.
    """
    return np.sort(_principal(weights, matrix)[0])


def flow(t: ArrayLike, weights: ArrayLike, matrix: ArrayLike) -> Array:
    """Orthonormal bases (..., T, m, d) along the flow, in closed form where it is a geodesic: theta_k(t) = max(theta_k - t, 0).

    W(t) = P cos(theta(t)) + Q sin(theta(t)), to 1e-7. Exact where neither C P nor C Q mixes principal vectors of different angles and C Q
    stays in the span of Q: for C with two eigenvalues, one on the bottom-d eigenspace and one on the rest, from every start; for every C
    from starts in which each column turns an eigenvector of the eigenspace towards one outside; for m = 2d also if all angles are equal.
    Geodesic steps of size h follow it too, until an angle is below h; from then on it alternates between r and h - r. Not where a singular
    value of G is small: what rounding leaves grows at about the spread of the eigenvalues over it. Measured: to 1e-12 where all eigenvalues
    are at least 0.1 apart, to 0.08 after 38 steps of 0.01 where lambda_{d+1} - lambda_d is 0.003.
    Raises ValueError for other starts, for which no closed form is known, and those with a direction orthogonal to the eigenspace.
    """
    at, scalar = check.times(t)
    theta, inner, outer, lambda_, vectors = _principal(weights, matrix)
    d, sine = theta.shape[-1], np.sin(theta)
    if np.cos(theta).min() <= lambda_.size * EPS:
        raise ValueError(
            f"weights must not be orthogonal to a direction of the eigenspace, got an angle of {theta.max():.6g}"
        )
    moved_in, moved_out = lambda_[:d, None] * inner, lambda_[d:, None] * outer
    among = [np.swapaxes(v, -1, -2) @ moved for v, moved in ((inner, moved_in), (outer, moved_out))]
    between = np.sin(np.abs(theta[..., :, None] - theta[..., None, :]))
    mixed = max(float(np.abs(a * between).max()) for a in among)
    left = float(np.abs((moved_out - outer @ among[1]) * sine[..., None, :]).max())
    largest = float(lambda_[-1] - lambda_[0])
    if max(mixed, left) > TOLERANCE * largest:
        raise ValueError(
            f"weights must turn towards eigenvectors of C one by one for the closed form, got principal vectors that C mixes by "
            f"{max(mixed, left) / largest:.2g} of its spread"
        )
    now = np.maximum(theta[..., None, :] - at[:, None], 0.0)[..., None, :]
    result: Array = vectors @ np.concatenate(
        [inner[..., None, :, :] * np.cos(now), outer[..., None, :, :] * np.sin(now)], -2
    )
    return result[..., 0, :, :] if scalar else result


def _principal(weights: ArrayLike, matrix: ArrayLike) -> tuple[Array, Array, Array, Array, Array]:
    """Angles (..., d), P and Q in the eigenvectors (..., d, d) and (..., m - d, d), eigenvalues and eigenvectors."""
    lambda_, vectors = constrained.spectrum(matrix)
    w = orthonormal(vectors.T @ full_rank(weights, lambda_.size))
    d = w.shape[-1]
    check.dimension(d, lambda_.size, proper=True)
    if lambda_[d] - lambda_[d - 1] <= lambda_.size * EPS * np.abs(lambda_).max():
        raise ValueError(
            f"matrix needs a gap after its {d} smallest eigenvalues, got {lambda_[d - 1]} and {lambda_[d]}"
        )
    inner, cosine, turn = np.linalg.svd(w[..., :d, :])
    far = w[..., d:, :] @ np.swapaxes(turn, -1, -2)
    sine = np.linalg.norm(far, axis=-2)
    turned = sine > NO_ANGLE
    outer = np.where(turned[..., None, :], far / np.where(turned, sine, 1.0)[..., None, :], 0.0)
    return np.arctan2(sine, cosine), inner, outer, lambda_, vectors

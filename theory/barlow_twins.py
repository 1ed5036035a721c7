"""Barlow Twins with orthonormal weights.

Model f(x) = W^T x with W (m, d), conventions of `theory.stepwise`: cross-moment Gamma (m, m) symmetric, perhaps
indefinite, eigenvalues gamma_1 >= ... >= gamma_m. Written U for weights with U^T U = I,
    L(U) = ||U^T Gamma U - I||_F^2,    dU/dt = -4 (I - U U^T) Gamma U (U^T Gamma U - I):
a loss and a flow of the span of U alone. The constraint removes the scale with which free weights whiten, so what is
found depends on the scale of Gamma: the top-d eigenspace if all gamma <= 1, which free weights find as well.
Unit of time everywhere: t = learning rate x step of gradient descent on the loss as written (no factor 1/2 or 1/d).
Everything here is derived here and verified in tests.
All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory import stepwise
from theory._subspaces import EPS, full_rank, integrate, orthonormal, split_indices
from theory._validation import Array


@dataclass(frozen=True, eq=False)
class Minimum:
    """The minimum of ||U^T Gamma U - I||_F^2 over U^T U = I_d.

    regime "top": the top-d eigenspace; "bottom": the bottom-d eigenspace; "mixed": neither of them and in general no
    eigenspace, since directions that combine modes with gamma above and below 1 reach 1 exactly.
    """

    regime: Literal["top", "bottom", "mixed"]
    loss: float
    eigenvalues: Array  # of U^T Gamma U at the minimum (d,), decreasing
    indices: tuple[int, ...] | None  # of the eigenvectors that span the minimiser, counted from 0; None if mixed


def minimum(gamma: ArrayLike, d: int) -> Minimum:
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
        return Minimum("top", float(((upper - 1) ** 2).sum()), upper, tuple(range(d)))
    if values[-1] >= 1 - rounding:
        return Minimum("bottom", float(((lower - 1) ** 2).sum()), lower, tuple(range(m - d, m)))
    c = np.clip(1.0, lower, upper)
    return Minimum("mixed", float(((c - 1) ** 2).sum()), c, None)


def rates(gamma: ArrayLike, inside: Sequence[int]) -> Array:
    """Rates (m - d, d) at which U = V_in + V_out B returns to the eigenspace V_in: dB_ij/dt = -rate_ij B_ij.

    rate_ij = 4 (gamma_j - gamma_i)(1 - gamma_j), indices counted from 0: i runs over the others in increasing order,
    j over `inside` as given. A negative rate: the eigenspace is a saddle or a maximum. First order in B.
    Raises ValueError if `inside` repeats an index or leaves 0 .. m-1. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    within, outside = split_indices(inside, values.size)
    return 4 * (values[within] - values[outside][:, None]) * (1 - values[within])


def convergence_rate(gamma: ArrayLike, d: int) -> float:
    """Slowest rate at the minimiser: principal angles to it decay as e^{-rate t}, the excess loss as e^{-2 rate t}.

    rate = min_ij 4 (gamma_j - gamma_i)(1 - gamma_j), j inside the minimiser, i outside; inf for d = m. It is 0 (below
    10 m eps max(1, |gamma|)^2 counts as 0) where the linear theory is degenerate. That happens in two ways. No gap: the
    minimiser is not unique. Or a gamma_j inside is 1, as when Gamma has been divided by its largest eigenvalue: the
    angle then shrinks as t^{-1/2} only, for d = 1 as tan(angle) -> (8 (1 - gamma_i)^2 t)^{-1/2} with the gamma_i outside
    that is closest to 1; dividing by more than gamma_1 avoids it.
    Raises ValueError in the mixed regime, where the minimiser is no eigenspace. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    slowest = float(rates(values, _indices(values, d)).min(initial=np.inf))
    degenerate = slowest <= 10 * values.size * EPS * max(1.0, float(np.abs(values).max())) ** 2
    return 0.0 if degenerate else slowest


def flow(t: ArrayLike, weights: ArrayLike, gamma_matrix: ArrayLike) -> Array:
    """Orthonormal bases (..., T, m, d) of dU/dt = -4 (I - U U^T) Gamma U (U^T Gamma U - I), integrated numerically.

    No closed form is known. weights (..., m, d): any basis of the start; the bases returned are arbitrary. Projectors
    are right to about 1e-9, also after plateaus near saddles; a start within eps of a saddle leaves it as late as in
    training. The cost is proportional to (gamma_1 - gamma_m) max|1 - gamma_j| max(t).
    Raises ValueError for t < 0 or if the weights have rank below d.
    """
    at, scalar = check.times(t)
    gamma, vectors = stepwise.spectrum(gamma_matrix)
    start = orthonormal(vectors.T @ full_rank(weights, gamma.size, "gamma_matrix"))
    eye = np.eye(start.shape[-1])

    def velocity(u: Array) -> Array:
        moved, transposed = gamma[:, None] * u, np.swapaxes(u, -1, -2)
        c = np.linalg.solve(transposed @ u, transposed @ moved)  # the projector of any basis: rounding never adds up
        return -4 * (moved - u @ c) @ (c - eye)

    fastest = 4 * float(gamma[0] - gamma[-1]) * float(np.abs(1 - gamma).max())
    result = vectors @ orthonormal(integrate(velocity, start, at, fastest))
    return result[..., 0, :, :] if scalar else result


def minimiser(gamma_matrix: ArrayLike, d: int) -> Array:
    """Orthonormal basis (m, d) of the predicted minimiser of constrained Barlow Twins.

    Raises ValueError in the mixed regime, where the minimiser is no eigenspace. Derived here.
    """
    gamma, vectors = stepwise.spectrum(gamma_matrix)
    return vectors[:, _indices(gamma, d)]


def max_learning_rate(gamma: ArrayLike, d: int) -> float:
    """Largest stable learning rate of Riemannian gradient descent at the predicted minimiser: 2 / max rate_ij.

    inf if no rate is positive (d = m, or all gamma equal). Local. Raises ValueError in the mixed regime. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    largest = rates(values, _indices(values, d)).max(initial=0.0)
    return 2 / float(largest) if largest > 0 else np.inf


def _indices(gamma: Array, d: int) -> list[int]:
    indices = minimum(gamma, d).indices
    if indices is None:
        raise ValueError(
            f"gamma from {gamma[-1]:.3g} to {gamma[0]:.3g} lies on both sides of 1: the minimiser is no eigenspace. "
            "Divide Gamma by its largest eigenvalue to make it the top-d eigenspace"
        )
    return list(indices)

"""Stepwise learning of linear Barlow Twins (Simon et al., ICML 2023, arXiv 2303.15438).

Model f(x) = W^T x with weights W (..., m, d): our W is the paper's W transposed. With the cross-moment of the views
    Gamma = (1/2n) sum_i (x_i x'_i^T + x'_i x_i^T)  (m, m),    C = W^T Gamma W  (d, d),    L = ||C - I||_F^2,
    gradient flow dW/dt = -4 Gamma W (C - I).
Unit of time everywhere: t = learning rate x step of gradient descent on L (no factor 1/2 or 1/d in front of L; with
heavy-ball momentum mu, t = learning rate x step / (1 - mu)). The loss has no batch normalisation: it makes L blind to
the scale of W, and then there is no small initialisation and none of this holds.
Gamma = V diag(gamma_1 >= ... >= gamma_m) V^T may be indefinite. Leading dimensions of W and s0 are batch dimensions
(seeds, scales); a vector of times adds an axis T in front of the mode axis, a scalar t adds none.
The trajectories are exact for an aligned start W(0) = V_{<=d} S(0) U^T. From any other start they are the limit of
small initialisation, W(0) = alpha W_0 with alpha -> 0, and `aligned_initialisation` says which aligned start to take.
All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, polygamma

from theory import _validation as check
from theory._validation import Array

EQUAL = 1e-8  # eigenvalues closer than this, relative to the largest, count as equal
LARGEST_EXPONENT = 1e4  # exp(-1e4) is zero beside any product of two positive float64 numbers


@dataclass(frozen=True, eq=False)
class Aligned:
    """An aligned start W(0) = vectors diag(singular_values) rotation^T."""

    rotation: Array  # U (..., d, d), orthogonal
    singular_values: Array  # s(0) (..., d), >= 0
    gamma: Array  # (d,), the top d eigenvalues of Gamma, decreasing
    vectors: Array  # V_{<=d} (m, d), their eigenvectors


class ExpectedStepTimes(NamedTuple):
    """Mean and standard deviation of each step time over random starts, both (d,)."""

    mean: Array
    standard_deviation: Array


def flow_time(steps: ArrayLike, learning_rate: float, momentum: float = 0.0) -> Array:
    """Unit of time: t = learning_rate step / (1 - momentum), for whole steps, scalar or (T,).

    Validity: descent follows the flow to first order in the learning rate, with momentum mu as soon as
    8 gamma_1 learning_rate << (1 - mu)^2. Raises ValueError for learning_rate <= 0 or momentum outside [0, 1).
    Source: caption of Figure 1 of the paper for momentum = 0; with momentum derived here.
    """
    counts, scalar = check.step_numbers(steps)
    rate = check.positive_number("learning_rate", learning_rate)
    t = rate * counts.astype(np.float64) / (1 - _momentum(momentum))
    return t[0] if scalar else t


def spectrum(gamma_matrix: ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues (m,) in decreasing order and eigenvectors (m, m) in the columns: Gamma = V diag(gamma) V^T.

    Where eigenvalues coincide, only the span of their eigenvectors has a meaning: the basis of it that is returned is
    arbitrary. Compare such modes as one group, and their eigenvalues in sorted order (`top_group`).
    Raises ValueError if `gamma_matrix` (m, m) is not symmetric (1e-8, relative) or not finite.
    """
    gamma, vectors = np.linalg.eigh(check.symmetric("gamma_matrix", gamma_matrix))
    return gamma[::-1].copy(), vectors[:, ::-1].copy()


def top_group(gamma: ArrayLike, d: int) -> range:
    """Indices, counted from 0, of the eigenvalues that equal gamma_d up to 1e-8 max|gamma|, for gamma (m,) decreasing.

    If the group ends at index d - 1, the top-d eigenspace is defined. If it reaches beyond, the gap is degenerate: small
    weights end in a span that contains the eigenvectors before the group, lies in the span of all up to the end of the
    group, and in between depends on the start. Raises ValueError unless gamma decreases and 1 <= d <= m. Derived here.
    """
    values = check.decreasing("gamma", gamma)
    d = check.dimension(d, values.size)
    equal = np.flatnonzero(np.abs(values - values[d - 1]) <= EQUAL * np.abs(values).max())
    return range(int(equal[0]), int(equal[-1]) + 1)


def top_subspace(gamma_matrix: ArrayLike, d: int) -> Array:
    """Orthonormal basis V_{<=d} (m, d) of the top-d eigenspace of Gamma (m, m): the span that small weights find.

    Raises ValueError if gamma_d = gamma_{d+1} (1e-8, relative to max|gamma|): see `top_group`. Source: Result 4.6.
    """
    gamma, vectors = spectrum(gamma_matrix)
    group = top_group(gamma, d)
    if group.stop > d:
        raise ValueError(
            f"gamma_matrix has a degenerate gap at d = {d}: gamma_{group.start + 1} to gamma_{group.stop} are all "
            f"{gamma[d - 1]:.6g}; compare modes {group.start + 1} to {group.stop} as one group"
        )
    return vectors[:, :d]


def aligned_initialisation(weights: ArrayLike, gamma_matrix: ArrayLike) -> Aligned:
    """The aligned start whose trajectory small weights (..., m, d) follow.

    W(0)^T V_{<=d} = Q R with R upper-triangular, R_jj >= 0:  U = Q,  s_j(0) = R_jj.
    Validity: ||W(t) - W*(t)|| -> 0 as the weights shrink, slowly when gamma_{d+1} is close to gamma_d
    (`initialisation_exponent`); exact for aligned weights. Where eigenvalues coincide, the basis, and with it each
    s_j(0), is arbitrary. Source: Result 4.6 of the paper (informal there).
    Raises ValueError unless weights fit Gamma and d <= m.
    """
    gamma, vectors = spectrum(gamma_matrix)
    w = check.weights(weights, gamma.size, "gamma_matrix")
    d = w.shape[-1]
    q, r = np.linalg.qr(np.swapaxes(w, -1, -2) @ vectors[:, :d])
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    return Aligned(q * np.where(diagonal < 0, -1.0, 1.0)[..., None, :], np.abs(diagonal), gamma[:d], vectors[:, :d])


def singular_values(t: ArrayLike, s0: ArrayLike, gamma: ArrayLike) -> Array:
    """Singular values (..., T, d) of W(t) from an aligned start with singular values s0 (..., d).

    s_j(t) = e^{4 gamma_j t} / sqrt(s_j(0)^-2 + (e^{8 gamma_j t} - 1) gamma_j)
    solves ds_j/dt = 4 gamma_j s_j (1 - gamma_j s_j^2).
    gamma (d,): s_j -> gamma_j^{-1/2} for gamma_j > 0, constant for 0, decays for gamma_j < 0. Relative error below
    1e-13 for every t >= 0. Raises ValueError for t < 0 or s0 < 0. Source: Proposition 4.1 of the paper.
    """
    at, scalar = check.times(t)
    start, rates = check.modes("s0", s0, "gamma", gamma)
    start, grows = start[..., None, :], rates > 0
    up, down = np.where(grows, rates, 1.0), np.minimum(rates, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        log_start, exponent = np.log(start), np.minimum(8 * up * at[:, None], LARGEST_EXPONENT)
        log_square = np.logaddexp(-exponent, np.log(up) + 2 * log_start + np.log(-np.expm1(-exponent)))
        learned = np.exp(log_start - log_square / 2)
        decayed = start * np.exp(4 * down * at[:, None])
        decayed = decayed / np.sqrt(1 + down * start**2 * np.expm1(8 * down * at[:, None]))
    result = np.where(grows, learned, decayed)
    return result[..., 0, :] if scalar else result


def eigenvalues(t: ArrayLike, s0: ArrayLike, gamma: ArrayLike) -> Array:
    """Eigenvalues (..., T, d) of C(t) = W^T Gamma W, in the order of gamma (d,), from an aligned start s0 (..., d).

    lambda_j = gamma_j s_j^2 = 1 / (1 + (1/lambda_j(0) - 1) e^{-8 gamma_j t}): logistic, 10 to 90 % in 0.549/gamma_j.
    Validity, errors and source as `singular_values`.
    """
    return np.asarray(gamma, dtype=np.float64) * singular_values(t, s0, gamma) ** 2


def loss(t: ArrayLike, s0: ArrayLike, gamma: ArrayLike) -> Array:
    """Loss (..., T) from an aligned start s0 (..., d): L(t) = sum_j (1 - lambda_j(t))^2; each step lowers it by 1.

    Validity, errors and source as `singular_values`.
    """
    result: Array = ((1 - eigenvalues(t, s0, gamma)) ** 2).sum(-1)
    return result


def weights(t: ArrayLike, aligned: Aligned) -> Array:
    """Weights (..., T, m, d): W*(t) = V_{<=d} diag(s(t)) U^T. Validity, errors and source as `singular_values`."""
    _, scalar = check.times(t)
    s = singular_values(np.atleast_1d(np.asarray(t)), aligned.singular_values, aligned.gamma)
    result = _assemble(s, aligned.vectors, aligned.rotation[..., None, :, :])
    return result[..., 0, :, :] if scalar else result


def step_times(s0: ArrayLike, gamma: ArrayLike, rule: Literal["half", "paper"] = "half") -> Array:
    """Time (..., d) at which each mode is learned from an aligned start s0 (..., d), gamma (d,).

    half  : log(1/lambda_j(0) - 1) / (8 gamma_j), exactly when lambda_j = 1/2     (derived here)
    paper : -log(s_j(0)^2 gamma_j) / (8 gamma_j), the same for small s_j(0)       (section 4 of the paper)
    inf for a mode that is never learned (gamma_j <= 0 or s_j(0) = 0). A mode that starts with lambda_j(0) > 1/2 gets
    the negative time the formula gives, and -inf under `half` if lambda_j(0) >= 1. Raises ValueError for s0 < 0.
    """
    if rule not in ("half", "paper"):
        raise ValueError(f"rule must be 'half' or 'paper', got {rule!r}")
    start, rates = check.modes("s0", s0, "gamma", gamma)
    grows = (rates > 0) & (start > 0)
    log_lambda = np.log(np.where(rates > 0, rates, 1.0)) + 2 * np.log(np.where(start > 0, start, 1.0))
    numerator = -log_lambda
    if rule == "half":
        with np.errstate(divide="ignore"):
            numerator = numerator + np.log1p(-np.exp(np.minimum(log_lambda, 0.0)))
    return np.where(grows, numerator / (8 * np.where(rates > 0, rates, 1.0)), np.inf)


def expected_step_times(scale: float, gamma: ArrayLike) -> ExpectedStepTimes:
    """Step times before any draw: mean and standard deviation (d,) over W(0) with independent entries N(0, scale^2).

    mean_j = -(log(2 scale^2 gamma_j) + digamma(k/2)) / (8 gamma_j),  deviation_j = sqrt(trigamma(k/2)) / (8 gamma_j),
    k = d - j + 1: R_jj^2 of `aligned_initialisation` is scale^2 chi^2 with k degrees of freedom, whatever the
    eigenvectors, so both are exact for rule "paper" of `step_times`, and for "half" in the limit of small scale.
    gamma (d,): the top d eigenvalues, decreasing. A mode with gamma_j <= 0 is never learned in any draw: mean inf,
    deviation 0. Raises ValueError for scale <= 0 or increasing gamma. Derived here.
    """
    alpha, values = check.positive_number("scale", scale), check.decreasing("gamma", gamma)
    learned, half = values > 0, np.arange(values.size, 0, -1) / 2
    rates = np.where(learned, values, 1.0)
    mean = -(np.log(2 * rates) + 2 * np.log(alpha) + digamma(half)) / (8 * rates)
    deviation = np.sqrt(polygamma(1, half)) / (8 * rates)
    return ExpectedStepTimes(np.where(learned, mean, np.inf), np.where(learned, deviation, 0.0))


def final_weights(aligned: Aligned) -> Array:
    """Weights (..., m, d) after all steps: V_{<=d} diag(gamma_j^{-1/2}) U^T, the smallest weights of minimal loss.

    A mode with gamma_j < 0 ends at 0; one with gamma_j = 0 (up to rounding, m eps) or s_j(0) = 0 stays where it is.
    Source: Proposition 4.3 of the paper.
    """
    positive = check.above_rounding(aligned.gamma)
    zero = ~positive & ~check.above_rounding(-aligned.gamma)
    learned = 1 / np.sqrt(np.where(positive, aligned.gamma, 1.0))
    start = aligned.singular_values
    s = np.where(positive & (start > 0), learned, np.where(zero, start, 0.0))
    return _assemble(s, aligned.vectors, aligned.rotation)


def minimum_norm(gamma: ArrayLike) -> float:
    """Smallest ||W||_F^2 among the weights of minimal loss: sum of 1/gamma_j over the positive ones of gamma (d,).

    gamma: the top d eigenvalues of Gamma; positive means above rounding (> d eps max|gamma|). If all d are positive
    the minimal loss is 0. Source: Proposition 4.3 of the paper. Raises ValueError unless gamma is finite and has one axis.
    """
    values = check.array("gamma", gamma, ndim=1)
    return float((1 / values[check.above_rounding(values)]).sum())


def minimum_loss(gamma: ArrayLike, d: int) -> float:
    """Smallest loss that weights (m, d) reach: max(0, d - number of positive eigenvalues among gamma (m,)).

    Positive means above rounding (> m eps max|gamma|). Raises ValueError unless 1 <= d <= m. Derived here.
    """
    values = check.array("gamma", gamma, ndim=1)
    d = check.dimension(d, values.size)
    return float(max(0, d - int(check.above_rounding(values).sum())))


def max_learning_rate(gamma: ArrayLike) -> float:
    """Largest stable learning rate of gradient descent on L at its minimum: 1 / (4 gamma_1).

    The Hessian there has eigenvalues 8 gamma_j and 4 (gamma_j + gamma_k), j < k <= d, and 0. Local: it says nothing
    about large weights, nor about modes with gamma_j < -2 gamma_1, which grow at the start beyond 1 / (2 |gamma_j|).
    Raises ValueError if gamma (m,) has no positive eigenvalue. Derived here.
    """
    largest = float(check.array("gamma", gamma, ndim=1).max())
    if largest <= 0:
        raise ValueError(f"gamma has no positive eigenvalue: nothing will be learned, got a largest one of {largest}")
    return 1 / (4 * largest)


def discrete_singular_values(
    steps: ArrayLike, learning_rate: float, s0: ArrayLike, gamma: ArrayLike, momentum: float = 0.0
) -> Array:
    """Singular values (..., T, d) after whole steps of gradient descent from an aligned start s0 (..., d).

    b <- momentum b - 4 gamma_j s (1 - gamma_j s^2),  s <- s - learning_rate b,  b = 0 at the start (heavy ball):
    exact for every learning rate and momentum. A sign change means that the direction flipped, +-inf that the mode
    diverged. steps: whole numbers >= 0, scalar or (T,); for their unit of time see `flow_time`.
    Raises ValueError for learning_rate <= 0, momentum outside [0, 1) or s0 < 0. Derived here.
    """
    counts, scalar = check.step_numbers(steps)
    rate, mu = check.positive_number("learning_rate", learning_rate), _momentum(momentum)
    s, rates = check.modes("s0", s0, "gamma", gamma)
    result, velocity = np.empty((*s.shape[:-1], counts.size, s.shape[-1])), np.zeros_like(s)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(int(counts.max()) + 1):
            result[..., counts == step, :] = s[..., None, :]
            velocity = mu * velocity - 4 * rates * s * (1 - rates * s**2)
            s = s - rate * np.where(np.isinf(s), 0.0, velocity)  # what diverged stays at infinity
    return result[..., 0, :] if scalar else result


def initialisation_exponent(gamma: ArrayLike, d: int) -> float:
    """How the final angle to the top-d eigenspace shrinks with the scale alpha of the initialisation.

    angle ~ const alpha^(1 - gamma_{d+1} / gamma_d): mode d+1 grows until mode d saturates, then both freeze.
    gamma (m,) decreasing. Raises ValueError unless d < m and gamma_d > 0. Derived here, verified in tests.
    """
    values = check.decreasing("gamma", gamma)
    d = check.dimension(d, values.size, proper=True)
    if values[0] <= 0:
        raise ValueError(f"gamma has no positive eigenvalue: nothing will be learned, got a largest one of {values[0]}")
    if values[d - 1] <= 0:
        raise ValueError(f"gamma needs d = {d} positive eigenvalues, got gamma_d = {values[d - 1]}")
    return float(1 - values[d] / values[d - 1])


def _momentum(momentum: float) -> float:
    value = check.number("momentum", momentum, least=0.0)
    if value >= 1:
        raise ValueError(f"momentum must be < 1, got {value:g}")
    return value


def _assemble(s: Array, vectors: Array, rotation: Array) -> Array:
    """V diag(s) U^T."""
    return (vectors * s[..., None, :]) @ np.swapaxes(rotation, -1, -2)

"""A predictor under the cosine loss: what normalising the features adds to the flow of Tian, Chen & Ganguli (2021).

The loss is J = -E cos(W_p W^T x_1, stop(W_a^T x_2)), in the limit where the norms of both are the same for all samples (many
dimensions; Bao, arXiv 2309.16109, whose question this is; all equations are derived here). With S = X + X' and shapes as in `matrices`,
    J = -C / (N_p N_a),  C = tr(W_p W^T X W_a),  N_p^2 = tr(W_p W^T S W W_p^T),  N_a^2 = tr(W_a^T S W_a)
    R = (X W_a - kappa S W W_p^T) / (N_p N_a)  (m, d),  kappa = C / N_p^2
    dW_p/dt = alpha_p R^T W - eta W_p,   dW/dt = R W_p - eta W,   dW_a/dt = beta (W - W_a)      (W_a = W without beta)
The extra terms are kappa, which couples all modes, and the step size 1 / (N_p N_a): without both this is the flow of the L2 loss.
Proved: J does not change with the size of W_p, W or W_a, so R^T W is orthogonal to W_p and R W_p to W, and at every time
    ||W_p(t)|| = e^{-eta t} ||W_p(0)||,   ||W(t)|| = e^{-eta t} ||W(0)||.
Weight decay has nothing to balance: for eta > 0 the scale always goes to 0, at no eta do single modes collapse on its account. Without
moving average W and W_p are e^{-eta t} times those without weight decay at the time `stretched_time`: it speeds training up and
does not change where it goes. (A finite learning rate adds to the norms what this limit leaves out, and stops their fall.)
Unit of time as in `theory.predictor`: t = online learning rate x step on J. Functions raise ValueError for arrays that are not finite or do
not fit each other, and for settings outside alpha_p > 0, eta >= 0, beta >= 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory._validation import Array
from theory.predictor.matrices import Matrices
from theory.predictor.modes import integrate


class Rest(NamedTuple):
    """Predictor and weight (..., d) of every mode at rest, and kappa (...)."""

    w_p: Array
    w: Array
    kappa: Array


def flow(
    t: ArrayLike,
    weights: ArrayLike,
    predictor: ArrayLike,
    target: ArrayLike | None = None,
    *,
    mean_view: ArrayLike,
    spread: ArrayLike,
    alpha_p: float,
    eta: float,
    beta: float | None = None,
) -> Matrices:
    """W (T, m, d), W_p (T, d, d) and W_a (T, m, d) along the flow at the top of this module; no axis T at a scalar t.

    weights and target (m, d), predictor (d, d), any; mean_view = X and spread = X' (m, m), positive semi-definite. Integrated by an
    explicit Runge-Kutta method of order 8 with a relative tolerance of 1e-12; steps grow small as e^{-2 eta t}.
    Raises ValueError where only one of target and beta is given, or where a start has no features: W W_p^T or W_a is 0 under X + X'.
    """
    check.moving_average("target", target, beta)
    at, scalar = check.times(t)
    x, spread_ = check.views(mean_view, spread)
    m = x.shape[0]
    w, p = (
        check.array("weights", check.weights(weights, m, "mean_view"), ndim=2),
        check.array("predictor", predictor, 2),
    )
    a = w if target is None else check.array("target", check.weights(target, m, "mean_view"), ndim=2)
    d = w.shape[1]
    if p.shape != (d, d) or a.shape != w.shape:
        raise ValueError(f"weights, predictor and target need one d, got shapes {w.shape}, {p.shape} and {a.shape}")
    speed, decay = check.positive_number("alpha_p", alpha_p), check.number("eta", eta, 0)
    rate = 0.0 if beta is None else check.number("beta", beta, 0)
    total = x + spread_
    for name, seen in (("predictor and weights", w @ p.T), ("target", a)):
        if not (seen * (total @ seen)).sum() > 0:
            raise ValueError(f"{name} must have features, got an output of 0 for every sample: it has no direction")

    def derivative(_: float, state: Array) -> Array:
        w, p, a = _split(state, m, d)
        if target is None:
            a = w
        r = residual(w, p, a, x, total)
        return np.concatenate(
            [(r @ p - decay * w).ravel(), (speed * r.T @ w - decay * p).ravel(), (rate * (w - a)).ravel()]
        )

    start = np.concatenate([w.ravel(), p.ravel(), a.ravel()])
    end = np.exp(-decay * float(at.max()))  # errors count against what is left of the norms
    sizes = [float(np.linalg.norm(v)) * end for v in (w, p, a)]
    states = integrate(derivative, start, at, np.repeat(sizes, [w.size, p.size, a.size]))
    parts = [_split(states[:, k], m, d) for k in range(at.size)]
    found = [np.stack([part[i] for part in parts]) for i in range(3)]
    if target is None:
        found[2] = found[0]
    return Matrices(*(v[0] for v in found)) if scalar else Matrices(*found)


def residual(weights: Array, predictor: Array, target: Array, mean_view: Array, total: Array) -> Array:
    """R (m, d) = (X W_a - kappa S W W_p^T) / (N_p N_a), total = S = X + X'. dJ/dW = -R W_p, dJ/dW_p = -R^T W. Derived here."""
    prediction = weights @ predictor.T
    pulled, held = mean_view @ target, total @ prediction
    square = (prediction * held).sum()
    kappa = (prediction * pulled).sum() / square
    size = np.sqrt(square * (target * (total @ target)).sum())
    result: Array = (pulled - kappa * held) / size
    return result


def stretched_time(t: ArrayLike, eta: float) -> Array:
    """s(t) = (e^{2 eta t} - 1) / (2 eta), and t for eta = 0: the time without weight decay that time t with it is worth.

    W(t; eta) = e^{-eta t} W(s(t); 0) and W_p alike, exact without a moving average: J is homogeneous of degree 0 in each of them, its
    gradient of degree -1. A moving average has its own unit of time, beta, and is not covered. Raises ValueError for t < 0. Derived here.
    """
    at, decay = check.non_negative("t", t), check.number("eta", eta, 0)
    return np.expm1(2 * decay * at) / (2 * decay) if decay > 0 else at


def rest(w_p: ArrayLike, w: ArrayLike, *, lambda_d: ArrayLike, lambda_s: ArrayLike, alpha_p: float) -> Rest:
    """Where aligned modes w_p, w (..., d) end without weight decay; lambda_d > 0 of X and lambda_s > 0 of X + X' (d,).

    At rest w_p = rho / kappa, rho = lambda_d / lambda_s, for every kappa > 0 (L2: kappa = 1): the optimal linear predictor up to its size.
    kappa = (sum rho_j^2 / sum w_p,j(0)^2)^{1/2} by the conserved norm, w_j^2 = w_j(0)^2 + (w_p,j^2 - w_p,j(0)^2) / alpha_p by the balance.
    The same with a moving average: what is conserved does not depend on the target. That these are states of rest is proved. That
    training ends there is checked numerically, from starts with w_p > 0 and w^2 >= w_p^2 / alpha_p in every mode, where w cannot reach 0
    before w_p does. With weight decay and no moving average: times e^{-eta t}.
    Raises ValueError for other starts. Derived here.
    """
    shared, total = check.positive("lambda_d", lambda_d), check.positive("lambda_s", lambda_s)
    p, x = check.positive("w_p", w_p, at_least=1), check.array("w", w, at_least=1)
    speed = check.positive_number("alpha_p", alpha_p)
    offset = x**2 - p**2 / speed
    if np.any(offset < -1e-12 * x**2):
        raise ValueError(
            f"w must be on or above the parabola, w^2 >= w_p^2 / alpha_p, got a smallest difference of {offset.min():.3g}: "
            "other modes may collapse"
        )
    rho = np.broadcast_to(shared / total, p.shape)
    kappa = np.sqrt((rho**2).sum(-1) / (p**2).sum(-1))
    end = rho / kappa[..., None]
    return Rest(end, np.sign(x) * np.sqrt(np.maximum(offset, 0.0) + end**2 / speed), kappa)


def rest_rates(w_p: ArrayLike, w: ArrayLike, *, lambda_s: ArrayLike, kappa: float, alpha_p: float) -> Array:
    """Rates (d,) >= 0, decreasing, at which aligned modes come to `rest`, without weight decay and moving average.

    Eigenvalues of D (I - w_p u^T), D = diag(alpha_p kappa lambda_s w^2) / (N_p N_a), u = lambda_s w_p w^2 / N_p^2, with
    N_p^2 = sum lambda_s w_p^2 w^2 and N_a^2 = sum lambda_s w^2.
    u^T w_p = 1: the last is 0, the size of W_p, which nothing changes. Others are positive, between the entries of D: every rest is
    stable. Equal modes have D (d - 1 times) and 0.
    Raises ValueError unless w_p and w (d,) are without zeros and lambda_s > 0. Derived here.
    """
    p, x = check.positive("w_p", w_p, at_least=1), check.array("w", w, ndim=1)
    total, kappa_ = check.positive("lambda_s", lambda_s), check.positive_number("kappa", kappa)
    speed = check.positive_number("alpha_p", alpha_p)
    if p.shape != x.shape or np.any(x == 0):
        raise ValueError(f"w_p and w must have one shape (d,) and no zeros, got w_p {p.shape} and w = {x}")
    mass = total * x**2
    square = (mass * p**2).sum()
    size = np.sqrt(square * mass.sum())
    diagonal = speed * kappa_ * mass / size
    matrix = np.diag(diagonal) - np.outer(diagonal * p, mass * p / square)  # symmetric: D w_p and u are parallel
    rates: Array = np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0.0)  # the last is 0 up to rounding
    return rates


def _split(state: Array, m: int, d: int) -> tuple[Array, Array, Array]:
    w, p, a = np.split(state, [m * d, m * d + d * d])
    return w.reshape(m, d), p.reshape(d, d), a.reshape(m, d)

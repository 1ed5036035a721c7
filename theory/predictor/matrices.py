"""Flows of weights, predictor and target as matrices, their invariants, and collapse without stop-gradient or predictor.

Notation and unit of time as in `theory.predictor`: W, W_a (..., m, d), W_p (..., d, d), X and X' (m, m) symmetric; leading
dimensions are batch dimensions, a vector of times adds an axis T in front of the matrix axes, a scalar none. Equation and theorem
numbers are those of Tian, Chen & Ganguli, ICML 2021, arXiv 2102.06810. Flows are integrated by an explicit Runge-Kutta method of
order 8 with a tolerance of 1e-12, relative to the largest entry of each matrix. All functions raise ValueError for arrays that are
not finite or do not fit each other, and for settings outside alpha_p > 0, eta >= 0, beta >= 0, sigma2 >= 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory._validation import Array
from theory.predictor.modes import integrate


class Matrices(NamedTuple):
    """Weights (..., T, m, d), predictor (..., T, d, d) and target (..., T, m, d) along a flow."""

    weights: Array
    predictor: Array
    target: Array


class SymmetricFlow(NamedTuple):
    """Predictor and correlation F (..., T, d, d) along the reduced flow."""

    predictor: Array
    correlation: Array


class FlowParameters(NamedTuple):
    """Settings of the flow that a discrete training follows, and the time of one of its steps."""

    alpha_p: float
    eta: float
    beta: float
    step: float


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
    """The full flow, eqs. (2)-(4): BYOL with a moving average, or SimSiam where `target` is None (W_a = W at all times).

    R = X W_a - (X + X') W W_p^T  (m, d)
    dW_p/dt = alpha_p R^T W - eta W_p,   dW/dt = R W_p - eta W,   dW_a/dt = beta (W - W_a)
    mean_view = X, spread = X', both positive semi-definite. Raises ValueError where only one of target and beta is given.
    """
    check.moving_average("target", target, beta)
    at, scalar = check.times(t)
    x, spread_ = check.views(mean_view, spread)
    m = x.shape[0]
    w, p = check.weights(weights, m, "mean_view"), _square("predictor", predictor)
    a = w if target is None else check.weights(target, m, "mean_view")
    alpha_p, eta = check.positive_number("alpha_p", alpha_p), check.number("eta", eta, 0)
    rate = 0.0 if beta is None else check.number("beta", beta, 0)
    d = w.shape[-1]
    if p.shape[-1] != d or a.shape[-1] != d:
        raise ValueError(f"weights, predictor and target need one d, got shapes {w.shape}, {p.shape} and {a.shape}")
    batch = np.broadcast_shapes(w.shape[:-2], p.shape[:-2], a.shape[:-2])
    w, a = (np.broadcast_to(v, (*batch, m, d)) for v in (w, a))
    p = np.broadcast_to(p, (*batch, d, d))
    total = x + spread_

    def derivative(_: float, state: Array) -> Array:
        w, p, a = _split(state, batch, m, d)
        residual = x @ (w if target is None else a) - total @ w @ _t(p)
        moved = np.zeros_like(a) if target is None else rate * (w - a)
        return _join(residual @ p - eta * w, alpha_p * _t(residual) @ w - eta * p, moved)

    size = max(float(np.abs(w).max()), float(np.abs(a).max()))
    own = max(float(np.abs(p).max()), np.sqrt(alpha_p) * size)
    scale = _join(np.full_like(w, size), np.full_like(p, own), np.full_like(a, size))
    states = integrate(derivative, _join(w, p, a), at, scale)
    parts = [_split(states[:, k], batch, m, d) for k in range(at.size)]
    found = [np.stack([part[i] for part in parts], -3) for i in range(3)]
    if target is None:
        found[2] = found[0]
    return Matrices(*(v[..., 0, :, :] for v in found)) if scalar else Matrices(*found)


def symmetric_flow(
    t: ArrayLike,
    predictor: ArrayLike,
    correlation: ArrayLike,
    *,
    tau: float,
    alpha_p: float,
    eta: float,
    sigma2: float,
    predictor_eta: float | None = None,
) -> SymmetricFlow:
    """The reduced flow of a symmetric predictor, eqs. (7)-(8), for X = I, X' = sigma2 I, W_a = tau W; {P, F} = PF + FP.

    dW_p/dt = -(alpha_p / 2)(1 + sigma2){W_p, F} + alpha_p tau F - eta W_p
    dF/dt   = -(1 + sigma2){W_p^2, F} + tau {W_p, F} - 2 eta F
    predictor_eta: weight decay of the predictor where it is not that of the weights. Raises ValueError where W_p or F is not
    symmetric.
    """
    at, scalar = check.times(t)
    p, f = _symmetric("predictor", predictor), _symmetric("correlation", correlation)
    if p.shape[-1] != f.shape[-1]:
        raise ValueError(f"predictor and correlation need one d, got shapes {p.shape} and {f.shape}")
    shape = np.broadcast_shapes(p.shape, f.shape)
    p, f = np.broadcast_to(p, shape), np.broadcast_to(f, shape)
    tau, alpha_p, eta, a = _reduced(tau, alpha_p, eta, sigma2)
    eta_p = eta if predictor_eta is None else check.number("predictor_eta", predictor_eta, 0)

    def derivative(_: float, state: Array) -> Array:
        p, f = state.reshape(2, *shape)
        dp = -alpha_p / 2 * a * _anti(p, f) + alpha_p * tau * f - eta_p * p
        df = -a * _anti(p @ p, f) + tau * _anti(p, f) - 2 * eta * f
        return np.concatenate([dp.ravel(), df.ravel()])

    size = float(np.abs(f).max())
    scale = np.repeat([max(float(np.abs(p).max()), np.sqrt(alpha_p * size)), size], p.size)
    states = integrate(derivative, np.concatenate([p.ravel(), f.ravel()]), at, scale)
    found = np.moveaxis(states.reshape(2, *shape, at.size), -1, -3)
    return SymmetricFlow(*(found[:, ..., 0, :, :] if scalar else found))


def balance(weights: ArrayLike, predictor: ArrayLike, alpha_p: float) -> Array:
    """W^T W - W_p^T W_p / alpha_p (..., d, d), which decays as e^{-2 eta t} whatever the target does: theorem 1, eq. (5).

    The supplement of the paper restates it without 1 / alpha_p. Raises ValueError for alpha_p <= 0.
    """
    w, p = check.array("weights", weights, at_least=2), _square("predictor", predictor)
    return _t(w) @ w - _t(p) @ p / check.positive_number("alpha_p", alpha_p)


def optimal_predictor(correlation: ArrayLike, *, tau: float, alpha_p: float, eta: float, sigma2: float) -> Array:
    """The predictor (..., d, d) at which eq. (2) rests: W_p = tau F ((1 + sigma2) F + (eta / alpha_p) I)^{-1}, always symmetric.

    Raises ValueError where F is not positive semi-definite, or singular for eta = 0: there W_p is arbitrary on the null space.
    """
    f = _symmetric("correlation", correlation)
    tau, alpha_p, eta, a = _reduced(tau, alpha_p, eta, sigma2)
    values, vectors = np.linalg.eigh(f)
    largest = np.abs(values).max(-1, keepdims=True)
    if np.any(values < -check.POSITIVE_TOLERANCE * largest):
        raise ValueError(f"correlation must be positive semi-definite, got an eigenvalue of {values.min():.3g}")
    if eta == 0 and np.any(values <= check.POSITIVE_TOLERANCE * largest):
        raise ValueError(
            f"correlation must be positive definite where eta = 0, got an eigenvalue of {values.min():.3g}"
        )
    p: Array = tau * np.maximum(values, 0.0) / (a * np.maximum(values, 0.0) + eta / alpha_p)
    return (vectors * p[..., None, :]) @ _t(vectors)


def commutator(correlation: ArrayLike, predictor: ArrayLike) -> Array:
    """[F, W_p] = F W_p - W_p F (..., d, d): zero where their eigenspaces are aligned.

    Raises ValueError unless both are square.
    """
    f, p = _square("correlation", correlation), _square("predictor", predictor)
    return f @ p - p @ f


def commutator_matrix(
    correlation: ArrayLike,
    predictor: ArrayLike,
    *,
    tau: float,
    alpha_p: float,
    eta: float,
    sigma2: float,
    predictor_eta: float | None = None,
) -> Array:
    """K (..., d, d) of d[F, W_p]/dt = -[F, W_p] K - K [F, W_p] along the reduced flow: theorem 3, eqs. (9)-(10).

    K = (1 + sigma2)[(alpha_p / 2) F + W_p^2 - tau / (1 + sigma2) W_p] + (eta + predictor_eta / 2) I; with one decay (3/2) eta I.
    While its smallest eigenvalue stays above lambda_0 > 0, ||[F, W_p]|| <= e^{-2 lambda_0 t} ||[F, W_p](0)||.
    Deviation from the source: two decays, derived here.
    Raises ValueError where F or W_p is not symmetric, or a setting is outside its range.
    """
    f, p = _symmetric("correlation", correlation), _symmetric("predictor", predictor)
    tau, alpha_p, eta, a = _reduced(tau, alpha_p, eta, sigma2)
    eta_p = eta if predictor_eta is None else check.number("predictor_eta", predictor_eta, 0)
    return a * (alpha_p / 2 * f + p @ p) - tau * p + (eta + eta_p / 2) * np.eye(f.shape[-1])


def no_stop_gradient_matrix(predictor: ArrayLike, *, mean_view: ArrayLike, spread: ArrayLike, eta: float) -> Array:
    """H (m d, m d) of d vec(W)/dt = -H vec(W), SimSiam without its stop-gradient: theorem 2, eq. (6).

    H = X' (x) (W_p^T W_p + I) + X (x) (W_p - I)^T (W_p - I) + eta I, (x) the Kronecker product and vec(W) the rows of W (m, d) in a
    row. Symmetric and positive semi-definite: where its smallest eigenvalue stays above lambda_0 > 0 while W_p moves too,
    ||W(t)|| <= e^{-lambda_0 t} ||W(0)||, a complete collapse.
    Raises ValueError unless X and X' are positive semi-definite of one shape and eta >= 0.
    """
    p = check.array("predictor", _square("predictor", predictor), ndim=2)
    x, spread_ = check.views(mean_view, spread)
    identity = np.eye(p.shape[0])
    difference = p - identity
    whole = np.kron(spread_, p.T @ p + identity) + np.kron(x, difference.T @ difference)
    return whole + check.number("eta", eta, 0) * np.eye(whole.shape[0])


def no_stop_gradient_flow(
    t: ArrayLike, weights: ArrayLike, predictor: ArrayLike, *, mean_view: ArrayLike, spread: ArrayLike, eta: float
) -> Array:
    """W(t) (..., T, m, d) without stop-gradient under a constant predictor: vec W(t) = e^{-H t} vec W(0), exact.

    Raises ValueError for t < 0, and as `no_stop_gradient_matrix`.
    """
    at, scalar = check.times(t)
    values, vectors = np.linalg.eigh(no_stop_gradient_matrix(predictor, mean_view=mean_view, spread=spread, eta=eta))
    w = check.weights(weights, np.shape(mean_view)[0], "mean_view")
    if w.shape[-2] * w.shape[-1] != values.size:
        raise ValueError(f"weights must fit mean_view and predictor, got shapes {w.shape} and {np.shape(predictor)}")
    rows = w.reshape(*w.shape[:-2], 1, -1) @ vectors
    result: Array = ((np.exp(-values * at[:, None]) * rows) @ vectors.T).reshape(*w.shape[:-2], at.size, *w.shape[-2:])
    return result[..., 0, :, :] if scalar else result


def no_predictor_flow(t: ArrayLike, weights: ArrayLike, *, spread: ArrayLike, eta: float) -> Array:
    """W(t) (..., T, m, d) with stop-gradient but W_p = I and W_a = W: W(t) = e^{-(X' + eta I) t} W(0), exact; it collapses.

    Directions that no augmentation moves and no decay shrinks stay. The paper prints the factor on the other side of W.
    Raises ValueError for t < 0, eta < 0 or an X' that is not positive semi-definite.
    """
    at, scalar = check.times(t)
    values, vectors = np.linalg.eigh(check.positive_semidefinite("spread", spread))
    rows = vectors.T @ check.weights(weights, values.size, "spread")
    rate = np.maximum(values, 0.0) + check.number("eta", eta, 0)
    result: Array = vectors @ (np.exp(-rate * at[:, None])[..., None] * rows[..., None, :, :])
    return result[..., 0, :, :] if scalar else result


def flow_parameters(
    *,
    learning_rate: float,
    predictor_learning_rate: float,
    ema_momentum: float,
    weight_decay: float,
    momentum: float = 0.0,
    decoupled: bool = False,
) -> FlowParameters:
    """The flow that discrete training follows for small learning rates.

    Online weights take steps of `learning_rate` alpha, the predictor of alpha_p alpha, with heavy-ball momentum mu, and the target
    W_a <- ema_momentum W_a + (1 - ema_momentum) W. One step lasts alpha / (1 - mu).
      coupled   (torch.optim.SGD(weight_decay=w)): the decay is part of the gradient, eta = w
      decoupled (W <- (1 - w) W beside the step):  eta = w (1 - mu) / alpha; the paper's text reads its decays so, at mu = 0
    The flow has one eta. Decoupled decay must therefore be the same on weights and predictor, while a coupled one is multiplied by the
    learning rate of its parameters: weight_decay = w of the weights needs w / alpha_p at the predictor. An optimizer with one w for both
    gives the predictor a decay of alpha_p w instead, which is `predictor_eta` in `symmetric_flow`.
    beta = (1 - ema_momentum)(1 - mu) / alpha: momentum does not speed the moving average up. Section 3 of the paper, completed here.
    Raises ValueError for learning rates <= 0, weight_decay < 0, momentum outside [0, 1) or ema_momentum outside [0, 1].
    """
    alpha = check.positive_number("learning_rate", learning_rate)
    own = check.positive_number("predictor_learning_rate", predictor_learning_rate)
    mu, kept = check.number("momentum", momentum, 0), check.number("ema_momentum", ema_momentum, 0)
    decay = check.number("weight_decay", weight_decay, 0)
    for name, value in (("momentum", mu), ("ema_momentum", kept)):
        if value > 1 or (name == "momentum" and value == 1):
            raise ValueError(f"{name} must be below 1, got {value:g}")
    step = alpha / (1 - mu)
    return FlowParameters(own / alpha, decay / step if decoupled else decay, (1 - kept) / step, step)


def _split(state: Array, batch: tuple[int, ...], m: int, d: int) -> tuple[Array, Array, Array]:
    size = int(np.prod(batch))
    w, p, a = np.split(state, [size * m * d, size * (m * d + d * d)])
    return w.reshape(*batch, m, d), p.reshape(*batch, d, d), a.reshape(*batch, m, d)


def _join(w: Array, p: Array, a: Array) -> Array:
    return np.concatenate([w.ravel(), p.ravel(), a.ravel()])


def _reduced(tau: float, alpha_p: float, eta: float, sigma2: float) -> tuple[float, float, float, float]:
    """tau, alpha_p, eta and 1 + sigma2."""
    return (
        check.number("tau", tau),
        check.positive_number("alpha_p", alpha_p),
        check.number("eta", eta, 0),
        1 + check.number("sigma2", sigma2, 0),
    )


def _square(name: str, value: ArrayLike) -> Array:
    result = check.array(name, value, at_least=2)
    if result.shape[-1] != result.shape[-2]:
        raise ValueError(f"{name} must be square, got shape {result.shape}")
    return result


def _symmetric(name: str, value: ArrayLike) -> Array:
    """A batch of matrices, each symmetric up to rounding, which is averaged away."""
    result = _square(name, value)
    off, scale = np.abs(result - _t(result)).max(), np.abs(result).max()
    if off > check.SYMMETRY_TOLERANCE * scale:
        raise ValueError(f"{name} must be symmetric, got max |A - A^T| = {off:.3g} with max |A| = {scale:.3g}")
    return (result + _t(result)) / 2


def _anti(a: Array, b: Array) -> Array:
    return a @ b + b @ a


def _t(matrix: Array) -> Array:
    return np.swapaxes(matrix, -1, -2)

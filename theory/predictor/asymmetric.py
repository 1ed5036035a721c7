"""Predictor, weights and target of one mode without symmetry, and which of its rest states training can end in.

Two outputs that see two input directions with one eigenvalue lambda_d of X and one lambda_s > 0 of X + X': let the blocks of W^T, W_p
and W_a^T there be rotations times a size, that is complex numbers z = x + iy for [[x, -y], [y, x]]. Eqs. (2)-(4) of Tian, Chen & Ganguli
(ICML 2021, arXiv 2102.06810) keep them so, and are
    r = lambda_d w_a - lambda_s w_p w
    dw_p/dt = alpha_p r conj(w) - eta w_p,   dw/dt = conj(w_p) r - eta w,   dw_a/dt = beta (w - w_a)      (w_a = w without beta)
The antisymmetric part of the predictor is Im w_p; real numbers are one output, eqs. (104)-(106) of the paper with weight decay, where
symmetry is no assumption. Proved from these lines, for all starts:
    |w|^2 - |w_p|^2 / alpha_p decays as e^{-2 eta t}, whatever the target does (theorem 1).
    Without a moving average Im w_p decays at the rate alpha_p lambda_s |w|^2 + eta, and stays zero once it is.
    A state at rest is symmetric: w_p is a fixed point of `modes.anisotropic_fixed_points`, |w|^2 = w_p^2 / alpha_p, w_a = w with any
    phase. None turns at a constant speed: w = w(0) e^{i omega t}, w_p constant, needs omega = 0.
Unit of time as in `theory.predictor`: t = online learning rate x step. All arguments broadcast against each other. Functions raise
ValueError for entries that are not finite and for settings outside lambda_s > 0, alpha_p > 0, eta >= 0, beta >= 0. All derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory import _validation as check
from theory._validation import Array
from theory.predictor.modes import integrate

Complex = NDArray[np.complex128]


class AsymmetricFlow(NamedTuple):
    """Complex predictor, weight and target (..., T); a scalar t adds no axis T."""

    w_p: Complex
    w: Complex
    w_a: Complex


class Rates(NamedTuple):
    """Eigenvalues (..., 1) or (..., 2) of the flow at a state of rest; a positive one leaves it. The phase of w adds a 0."""

    across: Array
    along: Array
    turning: Array


def flow(
    t: ArrayLike,
    w_p: ArrayLike,
    w: ArrayLike,
    w_a: ArrayLike | None = None,
    *,
    lambda_d: ArrayLike,
    lambda_s: ArrayLike,
    alpha_p: ArrayLike,
    eta: ArrayLike,
    beta: ArrayLike | None = None,
) -> AsymmetricFlow:
    """The flow at the top of this module from complex w_p, w, w_a (...): values (..., T) at t (T,), or (...) at a scalar t.

    Without target and beta W_a = W at all times (SimSiam). Integrated by an explicit Runge-Kutta method of order 8 with a tolerance of
    1e-12, relative to the size of the start: an escape from a small one multiplies errors by its growth.
    Raises ValueError where only one of w_a and beta is given.
    """
    check.moving_average("w_a", w_a, beta)
    at, scalar = check.times(t)
    p, x = _complex("w_p", w_p), _complex("w", w)
    target = x if w_a is None else _complex("w_a", w_a)
    rate = np.zeros(()) if beta is None else check.non_negative("beta", beta)
    shared, total = check.array("lambda_d", lambda_d), check.positive("lambda_s", lambda_s)
    speed, decay = check.positive("alpha_p", alpha_p), check.non_negative("eta", eta)
    p, x, target, rate, shared, total, speed, decay = np.broadcast_arrays(
        p, x, target, rate, shared, total, speed, decay
    )
    shape, size = p.shape, p.size
    rate, shared, total, speed, decay = (v.ravel().real for v in (rate, shared, total, speed, decay))

    def derivative(_: float, state: Array) -> Array:
        p, w, a = state.view(np.complex128).reshape(3, size)
        residual = shared * (w if beta is None else a) - total * p * w
        moved = np.zeros_like(a) if beta is None else rate * (w - a)
        slopes = [speed * residual * w.conj() - decay * p, p.conj() * residual - decay * w, moved]
        return np.concatenate(slopes).view(np.float64)

    start = np.concatenate([v.ravel() for v in (p, x, target)])
    outer = np.maximum(np.abs(x), np.abs(target)).ravel()
    scale = np.concatenate([np.maximum(np.abs(p).ravel(), np.sqrt(speed) * outer), outer, outer])
    states = integrate(derivative, start.view(np.float64), at, np.repeat(scale, 2))
    along = np.ascontiguousarray(states.T).view(np.complex128).T.reshape(3, *shape, at.size)
    found = [along[0], along[1], along[1] if beta is None else along[2]]
    return AsymmetricFlow(*(v[..., 0] if scalar else v for v in found))


def rest_rates(
    w_p: ArrayLike, *, lambda_d: ArrayLike, lambda_s: ArrayLike, eta: ArrayLike, beta: ArrayLike | None = None
) -> Rates:
    """Eigenvalues of the flow at rest, w_p > 0 a fixed point, lambda_d w_p - lambda_s w_p^2 = eta; alpha_p drops out.

    across  : -2 eta, off the parabola |w|^2 = w_p^2 / alpha_p
    along   : {-(2a + beta) +- sqrt[(2a - beta)^2 + 4 beta q]} / 2,  a = lambda_s w_p^2, q = lambda_d w_p: w_p, w and w_a in phase
    turning : {-(2q + beta) +- sqrt[4 q^2 + beta^2]} / 2: Im w_p and the angle between w and w_a
    Without beta (SimSiam) one each: eta - a and -q. So a moving average makes no stable state unstable, and none an unstable one
    stable: `along` has a positive eigenvalue where a < eta, at the lower fixed point, and `turning` has none.
    Raises ValueError unless w_p > 0 is a fixed point (1e-6, relative to lambda_d w_p).
    """
    p, shared = check.positive("w_p", w_p), check.positive("lambda_d", lambda_d)
    total, decay = check.positive("lambda_s", lambda_s), check.non_negative("eta", eta)
    a, q = total * p**2, shared * p
    off = np.abs(q - a - decay) / q
    if np.any(off > 1e-6):
        raise ValueError(
            f"w_p must be a fixed point, lambda_d w_p - lambda_s w_p^2 = eta, got one off by {off.max():.3g} of lambda_d w_p"
        )
    if beta is None:
        across, along, turning = np.broadcast_arrays(-2 * decay, decay - a, -q)
        return Rates(across[..., None], along[..., None], turning[..., None])
    rate = check.non_negative("beta", beta)
    across, a, q, rate = np.broadcast_arrays(-2 * decay, a, q, rate)
    # The product of the two, over the one without cancellation, gives the other.
    fast = -(2 * a + rate + np.sqrt((2 * a - rate) ** 2 + 4 * rate * q)) / 2
    fast_turn = -(2 * q + rate + np.sqrt(4 * q**2 + rate**2)) / 2
    slow, slow_turn = rate * (2 * a - q) / fast, rate * q / fast_turn
    return Rates(across[..., None].copy(), np.stack([fast, slow], -1), np.stack([fast_turn, slow_turn], -1))


def takeover_rate(
    w_p: ArrayLike, *, lambda_d: ArrayLike, lambda_s: ArrayLike, eta: ArrayLike, beta: ArrayLike | None = None
) -> Array:
    """Rate (...) at which an input direction that no output sees enters an output at rest; positive: it takes the output over.

    w_p of that output; lambda_d and lambda_s > 0 of the direction that enters. Its weight v there and its target v_a start at 0:
        dv/dt = lambda_d w_p v_a - (lambda_s w_p^2 + eta) v,   dv_a/dt = beta (v - v_a)      (v_a = v without beta),
    to first order, which also an asymmetric predictor leaves alone. Positive where lambda_d w_p - lambda_s w_p^2 > eta, with or
    without a moving average. Without weight decay w_p = lambda_d / lambda_s of the direction that is held, and every direction with
    a larger lambda_d / lambda_s takes over: a trained predictor ends with the most predictable directions.
    Raises ValueError unless w_p > 0 and lambda_d >= 0.
    """
    p, shared = check.positive("w_p", w_p), check.non_negative("lambda_d", lambda_d)
    total, decay = check.positive("lambda_s", lambda_s), check.non_negative("eta", eta)
    pull, loss = shared * p, total * p**2 + decay
    if beta is None:
        return np.asarray(pull - loss)
    rate = check.non_negative("beta", beta)
    root = np.sqrt((loss - rate) ** 2 + 4 * rate * pull)
    slow: Array = 2 * rate * (pull - loss) / (loss + rate + root)
    return slow


def _complex(name: str, value: ArrayLike) -> Complex:
    raw = np.asarray(value)
    result: Complex = check.array(name, raw.real) + 1j * check.array(name, raw.imag)
    return result

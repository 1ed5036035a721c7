"""One mode of a network with a predictor: p an eigenvalue of W_p, s the eigenvalue of F = W^T X W that belongs to it.

Under X = I, X' = sigma2 I, W_a = tau W and a symmetric W_p that commutes with F (Tian et al. 2021, section 4), A = 1 + sigma2:
    dp/dt = alpha_p s (tau - A p) - eta p                                                              eq. (11)
    ds/dt = 2 p s (tau - A p) - 2 eta s                                                                eq. (12)
    dtau/dt = beta (1 - tau) - tau (p (tau - A p) - eta)                                               eq. (13)
Unit of time: t = online learning rate x step. All arguments broadcast against each other. Functions raise ValueError for entries
that are not finite and for settings outside alpha_p > 0, eta >= 0, sigma2 >= 0, beta >= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from theory import _validation as check
from theory._validation import Array

TOLERANCE = 1e-12  # of the integrators, relative
LARGEST_EXPONENT = 600.0  # of s / s0 while an integrator tries a step
QUADRATURE = 6  # Gauss-Legendre nodes in an interval of samples


class ModeFlow(NamedTuple):
    """Values (..., T) along a flow; a scalar t adds no axis T."""

    p: Array
    s: Array
    tau: Array


def mode_derivatives(
    p: ArrayLike, s: ArrayLike, *, tau: ArrayLike, alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike
) -> tuple[Array, Array]:
    """(dp/dt, ds/dt) of eqs. (11)-(12). Raises ValueError for alpha_p <= 0, eta < 0 or sigma2 < 0."""
    p, s, tau = (check.array(name, value) for name, value in (("p", p), ("s", s), ("tau", tau)))
    alpha_p, eta, sigma2 = _settings(alpha_p, eta, sigma2)
    slack = tau - (1 + sigma2) * p
    return alpha_p * s * slack - eta * p, 2 * p * s * slack - 2 * eta * s


def mode_flow(
    t: ArrayLike,
    p0: ArrayLike,
    s0: ArrayLike,
    *,
    tau: ArrayLike,
    alpha_p: ArrayLike,
    eta: ArrayLike,
    sigma2: ArrayLike,
    beta: ArrayLike | None = None,
) -> ModeFlow:
    """The flow (11)-(12) from (p0, s0); with `beta` tau is only the start of a target that follows by eq. (13).

    t scalar or (T,), all others broadcast to (...): p, s, tau (..., T). Integrated by an explicit Runge-Kutta method of order 8 with a
    relative tolerance of 1e-12, and with scales as logarithms, so that an s that falls by many orders can come back. An escape
    multiplies relative errors, as it does those of the start, by about p(t) / p0. Raises ValueError for s0 < 0.
    With `beta` the weights themselves are followed, w = sqrt(s) and w_a = tau w in polar coordinates (eqs. (104)-(106) with lambda_d = 1,
    lambda_s = A): where w crosses zero tau = w_a / w diverges and changes its sign, s touches 0, and the flow goes on. At s0 = 0 it is
    the limit s0 -> 0.
    """
    at, scalar = check.times(t)
    start_p, start_s = check.array("p0", p0), check.non_negative("s0", s0)
    alpha_p, eta, sigma2 = _settings(alpha_p, eta, sigma2)
    rate = np.zeros(()) if beta is None else check.non_negative("beta", beta)
    p, s, target, alpha_p, eta, sigma2, rate = np.broadcast_arrays(
        start_p, start_s, check.array("tau", tau), alpha_p, eta, sigma2, rate
    )
    shape, size = p.shape, p.size
    p, s, target, alpha_p, eta, sigma2, rate = (v.ravel() for v in (p, s, target, alpha_p, eta, sigma2, rate))
    scale = np.maximum(np.abs(p), np.sqrt(alpha_p * s))

    def fixed(_: float, state: Array) -> Array:
        p, log_s = state.reshape(2, size)
        slack = target - (1 + sigma2) * p
        pull = alpha_p * s * np.exp(np.minimum(log_s, LARGEST_EXPONENT)) * slack
        return np.concatenate([pull - eta * p, 2 * (p * slack - eta)])

    size2 = s * (1 + target**2)  # w^2 + w_a^2 at the start

    def following(_: float, state: Array) -> Array:
        p, log_size2, angle = state.reshape(3, size)
        w, w_a = np.cos(angle), np.sin(angle)  # over sqrt(w^2 + w_a^2)
        residual = w_a - (1 + sigma2) * p * w
        dw, dw_a = p * residual - eta * w, rate * (w - w_a)
        pull = alpha_p * size2 * np.exp(np.minimum(log_size2, LARGEST_EXPONENT)) * residual * w
        return np.concatenate([pull - eta * p, 2 * (w * dw + w_a * dw_a), w * dw_a - w_a * dw])

    one, zero = np.ones(size), np.zeros(size)
    if beta is None:
        result = integrate(fixed, np.concatenate([p, zero]), at, np.concatenate([scale, one])).reshape(2, size, -1)
        values = s[:, None] * np.exp(np.minimum(result[1], LARGEST_EXPONENT))
        along = np.repeat(target[:, None], at.size, 1)
    else:
        start = np.concatenate([p, zero, np.arctan2(target, one)])
        result = integrate(following, start, at, np.concatenate([scale, one, one])).reshape(3, size, -1)
        whole = size2[:, None] * np.exp(np.minimum(result[1], LARGEST_EXPONENT))
        values, along = whole * np.cos(result[2]) ** 2, np.tan(result[2])
    flow = (v.reshape(*shape, at.size) for v in (result[0], values, along))
    return ModeFlow(*(v[..., 0] if scalar else v for v in flow))


def offset(p: ArrayLike, s: ArrayLike, alpha_p: ArrayLike) -> Array:
    """c = s - p^2 / alpha_p, which decays as c(t) = c(0) e^{-2 eta t} for every tau(t), eq. (14).

    The parabola c = 0 is invariant. Deviation from the source: its main text prints c with the opposite sign.
    Raises ValueError for alpha_p <= 0.
    """
    return check.array("s", s) - check.array("p", p) ** 2 / check.positive("alpha_p", alpha_p)


def critical_eta(tau: ArrayLike, sigma2: ArrayLike) -> Array:
    """Weight decay tau^2 / (4 A) beyond which nothing but collapse is left (section 4.1 of the paper).

    Raises ValueError for sigma2 < 0.
    """
    return check.array("tau", tau) ** 2 / (4 * (1 + check.non_negative("sigma2", sigma2)))


def fixed_points(eta: ArrayLike, *, tau: ArrayLike, sigma2: ArrayLike) -> tuple[Array, Array]:
    """The fixed points (p_-, p_+) = [tau -+ sqrt(tau^2 - 4 eta A)] / (2 A) on the parabola s = p^2 / alpha_p, besides p = 0.

    p_+ and 0 are stable, p_- is a saddle. p_- is computed as eta / (A p_+), without cancellation.
    Raises ValueError where eta is beyond `critical_eta` (names both), or for tau <= 0.
    """
    tau = check.positive("tau", tau)
    _, eta, sigma2 = _settings(1.0, eta, sigma2)
    a = 1 + sigma2
    critical = tau**2 / (4 * a)
    excess = eta > critical
    if np.any(excess):
        eta_all, critical_all = (np.broadcast_to(v, excess.shape)[excess] for v in (eta, critical))
        raise ValueError(
            f"eta must be at most the critical one, tau^2 / (4 (1 + sigma2)) = {critical_all.flat[0]:.6g}, got "
            f"{eta_all.flat[0]:.6g}: beyond it every mode collapses and there is no other fixed point"
        )
    upper = (tau + np.sqrt(np.maximum(tau**2 - 4 * eta * a, 0.0))) / (2 * a)
    return eta / (a * upper), upper


def jacobian(
    p: ArrayLike, s: ArrayLike, *, tau: ArrayLike, alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike
) -> Array:
    """Jacobian (..., 2, 2) of eqs. (11)-(12) in (p, s), anywhere. Derived here.

    Raises ValueError for alpha_p <= 0, eta < 0 or sigma2 < 0.
    """
    p, s, tau = (check.array(name, value) for name, value in (("p", p), ("s", s), ("tau", tau)))
    alpha_p, eta, sigma2 = _settings(alpha_p, eta, sigma2)
    a = 1 + sigma2
    rows = np.broadcast_arrays(
        -alpha_p * a * s - eta,
        alpha_p * (tau - a * p),
        2 * s * (tau - 2 * a * p),
        2 * p * (tau - a * p) - 2 * eta,
    )
    return np.stack(rows, -1).reshape(*rows[0].shape, 2, 2)


def jacobian_eigenvalues(p: ArrayLike, *, eta: ArrayLike, sigma2: ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues of the Jacobian at a fixed point p = p_- or p_+: (-2 eta across the parabola, eta - A p^2 along it).

    Derived here; the paper gives the signs. At p = 0: -eta along and -2 eta across.
    Raises ValueError for eta < 0 or sigma2 < 0.
    """
    p = check.array("p", p)
    _, eta, sigma2 = _settings(1.0, eta, sigma2)
    across, along = np.broadcast_arrays(-2 * eta, np.where(p == 0, -eta, eta - (1 + sigma2) * p**2))
    return across, along


def escape_time(p0: ArrayLike, p1: ArrayLike, *, eta: float, tau: float, sigma2: float) -> Array:
    """Time from p0 to p1 along the invariant parabola, dp/dt = p^2 (tau - A p) - eta p, eq. (16).

    eta = 0        : t = (1/p0 - 1/p1) / tau + (A / tau^2) log[p1 (tau - A p0) / (p0 (tau - A p1))]
    below critical : t = -(1/A) [G(p1) - G(p0)],
                     G(p) = log|p| / (p_- p_+) - log|p - p_-| / (p_- (p_+ - p_-)) + log|p_+ - p| / (p_+ (p_+ - p_-))
    at the critical: the same with  G(p) = log|p / (p - q)| / q^2 - 1 / (q (p - q)),  q = tau / (2A), the double fixed point
    beyond         : the same with  G(p) = (A / eta) {log|p| - log[(p - q)^2 + w^2] / 2 + (q/w) arctan[(p - q)/w]},  w^2 = eta/A - q^2
    The logarithms are summed in an order without cancellation where p_- is small or close to p_+; relative error about 1e-13.
    From a small start the escape is algebraic: t ~ 1 / (tau p0) = 1 / (tau sqrt(alpha_p s0)) at eta = 0, where losses with
    negatives need log(1/s0): BYOL and SimSiam show no clear steps. p0, p1 broadcast to (...).
    Raises ValueError where p1 is not reached from p0 (says between which fixed points p0 lies) and for p0 = 0. Derived here.
    """
    start, end = np.broadcast_arrays(check.array("p0", p0), check.array("p1", p1))
    tau, eta, a = check.positive_number("tau", tau), check.number("eta", eta, 0), 1 + check.number("sigma2", sigma2, 0)
    critical = float(critical_eta(tau, a - 1))
    rests = {0.0}
    if eta <= critical:
        rests |= {float(v) for v in fixed_points(eta, tau=tau, sigma2=a - 1)}
    edges = np.array([-np.inf, *sorted(rests), np.inf])
    cell = np.searchsorted(edges, start)
    inside = (start > edges[cell - 1]) & (start < edges[np.minimum(cell, edges.size - 1)])
    same = inside & (end > edges[cell - 1]) & (end < edges[np.minimum(cell, edges.size - 1)])
    way, double = end - start, tau / (2 * a)
    with np.errstate(divide="ignore", invalid="ignore"):
        if eta == 0:
            t = (1 / start - 1 / end) / tau
            t = t + a / tau**2 * (np.log(end / start) - np.log((tau - a * end) / (tau - a * start)))
        elif eta < critical:
            lower, upper = edges[2:4]
            width = upper - lower
            near, far = -lower * way / (start * (end - lower)), width * way / ((start - upper) * (end - lower))
            t = _log_ratio(near, end * (start - lower) / (start * (end - lower))) / (lower * upper)
            ratio = (end - upper) * (start - lower) / ((start - upper) * (end - lower))
            t = -(t + _log_ratio(far, ratio) / (upper * width)) / a
        elif eta == critical:
            product = (start - double) * (end - double)
            ratio = end * (start - double) / (start * (end - double))
            t = -(_log_ratio(-double * way / (start * (end - double)), ratio) / double + way / product) / (a * double)
        else:
            square = (eta - critical) / a
            product = (start - double) * (end - double) + square
            size = (start - double) ** 2 + square
            growth = _log_ratio(way * (end + start - 2 * double) / size, ((end - double) ** 2 + square) / size)
            turn = double / np.sqrt(square) * np.arctan2(np.sqrt(square) * way, product)
            t = -(_log_ratio(way / start, end / start) - growth / 2 + turn) / eta
    reached = same & ((t >= 0) | (start == end))
    if not reached.all():
        first = np.unravel_index(np.argmin(reached), reached.shape)
        raise ValueError(
            f"p1 must lie on the way from p0, got p0 = {start[first]:.6g} and p1 = {end[first]:.6g} with fixed points at "
            + ", ".join(f"{edge:.6g}" for edge in edges[1:-1])
        )
    times: Array = np.maximum(t, 0.0)
    return times


def parabola_flow(t: ArrayLike, p0: ArrayLike, *, eta: ArrayLike, tau: ArrayLike, sigma2: ArrayLike) -> Array:
    """p(t) (..., T) along the invariant parabola, eq. (16): dp/dt = p^2 (tau - A p) - eta p. Errors as `mode_flow`."""
    start = check.array("p0", p0)
    return mode_flow(t, start, start**2, tau=tau, alpha_p=1.0, eta=eta, sigma2=sigma2).p


def ema_from_predictor(t: ArrayLike, p: ArrayLike, beta: float) -> Array:
    """tau(t) (..., T) of a target that starts at 0, from sampled p (..., T) on the invariant parabola, eq. (15).

    tau(t) = (beta / p(t)) int_0^t p(t') e^{-beta (t - t')} dt'. t (T,) increasing from 0, at least 4 samples; p is taken as a cubic
    spline, so the error falls with the fourth power of the spacing of t. Raises ValueError unless t starts at 0 and increases, and p > 0.
    """
    at = check.array("t", t, ndim=1)
    if at.size < 4 or at[0] != 0 or np.any(np.diff(at) <= 0):
        raise ValueError(f"t must be at least 4 times that increase from 0, got {at}")
    values = check.positive("p", p, at_least=1)
    if values.shape[-1] != at.size:
        raise ValueError(f"p (..., T) must fit t (T,), got shapes {values.shape} and {at.shape}")
    rate = check.positive_number("beta", beta)
    spline, width = CubicSpline(at, values, axis=-1), np.diff(at)
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    back = np.outer(width, (1 - nodes) / 2)  # (T - 1, QUADRATURE), from the right end of every interval
    gained = (spline(at[1:, None] - back) * np.exp(-rate * back) * weights).sum(-1) * width / 2
    decay = np.exp(-rate * width)
    integral = np.zeros_like(values)
    for k in range(1, at.size):  # from sample to sample: e^{beta t'} by itself would overflow
        integral[..., k] = integral[..., k - 1] * decay[k - 1] + gained[..., k - 1]
    return rate * integral / values


def alignment_margin(
    p: ArrayLike, s: ArrayLike, *, tau: ArrayLike, alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike
) -> Array:
    """K_j = (1/2) [alpha_p A s_j + eta] - Delta_j with Delta_j = p_j (tau - A p_j) - eta, condition (17) of the paper.

    While positive in all modes, eigenspaces of W_p and F align, at rate 2 min_j K_j or faster (theorem 3); a mode grows while
    Delta_j > 0. Equal to the eigenvalue (A/2) alpha_p s + A p^2 - tau p + (3/2) eta of K, on and off the parabola.
    Raises ValueError for alpha_p <= 0, eta < 0 or sigma2 < 0.
    """
    p, s, tau = (check.array(name, value) for name, value in (("p", p), ("s", s), ("tau", tau)))
    alpha_p, eta, sigma2 = _settings(alpha_p, eta, sigma2)
    a = 1 + sigma2
    return (alpha_p * a * s + eta) / 2 - (p * (tau - a * p) - eta)


def anisotropic_critical_eta(lambda_d: ArrayLike, lambda_s: ArrayLike) -> Array:
    """Weight decay lambda_d^2 / (4 lambda_s) beyond which a scalar mode collapses; lambda_d of X, lambda_s > 0 of X + X'.

    Generalises `critical_eta` (appendix D of the paper, with weight decay). Derived here.
    Raises ValueError for lambda_s <= 0.
    """
    return check.array("lambda_d", lambda_d) ** 2 / (4 * check.positive("lambda_s", lambda_s))


def anisotropic_fixed_points(lambda_d: ArrayLike, lambda_s: ArrayLike, eta: ArrayLike) -> tuple[Array, Array]:
    """Fixed points w_p = [lambda_d -+ sqrt(lambda_d^2 - 4 eta lambda_s)] / (2 lambda_s), w^2 = w_p^2 / alpha_p, besides 0.

    lambda_d > 0 an eigenvalue of X, lambda_s > 0 that of X + X'. Raises ValueError where eta is beyond
    `anisotropic_critical_eta`. Appendix D of the paper, with weight decay; derived here.
    """
    shared, total = check.positive("lambda_d", lambda_d), check.positive("lambda_s", lambda_s)
    # In units of time 1 / lambda_s this is the isotropic case with tau = lambda_d / lambda_s, sigma2 = 0.
    try:
        return fixed_points(check.non_negative("eta", eta) / total, tau=shared / total, sigma2=0.0)
    except ValueError:
        worst = float((check.array("eta", eta) - anisotropic_critical_eta(shared, total)).max())
        raise ValueError(
            f"eta must be at most lambda_d^2 / (4 lambda_s), exceeded by up to {worst:.3g}: beyond it the mode collapses"
        ) from None


def anisotropic_derivatives(
    w_p: ArrayLike,
    w: ArrayLike,
    w_a: ArrayLike,
    *,
    lambda_d: ArrayLike,
    lambda_s: ArrayLike,
    alpha_p: ArrayLike,
    beta: ArrayLike,
    eta: ArrayLike = 0.0,
) -> tuple[Array, Array, Array]:
    """(dw_p/dt, dw/dt, dw_a/dt) of the scalar model, eqs. (104)-(106), with weight decay.

    dw_p/dt = alpha_p r w - eta w_p,  dw/dt = w_p r - eta w,  dw_a/dt = beta (w - w_a),  r = w_a lambda_d - w_p w lambda_s.
    Raises ValueError for alpha_p <= 0, eta < 0 or beta < 0.
    """
    w_p, w, w_a, lambda_d, lambda_s = (
        check.array(name, value)
        for name, value in (("w_p", w_p), ("w", w), ("w_a", w_a), ("lambda_d", lambda_d), ("lambda_s", lambda_s))
    )
    alpha_p, eta, beta = (
        check.positive("alpha_p", alpha_p),
        check.non_negative("eta", eta),
        check.non_negative("beta", beta),
    )
    residual = w_a * lambda_d - w_p * w * lambda_s
    return alpha_p * residual * w - eta * w_p, w_p * residual - eta * w, beta * (w - w_a)


def integrate(derivative: Callable[[float, Array], Array], state: Array, times: Array, scale: Array) -> Array:
    """States (k, T) of dx/dt = derivative(t, x) from state (k,) at t = 0, at times >= 0 in any order.

    scale (k,): the size of every component below which its errors count as absolute.
    Raises ValueError where the solution cannot be followed to the last time (it blows up).
    """
    order, back = np.unique(times, return_inverse=True)
    if order[-1] == 0:
        return np.repeat(state[:, None], times.size, 1)
    found = solve_ivp(
        derivative,
        (0.0, float(order[-1])),
        state,
        method="DOP853",
        t_eval=order,
        rtol=TOLERANCE,
        atol=np.maximum(TOLERANCE * scale, np.finfo(np.float64).tiny),
    )
    if not found.success or not np.isfinite(found.y).all():
        raise ValueError(
            f"t must end before the solution blows up, at about t = {found.t[-1] if len(found.t) else 0.0:.6g}"
        )
    states: Array = found.y
    return states[:, back]


def _log_ratio(excess: Array, ratio: Array) -> Array:
    """log(ratio), from excess = ratio - 1 where that is small."""
    return np.where(np.abs(excess) < 0.5, np.log1p(np.maximum(excess, -0.5)), np.log(ratio))


def _settings(alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike) -> tuple[Array, Array, Array]:
    return (
        check.positive("alpha_p", alpha_p),
        check.non_negative("eta", eta),
        check.non_negative("sigma2", sigma2),
    )

"""Which starts of a mode (p, s) collapse, and the separatrix between the two fates, for a constant target W_a = tau W.

In units p = (tau / A) P, s = (tau^2 / (A^2 alpha_p)) S, t = (A / tau^2) T, A = 1 + sigma2, eqs. (11)-(12) of Tian et al. 2021 have one
parameter, h = A eta / tau^2, critical at 1/4:
    dP/dT = S (1 - P) - h P,    dS/dT = 2 P S (1 - P) - 2 h S,    C = S - P^2 = C(0) e^{-2 h T}              eq. (14)
For 0 < h < 1/4 a mode collapses iff it starts on one side of the stable manifold of the saddle (P_-, P_-^2), and at h = 1/4, where
the saddle has met the other fixed point in (1/2, 1/4), on one side of what is left of it. C falls or rises strictly
along that manifold, so that it is a function P_sep(C), found by integrating backwards from the saddle in time, and
    collapse  iff  P(0) < P_sep(C(0)).
Backwards in time P_sep runs to +infinity at a finite C < 0 and to -infinity at a finite C > 0: below the one every start collapses,
above the other none does. Derived here; the paper draws the separatrix in its Fig. 3 and gives the rule on the parabola.
P_sep is analytic in C: near the saddle it is summed as a power series, and followed numerically from there.
Starts with |P| up to 1e4 are resolved. Functions raise ValueError for entries that are not finite and for settings outside
tau > 0, alpha_p > 0, eta >= 0, sigma2 >= 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory import _validation as check
from theory._validation import Array

STEP = 0.003  # between nodes of a branch of the separatrix, its length measured in theta, WEIGHT log q, WEIGHT log|C|
WEIGHT = 0.2
NEGLIGIBLE = 10.0  # -log q from where on q moves nothing, and need not be followed in small steps
TURN = (
    0.06  # STEP / TURN is the largest relative change of log q in a step: from far down it would step over its return
)
MOST_NODES = 100_000
NEAR = 0.05  # |C| at the first node, relative to P_-^2; the power series holds up to there
ORDER = 14  # of the power series
FAR = 1 - 1e-9  # |theta| at which a branch counts as having run to infinity
SMALLEST = 1e-9  # h below which log C would change by less than its rounding while S comes back from e^{-1/h}
CHUNK = 1024  # values of h whose branches are integrated together


def collapses(
    p0: ArrayLike, s0: ArrayLike, *, tau: ArrayLike, alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike
) -> NDArray[np.bool_]:
    """Whether a mode collapses (s -> 0) from a start (p0, s0), s0 >= 0. All arguments broadcast to the shape of the result.

    eta = 0               : iff (p0 <= 0 and c <= 0) or (p0 > tau/A and c <= -(tau/A)^2 / alpha_p), c = s0 - p0^2 / alpha_p
    0 < eta <= critical   : iff the start lies on the collapsing side of the separatrix, as exact as `separatrix` is; at `critical_eta`
                            itself the double fixed point p = tau / (2A) holds what starts on it or beyond
    eta > critical        : always
    s0 = 0                : always; nothing moves away from s = 0.
    A start below the parabola with p0 > 0 need not collapse: the paper's s0 > p0^2 / alpha_p is sufficient, not necessary. As eta
    falls to 0 the rule tends to (p0 <= 0 and c <= 0) or (p0 > tau/A and c <= -4 (tau/A)^2 / alpha_p), not to that of eta = 0:
    what starts in between dives for a time of order 1 / eta, and survives.
    Raises ValueError for 0 < eta < 1e-9 tau^2 / A, where float64 does not resolve the way back from that dive. Derived here.
    """
    p, s, c, h = _scaled(p0, s0, tau, alpha_p, eta, sigma2)
    shape = p.shape
    p, s, c, h = (v.ravel() for v in (p, s, c, h))
    with np.errstate(over="ignore"):
        result = np.where(h == 0, ((p <= 0) & (c <= 0)) | ((p > 1) & (c <= -1)), True)
    between = (h > 0) & (h <= 0.25)
    if np.any(between & (h < SMALLEST)):
        raise ValueError(_too_slow(float(h[between].min())))
    for sign in (1, -1):
        mine = np.flatnonzero(between & (np.sign(c) == sign) & (s > 0))
        result[mine] = _compare(p[mine], s[mine], c[mine], h[mine], sign)
    on_parabola = between & (c == 0)
    result[on_parabola] = p[on_parabola] < _saddle(h[on_parabola])
    result |= s == 0
    return result.reshape(shape)


def separatrix(
    *, tau: float, alpha_p: float, eta: float, sigma2: float, extent: tuple[float, float, float, float]
) -> Array:
    """The boundary of the collapse basin as a polyline (k, 2) of points (p, s), ordered along it, inside a box.

    extent = (smallest p, largest p, smallest s, largest s). For eta = 0 the curves of the exact rule in `collapses`, joined along
    s = 0. Empty (0, 2) where the box holds none of it. P / sqrt(1 + P^2) is exact to 1e-8, and log s to 1e-7 of tau^2 / (A eta), the
    depth of its dive (C < 0).
    Raises ValueError for eta > critical, where there is no boundary, and for 0 < eta < 1e-9 tau^2 / A. Derived here.
    """
    left, right, low, high = (check.number("extent", value) for value in extent)
    if not (left < right and 0 <= low < high):
        raise ValueError(f"extent must be (p from, p to, s from >= 0, s to), got {extent}")
    tau, alpha_p = check.positive_number("tau", tau), check.positive_number("alpha_p", alpha_p)
    a, eta = 1 + check.number("sigma2", sigma2, 0), check.number("eta", eta, 0)
    unit, h = tau / a, float(_decay(np.array(tau), np.array(eta), np.array(a)))
    if h > 0.25:
        raise ValueError(
            f"eta must be at most the critical one, {tau**2 / (4 * a):.6g}, got {eta:.6g}: everything collapses"
        )
    if 0 < h < SMALLEST:
        raise ValueError(_too_slow(h))
    if h == 0:
        p = np.union1d(np.linspace(left / unit, right / unit, 1001), [0.0, 1.0])
        s = np.where(p < 0, p**2, np.maximum(p**2 - 1, 0.0))
    else:
        halves = []
        for sign in (1, -1):
            theta, log_q, _ = (v[:, 0] for v in _branch(np.array([h]), sign))
            inner = np.abs(theta) < FAR
            square = 1 - theta[inner] ** 2
            halves.append(np.stack([theta[inner] / np.sqrt(square), np.exp(log_q[inner]) / square]))
        saddle, x = float(_saddle(np.array(h))), np.linspace(NEAR, -NEAR, 101)[1:-1]
        middle = saddle * _sum(_series(np.array([h]))[:, 0], x)
        p, s = np.concatenate([halves[0][:, ::-1], [middle, middle**2 + saddle**2 * x], halves[1]], -1)
    curve = np.stack([unit * p, unit**2 / alpha_p * s], -1)
    inside = (curve >= (left, low)).all(-1) & (curve <= (right, high)).all(-1)
    return curve[inside]


def _scaled(
    p0: ArrayLike, s0: ArrayLike, tau: ArrayLike, alpha_p: ArrayLike, eta: ArrayLike, sigma2: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """P, S, C and h, of one shape."""
    p, s = check.array("p0", p0), check.non_negative("s0", s0)
    tau, alpha_p = check.positive("tau", tau), check.positive("alpha_p", alpha_p)
    eta, a = check.non_negative("eta", eta), 1 + check.non_negative("sigma2", sigma2)
    p, s = a / tau * p, a**2 * alpha_p / tau**2 * s
    p, s, c, h = np.broadcast_arrays(p, s, s - p**2, _decay(tau, eta, a))
    return p, s, c, h


def _decay(tau: Array, eta: Array, a: Array) -> Array:
    """h = A eta / tau^2, rounded so that it is above 1/4 exactly where eta is above `modes.critical_eta`."""
    h = a * eta / tau**2
    result: Array = np.where(eta > tau**2 / (4 * a), np.maximum(h, np.nextafter(0.25, 1)), np.minimum(h, 0.25))
    return result


def _too_slow(h: float) -> str:
    return f"eta must be 0 or at least {SMALLEST:g} tau^2 / (1 + sigma2), got {h:.3g} of it: below that float64 does not resolve it"


def _series(h: Array) -> Array:
    """Coefficients b (ORDER + 1, k) of P_sep / P_- = sum_i b_i x^i, x = C / P_-^2.

    With y = P / P_-, dC/dT = -2 h C turns dP/dT into -2 h x y' = P_- (x + y^2)(1 - P_- y) - h y, solved order by order.
    """
    saddle = _saddle(h)
    b, u, v = (np.zeros((ORDER + 1, h.size)) for _ in range(3))  # of y, x + y^2 and 1 - P_- y
    b[0], u[0], v[0] = 1.0, 1.0, 1 - saddle
    for k in range(1, ORDER + 1):
        u[k] = (k == 1) + (b[1:k] * b[k - 1 : 0 : -1]).sum(0)  # but for 2 b_k
        known = u[k] * v[0] + (u[1:k] * v[k - 1 : 0 : -1]).sum(0)
        b[k] = -saddle * known / (2 * h * k + h - saddle**2)
        u[k], v[k] = u[k] + 2 * b[k], -saddle * b[k]
    return b


def _sum(coefficients: Array, x: Array | float) -> Array:
    """sum_i b_i x^i by Horner's rule."""
    result: Array = np.zeros_like(coefficients[0] * x)
    for b in coefficients[::-1]:
        result = result * x + b
    return result


def _saddle(h: Array) -> Array:
    """P_- = (1 - sqrt(1 - 4 h)) / 2 without cancellation."""
    result: Array = 2 * h / (1 + np.sqrt(1 - 4 * h))
    return result


def _compare(p: Array, s: Array, c: Array, h: Array, sign: int) -> NDArray[np.bool_]:
    """P < P_sep(C), all entries with C of one sign."""
    result = np.empty(p.size, dtype=bool)
    values, which = np.unique(h, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(values.size + 1))
    for first in range(0, values.size, CHUNK):
        chunk = values[first : first + CHUNK]
        theta, log_q, log_c = _branch(chunk, sign) if chunk.size > 1 else _one_branch(float(chunk[0]), sign)
        series = _series(values[first : first + CHUNK])
        for k in range(theta.shape[1]):
            mine = order[starts[first + k] : starts[first + k + 1]]
            nodes = (theta[:, k], log_q[:, k], log_c[:, k])
            x, y, beyond = _read(*nodes, np.log(np.abs(c[mine])), values[first + k], sign, series[:, k])
            own = p[mine] / np.sqrt(1 + p[mine] ** 2)
            if sign > 0:
                result[mine] = ~beyond & (own < x)
            else:
                result[mine] = beyond | (p[mine] < 0) | (np.log(s[mine] / (1 + p[mine] ** 2)) < y)
    return result


def _read(
    theta: Array, log_q: Array, log_c: Array, at: Array, h: float, sign: int, series: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """theta and log q of the branch at log|C| = `at`, by one Runge-Kutta step from the node before, and where it has ended."""
    end = int(np.argmax(np.abs(theta) >= FAR)) if np.abs(theta[-1]) >= FAR else theta.size - 1
    node = np.clip(np.searchsorted(log_c[: end + 1], at, side="right") - 1, 0, end)
    state = np.stack([theta[node], log_q[node], log_c[node]])
    step = np.maximum(at - state[2], 0.0)

    def slope(state: Array) -> Array:
        rates = _backwards(state, h, sign)
        result: Array = rates / rates[2]
        return result

    x, y, _ = _runge_kutta(slope, state, step)
    early = at < log_c[0]  # nearer to the saddle than the first node
    if early.any():
        saddle = float(_saddle(np.array([h]))[0])
        p = saddle * _sum(series, sign * np.exp(at[early]) / saddle**2)
        x[early] = p / np.sqrt(1 + p**2)
        y[early] = np.log((p**2 + sign * np.exp(at[early])) / (1 + p**2))
    return x, y, node >= end


def _branch(h: Array, sign: int) -> Array:
    """Nodes (3, nodes, k) of theta = P / sqrt(1 + P^2), log q = log S / (1 + P^2) and log|C| along the branch with sign C = `sign`.

    Runge-Kutta 4 along the length of the branch, one column an h; theta and q keep bounded what runs to infinity in a finite time.
    """
    saddle = _saddle(h)
    c = sign * NEAR * saddle**2
    p = saddle * _sum(_series(h), sign * NEAR)
    state = np.stack([p / np.sqrt(1 + p**2), np.log((p**2 + c) / (1 + p**2)), np.log(np.abs(c))])

    def unit_speed(state: Array) -> Array:
        rates = _backwards(state, h, sign)
        shown = rates[1] / (1 + (state[1] / NEGLIGIBLE) ** 2)
        share = TURN * rates[1] / (NEGLIGIBLE + np.abs(state[1]))
        speed = np.sqrt(rates[0] ** 2 + WEIGHT**2 * (shown**2 + rates[2] ** 2) + share**2)
        return np.where(np.abs(state[0]) < FAR, rates / speed, 0.0)

    nodes = [state]
    while np.any(np.abs(state[0]) < FAR) and len(nodes) < MOST_NODES:
        state = _runge_kutta(unit_speed, state, STEP)
        state[0] = np.clip(state[0], -FAR, FAR)
        nodes.append(state)
    if np.any(np.abs(state[0]) < FAR):
        raise RuntimeError(
            f"the separatrix did not end within {MOST_NODES} steps, for h from {h.min():.3g} to {h.max():.3g}"
        )
    return np.stack(nodes, 1)


@functools.lru_cache(maxsize=16)
def _one_branch(h: float, sign: int) -> Array:
    """Nodes (3, nodes, 1) of `_branch` for one h: whoever draws a map asks for it many times."""
    nodes = _branch(np.array([h]), sign)
    nodes.flags.writeable = False
    return nodes


def _runge_kutta(slope: Callable[[Array], Array], state: Array, step: Array | float) -> Array:
    k1 = slope(state)
    k2 = slope(state + step / 2 * k1)
    k3 = slope(state + step / 2 * k2)
    k4 = slope(state + step * k3)
    return state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _backwards(state: Array, h: Array | float, sign: int) -> Array:
    """Rates (3, ...) of theta, log q and log|C| backwards in time.

    With r = sqrt(1 - theta^2), P = theta / r and S = q / r^2:
    dtheta = -q (r - theta) + h theta r^2,  dlog q = -2 theta (r - theta)(1 - C) + 2 h r^2,  dlog|C| = 2 h.
    """
    x = np.minimum(np.maximum(state[0], -FAR), FAR)  # a third of the price of np.clip
    q, c = np.exp(np.minimum(state[1], 50.0)), sign * np.exp(np.minimum(state[2], 600.0))
    square = 1 - x**2
    r = np.sqrt(square)
    rates = np.empty_like(state)
    rates[0] = -q * (r - x) + h * x * square
    rates[1] = -2 * x * (r - x) * (1 - c) + 2 * h * square
    rates[2] = 2 * h
    return rates

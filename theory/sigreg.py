"""SIGReg, the regulariser of LeJEPA, on a linear model: what survives it, how it slows learning, and the same with orthonormal weights.

Model f(x) = W^T x with weights W (m, d) on centred Gaussian data; signal and augmentation noise share their eigenvectors: second moment
Sigma with eigenvalues sigma_j, noise N with n_j, alignments a_j = n_j / sigma_j. The embedding is N(0, S), S = W^T Sigma W, and
    L = (1/2) E||z - z'||^2 + nu E_u T(u^T S u) = tr(W^T N W) + nu F(y),
u uniform on the sphere of R^d, T the distance of `normality`, F of `sliced_normality` and y (d,) the eigenvalues of S. SIGReg as its
authors' code has it is sqrt(2 pi) n T for n samples, to 2 % for variances up to 100 (its knots end at 3); LeJEPA with weight w on two
views is then (1 - w) / (2 d) L with nu = 2 d sqrt(2 pi) n w / (1 - w), and nu is large. The mean over slices makes L blind to rotations
of the outputs.
Gradient flow dW/dt = -2 N W + 2 nu Sigma W P(S), P = -F'(S). On weights whose columns are eigenvectors it is exactly
    dy_j/dt = 4 sigma_j y_j (pull_j - a_j),    pull_j = nu E_u u_j^2 [(1 + 2v)^{-3/2} - (2 + v)^{-3/2}],   v = sum_j y_j u_j^2:
all pulls are nu (1 - 2^{-3/2}) / d at the origin, and learned modes lower them all. From a generic small start take s_j(0)^2 =
y_j(0) / sigma_j from `theory.stepwise.aligned_initialisation`, with pull Sigma - N for its gamma_matrix.
Unit of time everywhere: t = learning rate x step of gradient descent on L as written.
Sources: Balestriero & LeCun 2025, arXiv 2511.08544, sec. 4 and 5, for the losses; all that is said of them is derived here and verified in
tests. All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from scipy.special import poch

from theory import _validation as check
from theory._subspaces import split_indices
from theory._validation import Array

SLOPE = 1 - 2**-1.5  # -T'(0) of `normality`
SPACING = 0.125  # of the nodes of a quadrature in the logarithm
NODES = SPACING * np.arange(-320, 321)
TINY = np.finfo(np.float64).tiny
TOLERANCE = 1e-10  # of the flow, relative to the variances
LARGEST_STEP = 10.0  # e-folds of the fastest growth: longer trial steps overflow


class Plateau(NamedTuple):
    """Where the variances of learned modes wait, and the pull on the outputs that have learned nothing."""

    variances: Array  # (k,)
    pull: float


class Minimum(NamedTuple):
    """The minimum over orthonormal weights, and the eigenvalues (d,), decreasing, of W^T Sigma W there."""

    loss: float
    eigenvalues: Array


def normality(variance: ArrayLike) -> Array:
    """Epps-Pulley distance of N(0, v) from N(0, 1), entry by entry: T(v) = (1+2v)^{-1/2} - 2 (2+v)^{-1/2} + 3^{-1/2}.

    T = int |phi_v(t) - phi_1(t)|^2 N(t; 0, 1) dt with the characteristic function phi_v(t) = e^{-v t^2 / 2}; its slope at v = 0
    is -(1 - 2^{-3/2}). Derived here; the statistic is that of Epps & Pulley 1983, used on slices by LeJEPA (Balestriero &
    LeCun 2025, arXiv 2511.08544). Raises ValueError for v < 0.
    """
    v = check.non_negative("variance", variance)
    result: Array = 1 / np.sqrt(1 + 2 * v) - 2 / np.sqrt(2 + v) + 1 / np.sqrt(3)
    return result


def attraction(sigma: ArrayLike, d: int, strength: float) -> Array:
    """What nu E_u T(u^T W^T Sigma W u) adds to b_j of `theory.regularisation`: nu (1 - 2^{-3/2}) sigma_j / (2 d).

    The growth of the first mode from the origin. sigma (m,); exact also for slices that are unions of orthonormal bases.
    Raises ValueError for sigma <= 0, d < 1 or strength < 0.
    """
    s, d = check.positive("sigma", sigma), check.integer("d", d)
    return check.number("strength", strength, least=0) * SLOPE * s / (2 * d)


def sliced_normality(variances: ArrayLike) -> float:
    """F(y) = E_u T(u^T S u) of a second moment S with eigenvalues y_j (d,), u uniform on the sphere of R^d, T that of `normality`.

    Since |u| = 1 it is K(1 + 2 y) - 2 K(2 + y) + 3^{-1/2} with K(m) = E_u (sum_j m_j u_j^2)^{-1/2}, which is one integral,
        K(m) = sqrt(2) Gamma(d/2) / Gamma((d-1)/2) pi^{-1/2} int_0^inf t^{-1/2} prod_j (1 + 2 t m_j)^{-1/2} dt,    d >= 2,
    to 1e-13. What SIGReg with infinitely many slices says of Gaussian embeddings. Derived here. Raises ValueError for y < 0.
    """
    return _sliced_normality(check.non_negative("variances", variances, at_least=1).ravel())[0]


def variances(alignment: ArrayLike, strength: float) -> Array:
    """Variances y_j (d,) at the minimum of L on d modes: they minimise sum_j a_j y_j + nu F(y).

    alignment a_j = n_j / sigma_j (d,); equal a_j have equal y_j. The loss and its slope are exact; minimised by L-BFGS-B from y = 1, to
    about 1e-6 of the largest y. T is convex up to a variance of 2.4 only, and y grows beyond that where others are 0: that the minimum
    is the only one is checked numerically, not proved. Trained on few fixed slices, embeddings end elsewhere: dimensions die that many
    slices keep. Raises ValueError for alignment < 0 or strength < 0.
    """
    a = check.non_negative("alignment", alignment, at_least=1)
    return plateau(a, strength, a.size).variances


def plateau(alignment: ArrayLike, strength: float, d: int) -> Plateau:
    """Plateau of d outputs after the modes of these alignments a_j (k,) are learned, none for k = 0.

    variances : the minimum over the k learned modes with nothing in the other outputs, as `variances`; 0 for a mode that others suppress
    pull      : nu E_u u_i^2 [(1 + 2v)^{-3/2} - (2 + v)^{-3/2}] on an output i that has learned nothing: the variance of the next mode
                grows at 4 sigma_j (pull - a_j), slower than the 4 sigma_j (nu (1 - 2^{-3/2}) / d - a_j) of the first. 0 for k = d
    Equal alignments have one height h, and then with the hypergeometric function, exactly,
        a = nu/d [2F1(3/2, k/2 + 1; d/2 + 1; -2h) - 2^{-3/2} 2F1(3/2, k/2 + 1; d/2 + 1; -h/2)],
        pull = nu/d [2F1(3/2, k/2; d/2 + 1; -2h) - 2^{-3/2} 2F1(3/2, k/2; d/2 + 1; -h/2)].
    This h is the only one for k <= d - 2 and k = d: B = u_1^2 + .. + u_k^2 has mean k/d and its logarithm a log-concave density, so that
    E B [T'(hB) + a d / nu], which is 0 there, changes its sign once in h, as T'(v) + a d / nu does in v. For k = d - 1, and that an equal
    split is the minimum, are checked numerically. A few modes take up most of the variance that all d would have: k h is 6.95, 7.57, 7.68,
    .. 7.61 at d = 8, nu = 32, a = .02. Validity: small weights and well separated growth rates. Raises ValueError for alignment < 0,
    strength < 0 or more modes than outputs.
    """
    d, nu = check.integer("d", d), check.number("strength", strength, least=0)
    a = np.zeros(0) if np.size(alignment) == 0 else check.non_negative("alignment", alignment, at_least=1).ravel()
    if a.size > d:
        raise ValueError(f"alignment must have at most d = {d} entries, got {a.size}")
    y = np.zeros(d)
    if a.size:
        y[: a.size] = _minimise(a, nu, d, [(0.0, None)] * a.size)
    return Plateau(y[: a.size], 0.0 if a.size == d else float(_pulls(y, nu)[-1]))


def flow(t: ArrayLike, y0: ArrayLike, sigma: ArrayLike, alignment: ArrayLike, strength: float) -> Array:
    """Variances y (..., T, d) along the flow from y0 (..., d), exact for aligned weights and integrated numerically.

    dy_j/dt = 4 sigma_j y_j (pull_j - a_j), in the logarithm of y: relative error about 1e-8. No closed form is known. sigma and
    alignment (d,). A mode that starts at 0 stays there.
    Raises ValueError for t < 0, y0 < 0, sigma <= 0, alignment < 0 or strength < 0, RuntimeError where the integrator fails.
    """
    at, scalar = check.times(t)
    start, s = check.modes("y0", y0, "sigma", check.positive("sigma", sigma, at_least=1))
    a, nu = _alignments(alignment, s), check.number("strength", strength, least=0)
    order, place = np.unique(at, return_inverse=True)
    paths = [_path(order, y, s, a, nu)[place] for y in start.reshape(-1, s.size)]
    result = np.stack(paths).reshape(*start.shape[:-1], at.size, s.size)
    return result[..., 0, :] if scalar else result


def step_times(y0: ArrayLike, sigma: ArrayLike, alignment: ArrayLike, strength: float) -> Array:
    """Time (..., d) at which each mode first has half its final variance, from a small aligned start y0 (..., d).

    log y_j(t) is piecewise linear with slopes 4 sigma_j (pull_k - a_j), pull_k of the `plateau` of the modes learned by then: leading
    order in log(1/y0). It takes a learned mode to be on its plateau at once and growth to go on unhindered up to half the final
    variance; both shift a step by a time that does not depend on the scale of the start. For sigma_{j+1} = sigma_j / 2, d = 3 and equal
    alignments of 1, 10 and 30 % of the first pull the times are short by 7, 6 and 5 % at most at y0 ~ 1e-12 and by 4, 3 and 3 % at 1e-20;
    `flow` has no such error.
    inf for a mode that is never learned. sigma and alignment (d,).
    Raises ValueError as `flow`, and for a start that is not small, y0 at or above half the final variance.
    """
    start, s = check.modes("y0", y0, "sigma", check.positive("sigma", sigma, at_least=1))
    a, nu = _alignments(alignment, s), check.number("strength", strength, least=0)
    levels = variances(a, nu) / 2
    learns = levels > 0
    if np.any((start >= levels) & learns):
        raise ValueError(
            f"y0 must be small, below half the final variances {2 * levels}, got a largest one of {start.max():.3g}"
        )
    pulls: dict[tuple[int, ...], float] = {}
    times = np.full(start.shape, np.inf)
    for index in np.ndindex(start.shape[:-1]):
        clock, learned = 0.0, np.zeros(s.size, dtype=bool)
        with np.errstate(divide="ignore"):
            missing = np.log(np.where(learns, levels, 1.0)) - np.log(start[index])  # e-folds to go
        while True:
            key = tuple(np.flatnonzero(learned).tolist())
            if key not in pulls:
                pulls[key] = plateau(a[learned], nu, s.size).pull
            rates = 4 * s * (pulls[key] - a)
            waits = np.where(learns & ~learned & (rates > 0), missing / np.where(rates > 0, rates, 1.0), np.inf)
            if np.isinf(waits.min()):
                break
            clock += waits.min()
            missing = missing - rates * waits.min()
            times[index][waits.argmin()] = clock
            learned[waits.argmin()] = True
    return times


# With orthonormal weights


def constrained_minimum(sigma: ArrayLike, alignment: float, strength: float, d: int) -> Minimum:
    """Minimum of L over W^T W = I_d for noise N = a Sigma, alignment a one number >= 0, sigma (m,) decreasing.

    The eigenvalues c_i of W^T Sigma W interlace, sigma_{m-d+i} <= c_i <= sigma_i (Cauchy), and all such c are attained (Fan & Pall, 1957):
    the minimum is that of a sum_i c_i + nu F(c) over this box. It is the top-d eigenspace where nothing pushes back there, all pulls >= a,
    as for a = 0 and sigma <= 1: with a scale that the weights cannot change, normality is out of reach and no plateau is met, for all d
    outputs carry variance from the start. Noise of one size in all directions, N = n I + a Sigma, adds n d and changes nothing else.
    Proved for sigma_1 <= 2.4, where T is convex; beyond it the minimum found by L-BFGS-B from c = 1, clipped, need not be the lowest.
    Raises ValueError unless sigma > 0 decreases and 1 <= d <= m.
    """
    s = check.decreasing("sigma", check.positive("sigma", sigma))
    a, nu = check.number("alignment", alignment, least=0), check.number("strength", strength, least=0)
    d = check.dimension(d, s.size)
    c = _minimise(np.full(d, a), nu, d, list(zip(s[s.size - d :], s[:d], strict=True)))
    return Minimum(float(a * c.sum() + nu * _sliced_normality(c)[0]), c)


def constrained_rates(sigma: ArrayLike, alignment: ArrayLike, strength: float, inside: Sequence[int]) -> Array:
    """Rates (m - d, d) at which W = V_in + V_out B returns to the eigenspace V_in: dB_ij/dt = -rate_ij B_ij.

    rate_ij = 2 [pull_j (sigma_j - sigma_i) - (n_j - n_i)], n = a sigma, pulls of the flow at y = sigma_in: j over `inside` as given, i over
    the others in increasing order, indices counted from 0. Negative: the eigenspace is a saddle, left at that rate; positive: principal
    angles to it decay at the smallest of them. dW/dt = -(I - W W^T) grad L, on the Stiefel manifold as on the Grassmannian, because L is
    blind to rotations of the outputs. First order in B. sigma and alignment (m,).
    Raises ValueError for sigma <= 0, negative alignment or strength, or if `inside` repeats an index or leaves 0 .. m-1.
    """
    s = check.positive("sigma", check.array("sigma", sigma, ndim=1))
    a, nu = _alignments(alignment, s), check.number("strength", strength, least=0)
    within, outside = split_indices(inside, s.size)
    noise = a * s
    result: Array = _pulls(s[within], nu) * (s[within] - s[outside][:, None]) - (
        noise[within] - noise[outside][:, None]
    )
    return 2 * result


def _path(t: Array, y0: Array, sigma: Array, alignment: Array, nu: float) -> Array:
    """Variances (T, d) at increasing times from y0 (d,)."""
    result = np.repeat(y0[None], t.size, axis=0)
    moves = y0 > 0
    if not moves.any() or t[-1] == 0:
        return result

    def velocity(_: float, logarithm: Array) -> Array:
        y = np.zeros(moves.size)
        y[moves] = np.exp(logarithm)
        rates: Array = 4 * sigma * (_pulls(y, nu) - alignment)
        return rates[moves]

    fastest = 4 * nu * SLOPE * float(sigma.max()) / sigma.size
    options = {"t_eval": t, "rtol": TOLERANCE, "atol": TOLERANCE, "max_step": LARGEST_STEP / max(fastest, TINY)}
    solution = solve_ivp(velocity, (0.0, t[-1]), np.log(y0[moves]), "DOP853", **options)
    if not solution.success:
        raise RuntimeError(f"the flow could not be integrated to t = {t[-1]:g}: {solution.message}")
    result[:, moves] = np.exp(solution.y.T)
    return result


def _minimise(a: Array, nu: float, d: int, bounds: Sequence[tuple[float, float | None]]) -> Array:
    """The y (k,) within bounds that minimise a . y + nu F(y, 0), the other d - k variances 0."""

    def loss(y: Array) -> tuple[float, Array]:
        value, slope = _sliced_normality(np.concatenate([y, np.zeros(d - y.size)]))
        return float(a @ y + nu * value), a + nu * slope[: y.size]

    low, high = (np.array([np.inf if b is None else b for b in side]) for side in zip(*bounds, strict=True))
    exact = {"ftol": 0, "gtol": 1e-14, "maxiter": 10_000}
    result: Array = minimize(loss, np.clip(1.0, low, high), jac=True, method="L-BFGS-B", bounds=bounds, options=exact).x
    return result


def _pulls(y: Array, nu: float) -> Array:
    return -nu * _sliced_normality(y)[1]


def _sliced_normality(y: Array) -> tuple[float, Array]:
    """The value and its derivatives (d,)."""
    (low, low_slope), (high, high_slope) = _mean_inverse_root(1 + 2 * y), _mean_inverse_root(2 + y)
    return low - 2 * high + 3**-0.5, 2 * (low_slope - high_slope)


def _mean_inverse_root(m: Array) -> tuple[float, Array]:
    """K(m) of `sliced_normality` and its derivatives (d,).

    With 2 t = e^{2x} / scale the integrand is analytic and falls like e^x to the left and e^{-(d-1) x} to the right: equally
    spaced nodes converge exponentially.
    """
    d = m.size
    if d == 1:
        return float(m[0] ** -0.5), -(m**-1.5) / 2
    scale = float(m.sum())
    square = np.exp(2 * NODES) / scale
    spread = m[:, None] * square
    constant = 2 * SPACING / np.sqrt(np.pi * scale) * poch((d - 1) / 2, 0.5)  # with Gamma(d/2) / Gamma((d-1)/2)
    weights = constant * np.exp(NODES - np.log1p(spread).sum(0) / 2)
    return float(weights.sum()), -(square / (1 + spread)) @ weights / 2


def _alignments(alignment: ArrayLike, sigma: Array) -> Array:
    a = check.non_negative("alignment", alignment, at_least=1)
    if a.shape != sigma.shape:
        raise ValueError(f"sigma and alignment need one shape (d,), got {sigma.shape} and {a.shape}")
    return a

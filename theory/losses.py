"""Learning of the modes of each loss: logistic modes, InfoNCE on Gaussian data, and the step times of quartic losses.

Model f(x) = W^T x with weights W (..., m, d), small at the start, without normalisation. Cross-moment Gamma = E x x'^T of two views
and second moment Sigma = E x x^T of single views. Where the two share eigenvectors (eigenvalues gamma_j, sigma_j) and the start
is aligned with them, every mode has its own amplitude s_j and embedding variance y_j = sigma_j s_j^2:
    Barlow Twins            ||W^T Gamma W - I||^2                           ds/dt = 4 s (gamma - gamma^2 s^2)
    spectral contrastive    -2 tr W^T Gamma W + ||W^T Sigma W||^2           ds/dt = 4 s (gamma - sigma^2 s^2)
    squared VICReg          ||W^T Sigma W - I||^2 + beta E||z - z'||^2      ds/dt = 4 s (sigma - beta (sigma - gamma) - sigma^2 s^2)
    InfoNCE                 below                                           dy/dt = 2 y [sigma/(1+y) + sigma/(1+y)^2 - 2 (sigma - gamma)]
(`theory.regularisation.quartic` holds the coefficients of the first three.) From a generic small start take s_j(0) from
`theory.stepwise.aligned_initialisation`, with the matrix of the growth rates for its gamma_matrix.
Unit of time everywhere: t = learning rate x step of gradient descent on the loss as written. Leading dimensions are batch
dimensions; a vector of times adds an axis T in front of the mode axis. All functions raise ValueError for bad arrays.
Derived here and verified in tests, unless a source is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import DOP853
from scipy.optimize import brentq

from theory import _validation as check
from theory import stepwise
from theory._validation import Array
from theory.landscape import moments, quartic_minimiser
from theory.regularisation import Quartic, quartic

SMALLEST_SCALE = 1e-100  # modes whose natural scale is below are at rate zero
BISECTIONS = 80  # from any bracket of float64 numbers to neighbours, in the logarithm
LINEAR = 1e-8  # share of the saturation up to which growth is taken for exponential
SLACK = 40.0  # e-folds: a mode that rounding has to start takes about 36
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-12  # of the flow

# Logistic modes


@dataclass(frozen=True, eq=False)
class LogisticModes:
    """Modes that grow as ds_j/dt = 4 s_j (b_j - q_j s_j^2) = r_j s_j (1 - s_j^2 / final_j): logistic in s^2.

    attraction b (d,), of any sign; curvature q (d,), >= 0 and positive where b is not zero; second: sigma (d,) >= 0.
    A mode with b <= 0 is never learned: it decays, for b = 0 as s_0 / sqrt(1 + 8 q s_0^2 t).
    """

    attraction: Array
    curvature: Array
    second: Array

    def __post_init__(self) -> None:
        b = check.array("attraction", self.attraction, ndim=1)
        q, sigma = check.non_negative("curvature", self.curvature), check.non_negative("second", self.second)
        for name, value in (("attraction", b), ("curvature", q), ("second", sigma)):
            object.__setattr__(self, name, value)
        if not b.shape == q.shape == sigma.shape:
            raise ValueError(
                f"attraction, curvature and second need one shape (d,), got {b.shape}, {q.shape}, {sigma.shape}"
            )
        if np.any((q == 0) & (b != 0)):
            raise ValueError(f"curvature must be > 0 where attraction is not 0, got {q} and {b}")

    @property
    def rate(self) -> Array:
        """Growth rates of s from the origin: r = 4 b (d,); s^2 and the embedding variance grow at twice this rate."""
        return 4 * self.attraction

    @property
    def final(self) -> Array:
        """Final s^2 (d,): b / q, and 0 for a mode that is never learned."""
        return np.where(self.attraction > 0, self.attraction / np.where(self.curvature > 0, self.curvature, 1.0), 0.0)

    @property
    def variance(self) -> Array:
        """Final embedding variance (d,): sigma s^2."""
        return self.second * self.final

    def singular_values(self, t: ArrayLike, s0: ArrayLike) -> Array:
        """Amplitudes s (..., T, d) from s0 (..., d) >= 0, exact at every t >= 0: `theory.stepwise.singular_values`, rescaled.

        s / k solves the equation of Barlow Twins at gamma = b, with k = |b| / sqrt(q).
        Raises ValueError for t < 0 or s0 < 0.
        """
        at, scalar = check.times(t)
        start, b = check.modes("s0", s0, "attraction", self.attraction)
        scale, moves = self._scale()
        moving = scale * stepwise.singular_values(at, start / scale, np.where(moves, b, 0.0))
        still = start[..., None, :]
        with np.errstate(over="ignore"):
            still = still / np.sqrt(1 + 8 * self.curvature * still**2 * at[:, None])
        result = np.where(moves, moving, still)
        return result[..., 0, :] if scalar else result

    def step_times(self, s0: ArrayLike) -> Array:
        """Times (..., d) at which s^2 = final / 2; inf for a mode that is never learned.

        log(final / s_0^2 - 1) / (2 r): negative for a start above half, -inf for one above the final value.
        Raises ValueError for s0 < 0.
        """
        start, b = check.modes("s0", s0, "attraction", self.attraction)
        scale, moves = self._scale()
        return stepwise.step_times(start / scale, np.where(moves, b, 0.0))

    def _scale(self) -> tuple[Array, NDArray[np.bool_]]:
        """The unit k (d,) of s that makes b = q, and which modes have a rate at all."""
        scale: Array = np.abs(self.attraction) / np.sqrt(np.where(self.curvature > 0, self.curvature, 1.0))
        moves = scale > SMALLEST_SCALE
        return np.where(moves, scale, 1.0), moves


def barlow_twins_modes(gamma: ArrayLike, sigma: ArrayLike) -> LogisticModes:
    """Barlow Twins: rate 4 gamma, final s^2 = 1/gamma, variance sigma/gamma. gamma, sigma (d,), sigma > 0.

    A Gamma and Sigma that share eigenvectors; the modes themselves do not depend on sigma. Source: Simon et al., ICML 2023,
    arXiv 2303.15438. Raises ValueError for sigma <= 0.
    """
    return _modes(quartic("barlow_twins", gamma, sigma), sigma)


def spectral_contrastive_modes(gamma: ArrayLike, sigma: ArrayLike) -> LogisticModes:
    """Spectral contrastive: rate 4 gamma, final s^2 = gamma/sigma^2, variance gamma/sigma. gamma, sigma (d,), sigma > 0.

    Raises ValueError for sigma <= 0.
    """
    return _modes(quartic("spectral_contrastive", gamma, sigma), sigma)


def vicreg_modes(gamma: ArrayLike, sigma: ArrayLike, beta: float) -> LogisticModes:
    """Squared VICReg: rate 4 (sigma - beta (sigma - gamma)), variance max(0, 1 - beta + beta gamma/sigma).

    ||W^T Sigma W - I||^2 + beta E||W^T (x - x')||^2; beta = 1 is spectral contrastive + d. gamma, sigma (d,), sigma > 0.
    Raises ValueError for sigma <= 0 or beta < 0.
    """
    return _modes(quartic("squared_vicreg", gamma, sigma, beta=beta), sigma)


def quartic_modes(attraction: ArrayLike, second: ArrayLike, d: int) -> LogisticModes:
    """The first-order modes of L = -2 tr(W^T B W) + ||W^T Sigma W||^2 whose B and Sigma do not share eigenvectors.

    On the top-d eigenvectors v_j of B (m, m): rate 4 b_j, variance b_j / (v_j^T Sigma v_j). Exact where they commute. Otherwise
    right for the first growth alone: learned modes turn towards the generalised eigenvectors, and that takes time and
    changes the rates of the others. On digits step times are off by 5 to 25 %: use `quartic_step_times`.
    Raises ValueError unless 1 <= d <= m.
    """
    b, sigma = moments("attraction", attraction, second)
    values, vectors = stepwise.spectrum(b)
    top = vectors[:, : check.dimension(d, values.size)]
    variance = np.einsum("ij,ij->j", top, sigma @ top)
    return LogisticModes(values[: top.shape[1]], variance**2, variance)


def quartic_step_times(weights: ArrayLike, attraction: ArrayLike, second: ArrayLike) -> Array:
    """Times (..., d) at which the j-th largest eigenvalue of W^T Sigma W first reaches half its final value mu_j.

    L = -2 tr(W^T B W) + ||W^T Sigma W||^2, dW/dt = 4 (B - Sigma W W^T Sigma) W, B = attraction and Sigma = second (m, m), mu of
    `theory.landscape.quartic_minimiser`: the steps of spectral contrastive and squared VICReg on any data.
    The growth out of the origin is the closed form e^{4 B t} W(0), until ||W^T Sigma W|| is 1e-8 of its saturation; from there
    the flow is integrated numerically; relative error of the times below 1e-7. No closed form is known that is right to 3 %:
    on digits `quartic_modes` misses by 5 to 25 % at scale 1e-5, because steps turn and overlap.
    weights (..., m, d): the start. 0 for an eigenvalue that starts above; inf for one that never comes: mu_j <= 0, or a start
    without that direction. Starts below 1e-12 of the saturation are led by rounding, here as in training.
    Raises ValueError for d > m, RuntimeError where the integrator fails.
    """
    b, sigma = moments("attraction", attraction, second)
    w = check.weights(weights, b.shape[0], "attraction")
    d = w.shape[-1]
    mu, _, _ = quartic_minimiser(b, sigma, d)
    flat = w.reshape(-1, *w.shape[-2:])
    found = np.full((flat.shape[0], d), np.inf)
    if mu[0] <= 0 or not flat.any():
        return found.reshape(*w.shape[:-2], d)
    levels = np.where(mu > 0, mu / 2, np.inf)
    wanted = (mu > 0) & (np.arange(d) < np.linalg.matrix_rank(flat)[:, None])
    rates, vectors = np.linalg.eigh(b)
    rotated, rows = vectors.T @ sigma @ vectors, vectors.T @ flat
    size = np.linalg.eigvalsh(sigma)[-1] * (rows**2).sum((-2, -1))  # bounds the eigenvalues of W^T Sigma W
    early = LINEAR * mu[0] / np.maximum(size, np.finfo(np.float64).tiny)
    begin = np.log(np.maximum(early, 1.0)) / (8 * rates[-1])
    state = np.exp(4 * rates[:, None] * begin[:, None, None]) * rows

    def velocity(_: float, y: Array) -> Array:
        now = y.reshape(state.shape)
        image: Array = rotated @ now
        return (4 * (rates[:, None] * now - image @ (np.swapaxes(now, -1, -2) @ image))).ravel()

    def spectrum(y: Array) -> Array:
        now = y.reshape(-1, *state.shape[1:])
        return np.linalg.eigvalsh(np.swapaxes(now, -1, -2) @ rotated @ now)[..., ::-1]

    def height(t: float, path: Callable[[float], Array], i: int, j: int) -> float:
        return float(spectrum(path(t).reshape(state.shape)[i])[0, j] - levels[j])

    found[(spectrum(state.ravel()) >= levels) & wanted] = 0.0
    end = _latest(b, sigma, mu, rows)
    tolerances = {"rtol": RELATIVE_TOLERANCE, "atol": ABSOLUTE_TOLERANCE * np.sqrt(mu[0] / np.trace(sigma))}
    solver = DOP853(velocity, 0.0, state.ravel(), end, max_step=1 / (4 * rates[-1]), **tolerances)
    while solver.status == "running" and np.isinf(found[wanted]).any():
        solver.step()
        path = None
        for i, j in np.argwhere(np.isinf(found) & wanted & (spectrum(solver.y) >= levels)):
            path = path or solver.dense_output()
            found[i, j] = begin[i] + brentq(height, solver.t_old, solver.t, args=(path, i, j))
    if solver.status == "failed":
        raise RuntimeError(f"the flow could not be integrated beyond t = {solver.t:g}")
    return found.reshape(*w.shape[:-2], d)


# InfoNCE


def infonce_loss(weights: ArrayLike, signal_matrix: ArrayLike, noise_matrix: ArrayLike) -> Array:
    """InfoNCE (...,) of weights (..., m, d) on Gaussian data with additive noise and infinitely many negatives.

    L = E[ |z - z'|^2 / 2 + log E_y e^{-|z - y|^2 / 2} ]
      = tr(W^T N W) - (1/2) log det(I + S) - (1/2) tr[(I + S)^{-1} S],   S = W^T (A + N) W,
    for x = b + e, x' = b + e' with covariances A = signal_matrix = Gamma of b and N = noise_matrix of e, e' (m, m), z = W^T x,
    similarity -|z - z'|^2 / 2, temperature 1, y an independent view. Derived here.
    Raises ValueError unless A and N are positive semi-definite.
    """
    a, n = moments("signal_matrix", signal_matrix, noise_matrix, "noise_matrix")
    a = check.positive_semidefinite("signal_matrix", a)
    w = check.weights(weights, a.shape[0], "signal_matrix")
    transposed = np.swapaxes(w, -1, -2)
    spread = np.linalg.eigvalsh(transposed @ (a + n) @ w)
    alignment = np.trace(transposed @ n @ w, axis1=-2, axis2=-1)
    result: Array = alignment - (np.log1p(spread) + spread / (1 + spread)).sum(-1) / 2
    return result


def infonce_final_variance(signal: ArrayLike, noise: ArrayLike) -> Array:
    """Embedding variance y* that InfoNCE ends with, entry by entry: 2 / (sqrt(1 + 8 r) - 1) - 1, r = noise / (signal + noise).

    signal, noise >= 0: eigenvalues of the two covariances of `infonce_loss` on shared eigenvectors, not both 0. 0 without
    signal, inf without noise. Derived here. Raises ValueError for a negative argument, or where both are 0.
    """
    a, n = _signal_and_noise(signal, noise)
    root = np.sqrt(1 + 8 * n / (a + n))
    with np.errstate(divide="ignore"):
        result: Array = a / n * (1 + root) / (3 + root)  # the same without cancellation
    return result


def infonce_variance(t: ArrayLike, y0: ArrayLike, signal: ArrayLike, noise: ArrayLike) -> Array:
    """Embedding variances y (..., T, d) of InfoNCE from y0 = sigma s_0^2 (..., d), modes signal, noise (d,).

    dy/dt = 2 y [sigma/(1+y) + sigma/(1+y)^2 - 2 noise], sigma = signal + noise: y grows at rate 4 signal from small values, and
    tends to `infonce_final_variance`; without noise it ends as 2 sigma t, without signal it decays as 1/(6 sigma t).
    Exact, by inverting the integral of dt = dy / (dy/dt); relative error below 1e-11, every t >= 0. Data and errors as
    `infonce_loss`. Derived here.
    """
    at, scalar = check.times(t)
    a, n = _signal_and_noise(signal, noise, ndim=1)
    start, sigma = check.modes("y0", y0, "signal + noise", a + n)
    end = infonce_final_variance(a, n)
    first, moment = start[..., None, :], at[:, None]
    # dy/dt lies between -6 sigma y^2 and 2 sigma
    low = np.minimum(np.maximum(first / (1 + 6 * sigma * moment * first), np.minimum(first, end)), first)
    high = np.maximum(np.minimum(first + 2 * sigma * moment, end), first)
    low, high = np.where(first < end, first, low), np.where(first < end, high, first)
    alive = (first > 0) & (first != end)
    low, high, safe = np.where(alive, low, 1.0), np.where(alive, high, 1.0), np.where(alive, first, 1.0)
    clock = _infonce_clock(safe, a, n) + moment
    for _ in range(BISECTIONS):
        middle = np.sqrt(low) * np.sqrt(high)
        later = (_infonce_clock(middle, a, n) < clock) == (first < end)  # falling variances: the clock runs downwards
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    result = np.where(alive & (moment > 0), np.sqrt(low) * np.sqrt(high), first)
    return result[..., 0, :] if scalar else result


def infonce_step_times(y0: ArrayLike, signal: ArrayLike, noise: ArrayLike) -> Array:
    """Times (..., d) at which InfoNCE brings each variance from y0 (..., d) to half of its final value; signal, noise (d,).

    t = F(y*/2) - F(y0) with F(y) = integral of dy / (dy/dt), in partial fractions: about log(y*/y0) / (4 signal) for small y0.
    inf for a mode that is never learned (no signal, y0 = 0) or has no final value (no noise). A start above half gets the
    negative time the formula gives, -inf from y* on. Derived here.
    Raises ValueError for a negative argument, or where signal and noise are both 0.
    """
    a, n = _signal_and_noise(signal, noise, ndim=1)
    start, _ = check.modes("y0", y0, "signal + noise", a + n)
    end = infonce_final_variance(a, n)
    comes = (end > 0) & np.isfinite(end) & (start > 0)
    below = comes & (start < end)
    finite = np.where(comes & np.isfinite(end), end, 1.0)
    times = _infonce_clock(finite / 2, a, n) - _infonce_clock(np.where(below, start, finite / 2), a, n)
    return np.where(below, times, np.where(comes, -np.inf, np.inf))


def _infonce_clock(y: Array, signal: Array, noise: Array) -> Array:
    """F(y) with dF/dy = 1 / (dy/dt), up to a constant for each mode; exact to rounding for y below and above y*.

    With r = noise/sigma and -u the negative root: dy/dt = 4 sigma y (rho - r y)(y + u) / (1 + y)^2, rho = r y* = (1 - r)/u, and
    (1 + y)^2 / (y + u) = y + (2 - u) + (u - 1)^2 / (y + u). The two ways of writing the logarithms of y and of rho - r y keep
    their digits for small r and for small rho.
    """
    sigma = signal + noise
    r = noise / sigma
    u = 1 + 2 / (1 + np.sqrt(1 + 8 * r))
    rho = signal / (sigma * u)
    swap = r > rho
    large, c = np.maximum(r, rho), np.minimum(r, rho) / np.maximum(r, rho)
    x = np.where(swap, 1 / y, y)
    near = _log_over(c, x) / large
    far = np.log(x) / large + c * near
    # The integrals of 1/(rho - r y) and of 1/(y (rho - r y)).
    lone, pair = np.where(swap, far, near), np.where(swap, near, far)
    rest = (np.log(y / (y + u)) / u + r * pair) / (rho + r * u)
    return (lone + (2 - u) * pair + (u - 1) ** 2 * rest) / (4 * sigma)


def _log_over(c: Array, x: Array) -> Array:
    """-log|1 - c x| / c for c >= 0, and its limit x where c x is below rounding; inf at c x = 1."""
    z = c * x
    with np.errstate(divide="ignore"):
        log = np.where(z < 0.5, np.log1p(-np.minimum(z, 0.5)), np.log(np.abs(1 - z)))
    visible = z > np.finfo(np.float64).eps
    return np.where(visible, -log / np.where(visible, c, 1.0), x)


def _signal_and_noise(signal: ArrayLike, noise: ArrayLike, ndim: int | None = None) -> tuple[Array, Array]:
    a, n = check.array("signal", signal, ndim=ndim), check.array("noise", noise, ndim=ndim)
    a, n = np.broadcast_arrays(check.non_negative("signal", a), check.non_negative("noise", n))
    if (a + n).min() <= 0:
        raise ValueError("signal and noise must not both be 0: such an input has no variance")
    return a, n


def _modes(loss: Quartic, sigma: ArrayLike) -> LogisticModes:
    return LogisticModes(loss.attraction, loss.curvature, check.array("sigma", sigma))


def _latest(attraction: Array, second: Array, mu: Array, rows: Array) -> float:
    """A time after which no further step comes: SLACK and the e-folds of the start, at the slowest rate of each stage.

    With k modes learned the leading other one grows at 4 times the largest eigenvalue of B - Sigma W_k W_k^T Sigma.
    """
    sizes = np.linalg.svd(rows, compute_uv=False)
    folds = SLACK + max(0.0, -float(np.log(sizes[sizes > 0].min())))
    _, weights, _ = quartic_minimiser(attraction, second, mu.size)
    rates = []
    for k in range(int((mu > 0).sum())):
        learned = second @ weights[:, :k]
        rates.append(4 * np.linalg.eigvalsh(attraction - learned @ learned.T)[-1])
    return float((folds / np.array(rates)).sum())

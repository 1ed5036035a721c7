"""Predictors computed from the correlation F instead of trained, and the eigenvalue dynamics under them.

DirectPred (Tian et al., ICML 2021, arXiv 2102.06810, section 5) gives W_p the eigenvectors of F = E f f^T and eigenvalues computed from
those of F; DirectSet(a) sets W_p = F^a, a = 1/2 is DirectPred and a = 1 DirectCopy (Wang et al. 2021, arXiv 2110.04947).
A linear network on features with X = I and augmentation variance sigma2 (one a feature) then keeps W aligned, and the eigenvalues
lambda of W W^T follow one ODE each (Halvagal, Laborieux & Zenke, NeurIPS 2023, arXiv 2212.04858, with weight decay added).
Unit of time: t = learning rate x step of the flow of (1/2) E ||W_p f - stop(f')||^2, weight decay eta of that flow.
Arguments broadcast. Functions raise ValueError for entries that are not finite and for lambda, s, eta or sigma2 < 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory._validation import Array
from theory.predictor import modes

Loss = Literal["euclidean", "isoloss", "no_predictor", "no_stop_gradient"]
SMALLEST = 1e-4  # eigenvalue of a predictor in the released code
LARGEST_EXPONENT = 100.0  # of lambda(t) / lambda(0) while an integrator tries a step


def direct_pred(s: ArrayLike, epsilon: float, variant: Literal["paper", "code"] = "paper") -> Array:
    """Eigenvalues p (..., d) of the DirectPred predictor from the eigenvalues s (..., d) >= 0 of F, eq. (18).

    paper : p_j = sqrt(s_j) + epsilon max_j s_j
    code  : p_j = max(sqrt(s_j / max_j s_j) + epsilon, 1e-4), what the authors' release computes: another scale, which the cosine loss
            does not see, and epsilon against sqrt(max s) instead of max s, which it does
    Raises ValueError for s < 0, epsilon < 0 or another variant.
    """
    if variant not in ("paper", "code"):
        raise ValueError(f"variant must be 'paper' or 'code', got {variant!r}")
    values, shift = check.non_negative("s", s, at_least=1), check.number("epsilon", epsilon, 0)
    largest = values.max(-1, keepdims=True)
    if variant == "code":
        return np.maximum(np.sqrt(values / np.where(largest > 0, largest, 1.0)) + shift, SMALLEST)
    result: Array = np.sqrt(values) + shift * largest
    return result


def direct_set_threshold(sigma2: ArrayLike) -> Array:
    """Weight decay 1 / (4 (1 + sigma2)) above which a feature is not kept, for every exponent of DirectSet. Derived here.

    Weight decay thus discards features of high augmentation variance (the claim of Wang et al. 2021).
    Raises ValueError for sigma2 < 0.
    """
    return modes.critical_eta(1.0, sigma2)


def direct_set_fixed_points(eta: ArrayLike, *, exponent: ArrayLike, sigma2: ArrayLike) -> tuple[Array, Array]:
    """The fixed points (unstable, stable) of DirectSet(a) besides 0.

    lambda = p^{1/a}, p = [1 -+ sqrt(1 - 4 eta A)] / (2 A), A = 1 + sigma2.

    A feature is kept iff eta is below `direct_set_threshold` and it starts above the unstable one. Raises ValueError beyond the
    threshold. Derived here.
    """
    lower, upper = modes.fixed_points(eta, tau=1.0, sigma2=sigma2)
    power = 1 / check.positive("exponent", exponent)
    return lower**power, upper**power


def direct_set_flow(
    t: ArrayLike, lambda0: ArrayLike, *, exponent: ArrayLike, sigma2: ArrayLike, eta: ArrayLike
) -> Array:
    """lambda(t) (..., T) under W_p = (W W^T)^a: dlambda/dt = 2 lambda [lambda^a - (1 + sigma2) lambda^{2a} - eta]. Derived here.

    Raises ValueError for t < 0, exponent <= 0 or a negative lambda0, sigma2 or eta.
    """
    start, a, variance, decay = np.broadcast_arrays(
        check.non_negative("lambda0", lambda0),
        check.positive("exponent", exponent),
        check.non_negative("sigma2", sigma2),
        check.non_negative("eta", eta),
    )
    return _solve(t, start, lambda x: 2 * (x**a - (1 + variance) * x ** (2 * a) - decay))


def direct_pred_flow(
    t: ArrayLike,
    lambda0: ArrayLike,
    *,
    epsilon: float,
    sigma2: ArrayLike,
    eta: ArrayLike,
    observed: ArrayLike = 1.0,
) -> Array:
    """lambda(t) (..., m, T) under DirectPred: dlambda/dt = 2 lambda [p (1 - (1 + sigma2) p) - eta], p = `direct_pred`(observed lambda).

    The m features of the last axis share their largest. `observed` is what the correlation shows of lambda: 1 for F = W^T X W, and
    1 + sigma2 where F is averaged over views, as published. Derived here.
    Raises ValueError for t < 0 or a negative lambda0, epsilon, sigma2, eta or observed.
    """
    start, variance, decay, factor = np.broadcast_arrays(
        check.non_negative("lambda0", lambda0, at_least=1),
        check.non_negative("sigma2", sigma2),
        check.non_negative("eta", eta),
        check.non_negative("observed", observed),
    )

    def growth(x: Array) -> Array:
        p = direct_pred(factor * x, epsilon)
        result: Array = 2 * (p * (1 - (1 + variance) * p) - decay)
        return result

    return _solve(t, start, growth)


def set_predictor_rate(
    lambda_: ArrayLike, p: ArrayLike, *, sigma2: ArrayLike, eta: ArrayLike, tau: ArrayLike = 1.0
) -> Array:
    """dlambda/dt = 2 lambda [p (tau - (1 + sigma2) p) - eta] of an eigenvalue of W W^T while W_p has the eigenvalue p.

    Eq. (12) at a computed predictor: p = `direct_pred`(lambda, epsilon) for DirectPred, lambda^a for DirectSet(a),
    lambda + epsilon for DirectCopy. Derived here. Raises ValueError for a negative lambda_, sigma2 or eta.
    """
    return modes.mode_derivatives(
        p, check.non_negative("lambda_", lambda_), tau=tau, alpha_p=1.0, eta=eta, sigma2=sigma2
    )[1]


def direct_copy_threshold(epsilon: ArrayLike, sigma2: ArrayLike) -> Array:
    """Weight decay above which DirectCopy, W_p = F + epsilon I, keeps no feature. Derived here.

    1 / (4 A) as in DirectSet for epsilon <= 1 / (2 A), A = 1 + sigma2; epsilon (1 - A epsilon), or 0 if that is negative, beyond.
    Raises ValueError for epsilon < 0 or sigma2 < 0.
    """
    shift, a = check.non_negative("epsilon", epsilon), 1 + check.non_negative("sigma2", sigma2)
    highest = np.maximum(shift, 1 / (2 * a))
    return np.maximum(highest * (1 - a * highest), 0.0)


def direct_copy_fixed_points(eta: ArrayLike, *, epsilon: float, sigma2: ArrayLike) -> tuple[Array, Array]:
    """The fixed points (unstable, stable) of DirectCopy, W_p = F + epsilon I: lambda = p - epsilon, p as in DirectSet, at least 0.

    dlambda/dt = 2 lambda [p (1 - (1 + sigma2) p) - eta], p = lambda + epsilon. epsilon above the lower root lifts every start over the
    threshold: the unstable point is 0 then and no start collapses. Raises ValueError beyond `direct_copy_threshold`, where every
    start does. Wang et al. 2021 divide F by its norm; here it is not. Derived here.
    """
    shift = check.number("epsilon", epsilon, 0)
    excess = check.non_negative("eta", eta) - direct_copy_threshold(shift, sigma2)
    if np.any(excess > 0):
        raise ValueError(
            f"eta must be at most direct_copy_threshold, exceeded by up to {excess.max():.3g}: all collapses"
        )
    lower, upper = modes.fixed_points(eta, tau=1.0, sigma2=sigma2)
    return np.maximum(lower - shift, 0.0), np.maximum(upper - shift, 0.0)


def direct_pred_fixed_points(eta: float, *, epsilon: float, sigma2: float) -> tuple[Array, Array]:
    """The fixed points (unstable, stable) of a single mode under DirectPred, p = sqrt(s) + epsilon s, besides 0.

    p = [1 -+ sqrt(1 - 4 eta A)] / (2 A) as in DirectSet(1/2) and sqrt(s) = [sqrt(1 + 4 epsilon p) - 1] / (2 epsilon).
    Raises ValueError beyond `direct_set_threshold`. Derived here.
    """
    shift = check.number("epsilon", epsilon, 0)
    lower, upper = modes.fixed_points(eta, tau=1.0, sigma2=sigma2)
    # (sqrt(1 + 4 e p) - 1) / (2 e) without cancellation, also for e = 0
    root = (2 * p / (1 + np.sqrt(1 + 4 * shift * p)) for p in (lower, upper))
    low, high = (r**2 for r in root)
    return low, high


def eigenvalue_rate(lambda_: ArrayLike, *, exponent: ArrayLike, sigma2: ArrayLike, loss: Loss) -> Array:
    """dlambda/dt of an eigenvalue of W W^T with W_p = (W W^T)^a and no weight decay (Halvagal et al. 2023, section 3).

    euclidean        2 lambda^{1+a} (1 - (1 + sigma2) lambda^a)              small eigenvalues learn slowly
    isoloss          2 lambda (1 - (1 + sigma2) lambda^a)                    all escape at one rate
    no_predictor     -2 sigma2 lambda                                        collapse
    no_stop_gradient -2 lambda [(1 - lambda^a)^2 + sigma2 (1 + lambda^{2a})] collapse
    Raises ValueError for lambda_ < 0, exponent <= 0, sigma2 < 0 or another loss.
    """
    x, a, variance = np.broadcast_arrays(
        check.non_negative("lambda_", lambda_),
        check.positive("exponent", exponent),
        check.non_negative("sigma2", sigma2),
    )
    return x * _growth(loss, a, variance)(x)


def eigenvalue_flow(t: ArrayLike, lambda0: ArrayLike, *, exponent: ArrayLike, sigma2: ArrayLike, loss: Loss) -> Array:
    """lambda(t) (..., T) of `eigenvalue_rate`, integrated with a relative tolerance of 1e-12.

    Raises ValueError for t < 0, and as `eigenvalue_rate`.
    """
    start, a, variance = np.broadcast_arrays(
        check.non_negative("lambda0", lambda0),
        check.positive("exponent", exponent),
        check.non_negative("sigma2", sigma2),
    )
    return _solve(t, start, _growth(loss, a, variance))


def eigenvalue_fixed_point(exponent: ArrayLike, sigma2: ArrayLike) -> Array:
    """Where the eigenvalues end under the losses "euclidean" and "isoloss": lambda = (1 + sigma2)^{-1/a}.

    Raises ValueError for exponent <= 0 or sigma2 < 0.
    """
    return (1 + check.non_negative("sigma2", sigma2)) ** (-1 / check.positive("exponent", exponent))


def _growth(loss: str, a: Array, variance: Array) -> Callable[[Array], Array]:
    """d log(lambda) / dt as a function of lambda."""
    known = {
        "euclidean": lambda x: 2 * x**a * (1 - (1 + variance) * x**a),
        "isoloss": lambda x: 2 * (1 - (1 + variance) * x**a),
        "no_predictor": lambda x: -2 * variance * np.ones_like(x),
        "no_stop_gradient": lambda x: -2 * ((1 - x**a) ** 2 + variance * (1 + x ** (2 * a))),
    }
    if loss not in known:
        raise ValueError(f"loss must be one of {', '.join(known)}, got {loss!r}")
    return known[loss]


def _solve(t: ArrayLike, start: Array, growth: Callable[[Array], Array]) -> Array:
    """lambda(t) from d log(lambda) / dt = growth(lambda): small eigenvalues are followed as closely as large ones."""
    at, scalar = check.times(t)

    def derivative(_: float, logarithm: Array) -> Array:
        change = np.minimum(logarithm.reshape(start.shape), LARGEST_EXPONENT)
        return growth(start * np.exp(change)).ravel()

    logarithms = modes.integrate(derivative, np.zeros(start.size), at, np.ones(start.size))
    result = start[..., None] * np.exp(logarithms.reshape(*start.shape, at.size))
    return result[..., 0] if scalar else result

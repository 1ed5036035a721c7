"""Deep linear networks that predict in latent space (JEPA) or reconstruct (MAE): which features each learns first.

Littwin et al., NeurIPS 2024, arXiv 2407.03475. Encoder of L layers W_1 .. W_L, one layer P on top, all square, pairs (x, y):
    jepa : (1/2) E ||P Wbar x - stop(Wbar y)||^2,   Wbar = W_L .. W_1
    mae  : (1/2) E ||P Wbar x - y||^2
A feature is a common eigenvector of E x x^T and of E y x^T (symmetric) with eigenvalues sigma^2 and
    lambda = E <v, y><v, x>     covariance of a feature in x and in y
    rho = lambda / sigma^2      coefficient of its regression from x to y: 1 without noise, less with noise in x
From an aligned, balanced start, every layer of size w in a feature, all layers stay so. With the encoder's wbar = w^L (the paper's ODEs,
its eqs. (7)-(8), up to the unit of time; all is derived here):
    jepa : dw/dt = lambda w^{2L} (1 - w / rho),       dwbar/dt = L lambda (wbar^{3 - 1/L} - wbar^3 / rho)
    mae  : dw/dt = lambda w^L (1 - w^{L+1} / rho),    dwbar/dt = L lambda (wbar^{2 - 1/L} - wbar^3 / rho)
Both learn larger lambda first, to leading order. Of two features of one lambda jepa learns that of larger rho first; the deeper, the more
so, at a given size of the encoder at the start (`crossing_ratio`).
Unit of time: t = learning rate x step on the loss as written, one learning rate for all layers. All arguments broadcast against each
other; depth is one whole number L >= 1. Functions raise ValueError for lambda_ <= 0, rho <= 0 or w0 <= 0 and for arrays that are not
finite: features with lambda <= 0 are not learned. Starts that are not aligned, or moments without common eigenvectors, are not covered.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import hyp2f1

from theory import _validation as check
from theory._validation import Array

Loss = Literal["jepa", "mae"]
HALVINGS = 200  # of a bracket in log w: far below rounding


def final_size(rho: ArrayLike, *, depth: int, loss: Loss) -> Array:
    """The size w at which every layer rests: rho (jepa), rho^{1/(L+1)} (mae). The encoder there is w^L.

    Depth shrinks noisy features, rho < 1, in jepa's encoder to rho^L, in that of mae to rho^{L/(L+1)}, never below rho. Derived here.
    """
    coefficient, levels = check.positive("rho", rho), _depth(depth)
    return coefficient if _loss(loss) == "jepa" else coefficient ** (1 / (levels + 1))


def learning_time(w0: ArrayLike, w1: ArrayLike, lambda_: ArrayLike, rho: ArrayLike, *, depth: int, loss: Loss) -> Array:
    """Time from layers of size w0 to layers of size w1, exact:  lambda t = G(w1) - G(w0),

    jepa : G(w) = -sum_{n=1}^{2L-1} w^{-n} / (n rho^{2L-1-n}) + rho^{-(2L-1)} log[w / (1 - w / rho)]
    mae  : G(w) = -w^{1-L} / (L - 1) + (w^2 / 2 rho) 2F1(1, 2/(L+1); 1 + 2/(L+1); w^{L+1} / rho);  for L = 1 log(w) in front
    By partial fractions (jepa) and a geometric series (mae). Relative error about 1e-12, more where w1 is close to w0.
    Raises ValueError unless w0 <= w1 < `final_size`. Derived here; the paper gives the leading orders in w0.
    """
    start, end = check.positive("w0", w0), check.positive("w1", w1)
    strength, coefficient = check.positive("lambda_", lambda_), check.positive("rho", rho)
    levels, kind = _depth(depth), _loss(loss)
    final = final_size(coefficient, depth=levels, loss=kind)
    wrong = (start > end) | (end >= final)
    if np.any(wrong):
        first, second, last = (v[wrong].flat[0] for v in np.broadcast_arrays(start, end, final, wrong)[:3])
        raise ValueError(
            f"w1 must lie between w0 and the final size, got w0 = {first:.6g}, w1 = {second:.6g}, final {last:.6g}"
        )
    return np.asarray(
        (_primitive(end, coefficient, levels, kind) - _primitive(start, coefficient, levels, kind)) / strength
    )


def critical_time(w0: ArrayLike, lambda_: ArrayLike, rho: ArrayLike, *, depth: int, loss: Loss) -> Array:
    """The time that a small start waits, the terms of `learning_time` that diverge as a power of w0:

    jepa : (1/lambda) sum_{n=1}^{2L-1} w0^{-n} / (n rho^{2L-1-n});  rho enters at n = 2L - 2, by about w0 / rho of the first term
    mae  : (1/lambda) w0^{1-L} / (L - 1), free of rho;  for L = 1 (1/lambda) log(1/w0)
    Leading order; what is left out is O(log(1/w0)) (jepa) and O(1) (mae). Derived here; the paper has critical times in powers of the
    encoder's start epsilon = w0^L, which could not be compared term by term.
    Raises ValueError unless w0 < 1.
    """
    start, strength = check.positive("w0", w0), check.positive("lambda_", lambda_)
    coefficient, levels = check.positive("rho", rho), _depth(depth)
    if np.any(start >= 1):
        raise ValueError(f"w0 must be small, below 1, got a largest of {start.max():.6g}")
    if _loss(loss) == "mae":
        waits = start ** (1.0 - levels) / (levels - 1) if levels > 1 else -np.log(start)
        return np.asarray((waits + np.zeros_like(coefficient)) / strength)
    terms = [1 / (n * start**n * coefficient ** (2 * levels - 1 - n)) for n in range(1, 2 * levels)]
    return np.asarray(sum(terms) / strength)


def flow(t: ArrayLike, w0: ArrayLike, lambda_: ArrayLike, rho: ArrayLike, *, depth: int, loss: Loss) -> Array:
    """Size w(t) (..., T) of every layer from w0 below `final_size`; a scalar t adds no axis T. The encoder is w^L.

    The inverse of `learning_time`, by bisection in log(w / (w_final - w)). Times are rounded to 1e-16 of lambda t, which near the rise is
    up to w0^{1-2L} (jepa) or w0^{1-L} (mae): w has a relative error of about that much.
    Raises ValueError for t < 0 and w0 >= final_size.
    """
    at, scalar = check.times(t)
    start, strength = check.positive("w0", w0), check.positive("lambda_", lambda_)
    coefficient, levels, kind = check.positive("rho", rho), _depth(depth), _loss(loss)
    start, strength, coefficient = (v[..., None] for v in np.broadcast_arrays(start, strength, coefficient))
    final = final_size(coefficient, depth=levels, loss=kind)
    if np.any(start >= final):
        raise ValueError(f"w0 must be below the final size, got up to {(start / final).max():.6g} of it")
    goal = _primitive(start, coefficient, levels, kind) + strength * at
    # w = w_final e^x / (1 + e^x): x has no end, and resolves both sides.
    low = np.log(start / final) - np.log1p(-start / final) + np.zeros_like(goal)
    high = np.maximum(low, 0.0) + 37.0  # w_final to the last bit
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = (
            _primitive(np.minimum(final / (1 + np.exp(-middle)), np.nextafter(final, 0)), coefficient, levels, kind)
            < goal
        )
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        if np.all(high - low <= 1e-15 * np.maximum(1.0, np.abs(low))):
            break
    result: Array = np.where(at == 0, start, final / (1 + np.exp(-(low + high) / 2)))
    return result[..., 0] if scalar else result


def crossing_ratio(
    w0: ArrayLike, rho: ArrayLike, rho_other: ArrayLike, *, depth: int, loss: Loss, share: float = 0.5
) -> Array:
    """lambda / lambda_other at which a feature of rho and one of rho_other reach `share` of their final size at the same time, exact.

    Above it the first comes first. At rho > rho_other it is below 1 for jepa: a feature of larger rho may have the smaller lambda and
    still come first. For jepa as w0 -> 0, with the encoder's start epsilon = w0^L,
        1 - (2L-1)/(2L-2) epsilon^{1/L} (1/rho_other - 1/rho) + ..,  L > 1:   nearer to 1 the smaller the start, further the deeper.
    For mae both finals and rises depend on rho, so it is not 1 either, but by w0^{L-1} (L > 1).
    Raises ValueError unless w0 is below `share` of both final sizes, 0 < share < 1. Derived here.
    """
    part = check.positive_number("share", share)
    if part >= 1:
        raise ValueError(f"share must be below 1, got {part:g}")
    times = [
        learning_time(w0, part * final_size(one, depth=depth, loss=loss), 1.0, one, depth=depth, loss=loss)
        for one in (rho, rho_other)
    ]
    return np.asarray(times[0] / times[1])


def _primitive(w: Array, rho: Array, depth: int, loss: Loss) -> Array:
    """G of `learning_time`."""
    if loss == "jepa":
        last = 2 * depth - 1
        powers = sum(1 / (n * w**n * rho ** (last - n)) for n in range(1, last + 1))
        return np.asarray(rho ** (-last) * (np.log(w) - np.log1p(-w / rho)) - powers)
    front = np.log(w) if depth == 1 else w ** (1.0 - depth) / (1 - depth)
    a = 2 / (depth + 1)
    return np.asarray(front + w**2 / (2 * rho) * hyp2f1(1, a, 1 + a, w ** (depth + 1) / rho))


def _depth(depth: int) -> int:
    return check.integer("depth", depth)


def _loss(loss: Loss) -> Loss:
    if loss not in ("jepa", "mae"):
        raise ValueError(f"loss must be jepa or mae, got {loss!r}")
    return loss

"""Flows of matrices whose rows grow or shrink exponentially, without overflow and without losing what is small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from theory import _validation as check
from theory._validation import Array

EPS = np.finfo(np.float64).eps
SMALLEST_NORM = 1e-150
LARGEST_CHUNK = 200_000  # entries of the largest temporary array
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-11, 1e-13  # of `integrate`
LARGEST_STEP = 0.3  # in units of 1 / the fastest rate: a mode that grows from far below the tolerances keeps 1e-10


def full_rank(weights: ArrayLike, m: int, matrix_name: str = "matrix") -> Array:
    """Weights (..., m, d) with unit columns, rows at full relative accuracy. Raises ValueError unless the rank is d."""
    w: Array = check.weights(weights, m, matrix_name)
    w = w / np.maximum(np.linalg.norm(w, axis=-2, keepdims=True), np.finfo(np.float64).tiny)
    sizes = np.linalg.svd(w, compute_uv=False)
    if np.any(sizes[..., -1] <= m * EPS * sizes[..., 0]):
        raise ValueError(f"weights need rank {w.shape[-1]}, got columns that depend on each other")
    return w


def orthonormal(w: Array) -> Array:
    """Orthonormal bases of span(w), w (..., m, d), as w R^{-1}: unlike Q, its rows keep their relative accuracy."""
    for _ in range(2):  # the second pass removes what the first leaves, about the condition number of w times eps
        r = np.linalg.qr(w, mode="r")
        w = np.swapaxes(np.linalg.solve(np.swapaxes(r, -1, -2), np.swapaxes(w, -1, -2)), -1, -2)
    return w


def split_indices(inside: Sequence[int], m: int) -> tuple[list[int], list[int]]:
    """The different indices `inside` as given, and the other ones of 0 .. m-1 in increasing order.

    Raises ValueError where `inside` is empty, repeats an index or leaves 0 .. m-1.
    """
    chosen = [int(j) for j in inside]
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= j < m for j in chosen):
        raise ValueError(f"inside must be different indices from 0 to {m - 1}, got {inside!r}")
    return chosen, [i for i in range(m) if i not in chosen]


def scaled_sum(columns: Array, exponents: Array, rows: Array) -> tuple[Array, Array]:
    """(direction (..., T, m, d), log_norm (..., T)) of columns diag(e^exponents) rows = e^log_norm direction.

    columns (m, k), exponents (T, k), rows (..., T, k, d), not all zero at any time; ||direction||_F = 1.
    """
    sizes = np.abs(rows).max(-1)
    with np.errstate(divide="ignore"):
        exponent = np.log(sizes) + exponents  # (..., T, k)
    top = exponent.max(-1, keepdims=True)
    unit = rows / np.where(sizes > 0, sizes, 1.0)[..., None]
    scaled = columns @ (np.exp(exponent - top)[..., None] * unit)
    norm = np.sqrt((scaled**2).sum((-2, -1)))
    return scaled / norm[..., None, None], top[..., 0] + np.log(norm)


def integrate(velocity: Callable[[Array], Array], start: Array, times: Array, fastest: float) -> Array:
    """States (..., T, m, d) of dU/dt = velocity(U) from U(0) = start (..., m, d), no rate above `fastest`.

    Dormand-Prince steps of order 8. The tolerances alone would let modes far below them grow inaccurately, and near a
    saddle these modes decide what happens next: hence the largest step. Cost proportional to fastest times max(times).
    Raises RuntimeError where the integrator fails.
    """
    at, place = np.unique(times, return_inverse=True)
    if fastest == 0 or at[-1] == 0:
        return np.repeat(start[..., None, :, :], times.size, axis=-3)
    solution = solve_ivp(
        lambda _, state: velocity(state.reshape(start.shape)).ravel(),
        (0.0, at[-1]),
        start.ravel(),
        method="DOP853",
        t_eval=at,
        rtol=RELATIVE_TOLERANCE,
        atol=ABSOLUTE_TOLERANCE,
        max_step=LARGEST_STEP / fastest,
    )
    if not solution.success:
        raise RuntimeError(f"the flow could not be integrated to t = {at[-1]:g}: {solution.message}")
    states: Array = solution.y.reshape(*start.shape, at.size)
    return np.moveaxis(states, -1, -3)[..., place, :, :]


def graded_span(rows: Array, rates: Array, times: Array, signs: Array | None = None) -> Array:
    """Orthonormal bases (..., T, m, d) of span(diag(signs^t e^{rates t}) rows), rows (..., m, d) of rank d.

    Gaussian elimination on the rows with orthogonal column operations, where at each time the pivot is the row that is
    largest after scaling. Dividing column j by its scaled pivot leaves a unit lower-trapezoidal matrix with entries of
    modulus at most 1, which is well conditioned and neither overflows nor loses a column; QR then orthonormalises it.
    The result is the exact span of rows that are each changed by a few eps relative to their own norm.
    A rate of -inf removes its row after time 0. Raises ValueError where the rank falls below d.
    """
    batch, (m, d) = rows.shape[:-2], rows.shape[-2:]
    flat = rows.reshape(-1, m, d)
    result = np.empty((flat.shape[0], times.size, m, d))
    chunk = max(1, LARGEST_CHUNK // (flat.shape[0] * m * d))
    for first in range(0, times.size, chunk):
        part = slice(first, first + chunk)
        result[:, part] = _chunk(flat, rates, times[part], signs)
    return result.reshape(*batch, times.size, m, d)


def _chunk(rows: Array, rates: Array, times: Array, signs: Array | None) -> Array:
    b, (m, d) = rows.shape[0], rows.shape[1:]
    n = times.size
    moved = times > 0
    with np.errstate(invalid="ignore"):
        scale = np.where(moved[:, None], rates * times[:, None], 0.0)  # (n, m); never forms 0 * -inf
    residual = np.repeat(rows[:, None], n, axis=1)  # (b, n, m, d)
    free = np.ones((b, n, m), dtype=bool)
    result = np.zeros((b, n, m, d))
    batch_index, time_index = np.ogrid[:b, :n]
    for j in range(d):
        norm = np.linalg.norm(residual, axis=-1)
        unit = residual
        if norm[free].min() < SMALLEST_NORM:  # squares of small entries are lost: scale each row first
            largest = np.abs(residual).max(-1)
            unit = residual / np.where(largest > 0, largest, 1.0)[..., None]
            norm = largest * np.maximum(np.linalg.norm(unit, axis=-1), 1.0)
        with np.errstate(divide="ignore"):
            log_norm = np.log(norm)
        pivot = np.where(free, log_norm + scale, -np.inf).argmax(-1)  # (b, n)
        size = log_norm[batch_index, time_index, pivot] + scale[time_index, pivot]
        if np.any(np.isneginf(size)):
            raise ValueError(f"weights need rank {d} at all times, the span lost a dimension at column {j + 1}")
        direction = unit[batch_index, time_index, pivot]
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        along = (residual @ direction[..., None])[..., 0]  # (b, n, m)
        residual -= along[..., None] * direction[..., None, :]
        pivot_rate = rates[pivot]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # rates are subtracted before they are multiplied by t: close rates keep their difference at late times
            drift = np.where(moved[:, None], (rates - pivot_rate[..., None]) * times[:, None], 0.0)
            log_entry = np.log(np.abs(along)) - log_norm[batch_index, time_index, pivot][..., None] + drift
        entry = np.sign(along) * np.exp(np.minimum(np.where(free & (along != 0), log_entry, -np.inf), 1.0))
        result[..., j] = entry
        free[batch_index, time_index, pivot] = False
        residual[batch_index, time_index, pivot] = 0.0
    if signs is not None:
        result *= np.where(times[:, None] % 2 == 1, signs, 1.0)[..., None]
    return np.linalg.qr(result)[0]

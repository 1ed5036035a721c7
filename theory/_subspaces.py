"""Spans of matrices whose rows grow or shrink exponentially, without overflow and without losing the small columns."""

from __future__ import annotations

import numpy as np

from theory._validation import Array

SMALLEST_NORM = 1e-150
LARGEST_CHUNK = 200_000  # entries of the largest temporary array


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

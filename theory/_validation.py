"""Checks of arguments; each raises ValueError naming the argument, what it got and what it needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SYMMETRY_TOLERANCE = 1e-8  # relative to the largest entry
POSITIVE_TOLERANCE = 1e-10  # of a smallest eigenvalue, relative to the largest


def array(name: str, value: ArrayLike, ndim: int | None = None, at_least: int = 0) -> Array:
    """`value` as a finite float64 array with `ndim` dimensions, or at least `at_least`."""
    raw = np.asarray(value)
    if raw.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be a real array, got dtype {raw.dtype}")
    result = raw.astype(np.float64)
    if (ndim is not None and result.ndim != ndim) or result.ndim < at_least:
        needed = f"{ndim}" if ndim is not None else f"at least {at_least}"
        raise ValueError(f"{name} must have {needed} dimension(s), got shape {result.shape}")
    if result.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {result.shape}")
    bad = int(result.size - np.isfinite(result).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} entries of {result.size} that are not")
    return result


def non_negative(name: str, value: ArrayLike, at_least: int = 0) -> Array:
    """`array` with entries >= 0."""
    result = array(name, value, at_least=at_least)
    if result.min() < 0:
        raise ValueError(f"{name} must be >= 0, got a smallest entry of {result.min()}")
    return result


def positive_number(name: str, value: float) -> float:
    """One finite number > 0."""
    number = array(name, value, ndim=0)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {float(number)}")
    return float(number)


def symmetric(name: str, matrix: ArrayLike) -> Array:
    """A finite symmetric matrix; asymmetry up to rounding is averaged away."""
    result = array(name, matrix, ndim=2)
    if result.shape[0] != result.shape[1]:
        raise ValueError(f"{name} must be square, got shape {result.shape}")
    asymmetry, scale = np.abs(result - result.T).max(), np.abs(result).max()
    if asymmetry > SYMMETRY_TOLERANCE * scale:
        raise ValueError(
            f"{name} must be symmetric, got max |A - A^T| = {asymmetry:.3g} with max |A| = {scale:.3g}; "
            "pass (A + A^T) / 2 if that is what you mean"
        )
    return (result + result.T) / 2


def weights(value: ArrayLike, m: int, matrix_name: str) -> Array:
    """Weights (..., m, d) with d <= m that fit an (m, m) matrix."""
    result = array("weights", value, at_least=2)
    if result.shape[-2] != m:
        raise ValueError(f"weights must have shape (..., {m}, d) to fit {matrix_name} ({m}, {m}), got {result.shape}")
    if result.shape[-1] > m:
        raise ValueError(f"weights (..., m, d) need d <= m, got shape {result.shape}")
    return result


def dimension(d: int, m: int, proper: bool = False) -> int:
    """The number of outputs: an integer with 1 <= d <= m, or < m if `proper`."""
    largest = m - 1 if proper else m
    if isinstance(d, bool) or not isinstance(d, (int, np.integer)) or not 1 <= d <= largest:
        raise ValueError(f"d must be an integer from 1 to {largest}, got {d!r}")
    return int(d)


def decreasing(name: str, values: ArrayLike) -> Array:
    """Eigenvalues (m,) in decreasing order."""
    result = array(name, values, ndim=1)
    if np.any(np.diff(result) > 0):
        raise ValueError(f"{name} must be sorted in decreasing order, got {result}")
    return result


def times(t: ArrayLike) -> tuple[Array, bool]:
    """Times (T,) >= 0 and whether t was a scalar."""
    result = non_negative("t", t)
    if result.ndim > 1:
        raise ValueError(f"t must be a scalar or have shape (T,), got shape {result.shape}")
    return np.atleast_1d(result), result.ndim == 0


def step_numbers(steps: ArrayLike) -> tuple[NDArray[np.int64], bool]:
    """Whole numbers of steps (T,) >= 0 and whether `steps` was a scalar."""
    result = non_negative("steps", steps)
    if result.ndim > 1 or np.any(result != np.round(result)):
        raise ValueError(f"steps must be a whole number or an array (T,) of them, got {steps!r}")
    return np.atleast_1d(result).astype(np.int64), result.ndim == 0


def modes(name: str, values: ArrayLike, rates_name: str, rates: ArrayLike) -> tuple[Array, Array]:
    """Non-negative values (..., d) and one rate (d,) for each mode."""
    result, one_each = non_negative(name, values, at_least=1), array(rates_name, rates, ndim=1)
    if result.shape[-1] != one_each.shape[0]:
        raise ValueError(
            f"{name} (..., d) and {rates_name} (d,) need the same d, got shapes {result.shape} and {one_each.shape}"
        )
    return result, one_each


def above_rounding(values: Array) -> NDArray[np.bool_]:
    """Which eigenvalues are positive beyond rounding: > m eps max|values|."""
    rounding = values.size * float(np.finfo(np.float64).eps) * float(np.abs(values).max())
    return values > rounding


def number(name: str, value: float, least: float = -np.inf) -> float:
    """One finite number >= `least`."""
    result = float(array(name, value, ndim=0))
    if result < least:
        raise ValueError(f"{name} must be >= {least:g}, got {result:g}")
    return result


def positive(name: str, value: ArrayLike, at_least: int = 0) -> Array:
    """`array` with entries > 0."""
    result = array(name, value, at_least=at_least)
    if result.min() <= 0:
        raise ValueError(f"{name} must be > 0, got a smallest entry of {result.min():g}")
    return result


def integer(name: str, value: int, least: int = 1) -> int:
    """A whole number >= `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def positive_semidefinite(name: str, matrix: ArrayLike) -> Array:
    """A symmetric matrix without negative eigenvalues beyond rounding, 1e-10 of the largest."""
    result = symmetric(name, matrix)
    sizes = np.linalg.eigvalsh(result)
    if sizes[0] < -POSITIVE_TOLERANCE * np.abs(sizes).max():
        raise ValueError(f"{name} must be positive semi-definite, got a smallest eigenvalue of {sizes[0]:.3g}")
    return result


def moving_average(name: str, target: object, beta: object) -> None:
    """Raise ValueError where only one of a target, called `name`, and the rate of its moving average is given."""
    if (target is None) != (beta is None):
        raise ValueError(f"{name} and beta must be given together (BYOL), or neither of them (SimSiam)")


def views(mean_view: ArrayLike, spread: ArrayLike) -> tuple[Array, Array]:
    """X and X' (m, m), both positive semi-definite. Raises ValueError where they are not, or not of one shape."""
    x, around = positive_semidefinite("mean_view", mean_view), positive_semidefinite("spread", spread)
    if around.shape != x.shape:
        raise ValueError(f"mean_view and spread need one shape (m, m), got {x.shape} and {around.shape}")
    return x, around

"""Trajectories for figures: starts, and resampling."""

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWN = 120  # points per trajectory


def scattered(
    x: tuple[float, float], y: tuple[float, float], counts: tuple[int, int], generator: torch.Generator
) -> tuple[Array, Array]:
    """One uniform point in every cell of a grid (stratified sampling)."""
    column, row = np.meshgrid(np.arange(counts[0]), np.arange(counts[1]))
    jitter = torch.rand(2, row.size, dtype=torch.float64, generator=generator).numpy()
    return (
        x[0] + (column.ravel() + jitter[0]) / counts[0] * (x[1] - x[0]),
        y[0] + (row.ravel() + jitter[1]) / counts[1] * (y[1] - y[0]),
    )


def even_along(x: Array, y: Array) -> Array:
    """Trajectories (K, N) as (N, DRAWN, 2), resampled at equal arc lengths."""
    steps = np.hypot(np.diff(x, axis=0), np.diff(y, axis=0))
    length = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(steps, 0)])
    paths = []
    for along, a, b in zip(length.T, x.T, y.T, strict=True):
        even = np.linspace(0, along[-1], DRAWN)
        paths.append(np.stack([np.interp(even, along, a), np.interp(even, along, b)], -1))
    return np.stack(paths)

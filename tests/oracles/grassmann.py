"""The Grassmannian by its textbook formulas: one matrix at a time, full SVDs, numpy float64, nothing shared with the package."""

import numpy as np


def exp(x, u):
    """Edelman, Arias, Smith 1998, eq. (2.65)."""
    h, theta, vt = np.linalg.svd(u, full_matrices=False)
    return x @ vt.T @ np.diag(np.cos(theta)) @ vt + h @ np.diag(np.sin(theta)) @ vt


def parallel_transport(x, u, v):
    """Edelman, Arias, Smith 1998, eq. (2.68)."""
    h, theta, wt = np.linalg.svd(u, full_matrices=False)
    moved = -x @ wt.T @ np.diag(np.sin(theta)) @ h.T + h @ np.diag(np.cos(theta)) @ h.T
    return moved @ v + v - h @ (h.T @ v)


def log(x, y):
    """The standard formula by the inverse of X^T Y: right away from the cut locus."""
    a = y @ np.linalg.inv(x.T @ y) - x
    h, tangent, vt = np.linalg.svd(a, full_matrices=False)
    return h @ np.diag(np.arctan(tangent)) @ vt


def projector(x):
    return x @ np.linalg.pinv(x)


def stiefel_geodesic(x, u, steps=2000, canonical=False):
    """Integrate the geodesic equation of the Euclidean or the canonical metric by RK4; Edelman, Arias, Smith 1998, (2.7) and (2.41)."""

    def rate(state):
        x, v = state
        if not canonical:
            return np.stack([v, -x @ (v.T @ v)])
        return np.stack([v, -v @ v.T @ x - x @ ((x.T @ v) @ (x.T @ v) + v.T @ v)])

    state, h = np.stack([x, u]), 1 / steps
    for _ in range(steps):
        k1 = rate(state)
        k2 = rate(state + h / 2 * k1)
        k3 = rate(state + h / 2 * k2)
        k4 = rate(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state[0]

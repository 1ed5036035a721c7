"""Two-layer tanh networks in numpy, their Jacobians written out, and Barlow Twins of their centred outputs."""

import numpy as np

from tests.oracles import dynamics, stepwise


def draw(rng, m, h, d):
    """Weights (m + d, h): U on top of V^T, outputs h^{-1/2} V^T tanh(U^T x) that share units."""
    return rng.standard_normal((m + d, h))


def outputs(x, weights):
    m = x.shape[1]
    return np.tanh(x @ weights[:m]) @ weights[m:].T / weights.shape[1] ** 0.5


def pull(x, weights, slope):
    """Gradient by the weights of sum(slope * outputs)."""
    m, size = x.shape[1], weights.shape[1] ** 0.5
    units = np.tanh(x @ weights[:m])
    first = x.T @ ((1 - units**2) * (slope @ weights[m:])) / size
    return np.concatenate([first, slope.T @ units / size])


def jacobian(x, weights):
    """(n, d, parameters), one output at a time."""
    n, d = len(x), len(weights) - x.shape[1]
    rows = [pull(x, weights, one.reshape(n, d)).ravel() for one in np.eye(n * d)]
    return np.array(rows).reshape(n, d, -1)


def kernel(x, weights):
    """Theta_ab(x_i, x_j) (n, n, d, d)."""
    j = jacobian(x, weights)
    return np.einsum("iap,jbp->ijab", j, j)


def train(x, centre, weights, dt, steps):
    """Outputs (steps + 1, 2n, d) along the flow on Barlow Twins of the outputs less those of the centre, by RK4."""
    offset = outputs(x, centre)
    states = dynamics.rk4(lambda w: pull(x, w, stepwise.output_gradient(outputs(x, w) - offset)), weights, dt, steps)
    return np.array([outputs(x, w) - offset for w in states])


def eigenvalues(found):
    """Eigenvalues (T, d) of C, decreasing."""
    n = found.shape[1] // 2
    return np.array([np.linalg.eigvalsh(stepwise.cross_moment(f[:n], f[n:]))[::-1] for f in found])

"""Networks with a predictor, trained the slow way: gradients of the stop-gradient loss from its definition, integrated by RK4."""

import numpy as np

from tests.oracles import dynamics
from tests.oracles.dynamics import transpose


def loss(w, p, target, mean_view, spread):
    """J = (1/2) E ||W_p W^T x1 - target^T x2||^2, x1 and x2 views of one sample, from the moments of its definition."""
    total = mean_view + spread
    prediction = w @ p.T  # (m, d): W_p W^T x = prediction^T x
    return (
        np.trace(prediction.T @ total @ prediction) / 2
        - np.trace(prediction.T @ mean_view @ target)
        + np.trace(target.T @ total @ target) / 2
    )


def gradients(w, p, target, mean_view, spread):
    """dJ/dW and dJ/dW_p with the target held, by hand (checked against finite differences in the tests)."""
    total = mean_view + spread
    prediction = w @ transpose(p)
    residual = total @ prediction - mean_view @ target
    return residual @ p, transpose(residual) @ w


def train(w, p, target, *, mean_view, spread, alpha_p, eta, beta, dt, steps, every=1):
    """RK4 of the flows of W, W_p and W_a (beta None: W_a = W): lists of states in front."""

    def slope(state):
        w, p, a = state
        gw, gp = gradients(w, p, w if beta is None else a, mean_view, spread)
        return [-gw - eta * w, -alpha_p * gp - eta * p, np.zeros_like(a) if beta is None else beta * (w - a)]

    state = [w, p, target]
    kept = [state]
    for step in range(1, steps + 1):
        k1 = slope(state)
        k2 = slope([x + dt / 2 * k for x, k in zip(state, k1, strict=True)])
        k3 = slope([x + dt / 2 * k for x, k in zip(state, k2, strict=True)])
        k4 = slope([x + dt * k for x, k in zip(state, k3, strict=True)])
        state = [x + dt / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)]
        if step % every == 0:
            kept.append(state)
    return [np.stack(part) for part in zip(*kept, strict=True)]


def rk4(slope, state, dt, steps):
    """dx/dt = slope(x) for one array."""
    return dynamics.rk4(lambda x: -slope(x), state, dt, steps)


def views(rng, m, sigma2):
    """Pairs of views with X = I and X' = sigma2 I in the sample exactly: rows of an orthonormal frame, and its own noise."""
    frame = dynamics.orthogonal(rng, 3 * m)
    base, one, two = (np.sqrt(3 * m) * frame[:, k * m : (k + 1) * m] for k in range(3))
    return base + np.sqrt(sigma2) * one, base + np.sqrt(sigma2) * two


def set_predictor_rate(w, exponent, sigma2, eta, loss):
    """dW/dt (m, d) of a linear network with W_p = F^a, F = W^T W, X = I, X' = sigma2 I, from the loss's definition."""
    values, vectors = np.linalg.eigh(w.T @ w)
    p = (vectors * np.maximum(values, 0.0) ** exponent) @ vectors.T
    identity = np.eye(w.shape[1])
    total = 1 + sigma2
    if loss == "euclidean":  # target W held
        return -(total * w @ p.T - w) @ p - eta * w
    if loss == "isoloss":  # (1/2)||z - stop(z' + z - W_p z)||^2: the error of the prediction, not passed through W_p
        return -(total * w @ p.T - w) - eta * w
    if loss == "no_predictor":
        return -(total * w - w) - eta * w
    difference = p - identity  # no stop-gradient: through both branches of (1/2) E||W_p W^T x1 - W^T x2||^2, W_p held
    return -(w @ difference.T @ difference + sigma2 * w @ (p.T @ p + identity)) - eta * w


def plane(z):
    """The complex number as the block that it stands for."""
    return np.array([[z.real, -z.imag], [z.imag, z.real]])


def cosine_loss(w, p, target, mean_view, spread):
    """-E<a, b> / sqrt(E|a|^2 E|b|^2), a = W_p W^T x1 and b = W_a^T x2, from the moments of its definition."""
    total, prediction = mean_view + spread, w @ p.T
    overlap = np.trace(prediction.T @ mean_view @ target)
    return -overlap / np.sqrt(np.trace(prediction.T @ total @ prediction) * np.trace(target.T @ total @ target))


def cosine_slope(state, m, d, *, mean_view, spread, alpha_p, eta, beta):
    """Rows (W, W_p, W_a) of the velocity: central differences of the loss with the target held."""
    w, p, a = state[:m], state[m : m + d], state[m + d :]
    held = w if beta is None else a
    gw = dynamics.difference(lambda v: cosine_loss(v, p, held, mean_view, spread), w)
    gp = dynamics.difference(lambda v: cosine_loss(w, v, held, mean_view, spread), p)
    return np.concatenate([-gw - eta * w, -alpha_p * gp - eta * p, (0.0 if beta is None else beta) * (w - a)])

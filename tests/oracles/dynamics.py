"""Training, slowly and obviously: flows by Runge-Kutta, plain descent, losses and gradients in numpy float64."""

import numpy as np


def transpose(a):
    return np.swapaxes(a, -1, -2)


def projector(w):
    """Orthogonal projector on the span of w."""
    return w @ np.linalg.solve(transpose(w) @ w, transpose(w))


def symmetric(rng, eigenvalues):
    """A random symmetric matrix with given eigenvalues."""
    o = orthogonal(rng, len(eigenvalues))
    return o @ np.diag(eigenvalues) @ o.T


def orthogonal(rng, n):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def orthonormal(rng, *shape):
    return np.linalg.qr(rng.standard_normal(shape))[0]


def same_span(a, b):
    return np.abs(projector(a) - projector(b)).max()


def rk4(gradient, w, dt, steps, every=1):
    """dw/dt = -gradient(w): all states at t = 0, every dt, ... stacked in front."""
    states = [w]
    for step in range(1, steps + 1):
        k1 = -gradient(w)
        k2 = -gradient(w + dt / 2 * k1)
        k3 = -gradient(w + dt / 2 * k2)
        k4 = -gradient(w + dt * k3)
        w = w + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step % every == 0:
            states.append(w)
    return np.stack(states)


def descend(gradient, w, learning_rate, steps):
    for _ in range(steps):
        w = w - learning_rate * gradient(w)
    return w


def descend_on_grassmann(gradient, w, learning_rate, steps, every=1):
    """Riemannian gradient descent with QR as the way back to W^T W = I."""
    states = [w]
    for step in range(1, steps + 1):
        g = gradient(w)
        w = np.linalg.qr(w - learning_rate * (g - w @ (transpose(w) @ g)))[0]
        if step % every == 0:
            states.append(w)
    return np.stack(states)


def difference(loss, w, h=1e-6):
    """Gradient of a scalar loss by central differences."""
    g = np.zeros_like(w)
    for index in np.ndindex(w.shape):
        e = np.zeros_like(w)
        e[index] = h
        g[index] = (loss(w + e) - loss(w - e)) / (2 * h)
    return g


def barlow_twins_loss(w, gamma, lambda_=1.0):
    c = transpose(w) @ gamma @ w - np.eye(w.shape[-1])
    off = lambda_ + (1 - lambda_) * np.eye(w.shape[-1])
    return (off * c**2).sum((-2, -1))


def barlow_twins_gradient(w, gamma, lambda_=1.0):
    c = transpose(w) @ gamma @ w - np.eye(w.shape[-1])
    off = lambda_ + (1 - lambda_) * np.eye(w.shape[-1])
    return 4 * gamma @ w @ (off * c)


def trace_loss(w, c):
    return np.trace(transpose(w) @ c @ w, axis1=-2, axis2=-1)


def trace_gradient(w, c):
    return 2 * c @ w


def spectral_contrastive_loss(w, gamma, sigma):
    s = transpose(w) @ sigma @ w
    return -2 * np.trace(transpose(w) @ gamma @ w, axis1=-2, axis2=-1) + (s**2).sum((-2, -1))


def spectral_contrastive_gradient(w, gamma, sigma):
    return -4 * gamma @ w + 4 * sigma @ w @ (transpose(w) @ sigma @ w)


def tangent(gradient):
    """The Riemannian gradient on the Grassmannian, extended to all w near it: flows keep w^T w = I."""
    return lambda w: gradient(w) - w @ (transpose(w) @ gradient(w))

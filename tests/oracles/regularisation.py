"""Losses of a linear model with penalties, and their gradients, from the matrices; descent with a step found on the way."""

import numpy as np

from tests.oracles.dynamics import transpose


def objective(name, gamma, sigma, beta=1.0):
    """W (..., m, d) -> losses (...) of an objective, gamma and sigma (m, m)."""

    def loss(w):
        c, s = transpose(w) @ gamma @ w, transpose(w) @ sigma @ w
        eye = np.eye(w.shape[-1])
        if name == "barlow_twins":
            return squares(c - eye)
        if name == "spectral_contrastive":
            return -2 * trace(c) + squares(s)
        if name == "squared_vicreg":
            return squares(s - eye) + 2 * beta * trace(s - c)
        if name == "squared_noncontrastive":
            return trace(s - c)
        if name == "infonce":
            inverse = np.linalg.inv(eye + s)
            return trace(s - c) - np.linalg.slogdet(eye + s)[1] / 2 - trace(inverse @ s) / 2
        return -trace(c)

    return loss


def trace(a):
    return np.trace(a, axis1=-2, axis2=-1)


def squares(a):
    return (a**2).sum((-2, -1))


def penalised(loss, sigma, weight_decay=0.0, orthogonality=0.0, variance=0.0):
    def total(w):
        eye = np.eye(w.shape[-1])
        return (
            loss(w)
            + weight_decay / 2 * squares(w)
            + orthogonality * squares(transpose(w) @ w - eye)
            + variance * squares(transpose(w) @ sigma @ w - eye)
        )

    return total


def difference(loss, w, h):
    """Gradient of a loss of many W at once by central differences, as `dynamics.difference` has it one entry at a time."""
    e = h * np.eye(w.size).reshape(w.size, *w.shape)
    return ((loss(w + e) - loss(w - e)) / (2 * h)).reshape(w.shape)


def descend(loss, w, steps, tolerance=1e-9):
    """Gradient descent by finite differences, the step halved where the loss rises and grown where it falls."""
    rate, value = 0.1, loss(w)
    for _ in range(steps):
        g = difference(loss, w, h=1e-5)
        if np.abs(g).max() < tolerance:
            break
        while rate > 1e-12:
            trial = w - rate * g
            if loss(trial) <= value:
                break
            rate /= 2
        w, value = trial, loss(trial)
        rate *= 1.3
    return w

"""Riemannian momentum and Adam on the Grassmannian, one matrix at a time, numpy float64, polar factors by SVD."""

import numpy as np


def polar(z):
    left, _, right = np.linalg.svd(z, full_matrices=False)
    return left @ right


def horizontal(x, v):
    return v - x @ (x.T @ v)


def sgd(x, gradient, steps, lr, momentum=0.0, nesterov=False):
    """`gradient` maps X to the Euclidean gradient."""
    buffer = np.zeros_like(x)
    for _ in range(steps):
        g = horizontal(x, gradient(x))
        buffer = momentum * buffer + g
        u = -lr * (g + momentum * buffer if nesterov else buffer)
        x = polar(x + u)
        buffer = horizontal(x, buffer)
    return x


def adam(x, gradient, steps, lr, betas, eps, row, amsgrad=False):
    """Second moments per matrix or per row."""
    average, second, largest = np.zeros_like(x), 0.0, 0.0
    for k in range(1, steps + 1):
        g = horizontal(x, gradient(x))
        average = betas[0] * average + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * ((g**2).sum(1, keepdims=True) if row else (g**2).sum())
        scale = second / (1 - betas[1] ** k)
        largest = np.maximum(largest, scale)
        u = -lr * average / (1 - betas[0] ** k) / (np.sqrt(largest if amsgrad else scale) + eps)
        x = polar(x + horizontal(x, u))
        average = horizontal(x, average)
    return x


def landing(x, gradient, lr, attraction, safety):
    """One step of the landing method with its bound on the step, written out."""
    excess = x.T @ x - np.eye(x.shape[1])
    field = gradient @ x.T @ x - x @ gradient.T @ x + attraction * x @ excess
    d, g = np.linalg.norm(excess), np.linalg.norm(field)
    a = attraction * d * (1 - d)
    return x - min(lr, 1 / (2 * attraction), (a + np.sqrt(a**2 + g**2 * (safety - d))) / g**2) * field

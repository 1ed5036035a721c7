"""Losses without negatives as their authors' code has them: loops over dimensions and knots, float64, nothing shared with the package."""

import cmath
import math

import numpy as np


def barlow_twins_normalised(z, zp, lam=5e-3):
    n, d = z.shape
    a, b = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (z, zp))
    loss = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(a[k, i] * b[k, j] for k in range(n)) / n
            loss += (c - 1) ** 2 if i == j else lam * c**2
    return loss


def covariance(z):
    return np.cov(z, rowvar=False).reshape(z.shape[1], z.shape[1])


def vicreg(z, zp, invariance=25.0, variance=25.0, covariance_weight=1.0):
    d = z.shape[1]
    std_loss = cov_loss = 0.0
    for v in (z, zp):
        std_loss += np.mean([max(0.0, 1 - math.sqrt(np.var(v[:, i], ddof=1) + 1e-4)) for i in range(d)]) / 2
        c = covariance(v)
        cov_loss += sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return invariance * np.mean((z - zp) ** 2) + variance * std_loss + covariance_weight * cov_loss


def vibcreg(z, zp, invariance=25.0, variance=25.0, covariance_weight=200.0):
    """As solo-learn has it: columns of length 1, squares of their products, mean over all d^2."""
    d = z.shape[1]
    std_loss = cov_loss = 0.0
    for v in (z, zp):
        std_loss += np.mean([max(0.0, 1 - math.sqrt(np.var(v[:, i], ddof=1) + 1e-4)) for i in range(d)])
        columns = [(v[:, i] - v[:, i].mean()) / math.sqrt(np.sum((v[:, i] - v[:, i].mean()) ** 2)) for i in range(d)]
        cov_loss += sum((columns[i] @ columns[j]) ** 2 for i in range(d) for j in range(d) if i != j) / d**2
    return invariance * np.mean((z - zp) ** 2) + variance * std_loss + covariance_weight * cov_loss


def sigreg(z, directions):
    n, statistics = len(z), []
    knots = np.linspace(-3, 3, 33)
    for u in directions:
        v = z @ u
        errors = []
        for t in knots:
            phi = sum(cmath.exp(1j * t * x) for x in v) / n
            errors.append(abs(phi - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))
        statistics.append(n * sum((errors[i] + errors[i + 1]) / 2 * 3 / 16 for i in range(32)))
    return np.mean(statistics)


def lejepa(z, zp, directions, weight=0.05):
    views = np.stack([z, zp])
    distance = np.mean((views.mean(0) - views) ** 2)
    return weight * np.mean([sigreg(v, directions) for v in views]) + (1 - weight) * distance


def w_mse(z, zp):
    unit = []
    for v in (z, zp):
        white = (v - v.mean(0)) @ np.linalg.inv(np.linalg.cholesky(covariance(v))).T
        unit.append([row / np.linalg.norm(row) for row in white])
    return np.mean([np.sum((a - b) ** 2) for a, b in zip(*unit, strict=True)])


def negative_cosine(p, t):
    return -np.mean([a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in zip(p, t, strict=True)])


def euclidean(p, t):
    return np.mean([np.sum((a - b) ** 2) for a, b in zip(p, t, strict=True)])

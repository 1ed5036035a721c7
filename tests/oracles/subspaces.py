"""Subspaces, slowly: one pair at a time, projectors, determinants and full SVDs in numpy, nothing shared with the package."""

import numpy as np


def unitary(rng, n, complex_entries=False):
    """A random orthogonal or unitary matrix."""
    a = rng.standard_normal((n, n))
    if complex_entries:
        a = a + 1j * rng.standard_normal((n, n))
    q, r = np.linalg.qr(a)
    return q * (np.diag(r) / np.abs(np.diag(r)))


def pair(rng, n, angles, complex_entries=False):
    """X and Y = (X R cos + H sin) Q at these principal angles, in random bases, and Log_X(Y) = H diag(angles) R^H.

    Needs n - p >= the number of angles that are not 0.
    """
    angles = np.asarray(angles, dtype=float)
    p, m = len(angles), min(len(angles), n - len(angles))
    frame = unitary(rng, n, complex_entries)
    x, h = frame[:, :p], np.zeros((n, p), frame.dtype)
    h[:, np.argsort(-angles, kind="stable")[:m]] = frame[:, p : p + m]
    r = unitary(rng, p, complex_entries)
    y = x @ r @ np.diag(np.cos(angles)) + h @ np.diag(np.sin(angles))
    return x, y @ unitary(rng, p, complex_entries), h @ np.diag(angles) @ r.conj().T


def projector(x):
    return x @ np.linalg.pinv(x)


def distance(x, y, kind):
    """Each distance from what it measures: projectors, determinants of X^H Y, bases brought as close as they come."""
    overlap, p = x.conj().T @ y, x.shape[1]
    left, cosines, right = np.linalg.svd(overlap)
    nearest = x @ left - y @ right.conj().T
    determinant = min(abs(np.linalg.det(overlap)), 1)
    difference = projector(x) - projector(y)
    return {
        "geodesic": lambda: np.linalg.norm(np.arccos(np.minimum(cosines, 1))),
        "chordal": lambda: np.linalg.norm(difference) / np.sqrt(2),
        "projection": lambda: np.linalg.norm(difference, 2),
        "binet-cauchy": lambda: np.sqrt(1 - determinant**2),
        "fubini-study": lambda: np.arccos(determinant),
        "procrustes": lambda: np.sqrt(max(2 * p - 2 * np.linalg.norm(overlap, "nuc"), 0)),
        "spectral": lambda: np.linalg.norm(nearest, 2),
        "martin": lambda: np.sqrt(-np.log(determinant**2)),
    }[kind]()


def distance_of_angles(angles, kind):
    """Table 2 of Ye & Lim 2016, in extended precision: right for tiny angles too."""
    angles = np.sort(np.asarray(angles, dtype=np.longdouble))
    cosines, sines = np.cos(angles), np.sin(angles)
    complement = -np.expm1(np.sum(np.log1p(-(sines**2))))  # 1 - prod cos^2
    return {
        "geodesic": lambda: np.sqrt(np.sum(angles**2)),
        "chordal": lambda: np.sqrt(np.sum(sines**2)),
        "projection": lambda: sines[-1],
        "binet-cauchy": lambda: np.sqrt(complement),
        "fubini-study": lambda: np.arctan2(np.sqrt(complement), np.prod(cosines)),
        "procrustes": lambda: 2 * np.sqrt(np.sum(np.sin(angles / 2) ** 2)),
        "spectral": lambda: 2 * np.sin(angles[-1] / 2),
        "martin": lambda: np.sqrt(-np.sum(np.log1p(-(sines**2)))),
    }[kind]()


def exp(x, u):
    """Edelman, Arias, Smith 1998, eq. (2.65), for real and complex bases."""
    h, theta, vh = np.linalg.svd(u, full_matrices=False)
    return x @ vh.conj().T @ np.diag(np.cos(theta)) @ vh + h @ np.diag(np.sin(theta)) @ vh


def log(x, y):
    """The standard formula by the inverse of X^H Y: right away from the cut locus."""
    h, tangent, vh = np.linalg.svd(y @ np.linalg.inv(x.conj().T @ y) - x, full_matrices=False)
    return h @ np.diag(np.arctan(tangent)) @ vh


def frechet_mean(points, weights, steps=300):
    """Small steps down the sum of squared distances, from the first point of positive weight."""
    x = points[np.argmax(weights > 0)]
    for _ in range(steps):
        step = sum(w * log(x, y) for w, y in zip(weights, points, strict=True)) / weights.sum()
        x = np.linalg.qr(exp(x, 0.5 * step))[0]
    return x

"""Steepest descent in the spectral norm on the Stiefel manifold as a convex problem, by a generic method that certifies what it found."""

import numpy as np


def steepest_tangent(x, g, gap=1e-4, most=20_000):
    """max Re tr(G^H U) over X^H U + U^H X = 0, ||U||_2 <= 1: bounds from both sides, by Douglas-Rachford splitting; one matrix.

    U and the multiplier L of every iteration prove them: tr(G^H U / max(1, ||U||_2)) below and ||P(G) + X L||_* above. Stops where
    they are within `gap` of each other, relative to the upper one. Raises ArithmeticError where they are not after `most` iterations.
    """
    g = tangent(x, g)
    g = g / np.linalg.norm(g)
    z = np.zeros_like(g)
    for _ in range(most):
        left, values, right = np.linalg.svd(z, full_matrices=False)
        inside = (left * np.minimum(values, 1)) @ right
        u = tangent(x, 2 * inside - z + g)
        multiplier = hermitian(x.conj().T @ (z - inside))
        lower = np.vdot(g, u).real / max(1, np.linalg.norm(u, 2))
        upper = np.linalg.norm(g + x @ multiplier, "nuc")
        if upper - lower <= gap * upper:
            return lower, upper
        z = z + u - inside
    raise ArithmeticError(f"the bounds are {lower} and {upper} after {most} iterations")


def tangent(x, v):
    return v - x @ hermitian(x.conj().T @ v)


def hermitian(a):
    return (a + a.conj().T) / 2

"""Moments of a covariance by their definition: means over all tuples of rows in different units."""

from itertools import permutations

import numpy as np


def over_units(function, units, count):
    """The mean of a function of `count` rows in different units, every unit with the same weight."""
    size = {unit: list(units).count(unit) for unit in units}
    total = weight = 0.0
    for rows in permutations(range(len(units)), count):
        if len({units[i] for i in rows}) == count:
            own = 1 / np.prod([size[units[i]] for i in rows])
            total += own * function(*rows)
            weight += own
    return total / weight


def moments(z, units):
    """tr S, tr S^2 and (tr S)^2 of rows z (N, D): unbiased, and not centred first."""
    gram = z @ z.T
    fourth = over_units(lambda i, j, k, m: gram[i, j] * gram[k, m], units, 4)
    trace = over_units(lambda i: gram[i, i], units, 1) - over_units(lambda i, j: gram[i, j], units, 2)
    square = (
        over_units(lambda i, j: gram[i, j] ** 2, units, 2)
        - 2 * over_units(lambda i, j, k: gram[i, j] * gram[j, k], units, 3)
        + fourth
    )
    squared = (
        over_units(lambda i, j: gram[i, i] * gram[j, j], units, 2)
        - 2 * over_units(lambda i, j, k: gram[i, i] * gram[j, k], units, 3)
        + fourth
    )
    return trace, square, squared


def directions(z, units):
    """E |u|^2 - |E u|^2 of u = z / |z|, 0 for a zero row, without bias."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    u = z / np.where(length > 0, length, 1)
    return over_units(lambda i: u[i] @ u[i], units, 1) - over_units(lambda i, j: u[i] @ u[j], units, 2)

"""Deep linear networks on pairs, trained the slow way: layers (L + 1, m, m), the encoder first and the layer on top last."""

from functools import reduce
from itertools import pairwise

import numpy as np

from tests.oracles import dynamics


def product(layers):
    """W_L .. W_1, the identity for none."""
    return reduce(lambda whole, layer: layer @ whole, layers, np.eye(layers.shape[-1]))


def sample_loss(layers, held, x, y, loss):
    """(1/2) mean ||P Wbar x - target||^2 of samples in rows; the target of jepa is the encoder of the layers `held`."""
    target = y @ product(held[:-1]).T if loss == "jepa" else y
    return ((x @ product(layers).T - target) ** 2).sum(1).mean() / 2


def gradient(layers, sxx, syx, loss):
    """By every layer, the target held: (after)^T (P Wbar Sxx - T Syx) (before)^T, Syx = E y x^T."""
    target = product(layers[:-1]) if loss == "jepa" else np.eye(layers.shape[-1])
    error = product(layers) @ sxx - target @ syx
    return np.stack([product(layers[k + 1 :]).T @ error @ product(layers[:k]).T for k in range(len(layers))])


def start(rng, sizes, vectors, depth, loss):
    """Aligned and balanced layers, in bases of their own: every one has the singular values `sizes` (m,)."""
    m = len(sizes)
    bases = [vectors, *(dynamics.orthogonal(rng, m) for _ in range(depth))]
    bases.append(bases[-1] if loss == "jepa" else vectors)
    return np.stack([after @ np.diag(sizes) @ before.T for before, after in pairwise(bases)]), bases


def train(layers, sxx, syx, loss, dt, steps, every):
    """All layers along the flow, by RK4."""
    return dynamics.rk4(lambda one: gradient(one, sxx, syx, loss), layers, dt, steps, every)

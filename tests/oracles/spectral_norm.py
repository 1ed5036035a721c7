"""Steepest descent in the spectral norm, step by step along geodesics."""

import numpy as np

from tests.oracles.dynamics import transpose


def descend(w, matrix, size, steps, every=1, keep=lambda w: w):
    """Geodesic steps of `size` along minus the polar factor of the gradient of tr(W^T C W); `keep` of every state, stacked in front."""
    kept = [keep(w)]
    for step in range(1, steps + 1):
        g = matrix @ w
        x, s, y = np.linalg.svd(g - w @ (transpose(w) @ g), full_matrices=False)
        angle = np.where(s > 1e-10 * np.abs(matrix).max(), size, 0.0)[..., None]  # no gradient, no turn
        w = w @ transpose(y) @ (np.cos(angle) * y) - x @ (np.sin(angle) * y)
        w = np.linalg.qr(w)[0]  # rounding off the constraint grows where the gradient is small
        if step % every == 0:
            kept.append(keep(w))
    return np.stack(kept)

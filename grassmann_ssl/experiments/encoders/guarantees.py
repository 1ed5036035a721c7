"""What a constraint on the last layer guarantees of its outputs, known before any run, and what the lag of its metric tells after it."""

import torch
from torch import Tensor

from grassmann_ssl.nn.departure import TOLERANCE

# A hundred times the rounding of float32, in which features mostly come.
ROUNDED = 1e-5


def guarantees(weight: Tensor | None, metric: Tensor | None = None) -> tuple[str, ...]:
    """What holds by construction, whatever the rows, of the outputs of a constrained last weight, after a look at the weight itself.

    `weight` (p, n) maps n features to p outputs with orthonormal rows (W W^T = I), or with rows orthonormal in a `metric` B of the
    features; None without a constraint. A weight of full rank does not prevent its inputs, nor therefore z, from collapsing, and is not
    counted as such a guarantee. Of a weight that is off its manifold nothing is guaranteed. Raises ValueError unless 1 <= p <= n, and for
    a metric without a weight.
    """
    if weight is None:
        if metric is not None:
            raise ValueError("metric must come with a weight, got None")
        return ()
    p, n = weight.shape
    if not 1 <= p <= n:
        raise ValueError(f"weight must be (p, n) with 1 <= p <= n, got {tuple(weight.shape)}")
    w = weight.detach().double().cpu()
    product = w @ w.mT if metric is None else w @ metric.double().cpu() @ w.mT
    error = float((product - torch.eye(p, dtype=w.dtype)).abs().max())
    if not error <= TOLERANCE:  # true for NaN
        named = "W W^T" if metric is None else "W B W^T"
        return (f"nothing: W is off its manifold, an entry of {named} - I is {error:.2g}",)
    rank = f"W has rank {p} by construction ({n} features in)"
    if metric is not None:
        return rank, "W B W^T = I with B the running covariance of the features: cov z = I up to the lag of B"
    return rank, "cov z = W cov(h) W^T: the rank of W does not keep the features h that enter it from collapse"


def lag_observed(lag: float, least: float, largest: float) -> tuple[str, ...]:
    """What a lag of B, measured on the same rows as the least and the largest eigenvalue of cov z, tells of them.

    Raises ValueError for a lag that is negative.
    """
    if not lag >= 0:
        raise ValueError(f"lag must be at least 0, got {lag}")
    if lag >= 1:
        return (f"lag of B {lag:.3g}, not below 1: it keeps no eigenvalue of cov z from 0",)
    bound = f"lag of B {lag:.3g}: it bounds the eigenvalues of cov z by {1 - lag:.3g} and {1 + lag:.3g}"
    if max(1 - least, largest - 1) > lag + ROUNDED:
        outside = "the spectrum of z lies outside of these: z is not the output of the constrained layer on the rows of the lag"
        return bound, outside
    return (bound,)

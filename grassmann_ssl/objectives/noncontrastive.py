"""Barlow Twins: make the cross-moment of two views the identity."""

import torch
from jaxtyping import Float
from torch import Tensor


def barlow_twins(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], lambda_: float = 1.0, normalise: bool = False
) -> Float[Tensor, ""]:
    """Barlow Twins on two views.

    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = (1/2n) sum_k [z_k z'_k^T + z'_k z_k^T].
    With `normalise`, both embeddings are standardised per dimension over the batch first (mean 0, biased variance 1), as
    batch-norm without epsilon would; C then does not depend on the scale of the weights and small-initialisation theory
    does not apply. Rotation-invariant for lambda = 1 without `normalise`, where L = ||C - I||_F^2.
    Shapes (n, d), (n, d) -> scalar. Deviations from the source: C is symmetrised (so that the linear model has a symmetric
    Gamma, as in Simon et al. 2023, arXiv 2303.15438, sec. 3), and `normalise` is off by default.
    Source: Zbontar et al. 2021, arXiv 2103.03230, eq. (1)-(2).
    """
    if normalise:
        z, z_positive = ((v - v.mean(0)) / v.std(0, correction=0) for v in (z, z_positive))
    cross = z.T @ z_positive / z.shape[0]
    return _distance_to_identity((cross + cross.T) / 2, lambda_)


def barlow_twins_moments(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " m m"], lambda_: float = 1.0
) -> Float[Tensor, " *b"]:
    """Barlow Twins of a linear model, from the cross-moment of its inputs.

    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = W^T Gamma W; for lambda = 1, ||W^T Gamma W - I||_F^2.
    Shapes (..., m, d), (m, m) -> (...). Rotation-invariant for lambda = 1. No factor 1/2 and no 1/d: the gradient is
    4 Gamma W (C - I) for lambda = 1. Source: Simon et al. 2023, arXiv 2303.15438, sec. 3.
    """
    return _distance_to_identity(weights.mT @ cross @ weights, lambda_)


def _distance_to_identity(c: Float[Tensor, " *b d d"], lambda_: float) -> Float[Tensor, " *b"]:
    identity = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    square = (c - identity).square()
    if lambda_ != 1:
        square = square * (lambda_ + (1 - lambda_) * identity)
    return square.sum((-2, -1))

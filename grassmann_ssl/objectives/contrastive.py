"""Spectral contrastive loss: pull positive pairs together, push all pairs to be orthogonal."""

from jaxtyping import Float
from torch import Tensor


def spectral_contrastive(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Spectral contrastive loss on two views.

    L = -2 E[z . z+] + E_{u,v} (u . v)^2 with u, v independent draws from the 2n single views, so that
    L = -2 tr C + ||S||_F^2,   C = (1/n) sum_k z_k z_k'^T,   S = (1/2n) sum_k [z_k z_k^T + z'_k z'_k^T].
    Shapes (n, d), (n, d) -> scalar. Rotation-invariant. Deviation from the source: the mean over pairs of views keeps the
    pairs of a view with itself and with its positive (a bias of order 1/n), so that the loss is a function of moments.
    Source: HaoChen et al. 2021, arXiv 2106.04156, eq. (6).
    """
    n = z.shape[0]
    second = (z.T @ z + z_positive.T @ z_positive) / (2 * n)
    return -2 * (z * z_positive).sum() / n + second.square().sum()


def spectral_contrastive_moments(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " m m"], second: Float[Tensor, " m m"]
) -> Float[Tensor, " *b"]:
    """Spectral contrastive loss of a linear model, from the moments of its inputs.

    L = -2 tr(W^T Gamma W) + ||W^T Sigma W||_F^2.   Shapes (..., m, d), (m, m), (m, m) -> (...). Rotation-invariant.
    Source: HaoChen et al. 2021, arXiv 2106.04156, eq. (6), for z = W^T x.
    """
    attraction = (weights.mT @ cross * weights.mT).sum((-2, -1))
    return -2 * attraction + (weights.mT @ second @ weights).square().sum((-2, -1))

"""Penalties added to an objective against collapse: the soft alternatives to a constraint."""

from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.objectives.gram import distance_to_identity


def weight_decay(*, weights: Float[Tensor, " *b m d"]) -> Float[Tensor, " *b"]:
    """(1/2) ||W||_F^2, whose gradient is W: the convention of torch.optim.SGD(weight_decay=1). Shapes (..., m, d) -> (...).

    Rotation-invariant.
    """
    return weights.square().sum((-2, -1)) / 2


def orthogonality(*, weights: Float[Tensor, " *b m d"]) -> Float[Tensor, " *b"]:
    """||W^T W - I||_F^2, the soft form of the constraint. Shapes (..., m, d) -> (...). Rotation-invariant."""
    return distance_to_identity(weights.mT @ weights)


def variance(*, second: Float[Tensor, " *b d d"]) -> Float[Tensor, " *b"]:
    """||S - I||_F^2 of the second moment S of the embedding: the variance and covariance terms of VICReg in squared form.

    Shapes (..., d, d) -> (...). Rotation-invariant, where VICReg's own hinge on standard deviations is not.
    Source: Bardes et al. 2022, arXiv 2105.04906, with the squares of Cabannes et al. 2023, arXiv 2302.02774.
    """
    return distance_to_identity(second)


def sliced_normality(*, z: Float[Tensor, " n d"], directions: Float[Tensor, " k d"]) -> Float[Tensor, ""]:
    """Mean Epps-Pulley distance from N(0, 1) of the embedding projected on given directions.

    mean_k int |(1/n) sum_i e^{i t u_k . z_i} - e^{-t^2/2}|^2 N(t; 0, 1) dt, in closed form by the Gaussian integral:
    mean_{ij} e^{-(v_i - v_j)^2 / 2} - sqrt(2) mean_i e^{-v_i^2 / 4} + 1/sqrt(3), v = u_k . z.
    Shapes (n, d), (k, d) -> scalar; memory n^2 k. Not rotation-invariant for fixed directions u_k (unit vectors).
    Source: the regulariser SIGReg of Balestriero & LeCun 2025, arXiv 2511.08544, here with an exact integral.
    """
    v = z @ directions.mT
    pairs = (-(v[:, None] - v[None]).square() / 2).exp().mean((0, 1))
    return (pairs - 2**0.5 * (-v.square() / 4).exp().mean(0) + 3**-0.5).mean()


def sliced_normality_gaussian(
    *, second: Float[Tensor, " *b d d"], directions: Float[Tensor, " k d"]
) -> Float[Tensor, " *b"]:
    """`sliced_normality` of a centred Gaussian embedding with second moment S, from S alone: its limit of infinitely many samples.

    mean_k T(u_k^T S u_k), T(v) = (1 + 2v)^{-1/2} - 2 (2 + v)^{-1/2} + 3^{-1/2}. Shapes (..., d, d), (k, d) -> (...).
    """
    v = ((directions @ second) * directions).sum(-1)
    return ((1 + 2 * v).rsqrt() - 2 * (2 + v).rsqrt() + 3**-0.5).mean(-1)

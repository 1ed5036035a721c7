"""Barlow Twins and VICReg in squared form: drive a moment of the embedding to the identity."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grassmann_ssl.distributed import all_rows, process_count, total
from grassmann_ssl.manifolds.matrix_functions import minus_product
from grassmann_ssl.objectives.gram import centred, distance_to_identity
from grassmann_ssl.objectives.registry import declare, not_negative, positive
from grassmann_ssl.precision import full_precision

EPS = 1e-5  # of batch normalisation


def barlow_twins_moments(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], lambda_: float = 1.0
) -> Float[Tensor, " *b"]:
    """Barlow Twins of a linear model, from the cross-moment of its inputs.

    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = W^T Gamma W; for lambda = 1, ||W^T Gamma W - I||_F^2.
    Shapes (..., m, d), (..., m, m) -> (...). Rotation-invariant for lambda = 1. No factor 1/2 and no 1/d: the gradient is
    4 Gamma W (C - I) for lambda = 1. Source: Simon et al. 2023, arXiv 2303.15438, sec. 3.
    """
    return distance_to_identity(weights.mT @ cross @ weights, lambda_)


def barlow_twins_slope(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], lambda_: float = 1.0
) -> Float[Tensor, " *b m d"]:
    """The gradient of `barlow_twins_moments`, 4 Gamma W D: D = C - I, times lambda off the diagonal."""
    moved = cross @ weights
    distance = 4 * (weights.mT @ moved)
    distance.diagonal(dim1=-2, dim2=-1).sub_(4)
    if lambda_ != 1:
        diagonal = distance.diagonal(dim1=-2, dim2=-1).clone()
        distance.mul_(lambda_).diagonal(dim1=-2, dim2=-1).copy_(diagonal)
    return moved @ distance


@declare(
    source="Zbontar et al. 2021, arXiv 2103.03230, eq. (1)-(2); Simon et al. 2023, arXiv 2303.15438, sec. 3",
    rotation_invariant=lambda lambda_, normalise: lambda_ == 1 and not normalise,
    moments=barlow_twins_moments,
    slope=barlow_twins_slope,
    checks={"lambda_": positive},
)
@full_precision
def barlow_twins(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], lambda_: float = 1.0, normalise: bool = False
) -> Float[Tensor, ""]:
    """Barlow Twins on two views, with a symmetric C.

    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = (1/2n) sum_k [z_k z'_k^T + z'_k z_k^T].
    With `normalise`, both embeddings are standardised per dimension over the batch first (mean 0, biased variance 1), as
    batch-norm without epsilon would; C then does not depend on the scale of the weights and small-initialisation theory
    does not apply. Rotation-invariant for lambda = 1 without `normalise`, where L = ||C - I||_F^2.
    Shapes (n, d), (n, d) -> scalar. Deviations from the source: C is symmetrised (so that the linear model has a symmetric
    Gamma, as in Simon et al. 2023, arXiv 2303.15438, sec. 3), and `normalise` is off by default; `barlow_twins_normalised` is the
    loss as published. Where d > 2n, no d x d matrix is formed: 2 n^2 ||C||_F^2 = ||Z^T Z'||_F^2 + tr(Z^T Z' Z^T Z'), which is
    sum_ij (Z Z^T)_ij (Z' Z'^T)_ij + sum_ij (Z' Z^T)_ij (Z' Z^T)_ji.
    Source: Zbontar et al. 2021, arXiv 2103.03230, eq. (1)-(2).
    """
    count = process_count() * len(z)
    if normalise:
        z, z_positive = (_centre_and_scale(v, 0.0)[0] for v in (z, z_positive))
    if z.shape[1] <= 2 * count:
        cross = total(z.T @ z_positive) / count
        return distance_to_identity((cross + cross.T) / 2, lambda_)
    z, z_positive = all_rows(z), all_rows(z_positive)
    diagonal = (z * z_positive).sum(0) / count
    between = z_positive @ z.T
    square = (z @ z.T * (z_positive @ z_positive.T) + between * between.T).sum() / (2 * count**2)
    return (diagonal - 1).square().sum() + lambda_ * (square - diagonal.square().sum())


@declare(
    source="Zbontar et al. 2021, arXiv 2103.03230, eq. (1)-(2)",
    rotation_invariant=False,
    checks={"lambda_": positive},
    rows=2,
)
@full_precision
def barlow_twins_normalised(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], lambda_: float = 5e-3
) -> Float[Tensor, ""]:
    """Barlow Twins as published: the cross-correlation of two views, standardised over the batch.

    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = (1/n) sum_k a_k b_k^T,   a = (z - mean) / sqrt(var + 1e-5) per
    dimension, var biased, and b the same of z'. Shapes (n, d), (n, d) -> scalar. Not rotation-invariant. Batch statistics and C are
    those of the rows of all processes; C is not symmetrised. Where d > n, no d x d matrix is formed. Once differentiable.
    Source: Zbontar et al. 2021, arXiv 2103.03230, eq. (1)-(2) and its code (the epsilon of batch-norm; the processes of its code
    standardise over their own rows, here over all).
    """
    loss: Tensor = _BarlowTwins.apply(z, z_positive, lambda_)  # type: ignore[no-untyped-call]  # torch gives it no types
    return loss


def squared_vicreg_moments(
    *,
    weights: Float[Tensor, " *b m d"],
    cross: Float[Tensor, " *#b m m"],
    second: Float[Tensor, " *#b m m"],
    beta: float = 1.0,
) -> Float[Tensor, " *b"]:
    """VICReg in squared form of a linear model, from the moments of its inputs.

    L = ||W^T Sigma W - I||_F^2 + 2 beta tr(W^T (Sigma - Gamma) W).   Shapes (..., m, d), (..., m, m) twice -> (...).
    Rotation-invariant. Source: Cabannes et al. 2023, arXiv 2302.02774.
    """
    invariance = (weights.mT @ (second - cross) * weights.mT).sum((-2, -1))
    return distance_to_identity(weights.mT @ second @ weights, 1.0) + 2 * beta * invariance


def squared_vicreg_slope(
    *,
    weights: Float[Tensor, " *b m d"],
    cross: Float[Tensor, " *#b m m"],
    second: Float[Tensor, " *#b m m"],
    beta: float = 1.0,
) -> Float[Tensor, " *b m d"]:
    """The gradient of `squared_vicreg_moments`, 4 Sigma W (W^T Sigma W - I) + 4 beta (Sigma - Gamma) W."""
    moved = second @ weights
    distance = weights.mT @ moved
    distance.diagonal(dim1=-2, dim2=-1).sub_(1)
    return minus_product((second - cross) @ weights, moved, distance, -4.0, 4 * beta)


@declare(
    source="Cabannes et al. 2023, arXiv 2302.02774",
    rotation_invariant=True,
    moments=squared_vicreg_moments,
    slope=squared_vicreg_slope,
    checks={"beta": not_negative},
)
@full_precision
def squared_vicreg(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], beta: float = 1.0
) -> Float[Tensor, ""]:
    """VICReg in squared form on two views.

    L = ||S - I||_F^2 + beta E||z - z+||^2,   S = (1/2n) sum_k [z_k z_k^T + z'_k z'_k^T].
    Shapes (n, d), (n, d) -> scalar. Rotation-invariant. For beta = 1 it is the spectral contrastive loss plus d. Where d > 2n, no
    d x d matrix is formed. Deviation from VICReg (Bardes et al. 2022, arXiv 2105.04906): squares in place of the hinge on standard
    deviations, one weight for variance and covariance, embeddings not centred. Source: Cabannes et al. 2023, arXiv 2302.02774.
    """
    count = process_count() * len(z)
    if z.shape[1] > 2 * count:
        views = all_rows(z), all_rows(z_positive)
        within = sum((v @ v.T).square().sum() for v in views)
        square = (within + 2 * (views[0] @ views[1].T).square().sum()) / (2 * count) ** 2
        distance = square - sum(v.square().sum() for v in views) / count + z.shape[1]
    else:
        second = total(z.T @ z + z_positive.T @ z_positive) / (2 * count)
        distance = distance_to_identity(second, 1.0)
    return distance + beta * total((z - z_positive).square().sum()) / count


def _centre_and_scale(z: Float[Tensor, " n d"], eps: float) -> tuple[Float[Tensor, " n d"], Float[Tensor, " d"]]:
    """(z - mean) s and s = 1 / sqrt(var + eps) per dimension, with the biased variance of the rows of all processes."""
    rows = centred(z)
    scale = (total(rows.square().sum(0)) / (process_count() * len(z)) + eps).rsqrt()
    return rows * scale, scale


class _BarlowTwins(torch.autograd.Function):
    """sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2 of C = A^T B / N, A and B standardised, with half the products of autograd.

    dL/dA = B G^T / N, dL/dB = A G / N for G = 2 lambda C off the diagonal, 2 (c - 1) on it. Where d > N, by
    B C^T = (B B^T) A / N and the like, with those rows of B B^T and A A^T that belong to this process. Their columns have mean 0, so
    that standardisation takes dL/dA to dL/dz = s (dL/dA - A q), q the mean of A dL/dA over rows, s the scale.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, z_positive: Tensor, lambda_: float) -> Tensor:
        count = process_count() * len(z)
        ctx.lambda_, ctx.count, ctx.by_rows = lambda_, count, z.shape[1] > count
        if process_count() == 1:
            settings = None, None, None, None, True, 0.0, EPS  # no scale and shift, no running statistics, training
            (a, _, scale_a), (b, _, scale_b) = (
                torch.native_batch_norm(v - v.mean(0), *settings) for v in (z, z_positive)
            )
        else:
            (a, scale_a), (b, scale_b) = (_centre_and_scale(v, EPS) for v in (z, z_positive))
        if not ctx.by_rows:
            distance = total(a.T @ b).div_(count)
            diagonal = distance.diagonal()
            diagonal.sub_(1)
            ctx.save_for_backward(a, b, scale_a, scale_b, distance)
            return lambda_ * distance.square().sum() + (1 - lambda_) * diagonal.square().sum()
        every_a, every_b = all_rows(a), all_rows(b)
        of_a, of_b = a @ every_a.T, b @ every_b.T
        diagonal = total((a * b).sum(0)) / count
        ctx.save_for_backward(a, b, scale_a, scale_b, every_a, every_b, of_a, of_b, diagonal)
        square = total((of_a * of_b).sum()) / count**2
        return (diagonal - 1).square().sum() + lambda_ * (square - diagonal.square().sum())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, scale_a, scale_b, *others = ctx.saved_tensors
        gradient = total(gradient) * (2 / ctx.count)
        if not ctx.by_rows:
            (distance,) = others
            slope = distance * (ctx.lambda_ * gradient)
            slope.diagonal().copy_(distance.diagonal() * gradient)
            along = slope * distance  # to which the diagonal adds slope: C is the distance and I
            along.diagonal().add_(slope.diagonal())
            to_a = (b @ (slope.T * scale_a)).addcmul_(a, along.sum(1) * scale_a, value=-1)
            to_b = (a @ (slope * scale_b)).addcmul_(b, along.sum(0) * scale_b, value=-1)
            return to_a, to_b, None
        every_a, every_b, of_a, of_b, diagonal = others
        weight = gradient * (diagonal - 1 - ctx.lambda_ * diagonal)
        gradient = gradient * (ctx.lambda_ / ctx.count)
        to_a = (of_b * gradient @ every_a).addcmul_(b, weight)
        to_b = (of_a * gradient @ every_b).addcmul_(a, weight)
        for slope, view, scale in ((to_a, a, scale_a), (to_b, b, scale_b)):
            along = total((slope * view).sum(0)) / ctx.count
            slope.addcmul_(view, along, value=-1).mul_(scale)
        return to_a, to_b, None

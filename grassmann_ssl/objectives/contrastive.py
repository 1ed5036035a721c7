"""Contrastive losses: pull positive pairs together, push all pairs apart."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, process_rank, total
from grassmann_ssl.manifolds.matrix_functions import minus_product
from grassmann_ssl.objectives.gram import squared_moment_norm
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.precision import full_precision


def spectral_contrastive_moments(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], second: Float[Tensor, " *#b m m"]
) -> Float[Tensor, " *b"]:
    """Spectral contrastive loss of a linear model, from the moments of its inputs.

    L = -2 tr(W^T Gamma W) + ||W^T Sigma W||_F^2.   Shapes (..., m, d), (..., m, m), (..., m, m) -> (...). Rotation-invariant.
    Source: HaoChen et al. 2021, arXiv 2106.04156, eq. (6), for z = W^T x.
    """
    attraction = (weights.mT @ cross * weights.mT).sum((-2, -1))
    return -2 * attraction + (weights.mT @ second @ weights).square().sum((-2, -1))


def spectral_contrastive_slope(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], second: Float[Tensor, " *#b m m"]
) -> Float[Tensor, " *b m d"]:
    """The gradient of `spectral_contrastive_moments`, 4 Sigma W (W^T Sigma W) - 4 Gamma W."""
    moved = second @ weights
    return minus_product(cross @ weights, moved, weights.mT @ moved, -4.0, -4.0)


@declare(
    source="HaoChen et al. 2021, arXiv 2106.04156, eq. (6)",
    rotation_invariant=True,
    moments=spectral_contrastive_moments,
    slope=spectral_contrastive_slope,
)
@full_precision
def spectral_contrastive(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Spectral contrastive loss on two views.

    L = -2 E[z . z+] + E_{u,v} (u . v)^2 with u, v independent draws from the 2n single views, so that
    L = -2 tr C + ||S||_F^2,   C = (1/n) sum_k z_k z_k'^T,   S = (1/2n) sum_k [z_k z_k^T + z'_k z'_k^T].
    Shapes (n, d), (n, d) -> scalar; means are over the n of all processes. Rotation-invariant. ||S||_F comes from the smaller of S and
    the 2n x 2n matrix of inner products. Deviation from the source: the mean over pairs of views keeps the pairs of a view with itself
    and with its positive (a bias of order 1/n), so that the loss is a function of moments.
    Source: HaoChen et al. 2021, arXiv 2106.04156, eq. (6).
    """
    n = process_count() * len(z)
    both = torch.cat([z, z_positive])
    return -2 * total((z * z_positive).sum()) / n + squared_moment_norm(both, both) / (2 * n) ** 2


def infonce_moments(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], second: Float[Tensor, " *#b m m"]
) -> Float[Tensor, " *b"]:
    """`infonce` of a linear model with temperature 1 and infinitely many negatives, where x = b + e, x+ = b + e' are Gaussian.

    L = tr(W^T N W) - (1/2) log det(I + S) - (1/2) tr[(I + S)^{-1} S],   N = Sigma - Gamma the covariance of the noise,
    S = W^T Sigma W. Shapes (..., m, d), (..., m, m) twice -> (...). Rotation-invariant. Derived here.
    """
    s = weights.mT @ second @ weights
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    factor: Tensor = torch.linalg.cholesky(identity + s)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # tr[(I + S)^{-1} S] = d - tr (I + S)^{-1}
    inverse = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    noise = (weights.mT @ (second - cross) * weights.mT).sum((-2, -1))
    return noise - log_det / 2 - (s.shape[-1] - inverse) / 2


def infonce_slope(
    *, weights: Float[Tensor, " *b m d"], cross: Float[Tensor, " *#b m m"], second: Float[Tensor, " *#b m m"]
) -> Float[Tensor, " *b m d"]:
    """The gradient of `infonce_moments`, 2 N W - Sigma W (A + A^2) with A = (I + S)^{-1}."""
    moved = second @ weights
    inner = weights.mT @ moved
    inner.diagonal(dim1=-2, dim2=-1).add_(1)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(inner))
    return minus_product((second - cross) @ weights, moved, inverse + inverse @ inverse, 1.0, 2.0)


@declare(
    source="van den Oord et al. 2018, arXiv 1807.03748",
    rotation_invariant=True,
    moments=infonce_moments,
    slope=infonce_slope,
    gaussian=True,
    checks={"temperature": positive},
    rows=2,
)
@full_precision
def infonce(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """InfoNCE on two views with Gaussian similarity, sim(u, v) = -||u - v||^2 / 2.

    L = -(1/n) sum_i log[ e^{sim(z_i, z+_i)/T} / ((1/n) sum_j e^{sim(z_i, z+_j)/T}) ],   T the temperature.
    Shapes (n, d), (n, d) -> scalar; means are over the n of all processes. Rotation-invariant. Deviations from the source (van den
    Oord et al. 2018, arXiv 1807.03748): distances instead of inner products, and the mean over the batch in the denominator, log n
    less, so that more samples change the noise of L and not its value.
    """
    positives = all_rows(z_positive)
    distance = torch.cdist(z, positives, compute_mode="donot_use_mm_for_euclid_dist").square()
    logits = -distance / (2 * temperature)
    own = logits.logsumexp(1) - logits.diagonal(process_rank() * len(z))
    return total(own.sum()) / len(positives) - math.log(len(positives))

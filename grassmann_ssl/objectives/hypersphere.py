"""Alignment and uniformity on the unit sphere: the two asymptotic terms of the contrastive loss."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, total
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import row_logsumexp
from grassmann_ssl.precision import full_precision


@declare(
    source="Wang & Isola 2020, arXiv 2005.10242, eq. (6), (8)",
    rotation_invariant=True,
    directional=True,
    checks={"alpha": positive, "t": positive},
)
@full_precision
def alignment_uniformity(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    alpha: float = 2,
    t: float = 2,
    weight: float = 1,
) -> Float[Tensor, ""]:
    """Alignment plus uniformity of two views, normalised to the unit sphere.

    L = (1/N) sum_i ||u_i - v_i||^alpha + (weight / 2) sum_{w in {u, v}} log[ (1 / N(N-1)) sum_{i != j} e^{-t ||w_i - w_j||^2} ],
    u_i = z_i / ||z_i||, v_i = z'_i / ||z'_i||.
    Shapes (n, d), (n, d) -> scalar, N the n of all processes. Rotation-invariant. For N > 1024 no N x N matrix is stored, forward or
    backward. Once differentiable. Raises ValueError where alpha or t is not positive, and for fewer than two rows in total.
    Source: Wang & Isola 2020, arXiv 2005.10242, eq. (6), (8) and the code of sec. 4.3; the weights of its two terms, here
    1 and `weight`, are tuned there.
    """
    positive("alpha", alpha)
    positive("t", t)
    n = process_count() * len(z)
    if n < 2:
        raise ValueError(f"z must have two rows or more in all processes together to have a pair of them, got {n}")
    views = F.normalize(z), F.normalize(z_positive)
    alignment = total(torch.linalg.vector_norm(views[0] - views[1], dim=1).pow(alpha).sum()) / n
    # e^{-t ||u - v||^2} = e^{-2t} e^{u . v / T} with T = 1 / 2t
    pairs = sum(all_rows(row_logsumexp(view, 1 / (2 * t), apart=0)).logsumexp(0) for view in views)
    return alignment + weight * (pairs / 2 - 2 * t - math.log(n * (n - 1)))

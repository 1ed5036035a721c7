"""Alignment and uniformity on the unit sphere: the two asymptotic terms of the contrastive loss."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, total
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere, row_logsumexp
from grassmann_ssl.precision import full_precision


@declare(
    source="Wang & Isola 2020, arXiv 2005.10242, eq. (6), (8)",
    rotation_invariant=True,
    directional=True,
    checks={"alpha": positive, "t": positive},
    rows=2,
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
    u_i = z_i / ||z_i||, v_i = z'_i / ||z'_i||; zero rows stay 0.
    Shapes (n, d), (n, d) -> scalar, N the n of all processes. Rotation-invariant. For N > 1024 no N x N matrix is stored, forward or
    backward. Once differentiable. Raises ValueError where alpha or t is not positive, and for fewer than two rows in total.
    Source: Wang & Isola 2020, arXiv 2005.10242, eq. (6), (8) and the code of sec. 4.3; the weights of its two terms, here
    1 and `weight`, are tuned there.
    """
    positive("alpha", alpha)
    positive("t", t)
    n = process_count() * len(z)
    views = on_unit_sphere(z), on_unit_sphere(z_positive)
    alignment = total(torch.linalg.vector_norm(views[0] - views[1], dim=1).pow(alpha).sum()) / n
    # e^{-t ||u - v||^2} = e^{-2t} e^{u . v / T} with T = 1 / 2t, for unit vectors
    pairs = sum(
        torch.logaddexp(all_rows(row_logsumexp(view, 1 / (2 * t), apart=0)).logsumexp(0), _of_zeros(view, t, n))
        for view in views
    )
    return alignment + weight * (pairs / 2 - 2 * t - math.log(n * (n - 1)))


def _of_zeros(view: Tensor, t: float, n: int) -> Tensor:
    """The log of what is missing where k of the n rows are 0: 2 k (n - k) (e^t - 1) + k (k - 1) (e^{2t} - 1).

    A zero row is at distance 1 from unit vectors and 0 from other zero rows, where the formula for unit vectors takes sqrt(2).
    """
    zeros = total((view == 0).all(1).sum().to(view.dtype))
    mixed, both = (x + math.log(-math.expm1(-x)) for x in (t, 2 * t))  # log(e^x - 1)
    return torch.logaddexp((2 * zeros * (n - zeros)).log() + mixed, (zeros * (zeros - 1)).log() + both)

"""NT-Xent, the contrastive loss of SimCLR, and DirectCLR: NT-Xent of the first coordinates of the representation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere, row_logsumexp
from grassmann_ssl.precision import full_precision


@declare(
    source="Chen et al. 2020, arXiv 2002.05709, eq. (1)",
    rotation_invariant=True,
    directional=True,
    checks={"temperature": positive},
    rows=2,
)
@full_precision
def nt_xent(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """NT-Xent on two views: the cross-entropy of identifying the other view of a row among all other rows.

    L = -(1/2N) sum_i log[ e^{c(i, i')/T} / sum_{j != i} e^{c(i, j)/T} ],   i, j over the 2N rows of both views, i' the other view
    of i, c(i, j) the cosine of rows i and j, T the temperature.
    Shapes (n, d), (n, d) -> scalar, N the n of all processes. Rotation-invariant. For N > 512 no 2N x 2N matrix is stored, forward or
    backward; every temperature is exact, in float32 as well. Once differentiable.
    Raises ValueError where the temperature is not positive, and for fewer than two rows in total.
    Source: Chen et al. 2020, arXiv 2002.05709, eq. (1) and algorithm 1.
    """
    positive("temperature", temperature)
    n = process_count() * len(z)
    u = on_unit_sphere(torch.cat([z, z_positive]))
    one, other = u.chunk(2)
    attraction = torch.linalg.vecdot(one, other).repeat(2) / temperature
    # log(e^s / (e^s + e^l)) with l of the negatives alone: near 0 the loss and its gradient keep their digits.
    return -total(F.logsigmoid(attraction - row_logsumexp(u, temperature, apart=len(z))).sum()) / (2 * n)


@declare(
    source="Jing et al. 2022, arXiv 2110.09348, sec. 6",
    rotation_invariant=False,
    directional=True,
    checks={"temperature": positive},
    rows=2,
)
def directclr(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    dimensions: int | None = None,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """DirectCLR on two views: `nt_xent` of the first coordinates of the representation, without a projection head.

    L = NT-Xent of z[:, :k] and z'[:, :k], k = `dimensions` or, without it, half of all, the cosine that of the k coordinates alone.
    Shapes (n, d), (n, d) -> scalar. Not rotation-invariant: it selects k of the d coordinates.
    Raises ValueError unless 1 <= k <= d, and as `nt_xent`.
    Source: Jing et al. 2022, arXiv 2110.09348, sec. 6.
    """
    if dimensions is None:
        dimensions = max(1, z.shape[1] // 2)
    if not 1 <= dimensions <= z.shape[1]:
        raise ValueError(f"dimensions must be between 1 and the {z.shape[1]} columns of z, got {dimensions}")
    return nt_xent(z=z[:, :dimensions], z_positive=z_positive[:, :dimensions], temperature=temperature)

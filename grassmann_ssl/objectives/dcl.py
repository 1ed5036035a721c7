"""Decoupled contrastive learning: NT-Xent without the positive pair in its denominator."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, process_rank, total
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere, row_logsumexp
from grassmann_ssl.precision import full_precision


def _positive_or_none(name: str, value: float | None) -> None:
    if value is not None:
        positive(name, value)


@declare(
    source="Yeh et al. 2021, arXiv 2110.06848, eq. (6)",
    rotation_invariant=True,
    directional=True,
    checks={"temperature": positive, "sigma": _positive_or_none},
    rows=2,
)
@full_precision
def dcl(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], temperature: float = 0.1, sigma: float | None = None
) -> Float[Tensor, ""]:
    """DCL on two views, or DCLW where `sigma` is given.

    L = (1/2N) sum_i [-w_i c(i, i')/T + log sum_{j != i, i'} e^{c(i, j)/T}],   i, j over the 2N rows of both views, i' the other view
    of i, c(i, j) the cosine of rows i and j, T the temperature; w_i = 1, or for DCLW, without a gradient,
    w_i = 2 - e^{c(i, i')/sigma} / mean_j e^{c(j, j')/sigma}.
    Shapes (n, d), (n, d) -> scalar, N the n of all processes. Rotation-invariant. For N > 512 no 2N x 2N matrix is stored, forward or
    backward. Once differentiable. Raises ValueError for fewer than two rows in total.
    Source: Yeh et al. 2021, arXiv 2110.06848, eq. (6).
    """
    n = process_count() * len(z)
    u = on_unit_sphere(torch.cat([z, z_positive]))
    cosines = torch.linalg.vecdot(*u.chunk(2))
    attraction = cosines / temperature
    if sigma is not None:
        own = slice(process_rank() * len(z), (process_rank() + 1) * len(z))
        attraction = attraction * (2 - n * (all_rows(cosines.detach()) / sigma).softmax(0)[own])
    return total((row_logsumexp(u, temperature, apart=len(z)) - attraction.repeat(2)).sum()) / (2 * n)

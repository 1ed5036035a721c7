"""VIbCReg: VICReg with a covariance term that does not depend on the scale of dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.gram import centred, squared_moment_norm
from grassmann_ssl.objectives.registry import declare, not_negative
from grassmann_ssl.precision import full_precision

EPS = 1e-4  # of the deviations


@declare(
    source="Lee & Aune 2021, arXiv 2109.00783",
    rotation_invariant=False,
    checks=dict.fromkeys(("invariance", "variance", "covariance"), not_negative),
    rows=2,
)
@full_precision
def vibcreg(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 200.0,
) -> Float[Tensor, ""]:
    """VIbCReg on two views.

    L = invariance s(z, z') + variance [v(z) + v(z')] + covariance [c(z) + c(z')],
    s = (1/nd) sum_k ||z_k - z'_k||^2,   v(z) = (1/d) sum_j max(0, 1 - sqrt(C_jj + 1e-4)),   c(z) = (1/d^2) sum_{i != j} R_ij^2,
    C the covariance (unbiased) and R the correlation of the rows of all processes; a dimension without a spread has R = 0.
    Shapes (n, d), (n, d) -> scalar. Not rotation-invariant. Where d > n, no d x d matrix is formed. Raises
    ValueError for fewer than 2 rows.
    Source: Lee & Aune 2021, arXiv 2109.00783, in the convention of solo-learn. The whitening that the authors put at the end of the
    projection head is no part of the loss.
    """
    n, d = process_count() * len(z), z.shape[1]
    loss = invariance * total(torch.nn.functional.mse_loss(z, z_positive)) / process_count()
    for view in (z, z_positive):
        x = centred(view)
        squares = total(x.square().sum(0))
        loss = loss + variance * (1 - (squares / (n - 1) + EPS).sqrt()).relu().mean()
        real = squares > 0  # equal numbers, centred twice, are exactly 0
        unit = x / torch.where(real, squares, torch.inf).sqrt()
        loss = loss + covariance * (squared_moment_norm(unit, unit) - real.sum()) / d**2
    return loss

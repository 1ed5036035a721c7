"""TiCo: align views, and contrast them with the running second moment of embeddings."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare, not_negative, share
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@full_precision
def tico(
    *,
    prediction: Float[Tensor, " n d"],
    target: Float[Tensor, " n d"],
    moment: Float[Tensor, " d d"],
    rho: float = 8.0,
) -> Float[Tensor, ""]:
    """Distance of predictions from their targets, and their energy under a second moment C of embeddings.

    L = (1/n) sum_k [1 - u_k . t_k + rho u_k^T C u_k],   u, t the predictions and targets on the unit sphere. Shapes (n, d), (n, d), (d, d)
    -> scalar, n the rows of all processes. Targets get no gradient. Source: Zhu et al. 2022, arXiv 2206.10698.
    """
    u, target = on_unit_sphere(prediction), on_unit_sphere(target.detach())
    terms = torch.linalg.vecdot(u, rho * (u @ moment) - target)
    return 1 + total(terms.sum()) / (process_count() * len(u))


@torch.no_grad()
@full_precision
def moment_of_directions(*, z: Float[Tensor, " n d"]) -> Float[Tensor, " d d"]:
    """(1/n) sum_k u_k u_k^T, u_k = z_k / ||z_k||, over the rows of all processes, without a gradient."""
    u = on_unit_sphere(z)
    return total(u.T @ u) / (process_count() * len(u))


@declare(
    name="tico",
    source="Zhu et al. 2022, arXiv 2206.10698, eq. (4)",
    rotation_invariant=False,
    directional=True,
    checks={"beta": share, "rho": not_negative},
)
class Tico(nn.Module):
    """`tico` with the running moment C <- beta C + (1 - beta) B, at first 0, B that of the predictions, without a gradient.

    Targets are embeddings of the encoder, or of a teacher, as in the source. Not rotation-invariant: C holds coordinates. It is where C
    becomes Q^T C Q with z Q, and so is its first step.
    Source: Zhu et al. 2022, arXiv 2206.10698, eq. (4), with the rho of lightly. Deviations: all views are predictions; the B of a loss is
    that of its own view, what is remembered that of all of them.
    """

    moment: Tensor

    def __init__(self, *, dim: int, beta: float = 0.9, rho: float = 8.0) -> None:
        super().__init__()
        self.beta, self.rho = beta, rho
        self.register_buffer("moment", torch.zeros(dim, dim))

    def forward(self, *, prediction: Tensor, target: Tensor, projection: Tensor | None = None) -> Tensor:
        moment = self._with(moment_of_directions(z=prediction))
        return tico(prediction=prediction, target=target, moment=moment, rho=self.rho)

    def remember(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Move the running moment to that of the predictions of all views."""
        self.moment.copy_(self._with(moment_of_directions(z=torch.cat(list(predictions)))))

    def _with(self, batch: Tensor) -> Tensor:
        return self.moment.lerp(batch.to(self.moment.dtype), 1 - self.beta)

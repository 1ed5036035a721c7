"""MoCo: identify the other view of a row, as a momentum teacher embeds it, among the embeddings of past batches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.queue import Queue
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@full_precision
def moco(
    *,
    prediction: Float[Tensor, " n d"],
    target: Float[Tensor, " n d"],
    queue: Float[Tensor, " k d"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Cross-entropy of identifying the target of a row among the rows of a queue.

    L = -(1/n) sum_i log[ e^{c(p_i, t_i)/T} / (e^{c(p_i, t_i)/T} + sum_j e^{c(p_i, r_j)/T}) ],   p the predictions, t the targets, r the
    queue, of length 1, c the cosine, T the temperature. Shapes (n, d), (n, d), (k, d) -> scalar, n the rows of all processes. Targets get
    no gradient. Source: He et al. 2020, arXiv 1911.05722, eq. (1).
    """
    u, target = on_unit_sphere(prediction), on_unit_sphere(target.detach())
    attraction = torch.linalg.vecdot(u, target) / temperature
    repulsion = (u @ queue.T / temperature).logsumexp(1)
    return -total(F.logsigmoid(attraction - repulsion).sum()) / (process_count() * len(u))


@declare(
    name="moco",
    source="He et al. 2020, arXiv 1911.05722, eq. (1) and algorithm 1",
    rotation_invariant=False,
    directional=True,
    needs_teacher=True,
    checks={"temperature": positive, "queue": positive},
)
class Moco(nn.Module):
    """`moco` with the queue of the targets of past batches.

    The targets are those of a momentum teacher. Not rotation-invariant: the queue holds coordinates of past embeddings. It is where the
    queue is turned too.
    Source: He et al. 2020, arXiv 1911.05722, eq. (1) and algorithm 1. Deviations: all views are predictions and targets, as in the
    authors' code for small images, from which the length of the queue is, too (65,536 for ImageNet).
    """

    def __init__(self, *, dim: int, temperature: float = 0.07, queue: int = 4096) -> None:
        super().__init__()
        self.temperature, self.queue = temperature, Queue(queue, dim)

    def forward(self, *, prediction: Tensor, target: Tensor, projection: Tensor | None = None) -> Tensor:
        rows = self.queue.rows.clone()  # the queue moves on before backward
        return moco(prediction=prediction, target=target, queue=rows, temperature=self.temperature)

    def remember(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Put the targets of all views in the queue."""
        for target in targets:
            self.queue.put(target)

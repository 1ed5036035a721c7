"""NNCLR: identify the nearest neighbour of the other view, among past embeddings, in the batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import all_rows, process_count, process_rank, total
from grassmann_ssl.objectives.queue import Queue
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@full_precision
def nnclr(
    *,
    prediction: Float[Tensor, " n d"],
    target: Float[Tensor, " n d"],
    support: Float[Tensor, " k d"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Cross-entropy of identifying the prediction of a row, among all predictions, by the nearest neighbour of its target in a support set.

    L = -(1/n) sum_i log[ e^{c(s_i, p_i)/T} / sum_j e^{c(s_i, p_j)/T} ],   s_i the row of the support set, of length 1, with the largest
    c(s, t_i), p the predictions, t the targets, c the cosine, T the temperature. Shapes (n, d), (n, d), (k, d) -> scalar; i, j over the
    rows of all processes. Targets get no gradient. Source: Dwibedi et al. 2021, arXiv 2104.14548, eq. (2)-(4).
    """
    neighbours = support[(on_unit_sphere(target.detach()) @ support.T).argmax(1)]
    logits = neighbours @ all_rows(on_unit_sphere(prediction)).T / temperature
    own = process_rank() * len(prediction) + torch.arange(len(prediction), device=logits.device)
    return total(F.cross_entropy(logits, own, reduction="sum")) / (process_count() * len(prediction))


@declare(
    name="nnclr",
    source="Dwibedi et al. 2021, arXiv 2104.14548, eq. (2)-(4) and algorithm 1",
    rotation_invariant=False,
    directional=True,
    rows=2,
    checks={"temperature": positive, "support": positive},
)
class Nnclr(nn.Module):
    """`nnclr` with a support set of the targets of past batches, those of the first view.

    Targets are embeddings of the encoder, or of a teacher. Not rotation-invariant: the support set holds coordinates of past embeddings.
    It is where that is turned too. The authors' predictor, an mlp, is not rotation-equivariant either.
    Source: Dwibedi et al. 2021, arXiv 2104.14548, eq. (2)-(4) and algorithm 1. Deviation: a shorter support set (98,304 for ImageNet).
    """

    def __init__(self, *, dim: int, temperature: float = 0.1, support: int = 4096) -> None:
        super().__init__()
        self.temperature, self.support = temperature, Queue(support, dim)

    def forward(self, *, prediction: Tensor, target: Tensor, projection: Tensor | None = None) -> Tensor:
        rows = self.support.rows
        return nnclr(prediction=prediction, target=target, support=rows, temperature=self.temperature)

    def remember(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Put the targets of the first view in the support set."""
        self.support.put(targets[0])

"""DINO: predict the class that a momentum teacher gives the other view, of classes that nobody named."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare, positive, share
from grassmann_ssl.precision import full_precision


@full_precision
def dino(
    *,
    prediction: Float[Tensor, " n d"],
    target: Float[Tensor, " n d"],
    centre: Float[Tensor, " d"],
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Float[Tensor, ""]:
    """Cross-entropy of the classes of predictions under those of centred targets, both by their logits.

    L = -(1/n) sum_k sum_j q_kj log p_kj,   p_k = softmax(prediction_k / temperature), q_k = softmax((target_k - centre) /
    teacher_temperature). Shapes (n, d), (n, d), (d,) -> scalar, n the rows of all processes. Targets get no gradient.
    Source: Caron et al. 2021, arXiv 2104.14294, eq. (1)-(2).
    """
    classes = ((target.detach() - centre) / teacher_temperature).softmax(1)
    log_p = (prediction / temperature).log_softmax(1)
    return -total((classes * log_p).sum()) / (process_count() * len(prediction))


@declare(
    name="dino",
    source="Caron et al. 2021, arXiv 2104.14294, eq. (1)-(4)",
    rotation_invariant=False,
    needs_teacher=True,
    checks={"temperature": positive, "teacher_temperature": positive, "momentum": share},
)
class Dino(nn.Module):
    """`dino` with the running mean of the targets as the centre, at first 0.

    Embeddings are logits: the last layer of the projection head holds the prototypes, one a dimension, and a constraint on it makes
    them orthonormal. The targets are those of a momentum teacher. Not rotation-invariant: each dimension is a class.
    Source: Caron et al. 2021, arXiv 2104.14294, eq. (1)-(4). Deviations: the teacher's temperature is constant; the
    authors' head normalises what enters its last layer.
    """

    centre: Tensor

    def __init__(
        self, *, dim: int, temperature: float = 0.1, teacher_temperature: float = 0.04, momentum: float = 0.9
    ) -> None:
        super().__init__()
        self.temperature, self.teacher_temperature, self.momentum = temperature, teacher_temperature, momentum
        self.register_buffer("centre", torch.zeros(dim))

    def forward(self, *, prediction: Tensor, target: Tensor, projection: Tensor | None = None) -> Tensor:
        settings = {"temperature": self.temperature, "teacher_temperature": self.teacher_temperature}
        return dino(prediction=prediction, target=target, centre=self.centre, **settings)

    @torch.no_grad()
    def remember(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Move the centre to the mean of the targets of all views."""
        rows = torch.cat(list(targets)).to(self.centre.dtype)
        self.centre.lerp_(total(rows.sum(0)) / (process_count() * len(rows)), 1 - self.momentum)

"""SwAV: predict the prototypes of a view from the other, with prototypes that all have equal shares of the batch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare, positive
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@full_precision
def swav(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    prototypes: Float[Tensor, " k d"],
    temperature: float = 0.1,
    epsilon: float = 0.05,
) -> Float[Tensor, ""]:
    """Cross-entropy of the prototypes of each view under the codes of the other.

    L = -(1/2n) sum_k sum_j [q'_kj log p_kj + q_kj log p'_kj],   p_k = softmax_j(c(z_k, m_j) / temperature), m the prototypes, c the cosine,
    q = `codes` of the cosines, without a gradient; primes are of z'. Shapes (n, d), (n, d), (k, d) -> scalar, n the rows of all processes.
    Source: Caron et al. 2020, arXiv 2006.09882, eq. (1)-(2).
    """
    directions = on_unit_sphere(prototypes)
    one, other = (on_unit_sphere(v) @ directions.T for v in (z, z_positive))
    swapped = (codes(other, epsilon) * (one / temperature).log_softmax(1)).sum()
    swapped = swapped + (codes(one, epsilon) * (other / temperature).log_softmax(1)).sum()
    return -total(swapped) / (2 * process_count() * len(z))


@torch.no_grad()
def codes(scores: Float[Tensor, " n k"], epsilon: float, iterations: int = 3) -> Float[Tensor, " n k"]:
    """Soft assignments of rows to prototypes, each of which has the same share of the rows of all processes: Sinkhorn's algorithm.

    Diag(u) e^{scores / epsilon} Diag(v), after so many normalisations of columns and rows in turn; rows sum to 1.
    Source: Caron et al. 2020, arXiv 2006.09882, eq. (3)-(5).
    """
    out = (scores / epsilon).exp()
    for _ in range(iterations):
        out = out / total(out.sum(0))
        out = out / out.sum(1, keepdim=True)
    return out


@declare(
    name="swav",
    source="Caron et al. 2020, arXiv 2006.09882, eq. (1)-(5)",
    rotation_invariant=False,
    directional=True,
    detached="the codes",
    checks=dict.fromkeys(("temperature", "epsilon", "prototypes"), positive),
)
class Swav(nn.Module):
    """`swav` with prototypes that are trained with the encoder.

    Not rotation-invariant: the prototypes are coordinates. It is where they are turned too, so that the least loss over all prototypes is.
    Source: Caron et al. 2020, arXiv 2006.09882, eq. (1)-(5). Deviations: small crops have codes too; no queue of past embeddings; the
    prototypes are not frozen at first, and are normalised where they are used instead of after every step; fewer of them (3,000 for
    ImageNet), so that a batch of a few hundred has rows for each.
    """

    def __init__(self, *, dim: int, temperature: float = 0.1, epsilon: float = 0.05, prototypes: int = 128) -> None:
        super().__init__()
        self.temperature, self.epsilon = temperature, epsilon
        self.prototypes = nn.Parameter(on_unit_sphere(torch.randn(prototypes, dim)))

    def forward(self, *, z: Tensor, z_positive: Tensor) -> Tensor:
        settings = {"temperature": self.temperature, "epsilon": self.epsilon}
        return swav(z=z, z_positive=z_positive, prototypes=self.prototypes, **settings)

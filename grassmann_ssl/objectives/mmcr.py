"""MMCR: maximise the nuclear norm of the mean views, and with it the capacity of the manifolds of views."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows
from grassmann_ssl.objectives.registry import declare
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@declare(source="Yerxa et al. 2023, arXiv 2303.03307", rotation_invariant=True, directional=True)
@full_precision
def mmcr(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Maximum manifold capacity on two views, normalised to the unit sphere.

    L = -||C||_* / sqrt(N) = -tr S^{1/2},   C the N rows (u_k + u'_k) / 2, u_k = z_k / ||z_k||, S = C^T C / N, ||.||_* the sum of singular
    values. Shapes (n, d), (n, d) -> scalar, N the n of all processes. Rotation-invariant. Its minimum, reached by equal isotropic views,
    is -sqrt(d) for N >= d; complete collapse has L = -1. Where C has not full rank, the gradient is one of the subgradients.
    Source: Yerxa et al. 2023, arXiv 2303.03307 with lambda = 0, as the authors train. Deviation: divided by sqrt(N), so that it does
    not grow with the batch.
    """
    centroids = all_rows((on_unit_sphere(z) + on_unit_sphere(z_positive)) / 2)
    capacity: Tensor = torch.linalg.svdvals(centroids).sum()
    return -capacity / math.sqrt(len(centroids))

"""Predictive losses: regress the embedding of the other view, under stop-gradient, from a prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@declare(
    source="Chen & He 2021, arXiv 2011.10566, eq. (1); Grill et al. 2020, arXiv 2006.07733, eq. (2)",
    rotation_invariant=True,
    directional=True,
)
@full_precision
def negative_cosine(*, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Negative cosine similarity -(1/n) sum_k cos(p_k, sg(t_k)), sg the stop-gradient. Shapes (n, d), (n, d) -> scalar.

    One of the two terms of the symmetrised loss of SimSiam, their mean; 2 + 2 L is one of the two terms of that of BYOL, their sum.
    Rotation-invariant under a common rotation of p and t. Source: Chen & He 2021, arXiv 2011.10566, eq. (1); Grill et al. 2020,
    arXiv 2006.07733, eq. (2).
    """
    return -_mean(torch.linalg.vecdot(on_unit_sphere(prediction), on_unit_sphere(target.detach())))


@declare(source="Tian et al. 2021, arXiv 2102.06810, eq. (1)", rotation_invariant=True)
@full_precision
def euclidean(*, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Squared error (1/n) sum_k ||p_k - sg(t_k)||^2, sg the stop-gradient. Shapes (n, d), (n, d) -> scalar.

    Rotation-invariant under a common rotation of p and t. The loss of the linear theory of predictors, without its factor 1/2.
    Source: Tian et al. 2021, arXiv 2102.06810, eq. (1).
    """
    return _mean((prediction - target.detach()).square().sum(-1))


@declare(source="Halvagal et al. 2023, arXiv 2212.04858, sec. 4", rotation_invariant=True)
@full_precision
def isoloss(
    *, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"], projection: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """IsoLoss for Euclidean distance: `euclidean` with the gradient passed to the projection as if the predictor were the identity.

    (1/n) sum_k ||z_k - sg(t_k + z_k - p_k)||^2, with gradient 2 (p - t) / n in z and none in p and t. All modes of the predictor then
    learn at the same rate. Shapes (n, d) three times -> scalar. Source: Halvagal et al. 2023, arXiv 2212.04858, sec. 4.
    """
    return euclidean(prediction=_passed_through(prediction, projection), target=target)


@declare(source="Halvagal et al. 2023, arXiv 2212.04858, sec. 4", rotation_invariant=True, directional=True)
@full_precision
def isoloss_cosine(
    *, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"], projection: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """IsoLoss for cosine similarity: `negative_cosine` with the gradient passed to the projection as if the predictor were the identity.

    -(1/n) sum_k cos(z_k + sg(p_k - z_k), sg(t_k)): dL/dz equals dL/dp of `negative_cosine`. Shapes (n, d) three times -> scalar.
    Deviation from the source: its loss has that gradient (times 2) but another value, and is for symmetric linear predictors, through
    their matrix square root; here the value is the negative cosine, and the predictor may be any function.
    Source: Halvagal et al. 2023, arXiv 2212.04858, sec. 4.
    """
    return negative_cosine(prediction=_passed_through(prediction, projection), target=target)


def _passed_through(prediction: Tensor, projection: Tensor) -> Tensor:
    """The prediction in value, the projection in gradient."""
    return projection + (prediction - projection).detach()


def _mean(x: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return total(x.sum()) / (process_count() * len(x))

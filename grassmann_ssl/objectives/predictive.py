"""Losses of a predictor: bring the prediction from one view to the other view, which does not move."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare
from grassmann_ssl.precision import full_precision


@declare(
    source="Chen & He 2021, arXiv 2011.10566, eq. (1); Grill et al. 2020, arXiv 2006.07733, eq. (2)",
    rotation_invariant=True,
    directional=True,
)
@full_precision
def negative_cosine(*, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """-(1/n) sum_k cos(p_k, t_k), t without gradient. Shapes (n, d), (n, d) -> scalar.

    One direction of the loss of SimSiam, which is the mean of both; 2 + 2 L is one direction of that of BYOL, which is the sum of both.
    Rotation-invariant where p and t turn together. Source: Chen & He 2021, arXiv 2011.10566, eq. (1); Grill et al. 2020,
    arXiv 2006.07733, eq. (2).
    """
    return -_mean(cosine_similarity(prediction, target.detach(), dim=-1))


@declare(source="Tian et al. 2021, arXiv 2102.06810, eq. (1)", rotation_invariant=True)
@full_precision
def euclidean(*, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """(1/n) sum_k ||p_k - t_k||^2, t without gradient. Shapes (n, d), (n, d) -> scalar.

    Rotation-invariant where p and t turn together. The loss of the linear theory of predictors, without its factor 1/2.
    Source: Tian et al. 2021, arXiv 2102.06810, eq. (1).
    """
    return _mean((prediction - target.detach()).square().sum(-1))


@declare(source="Halvagal et al. 2023, arXiv 2212.04858, sec. 4", rotation_invariant=True)
@full_precision
def isoloss(
    *, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"], projection: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """IsoLoss for Euclidean distance: `euclidean`, whose gradient goes to the projection as if the predictor were the identity.

    (1/n) sum_k ||z_k - sg(t_k + z_k - p_k)||^2, with gradient 2 (p - t) / n in z and none in p and t. All modes of the predictor then
    learn at one rate. Shapes (n, d) three times -> scalar. Source: Halvagal et al. 2023, arXiv 2212.04858, sec. 4.
    """
    return euclidean(prediction=_passed_through(prediction, projection), target=target)


@declare(source="Halvagal et al. 2023, arXiv 2212.04858, sec. 4", rotation_invariant=True, directional=True)
@full_precision
def isoloss_cosine(
    *, prediction: Float[Tensor, " n d"], target: Float[Tensor, " n d"], projection: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """IsoLoss for cosine similarity: `negative_cosine`, whose gradient goes to the projection as if the predictor were the identity.

    -(1/n) sum_k cos(z_k + sg(p_k - z_k), sg(t_k)): dL/dz is what dL/dp of `negative_cosine` is, at p. Shapes (n, d) three times ->
    scalar. Deviation from the source: it writes a loss with that gradient (times 2) for symmetric linear predictors by means of their
    square root, whose value is another; here the value is the negative cosine, and the predictor may be any function.
    Source: Halvagal et al. 2023, arXiv 2212.04858, sec. 4.
    """
    return negative_cosine(prediction=_passed_through(prediction, projection), target=target)


def _passed_through(prediction: Tensor, projection: Tensor) -> Tensor:
    """The prediction in value, the projection in gradient."""
    return projection + (prediction - projection).detach()


def _mean(x: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return total(x.sum()) / (process_count() * len(x))

"""The four trace losses of Esser et al.: for a linear model all of them are tr(W^T C W).

Means over the n triplets where the paper sums: its times are n times smaller than ours.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.data.moments import Moments
from grassmann_ssl.objectives.registry import REGISTRY, declare


def trace_loss(*, weights: Float[Tensor, " *b m d"], matrix: Float[Tensor, " *#b m m"]) -> Float[Tensor, " *b"]:
    """L = tr(W^T C W) for a symmetric C. Shapes (..., m, d), (..., m, m) -> (...). Rotation-invariant; gradient 2 C W."""
    return (weights.mT @ matrix * weights.mT).sum((-2, -1))


def trace_slope(*, weights: Float[Tensor, " *b m d"], matrix: Float[Tensor, " *#b m m"]) -> Float[Tensor, " *b m d"]:
    """The gradient of `trace_loss`, 2 C W. Shapes (..., m, d), (..., m, m) -> (..., m, d)."""
    return (2 * matrix) @ weights


_trace = partial(
    declare,
    source="Esser et al. 2023, arXiv 2309.02011",
    rotation_invariant=True,
    moments=trace_loss,
    slope=trace_slope,
)


@_trace(matrix=lambda moments: moments.cross_negative - moments.cross)
def linear_contrastive(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], z_negative: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """Linear contrastive loss L = E[z . (z- - z+)]. Shapes (n, d) three times -> scalar. Rotation-invariant.

    Unbounded below. Source: Esser et al. 2023, arXiv 2309.02011.
    """
    return (z * (z_negative - z_positive)).sum(-1).mean()


@_trace(
    matrix=lambda moments: (
        (moments.second_positive - moments.second_negative) / 2 - moments.cross + moments.cross_negative
    )
)
def squared_contrastive(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], z_negative: Float[Tensor, " n d"]
) -> Float[Tensor, ""]:
    """Squared contrastive loss L = (1/2) E[||z - z+||^2 - ||z - z-||^2]. Shapes (n, d) three times -> scalar.

    Rotation-invariant, unbounded below. Source: Esser et al. 2023, arXiv 2309.02011.
    """
    return ((z - z_positive).square() - (z - z_negative).square()).sum(-1).mean() / 2


@_trace(matrix=lambda moments: -moments.cross)
def linear_noncontrastive(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Linear non-contrastive loss L = -E[z . z+]. Shapes (n, d), (n, d) -> scalar.

    Rotation-invariant, unbounded below. Source: Esser et al. 2023, arXiv 2309.02011.
    """
    return -(z * z_positive).sum(-1).mean()


@_trace(matrix=lambda moments: moments.second - moments.cross)
def squared_noncontrastive(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Squared non-contrastive loss L = (1/2) E||z - z+||^2. Shapes (n, d), (n, d) -> scalar.

    Rotation-invariant; its minimum 0 is reached at W = 0. Source: Esser et al. 2023, arXiv 2309.02011.
    """
    return (z - z_positive).square().sum(-1).mean() / 2


def trace_matrix(name: str, moments: Moments) -> Float[Tensor, " *b m m"]:
    """The symmetric matrix C (..., m, m) for which the trace loss `name` of a linear model is tr(W^T C W).

    linear_contrastive      (1/2) E[x (x- - x+)^T + (x- - x+) x^T]
    squared_contrastive     (1/2) E[(x - x+)(x - x+)^T - (x - x-)(x - x-)^T]
    linear_noncontrastive   -(1/2) E[x x+^T + x+ x^T]
    squared_noncontrastive  (1/2) E[(x - x+)(x - x+)^T]
    Raises ValueError for another name. Source: Esser et al. 2023, arXiv 2309.02011; the matrices are derived from it.
    """
    matrix = REGISTRY[name].matrix if name in REGISTRY else None
    if matrix is None:
        raise ValueError(f"{name!r} is not a trace loss")
    return matrix(moments)

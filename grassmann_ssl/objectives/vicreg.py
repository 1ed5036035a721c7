"""VICReg as published."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grassmann_ssl.distributed import all_rows, process_count, total
from grassmann_ssl.objectives.gram import centred
from grassmann_ssl.objectives.registry import declare, not_negative
from grassmann_ssl.precision import full_precision

EPS = 1e-4


@declare(
    source="Bardes et al. 2022, arXiv 2105.04906, eq. (1)-(6)",
    rotation_invariant=False,
    checks=dict.fromkeys(("invariance", "variance", "covariance"), not_negative),
    rows=2,
)
@full_precision
def vicreg(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Tensor, ""]:
    """VICReg on two views, in the convention of its authors' code.

    L = invariance s(z, z') + variance [v(z) + v(z')] / 2 + covariance [c(z) + c(z')],
    s = (1/nd) sum_k ||z_k - z'_k||^2,   v(z) = (1/d) sum_j max(0, 1 - sqrt(C_jj + 1e-4)),   c(z) = (1/d) sum_{i != j} C_ij^2,
    C = 1/(n-1) sum_k (z_k - mean) (z_k - mean)^T, with the rows of all processes. Shapes (n, d), (n, d) -> scalar. Raises
    ValueError for fewer than 2 rows. Not rotation-invariant: the hinge acts on single dimensions. Where d > n, no d x d matrix is formed.
    Once differentiable. Source: Bardes et al. 2022, arXiv 2105.04906, eq. (1)-(6), with the two deviations of its code: s is also a
    mean over dimensions, and the variance terms of the two views are averaged, not added.
    """
    s = total(torch.nn.functional.mse_loss(z, z_positive)) / process_count()
    spread = sum(_Spread.apply(v, variance / 2, covariance) for v in (z, z_positive))  # type: ignore[no-untyped-call]  # torch gives it no types
    return invariance * s + spread


class _Spread(torch.autograd.Function):
    """variance v(z) + covariance c(z), with a third of the products that autograd would take.

    With X the centred rows: dL/dX = X diag(w) + (4 covariance / d (n-1)^2) X (X^T X without its diagonal), w the slope of the hinge;
    its columns have mean 0, so that it is dL/dz too. Where d > n, by X X^T X with those rows of X X^T that belong to this process.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, variance: float, covariance: float) -> Tensor:
        n, d = process_count() * len(z), z.shape[1]
        x = centred(z)
        if d > n:
            every = all_rows(x)
            products = x @ every.T
            squares = total((x * x).sum(0)) / (n - 1)
            off_diagonal = total(products.square().sum()) / (n - 1) ** 2 - squares.square().sum()
        else:
            every = x
            products = total(x.T @ x)
            squares = products.diagonal() / (n - 1)
            products.fill_diagonal_(0)
            off_diagonal = products.square().sum() / (n - 1) ** 2
        deviation = (squares + EPS).sqrt()
        weight = (deviation < 1) * deviation.reciprocal() * (-variance / (d * (n - 1)))
        scale = 4 * covariance / (d * (n - 1) ** 2)
        if d > n:
            weight = weight - (scale * (n - 1)) * squares
        ctx.scale, ctx.by_rows = scale, d > n
        ctx.save_for_backward(x, every, products, weight)
        return (variance / d) * (1 - deviation).relu().sum() + (covariance / d) * off_diagonal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, every, products, weight = ctx.saved_tensors
        gradient = total(gradient)
        products = products * (ctx.scale * gradient)
        slope = products @ every if ctx.by_rows else x @ products
        return slope.addcmul_(x, weight * gradient), None, None

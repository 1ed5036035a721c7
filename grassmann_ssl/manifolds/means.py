"""The Frechet mean of subspaces: the one with the least sum of squared geodesic distances."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.orthonormal import householder_qr, refined
from grassmann_ssl.manifolds.tall import inner_products, norm
from grassmann_ssl.precision import FULL, no_autocast
from grassmann_ssl.shown import Shown


@dataclass(frozen=True, repr=False)
class Mean(Shown):
    """The result of `frechet_mean`: a basis of the mean, and how well it converged.

    gradient_norm is the length of sum_i w_i Log_X(Y_i), 0 at a mean; converged where it is within the tolerance; variance is
    sum_i w_i dist^2(X, Y_i).
    """

    mean: Inexact[Tensor, " *b n p"]
    iterations: int
    gradient_norm: Float[Tensor, " *b"]
    converged: Bool[Tensor, " *b"]
    variance: Float[Tensor, " *b"]


@torch.no_grad()
def frechet_mean(
    points: Tensor, weights: Tensor | None = None, tolerance: float | None = None, max_iterations: int = 100
) -> Mean:
    """The mean of k subspaces with bases Y_i, `points` (..., k, n, p), weighted by `weights` (..., k), equal where not given.

    X <- Exp_X(sum_i w_i Log_X(Y_i)) from the dominant eigenspace of sum_i w_i Y_i Y_i^H, the mean in the chordal distance. The
    curvature is not negative, so the Hessian of dist^2/2 is at most the identity and no step increases the variance. The mean is unique
    for points within a ball of radius below pi/4; of points further apart a stationary point comes back. Each member of the
    batch stops where the gradient is within `tolerance`, 16 eps sqrt(p) unless given; weights need not sum to 1. No gradient is
    recorded. Waits for the device at every iteration. Failure to converge is reported, not raised. Raises ValueError for shapes,
    weights, tolerances and iterations that are none, TypeError for dtypes. Source: Karcher 1977, Comm. Pure Appl. Math. 30, 509;
    Afsari 2011, Proc. AMS 139, 655.
    """
    if points.dtype not in FULL:
        raise TypeError(f"points must be float32, float64, complex64 or complex128, got {points.dtype}")
    if points.ndim < 3 or not points.shape[-2] >= points.shape[-1] >= 1 or points.shape[-3] < 1:
        raise ValueError(
            f"points must have shape (..., k, n, p) with k >= 1 and n >= p >= 1, got {tuple(points.shape)}"
        )
    if tolerance is None:
        tolerance = 16 * torch.finfo(points.dtype).eps * points.shape[-1] ** 0.5
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    if max_iterations < 0:
        raise ValueError(f"max_iterations must not be negative, got {max_iterations}")
    normalised = _normalised(weights, points)
    with no_autocast(points.device.type):
        return _iterate(points, normalised[..., None, None], tolerance, max_iterations)


def _iterate(points: Tensor, weights: Tensor, tolerance: float, max_iterations: int) -> Mean:
    manifold = Grassmann()
    start, iterations = _dominant_subspace(points * weights.sqrt()), 0
    mean = refined(start, inner_products(start, start))  # eigenvectors are orthonormal to some ten eps
    while True:
        logarithms = manifold.logmap(mean.unsqueeze(-3), points)
        step = (weights * logarithms).sum(-3)
        length = norm(step)
        converged = length <= tolerance
        if iterations == max_iterations or bool(converged.all()):
            variance = (weights * logarithms.abs().square()).sum((-3, -2, -1))
            return Mean(mean, iterations, length, converged, variance)
        mean = torch.where(converged[..., None, None], mean, manifold.expmap(mean, step))
        iterations += 1


def _dominant_subspace(points: Tensor) -> Tensor:
    """The p leading left singular vectors of [Y_1 ... Y_k] (..., n, k p), from the smaller of its two Gram matrices.

    Of the eigenvalues of sum_i w_i Y_i Y_i^H, at most 1 each and p in all, the p-th is at least 1/(k p): the Gram matrix loses nothing.
    """
    n, p = points.shape[-2:]
    stacked = points.movedim(-3, -2).flatten(-2)
    if stacked.shape[-1] < n:
        return householder_qr(stacked @ torch.linalg.eigh(inner_products(stacked, stacked))[1][..., -p:])
    vectors: Tensor = torch.linalg.eigh(stacked @ stacked.mH)[1]
    return vectors[..., -p:].contiguous()


def _normalised(weights: Tensor | None, points: Tensor) -> Tensor:
    shape, dtype = points.shape[:-2], points.real.dtype
    if weights is None:
        return torch.full(shape, 1 / shape[-1], dtype=dtype, device=points.device)
    if weights.ndim < 1 or weights.shape[-1] != shape[-1]:
        raise ValueError(f"weights must have shape (..., k) with k = {shape[-1]}, got {tuple(weights.shape)}")
    if weights.is_complex():
        raise ValueError(f"weights must be real, got {weights.dtype}")
    weights = weights.to(dtype)
    total = weights.sum(-1, keepdim=True)
    if not bool(((weights >= 0).all(-1, keepdim=True) & (total > 0) & total.isfinite()).all()):  # false for NaN
        raise ValueError("weights must be finite and not negative, with a positive sum")
    return weights / total

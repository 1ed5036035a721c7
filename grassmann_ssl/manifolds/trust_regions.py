"""pymanopt's trust regions with fewer calls an inner iteration, for manifolds whose metric is the sum of products."""

import math
from typing import Any

import pymanopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.pymanopt_loss import TorchBackend


class TrustRegions(pymanopt.optimizers.TrustRegions):  # type: ignore[misc]  # pymanopt has no types
    """pymanopt's outer iteration around truncated conjugate gradients of our own, with torch points and the metric <U, V> = sum U V.

    An inner iteration is a Hessian-vector product, two inner products and three sums in place. pymanopt's has three inner products, three
    sums and a projection more: of the search direction, which stays tangent to rounding, since every Hessian-vector product is projected;
    and of the model, which falls by alpha ||r||^2 / 2 in each of them, and which the outer iteration checks for the step as a whole.
    For problems on a `TorchManifold` that `is_dot`, whose loss is that of `backend`; takes neither a preconditioner nor random starts.
    Source: Absil, Baker, Gallivan 2007, Found. Comput. Math. 7, 303, algorithm 2.
    """

    def __init__(self, backend: TorchBackend, **options: Any) -> None:
        super().__init__(**options)
        self.backend = backend

    def _truncated_conjugate_gradient(
        self,
        problem: Any,
        x: Tensor,
        fgradx: Tensor,
        eta: Tensor,
        Delta: float,  # as pymanopt calls it
        theta: float,
        kappa: float,
        mininner: int,
        maxinner: int,
    ) -> tuple[Tensor, Tensor, int, int]:
        """The step, the Hessian applied to it, the number of the last iteration, and why it was the last."""
        euclidean = self.backend.hessian_at(x)
        riemannian = problem.manifold.manifold.hessian_at(x, self.backend.gradient(x))
        gradient = fgradx.reshape(-1)
        along = gradient.clone()  # minus the search direction
        ascent = along.view(x.shape)
        residual, step = gradient.clone(), torch.zeros_like(gradient)
        squared = torch.dot(gradient, gradient).item()
        first = math.sqrt(squared)
        # No further than the run asks for; half of it is left to what the model does not see.
        target = max(first * min(first**theta, kappa), self._min_gradient_norm / 2)
        # Inner products of the step and the search direction by recurrence: Conn, Gould, Toint 2000, eq. (7.5.5) to (7.5.7).
        step_step, step_direction, direction_direction = 0.0, 0.0, squared
        reason, j = self.MAX_INNER_ITER, 0
        for j in range(int(maxinner)):
            curved = riemannian(euclidean(ascent), ascent).reshape(-1)
            curvature = torch.dot(along, curved).item()
            if not math.isfinite(curvature):
                self.backend.refuse("Hessian")
            length = squared / curvature if curvature > 0 else math.inf
            ahead = step_step + length * (2 * step_direction + length * direction_direction)
            if not ahead < Delta**2:
                root = math.sqrt(step_direction**2 + direction_direction * (Delta**2 - step_step))
                length = (root - step_direction) / direction_direction
                reason = self.EXCEEDED_TR if curvature > 0 else self.NEGATIVE_CURVATURE
            step.sub_(along, alpha=length)
            residual.sub_(curved, alpha=length)
            if reason != self.MAX_INNER_ITER:
                break
            before, squared = squared, torch.dot(residual, residual).item()
            if squared == 0 or (j >= mininner and math.sqrt(squared) <= target):
                reason = self.REACHED_TARGET_LINEAR if kappa < first**theta else self.REACHED_TARGET_SUPERLINEAR
                break
            ratio = squared / before
            torch.add(residual, along, alpha=ratio, out=along)
            step_step = ahead
            step_direction = ratio * (step_direction + length * direction_direction)
            direction_direction = squared + ratio**2 * direction_direction
        return step.view(x.shape), (residual - gradient).view(x.shape), j, reason

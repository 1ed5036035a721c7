"""The Grassmann manifold Gr(n, p): p-dimensional subspaces of R^n, each given by any orthonormal basis."""

import math

import torch
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.matrix_functions import trigonometric
from grassmann_ssl.manifolds.orthonormal import cholesky_qr
from grassmann_ssl.manifolds.subspaces import principal_angles


class Grassmann(OrthonormalMatrices):
    """Gr(n, p): points X (..., n, p) with X^T X = I up to X -> X Q, horizontal tangent vectors X^T U = 0, metric tr(U^T V).

    Every operation is equivariant: from (X Q, U Q) it gives the result of (X, U) times Q. The one exception is the basis that `retr`
    returns: its span is that of every retraction of X + U, but the triangular factor turns its columns by O(||U||^2), and a vector that
    `retr_transp` carries along is not turned with them. Any leading batch dimensions, float32 or float64. In this metric the injectivity
    radius is pi/2 and the sectional curvature lies in [0, 2]. Closed forms go through p x p matrices (U^T U, X^T Y) only. Works with
    geoopt's optimizers, `ManifoldParameter`, `Scaled` and `ProductManifold` unchanged.
    Sources: EAS98 = Edelman, Arias, Smith 1998, SIAM J. Matrix Anal. 20, 303; AMS08 = Absil, Mahony, Sepulchre 2008; BZA =
    Bendokat, Zimmermann, Absil, arXiv 2011.13699.
    """

    name = "Grassmann"

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The horizontal part (I - X X^T) U. Source: EAS98, sec. 2.5.1."""
        return u - x @ (x.mT @ u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic from X with velocity U at time 1: X cos(S^{1/2}) + U sinc(S^{1/2}), S = U^T U.

        With U = H theta V^T this is X V cos(theta) V^T + H sin(theta) V^T of the source; the p x p functions are entire in S,
        so that U = 0 and repeated singular values are ordinary points. Ends with Cholesky-QR, which undoes rounding. Source:
        EAS98, eq. (2.65).
        """
        cosine, sinc, _ = trigonometric(u.mT @ u)
        return cholesky_qr(x @ cosine + u @ sinc)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest U with span Exp_X(U) = span(Y), right up to the cut locus.

        Q C R^T = svd(Y^T X), p x p; Y* = Y Q is the basis of Y aligned with X R; H = Y* - X X^T Y*; theta_i = atan2(||H_i||, c_i);
        U = H diag(theta / ||H||) R^T. Where the largest principal angle is pi/2 the logarithm is not unique, and one of the shortest is
        returned. ||U|| = dist(X, Y). Source: BZA, algorithm 5.3, with atan2 for arcsin.
        """
        return _logarithm(x, y)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance, the norm of the principal angles: (...,), or (..., 1, 1) with `keepdim`. Source: EAS98, sec. 4.3.

        Its gradient, -Log_X(Y)/dist, does not exist at span(Y) = span(X); 0 is returned there.
        """
        squared = self.dist2(x, y, keepdim=keepdim)
        return torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Squared geodesic distance, the sum of squared principal angles, with gradient -2 Log_X(Y); shapes as `dist`."""
        squared = _SquaredDistance.apply(x, y)
        return squared[..., None, None] if keepdim else squared

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of V along the geodesic t -> Exp_X(t U), to its end.

        V - X sinc(S^{1/2}) U^T V - U (1 - cos S^{1/2})/S U^T V, S = U^T U: an isometry that takes U to the end velocity.
        Source: EAS98, eq. (2.68), in p x p functions.
        """
        return self.expmap_transp(x, u, v)[1]

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`expmap` and `transp_follow_expmap` at the price of one."""
        cosine, sinc, versine = trigonometric(u.mT @ u)
        along = u.mT @ v
        end = cholesky_qr(x @ cosine + u @ sinc)
        return end, v - x @ (sinc @ along) - u @ (versine @ along)

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`retr`, and V projected onto the tangent space at its end."""
        end = self.retr(x, u)
        return end, self.proju(end, v)

    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """A standard Gaussian tangent vector at X."""
        return self.proju(x, torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))

    @property
    def injectivity_radius(self) -> float:
        """pi/2: within it `logmap` inverts `expmap`."""
        return math.pi / 2


class _SquaredDistance(torch.autograd.Function):
    """dist^2 with its gradient supplied, -2 Log: no singular value is differentiated, so it is exact at Y = X and equal angles."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return principal_angles(x, y).square().sum(-1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        factor = -2 * gradient[..., None, None]
        return (factor * _logarithm(x, y)).sum_to_size(x.shape), (factor * _logarithm(y, x)).sum_to_size(y.shape)


def _logarithm(x: Tensor, y: Tensor) -> Tensor:
    q, cosines, rt = torch.linalg.svd(y.mT @ x)
    aligned = y @ q
    residual = aligned - x @ (x.mT @ aligned)
    sines = torch.linalg.vector_norm(residual, dim=-2)
    ratio = torch.where(sines > 0, torch.atan2(sines, cosines) / torch.where(sines > 0, sines, 1), 1)
    tangent = (residual * ratio[..., None, :]) @ rt
    return tangent - x @ (x.mT @ tangent)

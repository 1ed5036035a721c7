"""The Grassmann manifold Gr(n, p): p-dimensional subspaces of R^n or C^n, each given by any orthonormal basis."""

import math
from collections.abc import Callable

import geoopt
import torch
from geoopt.manifolds.base import ScalingInfo
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.matrix_functions import minus_product, trigonometric
from grassmann_ssl.manifolds.orthonormal import refined
from grassmann_ssl.manifolds.subspaces import (
    geodesic_distance,
    logarithm,
    procrustes,
    same_shape,
    squared_distance,
)
from grassmann_ssl.manifolds.tall import inner_products
from grassmann_ssl.precision import in_full_precision


class Grassmann(OrthonormalMatrices):
    """Gr(n, p): points X (..., n, p) with X^H X = I up to X -> X Q, horizontal tangent vectors X^H U = 0, metric Re tr(U^H V).

    Every operation is equivariant: from (X Q, U Q) it gives the result of (X, U) times Q. The one exception is the basis that the
    retraction "cholesky-qr" returns: its span is that of every retraction of X + U, but the triangular factor turns its columns by
    O(||U||^2); vectors transported by `retr_transp` are turned with them. Any leading batch dimensions. In this metric
    the injectivity radius is pi/2 and the sectional curvature lies in [0, 2]. Closed forms go through p x p matrices (U^H U, X^H Y) only.
    Works with geoopt's optimizers, `ManifoldParameter`, `Scaled` and `ProductManifold` unchanged; with the retraction "exponential", which
    is reversible, also with its samplers.
    Sources: EAS98 = Edelman, Arias, Smith 1998, SIAM J. Matrix Anal. 20, 303; AMS08 = Absil, Mahony, Sepulchre 2008; BZA =
    Bendokat, Zimmermann, Absil, arXiv 2011.13699.
    """

    name = "Grassmann"
    __scaling__ = geoopt.Manifold.__scaling__.copy()
    # Under geoopt.Scaled: the operations that geoopt.Manifold does not know.
    __scaling__ |= {
        "cdist": ScalingInfo(1),
        "parallel_transport": ScalingInfo(),
        "inverse_retr": ScalingInfo(1),
        "geodesic": ScalingInfo(),
        "sectional_curvature": ScalingInfo(-2),
        "ehess2rhess": ScalingInfo(),
        "random_tangent": ScalingInfo(),
        "injectivity_radius": ScalingInfo(1),
    }

    def __init__(self, retraction: str = "cholesky-qr") -> None:
        super().__init__(retraction)
        # The step back along the transported vector ends at X, as geoopt's samplers ask.
        self.reversible = retraction == "exponential"

    @in_full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The part of U in the tangent space at X: U - X X^H B U, and exactly 0 where n = p."""
        if x.shape[-2] == x.shape[-1]:
            # Gr(n, n) is one point. Computed, the projection would be rounding, which Adam and Muon scale up to a whole step.
            return 0 * (x * u)
        return minus_product(u, x, self._normal(x, u))

    def proju_(self, x: Tensor, u: Tensor, in_place: bool = True) -> Tensor:
        """`proju` in place of U, or of a new vector, for optimizers, which have gradients switched off."""
        if x.shape[-2] == x.shape[-1]:
            return u.mul_(0) if in_place else 0 * u
        return super().proju_(x, u, in_place)

    @in_full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic from X with velocity U at time 1: X cos(S^{1/2}) + U sinc(S^{1/2}), S = U^H U.

        With U = H theta V^H this is X V cos(theta) V^H + H sin(theta) V^H of the source; the p x p functions are entire in S,
        so that U = 0 and repeated singular values are ordinary points. Ends with a Newton-Schulz step, which undoes rounding. Source:
        EAS98, eq. (2.65).
        """
        cosine, sinc, _ = trigonometric(self.gram(u, u))
        return self._orthonormal(minus_product(x @ cosine, u, sinc, -1.0))

    @in_full_precision
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest U with span Exp_X(U) = span(Y), right up to the cut locus: H diag(theta) R^H of `relative_position`.

        Where the largest principal angle is pi/2 the logarithm is not unique (`cut_locus_margin` is 0), and one of the shortest is
        returned. ||U|| = dist(X, Y). Source: BZA, algorithm 5.3, with atan2 for arcsin.
        """
        same_shape(x, y)
        x, y = self.whiten(x), self.whiten(y)
        return self.unwhiten(logarithm(x, y))

    @in_full_precision
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance, the norm of the principal angles: (...,), or (..., 1, 1) with `keepdim`. Source: EAS98, sec. 4.3.

        Its gradient, -Log_X(Y)/dist, does not exist at span(Y) = span(X); 0 is returned there, to rounding. NaN for matrices that are not
        orthonormal (see `squared_distance`), which `Validated` names.
        """
        same_shape(x, y)
        distance = geodesic_distance(self.whiten(x), self.whiten(y))
        return distance[..., None, None] if keepdim else distance

    @in_full_precision
    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Squared geodesic distance, the sum of squared principal angles, with gradient -2 Log_X(Y); shapes as `dist`."""
        same_shape(x, y)
        squared = squared_distance(self.whiten(x), self.whiten(y))
        return squared[..., None, None] if keepdim else squared

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """All distances between the points X (..., r, n, p) and Y (..., s, n, p): (..., r, s)."""
        return self.dist(x[..., :, None, :, :], y[..., None, :, :, :])

    @in_full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Vector transport of V at X to any Y: V Q projected onto the tangent space at Y, Q the polar factor of X^H Y.

        Q takes the basis of X to that of Y, so that the transported tangent vector does not depend on the bases.
        """
        return self.proju(y, v @ self._alignment(x, y))

    @in_full_precision
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of V at X along the shortest geodesic to Y, in the basis of Y; an isometry.

        Where the largest principal angle is pi/2 the geodesic is one of several.
        """
        end, moved = self.expmap_transp(x, self.logmap(x, y), v)
        return self.proju(y, moved @ self._alignment(end, y))

    @in_full_precision
    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of V along the geodesic t -> Exp_X(t U), to its end.

        V - X sinc(S^{1/2}) U^H V - U (1 - cos S^{1/2})/S U^H V, S = U^H U: an isometry that takes U to the end velocity.
        Source: EAS98, eq. (2.68), in p x p functions.
        """
        return self.expmap_transp(x, u, v)[1]

    @in_full_precision
    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`expmap` and `transp_follow_expmap` at the price of one."""
        cosine, sinc, versine = trigonometric(self.gram(u, u))
        along = self.gram(u, v)
        end = self._orthonormal(minus_product(x @ cosine, u, sinc, -1.0))
        return end, v - x @ (sinc @ along) - u @ (versine @ along)

    @in_full_precision
    def inverse_retr(self, x: Tensor, y: Tensor) -> Tensor:
        """The horizontal U with span(X + U) = span(Y): Y (X^H Y)^{-1} - X, the inverse of the retractions by Cholesky-QR and polar factor.

        ||U||_2 is the tangent of the largest principal angle. Raises torch.linalg.LinAlgError where that angle is pi/2.
        """
        return self.proju(x, torch.linalg.solve(self.gram(x, y), y, left=False))

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """The point at time t of the shortest geodesic from X (t = 0) to Y (t = 1): Exp_X(t Log_X(Y)); t a number or (...,)."""
        if isinstance(t, Tensor):
            t = t[..., None, None]
        return self.expmap(x, t * self.logmap(x, y))

    @in_full_precision
    def sectional_curvature(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Sectional curvature (...,) of the plane spanned by the tangent vectors U and V at X.

        K = (||U^H V - V^H U||^2 + ||U V^H - V U^H||^2) / 2 for orthonormal U, V: in [0, 2], 1 for p = 1; up to 4 in the complex case.
        Raises ValueError where U and V span no plane. Source: Wong 1968, PNAS 60, 75; from the brackets of the symmetric space.
        """
        n, p = x.shape[-2:]
        # Decided by the shape: rounding can make two vectors on a line look apart.
        if p * (n - p) * (2 if x.is_complex() else 1) < 2:
            raise ValueError(f"u and v must span a plane, but Gr({n}, {p}) has dimension {p * (n - p)}")
        u = u / self.norm(x, u, keepdim=True)
        v = v / self.norm(x, v, keepdim=True)
        v = v - self.inner(x, u, v, keepdim=True) * u
        length = self.norm(x, v, keepdim=True)
        if not bool((length > 8 * torch.finfo(u.dtype).eps).all()):  # false for NaN, of a vector 0
            raise ValueError("u and v must span a plane, but somewhere they are parallel or zero")
        v = v / length
        uv, uu, vv = self.gram(u, v), self.gram(u, u), self.gram(v, v)
        first = (uv - uv.mH).abs().square().sum((-2, -1))
        second = 2 * ((uu * vv.mT) - (uv * uv.mT)).sum((-2, -1)).real
        return (first + second) / 2

    def hessian_at(self, x: Tensor, egrad: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(ehess, U) -> `ehess2rhess(X, egrad, ehess, U)`, where what depends on X alone is computed once; 0 where n = p."""
        if x.shape[-2] == x.shape[-1]:
            return lambda ehess, u: 0 * (x * u)
        return super().hessian_at(x, egrad)

    @in_full_precision
    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """A standard Gaussian tangent vector at X."""
        gaussian = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return self.proju(x, self.unwhiten(gaussian))

    def injectivity_radius(self) -> float:
        """pi/2: within it `logmap` inverts `expmap`."""
        return math.pi / 2

    def whiten(self, v: Tensor) -> Tensor:
        """The point or vector V as one of the ordinary Grassmannian; here V itself. See `GeneralizedGrassmann.whiten`."""
        return v

    def unwhiten(self, v: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return v

    def _orthonormal(self, x: Tensor) -> Tensor:
        return refined(x, self.gram(x, x))

    def _alignment(self, x: Tensor, y: Tensor) -> Tensor:
        """The unitary factor of X^H Y, which takes the basis X to the basis of span(X) nearest to Y."""
        return procrustes(self.whiten(x), self.whiten(y))[1].mH

    def _normal(self, x: Tensor, u: Tensor) -> Tensor:
        return self.gram(x, u)  # EAS98, sec. 2.5.1

    def _turn(self, factor: Tensor) -> Tensor | None:
        if self.retraction == "polar":
            return None
        return minus_product(factor, factor, inner_products(factor, factor), 0.5, 1.5)

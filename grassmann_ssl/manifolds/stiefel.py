"""The Stiefel manifold St(n, p), for objectives that are not rotation-invariant, with the Euclidean and with the canonical metric."""

from typing import Any

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.matrix_functions import minus_product, unitary_factor
from grassmann_ssl.manifolds.orthonormal import cholesky_qr, householder_qr
from grassmann_ssl.manifolds.shooting import Logarithm, shoot
from grassmann_ssl.manifolds.subspaces import same_shape
from grassmann_ssl.manifolds.tall import double, inner_products
from grassmann_ssl.precision import in_full_precision

MAX_ITERATIONS = 500


class _Logarithms(geoopt.Manifold):  # type: ignore[misc]  # geoopt has no types
    """`logmap` and `dist` by shooting with the `expmap` of the manifold."""

    @in_full_precision
    def logarithm(self, x: Tensor, y: Tensor, *, max_iterations: int | None = None) -> Logarithm:
        """A tangent vector U at X with Exp_X(U) = Y, with the convergence of the search for it; see `shooting.shoot`.

        The shortest one where X and Y are near: geodesics are the shortest up to length 0.89 pi in the canonical metric (Rentmeesters 2013,
        thesis, UCLouvain) and pi in the Euclidean one (Absil & Mataigne 2024, arXiv 2405.02268). Failure to converge is reported, not
        raised. At most `max_iterations`, 500 unless given. No gradient; waits for the device.
        """
        same_shape(x, y)
        return shoot(self.expmap, self.proju, x, y, MAX_ITERATIONS if max_iterations is None else max_iterations)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """`logarithm`, the vector alone. Raises ArithmeticError where it did not converge. No gradient; waits for the device."""
        found: Logarithm = self.logarithm(x, y)
        if not bool(found.converged.all()):
            raise ArithmeticError(
                f"no geodesic of {self} from x to y was found in {found.iterations} iterations: the last one ends "
                f"{float(found.gap.max()):.2g} from y; they may be too far apart. `logarithm` returns what was found"
            )
        return found.tangent

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """The length of `logmap`: (...,), or (..., 1, 1) with `keepdim`. Raises as that does. No gradient; waits for the device."""
        length: Tensor = self.norm(x, self.logmap(x, y), keepdim=keepdim)
        return length

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """The square of `dist`."""
        return self.dist(x, y, keepdim=keepdim).square()


class Stiefel(_Logarithms, OrthonormalMatrices):
    """St(n, p): orthonormal n x p matrices, metric Re tr(U^H V), tangent vectors with X^H U + U^H X = 0, projection U - X sym(X^H U).

    Any leading batch dimensions, real or complex. The logarithm has no closed form: `logarithm` reports how it converged.
    """

    name = "Stiefel"

    @in_full_precision
    def projx(self, x: Tensor) -> Tensor:
        """The orthonormal matrix nearest to an arbitrary X (..., n, p): its unitary polar factor.

        By Householder QR and the SVD of the p x p triangle, which is safe at equal singular values. Where X has not full rank it is one of
        several. Raises ValueError for shapes that hold no point. Source: Higham 2008, Functions of Matrices, th. 8.4.
        """
        self._assert_check_shape(tuple(x.shape), "x")
        basis = householder_qr(x)
        return basis @ unitary_factor(inner_products(basis, x).to(double(x.dtype))).to(x.dtype)

    @in_full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of the Euclidean metric at time 1.

        Exp_X(U) = [X U] expm([[A, -S], [I, A]]) [I; 0] expm(-A), A = X^H U, S = U^H U: one 2p x 2p and one p x p matrix exponential.
        Ends with Cholesky-QR, which undoes rounding. Source: Edelman, Arias, Smith 1998, eq. (2.29).
        """
        x, u = torch.broadcast_tensors(x, u)  # type: ignore[no-untyped-call]  # torch gives it no types
        a, s = inner_products(x, u), inner_products(u, u)
        columns = _first_columns(a, -s, a) @ _exponential(-a)
        return cholesky_qr(torch.cat([x, u], -1) @ columns)

    def _normal(self, x: Tensor, u: Tensor) -> Tensor:
        a = inner_products(x, u)
        return (a + a.mH) / 2  # AMS08 (Absil, Mahony, Sepulchre 2008), example 3.6.2


class CanonicalStiefel(_Logarithms):
    """St(n, p) with the canonical metric Re tr(U^H (I - X X^H / 2) V), that of the quotient O(n) / O(n - p).

    A rotation within the subspace counts half of what it does in the Euclidean metric. Points, projections and retractions are those of
    `Stiefel`; gradients, Hessians, geodesics and distances are of this metric. Any leading batch dimensions, real or complex.
    Source: EAS98 = Edelman, Arias, Smith 1998, SIAM J. Matrix Anal. 20, 303, sec. 2.4.
    """

    name = "CanonicalStiefel"
    ndim = 2
    reversible = False
    stores_half = False

    def __init__(self, retraction: str = "cholesky-qr") -> None:
        super().__init__()
        self.points = Stiefel(retraction)
        self.retraction = retraction

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.retraction == self.retraction

    def __hash__(self) -> int:
        return hash((type(self), self.retraction))

    @in_full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Re tr(U^H (I - X X^H / 2) V), (...,) or (..., 1, 1) with `keepdim`."""
        v = u if v is None else v
        along = self.points.inner(x, inner_products(x, u), inner_products(x, v), keepdim=keepdim)
        return self.points.inner(x, u, v, keepdim=keepdim) - along / 2

    @in_full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """The length of U, with gradient 0 at U = 0: that of U - (1 - 2^{-1/2}) X X^H U in the Euclidean metric."""
        return self.points.norm(x, minus_product(u, x, inner_products(x, u), 1 - 0.5**0.5), keepdim=keepdim)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X sym(X^H U)."""
        return self.points.proju(x, u)

    def projx(self, x: Tensor) -> Tensor:
        """The orthonormal matrix nearest to X in the Frobenius norm."""
        return self.points.projx(x)

    @in_full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian gradient of a function with Euclidean gradient U: U - X U^H X. Source: EAS98, eq. (2.53)."""
        return minus_product(u, x, inner_products(u, x))

    @in_full_precision
    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian at X applied to U, from D(egrad)[U]. Source: EAS98, sec. 2.4.5."""
        a, along = inner_products(x, egrad), inner_products(x, u)
        across = minus_product(u, x, along)
        turned = x @ inner_products(u, egrad) + egrad @ along.mH
        return self.egrad2rgrad(x, ehess + (turned - across @ (a + a.mH)) / 2)

    @in_full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of the canonical metric at time 1.

        Exp_X(U) = [X K] expm([[A, -S], [I, 0]]) [I; 0], A = X^H U, K = U - X A, S = K^H K. Ends with Cholesky-QR, which undoes rounding.
        Source: EAS98, cor. 2.2, with K for its QR factors.
        """
        x, u = torch.broadcast_tensors(x, u)  # type: ignore[no-untyped-call]  # torch gives it no types
        a = inner_products(x, u)
        across = minus_product(u, x, a)
        columns = _first_columns(a, -inner_products(across, across), torch.zeros_like(a))
        return cholesky_qr(torch.cat([x, across], -1) @ columns)

    @in_full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """That of `Stiefel`; "exponential": `expmap`."""
        end: Tensor = self.expmap(x, self.proju(x, u)) if self.retraction == "exponential" else self.points.retr(x, u)
        return end

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Vector transport by projection onto the tangent space at Y."""
        return self.points.proju(y, v)

    def random(self, *size: Any, **kwargs: Any) -> geoopt.ManifoldTensor:
        """A point drawn uniformly, as `Stiefel.random` does."""
        return geoopt.ManifoldTensor(self.points.random(*size, **kwargs), manifold=self)

    def origin(self, *size: Any, **kwargs: Any) -> geoopt.ManifoldTensor:
        """That of `Stiefel`."""
        return geoopt.ManifoldTensor(self.points.origin(*size, **kwargs), manifold=self)

    def extra_repr(self) -> str:
        return self.points.extra_repr()

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        return self.points._check_shape(shape, name)

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        return self.points._check_point_on_manifold(x, atol=atol, rtol=rtol)

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return self.points._check_vector_on_tangent(x, u, atol=atol, rtol=rtol)


def _first_columns(a: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """The first p columns of expm([[A, upper], [I, lower]])."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)
    block = torch.cat([torch.cat([a, upper], -1), torch.cat([identity, lower], -1)], -2)
    return _exponential(block)[..., : a.shape[-1]]


def _exponential(a: Tensor) -> Tensor:
    """The matrix exponential. A batch of one would take a path of torch 2.13 whose polynomial of degree 8 is wrong: errors of 1e-10."""
    return torch.matrix_exp(a) if a[..., 0, 0].numel() != 1 else torch.matrix_exp(torch.stack([a, a]))[0]

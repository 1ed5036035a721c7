"""The Stiefel manifold St(n, p) with the Euclidean metric, for objectives that are not rotation-invariant."""

import torch
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.orthonormal import cholesky_qr
from grassmann_ssl.manifolds.tall import inner_products
from grassmann_ssl.precision import in_full_precision


class Stiefel(OrthonormalMatrices):
    """St(n, p): orthonormal n x p matrices, metric Re tr(U^H V), tangent vectors with X^H U + U^H X = 0, projection U - X sym(X^H U).

    Any leading batch dimensions, real or complex. The logarithm has no closed form in this metric and is not offered, nor is `dist`.
    """

    name = "Stiefel"

    @in_full_precision
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of the Euclidean metric at time 1.

        Exp_X(U) = [X U] expm([[A, -S], [I, A]]) [I; 0] expm(-A), A = X^H U, S = U^H U: one 2p x 2p and one p x p matrix exponential.
        Ends with Cholesky-QR, which undoes rounding. Source: Edelman, Arias, Smith 1998, eq. (2.29).
        """
        x, u = torch.broadcast_tensors(x, u)  # type: ignore[no-untyped-call]  # torch gives it no types
        p = x.shape[-1]
        a, s = inner_products(x, u), inner_products(u, u)
        identity = torch.eye(p, dtype=x.dtype, device=x.device).expand(a.shape)
        block = torch.cat([torch.cat([a, -s], -1), torch.cat([identity, a], -1)], -2)
        columns = _exponential(block)[..., :p] @ _exponential(-a)
        return cholesky_qr(torch.cat([x, u], -1) @ columns)

    @in_full_precision
    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian at X applied to U: the projection of D(egrad)[U] - U sym(X^H egrad). Source: AMS08, sec. 5.3."""
        a = inner_products(x, egrad)
        return self.proju(x, ehess - u @ ((a + a.mH) / 2))

    def _normal(self, x: Tensor, u: Tensor) -> Tensor:
        a = inner_products(x, u)
        return (a + a.mH) / 2  # AMS08 (Absil, Mahony, Sepulchre 2008), example 3.6.2


def _exponential(a: Tensor) -> Tensor:
    """The matrix exponential. A batch of one would take a path of torch 2.13 whose polynomial of degree 8 is wrong: errors of 1e-10."""
    return torch.matrix_exp(a) if a[..., 0, 0].numel() != 1 else torch.matrix_exp(torch.stack([a, a]))[0]

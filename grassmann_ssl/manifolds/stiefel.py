"""The Stiefel manifold St(n, p) with the Euclidean metric, for objectives that are not rotation-invariant."""

import torch
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.orthonormal import cholesky_qr


class Stiefel(OrthonormalMatrices):
    """St(n, p): orthonormal n x p matrices, metric tr(U^T V), tangent vectors with X^T U + U^T X = 0.

    Any leading batch dimensions, float32 or float64. The logarithm has no closed form in this metric and is not offered, nor is `dist`.
    """

    name = "Stiefel"

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X sym(X^T U), sym(A) = (A + A^T)/2. Source: AMS08 (Absil, Mahony, Sepulchre 2008), example 3.6.2."""
        a = x.mT @ u
        return u - x @ ((a + a.mT) / 2)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of the Euclidean metric at time 1.

        Exp_X(U) = [X U] expm([[A, -S], [I, A]]) [I; 0] expm(-A), A = X^T U, S = U^T U: one 2p x 2p and one p x p matrix exponential.
        Ends with Cholesky-QR, which undoes rounding. Source: Edelman, Arias, Smith 1998, eq. (2.29).
        """
        x, u = torch.broadcast_tensors(x, u)
        p = x.shape[-1]
        a, s = x.mT @ u, u.mT @ u
        identity = torch.eye(p, dtype=x.dtype, device=x.device).expand(a.shape)
        block = torch.cat([torch.cat([a, -s], -1), torch.cat([identity, a], -1)], -2)
        columns = torch.matrix_exp(block)[..., :p] @ torch.matrix_exp(-a)
        return cholesky_qr(torch.cat([x, u], -1) @ columns)

"""What Gr(n, p) and St(n, p) share: orthonormal n x p matrices with the metric tr(U^T V)."""

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.orthonormal import cholesky_qr, householder_qr


class OrthonormalMatrices(geoopt.Manifold):
    """Base of manifolds whose points are X (..., n, p) with X^T X = I and whose metric is tr(U^T V).

    Subclasses define the tangent space by `proju`. Two manifolds of one class are equal.
    """

    ndim = 2
    reversible = False

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Inner product tr(U^T V), or ||U||_F^2 where V is not given; (...,), or (..., 1, 1) with `keepdim`."""
        return (u * (u if v is None else v)).sum((-2, -1), keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """||U||_F, with gradient 0 at U = 0; (...,), or (..., 1, 1) with `keepdim`."""
        return torch.linalg.matrix_norm(u, keepdim=keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian gradient of a function with Euclidean gradient U: its projection onto the tangent space at X."""
        return self.proju(x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction by Cholesky-QR: the Q factor, with positive diagonal of R, of X + U.

        R^T R = (X + U)^T (X + U). Its span is that of the QR and polar retractions, of second order on the Grassmannian and of first order
        on the Stiefel manifold; no column changes sign and nothing waits for the device. Orthonormal to about eps (1 + ||U||_2^2).
        Beyond ||U||_F = eps^{-1/4} (54 in float32), where the largest angle is within 0.02 of pi/2, U is shortened to that length:
        the error stays below a few sqrt(eps), the next step removes it, and the factorization never breaks down.
        A U whose squared norm overflows its dtype (1e19 in float32) leaves X where it is. Runs in full precision under autocast.
        Source: AMS08, example 4.1.3, by Cholesky.
        """
        limit = torch.finfo(u.dtype).eps ** -0.25
        with torch.autocast(u.device.type, enabled=False):  # bfloat16 products would leave X^T X = I at 4e-3
            length = torch.linalg.matrix_norm(u, keepdim=True)
            return cholesky_qr(x + u * (limit / length.clamp_min(limit)))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Vector transport by projection onto the tangent space at Y, for Y near X, as after a retraction (AMS08, sec. 8.1.3)."""
        return self.proju(y, v)

    def projx(self, x: Tensor) -> Tensor:
        """An orthonormal basis of the column space of an arbitrary X (..., n, p): the Q factor of its Householder QR."""
        return householder_qr(x)

    def random(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> geoopt.ManifoldTensor:
        """A point drawn uniformly (Haar measure): the Q factor of a Gaussian matrix of shape `size` = (..., n, p), numbers or one tuple.

        Raises ValueError for shapes that hold no point.
        """
        shape = geoopt.utils.size2shape(*size)
        self._assert_check_shape(shape, "size")
        gaussian = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return geoopt.ManifoldTensor(householder_qr(gaussian), manifold=self)

    def origin(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The first p columns of the identity, for every leading index of `size` = (..., n, p), numbers or one tuple; `seed` is unused."""
        shape = geoopt.utils.size2shape(*size)
        self._assert_check_shape(shape, "size")
        point = torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).contiguous()
        return geoopt.ManifoldTensor(point, manifold=self)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        if len(shape) < 2:
            return False, f"{name} must have shape (..., n, p), got {tuple(shape)}"
        n, p = shape[-2:]
        if not n >= p >= 1:
            return (
                False,
                f"{name} must have shape (..., n, p) with n >= p >= 1, got n = {n}, p = {p}; transpose wide matrices",
            )
        return True, None

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return _within(x.mT @ x - identity, "X^T X - I", atol)

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return _within(
            u - self.proju(x, u), "the normal part of the vector", atol * max(1.0, float(u.detach().abs().max()))
        )


def _within(error: Tensor, name: str, tolerance: float) -> tuple[bool, str | None]:
    largest = float(error.detach().abs().max())
    if largest <= tolerance:  # false for NaN
        return True, None
    return False, f"the largest entry of {name} is {largest:.3g}, above the tolerance {tolerance:.3g}"

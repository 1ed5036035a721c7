"""Common base of Gr(n, p) and St(n, p): orthonormal n x p matrices, real or complex, with the metric Re tr(U^H V)."""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.matrix_functions import minus_product, minus_product_
from grassmann_ssl.manifolds.orthonormal import cholesky_factor, householder_qr, polar_factor
from grassmann_ssl.manifolds.tall import inner_products, norm, product
from grassmann_ssl.precision import FULL, HALF, autocast_is_on, in_full_precision, no_autocast, refusal
from grassmann_ssl.registry import nearest

RETRACTIONS = ("cholesky-qr", "polar", "exponential")


class OrthonormalMatrices(geoopt.Manifold):  # type: ignore[misc]  # geoopt has no types
    """Base of manifolds whose points are X (..., n, p) with X^H X = I and whose metric is Re tr(U^H V).

    `retraction` is the way back to the manifold: "cholesky-qr", "polar" or "exponential" (see `retr`). Float32, float64, complex64 or
    complex128, in full precision also under autocast; with "polar" also float16 and bfloat16 points, computed with in float32 and rounded
    back. Subclasses define the tangent space by `_normal`, and another inner product by `flat` and `sharp`. Manifolds that compute the same
    are equal. Raises ValueError for an unknown retraction.
    """

    ndim = 2
    reversible = False

    def __init__(self, retraction: str = "cholesky-qr") -> None:
        super().__init__()
        if retraction not in RETRACTIONS:
            near = nearest(str(retraction), RETRACTIONS)
            raise ValueError(f"retraction must be one of {', '.join(RETRACTIONS)}, got {retraction!r}{near}")
        self.retraction = retraction

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.retraction == self.retraction

    def __hash__(self) -> int:
        return hash((type(self), self.retraction))

    @property
    def stores_half(self) -> bool:
        """Whether points in float16 and bfloat16 are supported."""
        return self.retraction == "polar"

    def flat(self, v: Tensor) -> Tensor:
        """B V, where the metric is Re tr(U^H B V); here B = I."""
        return v

    def sharp(self, v: Tensor) -> Tensor:
        """B^{-1} V, the inverse of `flat`: it takes a Euclidean gradient to an ambient vector in the metric; here B = I."""
        return v

    def gram(self, u: Tensor, v: Tensor) -> Tensor:
        """U^H B V (..., p, p), with B of `flat`."""
        return inner_products(u, self.flat(v))

    @in_full_precision
    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Inner product Re tr(U^H V), or ||U||_F^2 where V is not given; (...,), or (..., 1, 1) with `keepdim`."""
        v = self.flat(u if v is None else v)
        product = (u.conj() * v).real if v.is_complex() else u * v
        return product.sum((-2, -1), keepdim=keepdim)

    @in_full_precision
    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """||U||_F, with gradient 0 at U = 0; (...,), or (..., 1, 1) with `keepdim`."""
        return self._norm(u, keepdim)

    @in_full_precision
    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The part of U in the tangent space at X."""
        return minus_product(u, x, self._normal(x, u))

    def proju_(self, x: Tensor, u: Tensor, in_place: bool = True) -> Tensor:
        """`proju` in place of U, or of a new vector, for optimizers, which have gradients switched off."""
        if x.dtype in HALF:
            tangent = self.proju(x, u)
            return u.copy_(tangent) if in_place else tangent
        if autocast_is_on("cpu" if x.is_cpu else x.device.type):
            with no_autocast(x.device.type):
                return self.proju_(x, u, in_place)
        return (minus_product_ if in_place else minus_product)(u, x, self._normal(x, u))

    @in_full_precision
    def tangent_products(self, x: Tensor, v: Tensor) -> Tensor:
        """Inner products (k, k) of the projections of V (k, ..., n, p) onto the tangent space at X (..., n, p), summed over the batch.

        <V_i, V_j> - <A_i, A_j>, where X A_i is the normal part of V_i: the projections are never formed.
        """
        normal, flat, whole = (a.flatten(1) for a in (self._normal(x, v), self.flat(v), v))
        return (inner_products(whole.mT, flat.mT) - normal.conj() @ normal.mT).real

    @in_full_precision
    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian gradient of a function with Euclidean gradient U: the projection of `sharp(U)` onto the tangent space at X."""
        return self.proju(x, self.sharp(u))

    @in_full_precision
    def ehess2rhess(self, x: Tensor, egrad: Tensor, ehess: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian at X applied to U: the projection of D(egrad)[U] - U A, where X A is the normal part of egrad.

        `ehess` is the derivative of the Euclidean gradient along U. On the Grassmannian A = X^H egrad, which is Hermitian for functions of
        the subspace, f(X Q) = f(X), and the Hessian self-adjoint: EAS98, eq. (2.71). On the Stiefel manifold A is its Hermitian part:
        AMS08, sec. 5.3.
        """
        return self.hessian_at(x, egrad)(ehess, u)

    def hessian_at(self, x: Tensor, egrad: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(ehess, U) -> `ehess2rhess(X, egrad, ehess, U)`, where what depends on X alone is computed once."""
        normal = self._normal_of_sharp(x, egrad)

        def hessian(ehess: Tensor, u: Tensor) -> Tensor:
            turned = minus_product(self.sharp(ehess), u, normal)
            return minus_product_(turned, x, self._normal(x, turned))

        return hessian

    @in_full_precision
    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction: the end of a step U from X.

        "cholesky-qr": the Q factor, with positive diagonal of R, of X + U, by Cholesky of its Gram matrix. Orthonormal to about
        eps (1 + ||U||_2^2). Beyond ||U||_F = eps^{-1/4} (54 in float32), where the largest angle is within 0.02 of pi/2, U is shortened
        to that length: the error stays below a few sqrt(eps), the next step removes it, and the factorization never breaks down.
        "polar": the orthonormal matrix nearest to X + U, by products only; beyond ||U||_F = pi/2 U is shortened to that length.
        "exponential": `expmap` of the tangent part of U, since geoopt's SGRHMC steps along ambient vectors.
        The first two have the same span, of second order on the Grassmannian; on the Stiefel manifold the first is of first order. No
        column changes sign and nothing waits for the device. A U whose squared norm overflows (1e19 in float32) leaves X where it is.
        Source: AMS08, example 4.1.3.
        """
        if self.retraction == "exponential":
            end: Tensor = self.expmap(x, self.proju(x, u))
            return end
        candidate, factor = self._candidate(x, u)
        return candidate @ factor

    @in_full_precision
    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`retr`, and V transported to its end, in the basis of the end.

        By projection (AMS08, sec. 8.1.3); with "exponential" as `expmap_transp` does. On the Grassmannian equivariant: "cholesky-qr" turns
        the basis by the unitary factor O of R^{-1}, and V is first multiplied by R^{-1} (3 I - R^{-H} R^{-1})/2, which is O up to a factor
        1 - 3/8 ||U||_2^4, never above 1, and turns with the basis exactly; "polar" does not turn it.
        """
        if self.retraction == "exponential":
            both: tuple[Tensor, Tensor] = self.expmap_transp(x, self.proju(x, u), self.proju(x, v))
            return both
        candidate, factor = self._candidate(x, u)
        end = candidate @ factor
        turn = self._turn(factor)
        return end, self.proju(end, v if turn is None else v @ turn)

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """V transported to the end of `retr`, as `retr_transp` does."""
        return self.retr_transp(x, u, v)[1]

    def step_(self, x: Tensor, u: Tensor, v: Tensor | None = None, rate: float | Tensor = 1.0) -> Tensor | float:
        """In place, for optimizers, which have gradients switched off: X <- Retr_X(rate U), and V, which may be U, turns with the basis.

        V is not projected: `proju` of it is the vector that `retr_transp` gives, and the projection that the next gradient needs anyway
        does that at no cost, since it is linear. `rate` a number or (..., 1, 1). Returns the length of the step, (..., 1, 1); of a single
        matrix on the CPU as a number. Raises TypeError for half precision unless `stores_half`.
        """
        if x.dtype not in FULL:
            if not self._takes(x.dtype):
                raise refusal(f"tensors of {self.name}.step_", x.dtype)
            wide = x.float()
            length = self.step_(wide, u.float(), None, rate)
            x.copy_(wide)  # and V stays: what stores half keeps the basis
            return length
        if autocast_is_on("cpu" if x.is_cpu else x.device.type):
            with no_autocast(x.device.type):
                return self.step_(x, u, v, rate)
        if self.retraction == "exponential":
            step = rate * u
            end, moved = self.expmap_transp(x, step, u if v is None else v)
            x.copy_(end)
            if v is not None:
                v.copy_(moved)
            return self._norm(step, True)
        length = self._norm(u, True)
        if x.is_cpu and length.numel() == 1 and not isinstance(rate, Tensor):
            length = float(length) * abs(rate)
        else:
            length = length * (rate.abs() if isinstance(rate, Tensor) else abs(rate))
        candidate, factor = self._candidate(x, u, rate, length)
        product(candidate, factor, out=x)
        if v is not None and (turn := self._turn(factor)) is not None:
            v.copy_(product(v, turn, out=candidate))
        return length

    @in_full_precision
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Vector transport by projection onto the tangent space at Y (AMS08, sec. 8.1.3)."""
        return self.proju(y, v)

    @in_full_precision
    def projx(self, x: Tensor) -> Tensor:
        """An orthonormal basis of the column space of an arbitrary X (..., n, p): the Q factor of its Householder QR.

        Raises ValueError for shapes that hold no point, such as n < p.
        """
        self._assert_check_shape(tuple(x.shape), "x")
        return householder_qr(x)

    def random(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> geoopt.ManifoldTensor:
        """A point drawn uniformly (Haar measure): the Q factor of a Gaussian matrix of shape `size` = (..., n, p), numbers or one tuple.

        Raises ValueError for shapes that hold no point, TypeError for dtypes that hold none.
        """
        shape, dtype = self._place(size, dtype)
        wide = torch.float32 if dtype in HALF else dtype
        gaussian = torch.randn(shape, dtype=wide, device=device, generator=generator)
        return geoopt.ManifoldTensor(householder_qr(gaussian).to(dtype), manifold=self)

    def origin(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = 42,
    ) -> geoopt.ManifoldTensor:
        """The first p columns of the identity, for every leading index of `size` = (..., n, p), numbers or one tuple; `seed` is unused.

        Raises as `random`.
        """
        shape, dtype = self._place(size, dtype)
        point = torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).contiguous()
        return geoopt.ManifoldTensor(point, manifold=self)

    def extra_repr(self) -> str:
        return f"retraction={self.retraction!r}"

    def _candidate(
        self, x: Tensor, u: Tensor, rate: float | Tensor = 1.0, length: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Z = X + rate U, shortened where too long, and the factor T with Z T on the manifold. An optimizer knows the length."""
        polar = self.retraction == "polar"
        limit = torch.pi / 2 if polar else torch.finfo(u.dtype).eps ** -0.25
        longest = limit
        if length is None:
            length = self._norm(u, True)
        elif not isinstance(length, Tensor):
            longest = length
        elif x.is_cpu and length.numel():
            longest = float(length.max())  # the host may look: most steps are short, which spares work
        if longest < limit:
            candidate = torch.addcmul(x, u, rate) if isinstance(rate, Tensor) else torch.add(x, u, alpha=rate)
        else:
            longest = limit
            short = limit / length.clamp_min(limit) if isinstance(length, Tensor) else limit / length
            candidate = torch.addcmul(x, u, torch.as_tensor(rate * short, dtype=x.dtype, device=x.device))
        gram = self.gram(candidate, candidate)
        if not polar:
            return candidate, cholesky_factor(gram)
        return candidate, polar_factor(gram, longest, None if isinstance(length, Tensor) else longest)

    def _norm(self, u: Tensor, keepdim: bool) -> Tensor:
        return norm(u, keepdim)

    def _turn(self, factor: Tensor) -> Tensor | None:
        """What takes a vector to the basis of the point that the factor makes; None where that is the basis of X."""
        return None

    def _normal(self, x: Tensor, u: Tensor) -> Tensor:
        """A (..., p, p), where X A is the part of U normal to the tangent space at X."""
        raise NotImplementedError

    def _normal_of_sharp(self, x: Tensor, egrad: Tensor) -> Tensor:
        """`_normal` of `sharp(egrad)`."""
        return self._normal(x, egrad)

    def _place(self, size: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[tuple[int, ...], torch.dtype]:
        """Checked shape and dtype of a new point."""
        shape = geoopt.utils.size2shape(*size)
        self._assert_check_shape(shape, "size")
        dtype = dtype or torch.get_default_dtype()
        if not self._takes(dtype):
            raise refusal("dtype", dtype)
        return tuple(shape), dtype

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
        if (reason := self._unsupported(x)) is not None:
            return False, reason
        wide = x.float() if x.dtype in HALF else x
        with no_autocast(x.device.type):
            error = self.gram(wide, wide) - torch.eye(x.shape[-1], dtype=wide.dtype, device=x.device)
        return _within(error, "X^T X - I", max(atol, _rounding(x)))

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        if (reason := self._unsupported(x) or self._unsupported(u)) is not None:
            return False, reason
        if (u.dtype, u.device) != (x.dtype, x.device) or u.shape[-2:] != x.shape[-2:]:
            place = f"{tuple(x.shape[-2:])} of {x.dtype} on {x.device}"
            return (
                False,
                f"the vector must have the shape of the point, {place}, got {tuple(u.shape)} of {u.dtype} on {u.device}",
            )
        size = float(u.detach().abs().max()) if u.numel() else 0.0
        tolerance = max(atol, _rounding(x)) * max(1.0, size)
        return _within(u - self.proju(x, u), "the normal part of the vector", tolerance)

    def _unsupported(self, x: Tensor) -> str | None:
        return None if self._takes(x.dtype) else str(refusal(f"tensors of {self.name}", x.dtype))

    def _takes(self, dtype: torch.dtype) -> bool:
        return dtype in FULL or (dtype in HALF and self.stores_half)


def _rounding(x: Tensor) -> float:
    """What rounding leaves of X^H X = I: of the entries, and in float32 or float64 of sums over n rows, as other libraries take them."""
    wide = torch.float32 if x.dtype in HALF else x.dtype
    return max(4 * torch.finfo(x.dtype).eps, math.sqrt(x.shape[-2]) * torch.finfo(wide).eps)


def _within(error: Tensor, name: str, tolerance: float) -> tuple[bool, str | None]:
    largest = float(error.detach().abs().max()) if error.numel() else 0.0
    if largest <= tolerance:  # false for NaN
        return True, None
    return False, f"the largest entry of {name} is {largest:.3g}, above the tolerance {tolerance:.3g}"

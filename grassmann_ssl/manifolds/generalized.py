"""The generalized Grassmann manifold: subspaces by bases with W^H B W = I, for a positive definite B."""

from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.orthonormal import cholesky_factor, householder_qr
from grassmann_ssl.manifolds.tall import inner_products, norm
from grassmann_ssl.precision import FULL, HALF, in_full_precision, no_autocast


class GeneralizedGrassmann(Grassmann):
    """Subspaces of R^n or C^n by bases X (..., n, p) with X^H B X = I, metric Re tr(U^H B V), tangent vectors with X^H B U = 0.

    With B the second moment of the inputs x, the outputs z = x^T X have the second moment I: full rank and unit variance of the
    embedding itself are guaranteed, not only of the weights. X -> L^H X, with B = L L^H, is an isometry to `Grassmann`, through which
    every formula carries over; n x n work is one product with B (steps) or one triangular product or solve with L (logarithm, distance).
    B (..., n, n) Hermitian positive definite, float32, float64, complex64 or complex128; points must match its device and dtype. It is a
    buffer, which `.to` and `.double` of the manifold, or of a module that holds it, take along; `.half` leaves it in float32.
    Raises ValueError where B is not square, finite, Hermitian or definite; for a semi-definite B it says which ridge would mend it.
    """

    name = "GeneralizedGrassmann"

    def __init__(self, b: Tensor, retraction: str = "cholesky-qr") -> None:
        super().__init__(retraction)
        self.reversible = False  # geoopt's samplers draw and weigh their momenta in the metric B = I
        self.replace(b)

    b: Tensor
    factor: Tensor

    def replace(self, b: Tensor) -> None:
        """Replace B; `carry` transports points and vectors of the old one.

        Sets `b` and its Cholesky factor `factor` = L. Waits for the device. Raises as the class.
        """
        _check(b)
        b = hermitian(b)
        self.register_buffer("b", b, persistent=False)
        self.register_buffer("factor", torch.linalg.cholesky(b), persistent=False)

    def follow(self, b: Tensor) -> None:
        """`replace` for a Hermitian B that changes during training, without a device synchronisation.

        Nothing is checked; where B has no Cholesky factor (also for NaN entries) the present one stays.
        """
        b = hermitian(b)
        factor, failed = torch.linalg.cholesky_ex(b)
        good = ((failed == 0) & torch.isfinite(factor).all(-1).all(-1))[..., None, None]
        self.b, self.factor = torch.where(good, b, self.b), torch.where(good, factor, self.factor)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        given = self.b
        super()._apply(fn, recurse)
        if self.b.dtype != given.dtype and not self.b.is_meta:
            b = given.to(self.b.device, torch.float32) if self.b.dtype in HALF else self.b
            self.replace(b)  # the factor of the old dtype has the rounding of the old one
        return self

    @property
    def condition(self) -> Tensor:
        """The condition number of B (...,)."""
        values: Tensor = torch.linalg.eigvalsh(self.b)
        return values[..., -1] / values[..., 0]

    def carry(self, x: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Transport to the present B: bases of the same subspaces, orthonormal for it, and tangent vectors, (X, V, ...).

        X may come from any other B: X T with (X T)^H B (X T) = I, V T projected onto the tangent space there.
        """
        with no_autocast(x.device.type):
            factor = cholesky_factor(self.gram(x, x))
            basis = x @ factor
            return basis, *(self.proju(basis, v @ factor) for v in vectors)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, GeneralizedGrassmann) and torch.equal(self.b, other.b)

    __hash__ = Grassmann.__hash__

    def flat(self, v: Tensor) -> Tensor:
        """B V. Raises TypeError where V has another dtype than B."""
        self._require_dtype(v)
        return self.b @ v

    def sharp(self, v: Tensor) -> Tensor:
        """B^{-1} V. Raises TypeError where V has another dtype than B."""
        self._require_dtype(v)
        return torch.cholesky_solve(v, self.factor).contiguous()  # solvers store by columns

    def _normal_of_sharp(self, x: Tensor, egrad: Tensor) -> Tensor:
        return inner_products(x, egrad)  # B and its inverse cancel

    @in_full_precision
    def projx(self, x: Tensor) -> Tensor:
        """A B-orthonormal basis of the column space of an arbitrary X (..., n, p), by Householder QR of L^H X."""
        self._assert_check_shape(tuple(x.shape), "x")
        return self.unwhiten(householder_qr(self.whiten(x)))

    def random(self, *size, dtype=None, device=None, generator=None):  # type: ignore[no-untyped-def]
        """A point drawn uniformly in the metric of B, of B's dtype and device; `size` = (..., n, p)."""
        point = super().random(*size, dtype=dtype or self.b.dtype, device=device or self.b.device, generator=generator)
        return type(point)(self.unwhiten(point.as_subclass(Tensor)), manifold=self)

    def origin(self, *size, dtype=None, device=None, seed=42):  # type: ignore[no-untyped-def]
        """The B-orthonormal basis L^{-H} of the first p columns of the identity, of B's dtype and device; `seed` is unused."""
        point = super().origin(*size, dtype=dtype or self.b.dtype, device=device or self.b.device)
        return type(point)(self.unwhiten(point.as_subclass(Tensor)), manifold=self)

    def extra_repr(self) -> str:
        return f"n={self.b.shape[-1]}, condition={float(self.condition.max()):.3g}, {super().extra_repr()}"

    @in_full_precision
    def whiten(self, v: Tensor) -> Tensor:
        """L^H V (..., n, p): a point or vector as one of the ordinary Grassmannian, an isometry.

        Functions of subspaces (`distance`, `frechet_mean`, `geodesic_ema`, ...) take whitened points, and `unwhiten` takes theirs back.
        Raises TypeError where V has another dtype than B.
        """
        self._require_dtype(v)
        return self.factor.mH @ v

    @in_full_precision
    def unwhiten(self, v: Tensor) -> Tensor:
        """L^{-H} V (..., n, p), the inverse of `whiten`. Raises TypeError where V has another dtype than B."""
        self._require_dtype(v)
        solution: Tensor = torch.linalg.solve_triangular(self.factor.mH, v, upper=True)
        return solution.contiguous()

    def _norm(self, u: Tensor, keepdim: bool) -> Tensor:
        return norm(self.whiten(u), keepdim)  # (tr U^H B U)^{1/2}

    def _require_dtype(self, v: Tensor) -> None:
        if v.dtype != self.b.dtype:
            raise TypeError(
                f"points and vectors must have the dtype of B, {self.b.dtype}, got {v.dtype}; `replace` takes another B"
            )

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        good, reason = super()._check_shape(shape, name)
        n = self.b.shape[-1]
        if good and shape[-2] != n:
            return False, f"{name} must have shape (..., {n}, p) to go with B of order {n}, got {tuple(shape)}"
        return good, reason


def hermitian(b: Tensor) -> Tensor:
    """The Hermitian part of B, B itself to the bit where that is Hermitian.

    Products such as A A^T are symmetric up to rounding only, on some processors exactly; their Cholesky factor is that of one triangle.
    """
    return 0.5 * b + 0.5 * b.mH


def _check(b: Tensor) -> None:
    """Raise ValueError or TypeError unless B is a Hermitian positive definite matrix."""
    if b.dtype not in FULL:
        raise TypeError(f"B must be float32, float64, complex64 or complex128, got {b.dtype}")
    if b.ndim < 2 or b.shape[-1] != b.shape[-2] or b.shape[-1] == 0:
        raise ValueError(f"B must have shape (..., n, n), got {tuple(b.shape)}")
    if not bool(torch.isfinite(b).all()):
        raise ValueError("B must be finite, but holds NaN or infinity")
    eps = torch.finfo(b.dtype).eps
    asymmetry, size = float((b - b.mH).abs().max()), float(b.abs().max())
    if asymmetry > 16 * eps * size:
        raise ValueError(
            f"B must be Hermitian, but B - B^H has an entry of {asymmetry:.3g} (largest entry of B: {size:.3g})"
        )
    values = torch.linalg.eigvalsh(b)
    smallest, largest = values[..., 0], values[..., -1]
    if not bool((smallest > b.shape[-1] * eps * largest).all()):
        worst = int((smallest - b.shape[-1] * eps * largest).flatten().argmin())
        low, high = float(smallest.flatten()[worst]), float(largest.flatten()[worst])
        # A condition number of eps^{-1/2} leaves half the digits.
        ridge = max(high, abs(low), eps) * eps**0.5 - min(low, 0.0)
        raise ValueError(
            f"B must be positive definite, but its smallest eigenvalue is {low:.3g} (largest {high:.3g}); "
            f"B + r I with a ridge r >= {ridge:.2g} would do"
        )

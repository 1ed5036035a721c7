"""Manifolds of layer weights: points stored as torch stores a weight, (out, in) or (out, in, *kernel), not as n x p matrices."""

import functools
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.manifolds.grassmann import Grassmann


def _of_points(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same operation on weights, where the result is a point or vector, or a tuple of them."""

    @functools.wraps(method)
    def operation(self: "WeightLayout", *args: Any, **kwargs: Any) -> Any:
        result = self._operate(method.__name__, args, kwargs)
        return tuple(map(self.to_weight, result)) if isinstance(result, tuple) else self.to_weight(result)

    return operation


def _of_numbers(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same operation on weights, where the result is numbers, one for every batch index or pair."""

    @functools.wraps(method)
    def operation(self: "WeightLayout", *args: Any, **kwargs: Any) -> Tensor:
        result = self._operate(method.__name__, args, kwargs)
        return self.to_weight(result) if kwargs.get("keepdim") else result

    return operation


class WeightLayout(geoopt.Manifold):  # type: ignore[misc]  # geoopt has no types
    """The manifold of weights W (..., out, in, *kernel) whose matrix, (..., out, in * prod(kernel)), is a point of another manifold.

    With `transpose` the matrix is X^T: orthonormal rows, n = in * prod(kernel), p = out, and the point is the row space of the matrix.
    Without it the matrix is X: orthonormal columns, n = out, the column space. `kernel` is () for linear layers. Operations have the
    arguments and results of `manifold`, all of them stored as weights; results are contiguous, and `keepdim` gives shapes that broadcast
    against a weight. Equal layouts of equal manifolds are equal. Raises TypeError where `manifold` is not a manifold of matrices.
    """

    name = "WeightLayout"
    __scaling__ = Grassmann.__scaling__.copy()

    def __init__(self, manifold: Any, transpose: bool, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        if not isinstance(manifold, geoopt.Manifold) or manifold.ndim != 2:
            raise TypeError(f"manifold must be a geoopt.Manifold of n x p matrices (ndim 2), got {manifold!r}")
        self.manifold = manifold
        self.transpose = transpose
        self.kernel = tuple(kernel)
        self.ndim = 2 + len(self.kernel)
        self.reversible = manifold.reversible

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightLayout) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[geoopt.Manifold, bool, tuple[int, ...]]:
        return self.manifold, self.transpose, self.kernel

    def to_point(self, weight: Tensor) -> Tensor:
        """The point X (..., n, p) of a weight (..., out, in, *kernel): a view where strides allow."""
        matrix = weight.flatten(-1 - len(self.kernel))
        # Not the adjoint: a conjugated view is no tensor to write to, out= ignores its conjugation.
        return matrix.mT if self.transpose else matrix

    def to_weight(self, point: Tensor) -> Tensor:
        """The weight (..., out, in, *kernel), contiguous, of a point or tangent vector (..., n, p).

        A side of length 1 in place of in * prod(kernel) becomes (1, 1, ...): what broadcasts against a point then does against a weight.
        """
        matrix = (point.mT if self.transpose else point).contiguous()
        inputs = (1,) * len(self.kernel) if matrix.shape[-1] == 1 else self.kernel
        return torch.unflatten(matrix, -1, (-1, *inputs))

    inner = _of_numbers(OrthonormalMatrices.inner)
    norm = _of_numbers(OrthonormalMatrices.norm)
    dist = _of_numbers(Grassmann.dist)
    dist2 = _of_numbers(Grassmann.dist2)
    cdist = _of_numbers(Grassmann.cdist)
    tangent_products = _of_numbers(OrthonormalMatrices.tangent_products)
    sectional_curvature = _of_numbers(Grassmann.sectional_curvature)

    projx = _of_points(OrthonormalMatrices.projx)
    proju = _of_points(Grassmann.proju)
    egrad2rgrad = _of_points(OrthonormalMatrices.egrad2rgrad)
    ehess2rhess = _of_points(OrthonormalMatrices.ehess2rhess)
    random_tangent = _of_points(Grassmann.random_tangent)

    retr = _of_points(OrthonormalMatrices.retr)
    inverse_retr = _of_points(Grassmann.inverse_retr)
    expmap = _of_points(Grassmann.expmap)
    logmap = _of_points(Grassmann.logmap)

    transp = _of_points(Grassmann.transp)
    parallel_transport = _of_points(Grassmann.parallel_transport)
    transp_follow_retr = _of_points(OrthonormalMatrices.transp_follow_retr)
    transp_follow_expmap = _of_points(Grassmann.transp_follow_expmap)
    retr_transp = _of_points(OrthonormalMatrices.retr_transp)
    expmap_transp = _of_points(Grassmann.expmap_transp)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """`inner` with `keepdim`, or entry by entry where the wrapped manifold is a product of its entries."""
        return self.to_weight(self._operate("component_inner", (x, u, v), {}))

    def injectivity_radius(self) -> float:
        """That of the wrapped manifold."""
        radius: float = self.manifold.injectivity_radius()
        return radius

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """The weight at time t of the shortest geodesic from X (t = 0) to Y (t = 1); t a number or (...,)."""
        return self.to_weight(self.manifold.geodesic(t, self.to_point(x), self.to_point(y)))

    def random(self, *size: int | tuple[int, ...], **kwargs: Any) -> geoopt.ManifoldTensor:
        """A weight drawn as `manifold.random` draws points; `size` = (..., out, in, *kernel), numbers or one tuple."""
        point = self.manifold.random(self._point_size(size), **kwargs)
        return geoopt.ManifoldTensor(self.to_weight(point), manifold=self)

    def origin(self, *size: int | tuple[int, ...], **kwargs: Any) -> geoopt.ManifoldTensor:
        """The weight of `manifold.origin`; `size` = (..., out, in, *kernel), numbers or one tuple."""
        point = self.manifold.origin(self._point_size(size), **kwargs)
        return geoopt.ManifoldTensor(self.to_weight(point), manifold=self)

    def extra_repr(self) -> str:
        return f"{self.manifold}, orthonormal {'rows' if self.transpose else 'columns'}"

    def _operate(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        points = [self.to_point(a) if isinstance(a, Tensor) else a for a in args]
        named = {key: self.to_point(a) if isinstance(a, Tensor) else a for key, a in kwargs.items()}
        return getattr(self.manifold, name)(*points, **named)

    def _point_size(self, size: tuple[Any, ...]) -> tuple[int, ...]:
        shape = tuple(geoopt.utils.size2shape(*size))
        self._assert_check_shape(shape, "size")
        return tuple(self.to_point(torch.empty(shape, device="meta")).shape)

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        kernel = len(self.kernel)
        if len(shape) < self.ndim or tuple(shape[len(shape) - kernel :]) != self.kernel:
            return False, f"{name} must have shape {self._expected()}, got {tuple(shape)}"
        point = tuple(self.to_point(torch.empty(shape, device="meta")).shape)
        good, reason = self.manifold._check_shape(point, name)
        if good:
            return True, None
        return False, f"{name} of shape {tuple(shape)} is a weight whose matrix has shape {point}: {reason}"

    def _expected(self) -> str:
        return f"(..., {', '.join(map(str, ('out', 'in', *self.kernel)))})"

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        answer: tuple[bool, str | None] = self.manifold._check_point_on_manifold(self.to_point(x), atol=atol, rtol=rtol)
        return answer

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        answer: tuple[bool, str | None] = self.manifold._check_vector_on_tangent(
            self.to_point(x), self.to_point(u), atol=atol, rtol=rtol
        )
        return answer

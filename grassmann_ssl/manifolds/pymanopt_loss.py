"""A torch loss in the role of a pymanopt backend: value, gradient and Hessian of one point from one forward pass."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.manifolds.derivatives import name_of

# The current point and the one proposed from it: a solver that rejects the proposal goes on with the graph of the current point.
KEPT = 2


class _Evaluation:
    """The loss at one point, with the graph that its derivatives come from."""

    def __init__(self, loss: Callable[[Tensor], Tensor], point: Tensor, known: bool) -> None:
        self.point, self.version = point, point._version
        self.x = point.detach().as_subclass(Tensor)
        if known:
            self.output = _checked(loss, loss(self.x))
        else:
            with torch.enable_grad():
                self.output = _checked_graph(loss, _checked(loss, loss(self.x.requires_grad_())))
        self.value = float(self.output.detach())
        self.gradient: Tensor | None = None
        self.twice = False  # whether the gradient has a graph of its own

    def is_of(self, point: Tensor) -> bool:
        """Whether this is the same tensor, not modified in place since."""
        return self.point is point and self.version == point._version


@runtime_checkable
class WithDerivatives(Protocol):
    """A loss that brings its Euclidean gradient at X and the derivative of that along U, both of the shape of X."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def gradient(self, x: Tensor) -> Tensor: ...

    def hessian(self, x: Tensor, u: Tensor) -> Tensor: ...


class TorchBackend:
    """pymanopt's backend interface around one loss: derivatives by autograd, points and vectors torch tensors on any device.

    A loss with methods `gradient(X)` and `hessian(X, U)`, the Euclidean gradient and its derivative along U, is differentiated by these.
    The graphs of the last two points are kept, so that value, gradient and all Hessian-vector products at a point cost one forward pass;
    `evaluations` counts these, and `gradients` the points where the gradient was taken. Only the point is differentiated: parameters
    that the loss uses get no `.grad`. Gradients follow torch: G with df = Re tr(G^H dX), also for complex X. Raises TypeError for a loss
    that returns no tensor, ValueError for one that is not a finite real scalar, does not depend on its point, or has a derivative that
    is not finite.
    """

    loss: Callable[[Tensor], Tensor]
    known: WithDerivatives | None = None

    def __init__(self) -> None:
        self.evaluations = self.gradients = 0
        self._recent: list[_Evaluation] = []
        self._second_order = False

    def __str__(self) -> str:
        return "torch"

    def is_available(self) -> bool:
        return True

    def prepare_function(self, function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        self.loss = function
        self.known = function if isinstance(function, WithDerivatives) else None
        return self.value

    def generate_gradient_operator(self, function: Callable[..., Any], num_arguments: int) -> Callable[..., Any]:
        return self.gradient

    def generate_hessian_operator(self, function: Callable[..., Any], num_arguments: int) -> Callable[..., Any]:
        return self.hessian

    def value(self, point: Any) -> float:
        """The loss at a point."""
        return self._at(point).value

    def gradient(self, point: Any) -> Any:
        """Its Euclidean gradient, of the shape of the point. Raises as the class."""
        return self._gradient(self._at(point)).detach()

    def hessian(self, point: Any, vector: Any) -> Any:
        """The derivative of the Euclidean gradient along a vector, by differentiating the gradient once more.

        Raises as the class.
        """
        return self._finite(self.hessian_at(point)(vector), "Hessian")

    def hessian_at(self, point: Tensor) -> Callable[[Tensor], Tensor]:
        """`hessian` as a map of the vectors at one point, whose results are not checked."""
        self._second_order = True
        evaluation = self._at(point)
        if self.known is not None:
            return functools.partial(self.known.hessian, evaluation.x)
        gradient = self._gradient(evaluation)
        if not gradient.requires_grad:  # a loss linear in X
            return lambda vector: torch.zeros_like(gradient)
        return lambda vector: self._derivative(gradient, evaluation.x, vector)

    @property
    def latest(self) -> Tensor:
        """The point of the last evaluation."""
        return self._recent[0].point

    def clear(self) -> None:
        """Release the graphs and their points."""
        self._recent.clear()

    def _at(self, point: Tensor) -> _Evaluation:
        found = next((evaluation for evaluation in self._recent if evaluation.is_of(point)), None)
        if found is None:
            del self._recent[KEPT - 1 :]  # before the next graph is built
            self.evaluations += 1
            found = _Evaluation(self.loss, point, self.known is not None)
        else:
            self._recent.remove(found)
        self._recent.insert(0, found)
        return found

    def _gradient(self, at: _Evaluation) -> Tensor:
        # Until a Hessian is asked for, gradients are made without a graph, which saves first-order solvers memory and time.
        self.gradients += at.gradient is None
        if self.known is not None:
            if at.gradient is None:
                at.gradient = self._finite(self.known.gradient(at.x), "gradient")
            return at.gradient
        if at.gradient is None or (self._second_order and not at.twice):
            gradient = self._derivative(at.output, at.x, None, twice=self._second_order)
            at.gradient = self._finite(gradient, "gradient")
            at.twice = self._second_order
        return at.gradient

    def _derivative(self, of: Tensor, x: Tensor, along: Tensor | None, twice: bool = False) -> Tensor:
        (derivative,) = torch.autograd.grad(
            of, x, along, retain_graph=True, create_graph=twice, allow_unused=True, materialize_grads=True
        )
        return derivative

    def refuse(self, name: str) -> NoReturn:
        """Raises ValueError for a derivative that is not finite."""
        raise ValueError(f"the {name} of the loss {name_of(self.loss)} must be finite, but holds NaN or infinity")

    def _finite(self, derivative: Tensor, name: str) -> Tensor:
        if not math.isfinite(torch.linalg.vector_norm(derivative.detach())):
            self.refuse(name)
        return derivative


class ProductBackend(TorchBackend):
    """`TorchBackend` for a product of manifolds: one point for each factor, which the loss takes one by one, as pieces of one vector."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes
        self._joined: list[tuple[tuple[Tensor, ...], tuple[int, ...], Tensor]] = []

    def prepare_function(self, function: Callable[..., Tensor]) -> Callable[..., Any]:
        @functools.wraps(function)
        def of_vector(vector: Tensor) -> Tensor:
            return function(*self._split(vector))

        return super().prepare_function(of_vector)

    def value(self, *points: Tensor) -> float:
        return super().value(self._join(points))

    def gradient(self, *points: Tensor) -> list[Tensor]:
        return self._split(super().gradient(self._join(points)))

    def hessian(self, *tensors: Tensor) -> list[Tensor]:
        points, vectors = tensors[: len(self.shapes)], tensors[len(self.shapes) :]
        return self._split(super().hessian(self._join(points), _vector(vectors)))

    def _split(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [math.prod(shape) for shape in self.shapes])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def _join(self, points: tuple[Tensor, ...]) -> Tensor:
        """The points as one vector: the same one for the same points, by which an evaluation is known again."""
        versions = tuple(point._version for point in points)
        for known, at, vector in self._joined:
            if at == versions and all(a is b for a, b in zip(known, points, strict=True)):
                return vector
        self._joined = [(points, versions, _vector(points)), *self._joined][:KEPT]
        return self._joined[0][-1]


class NumpyBackend(TorchBackend):
    """`TorchBackend` for pymanopt's own manifolds: numpy arrays outside, torch tensors of the shape `shape` on `device` inside."""

    def __init__(self, shape: tuple[int, ...], device: torch.device | str) -> None:
        super().__init__()
        self.shape, self.device = shape, device
        self._last: Tensor | None = None

    def value(self, point: np.ndarray) -> float:
        return super().value(self._point(point))

    def gradient(self, point: np.ndarray) -> np.ndarray:
        gradient: Tensor = super().gradient(self._point(point))
        return gradient.cpu().numpy().reshape(point.shape)

    def hessian(self, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
        product: Tensor = super().hessian(self._point(point), self._tensor(vector))
        return product.detach().cpu().numpy().reshape(point.shape)

    def _tensor(self, array: np.ndarray) -> Tensor:
        # A copy: an array may change in place, and torch takes no negative strides.
        return torch.from_numpy(np.array(array, order="C")).reshape(self.shape).to(self.device)

    def _point(self, array: np.ndarray) -> Tensor:
        # Arrays carry no version: equal entries tell that the point is the last one.
        point = self._tensor(array)
        if self._last is None or not torch.equal(self._last, point):
            self._last = point
        return self._last


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _checked(loss: Callable[..., Any], output: Any) -> Tensor:
    name = name_of(loss)
    if not isinstance(output, Tensor):
        raise TypeError(f"the loss {name} must return a real scalar tensor, got {type(output).__name__}")
    if output.shape or not output.is_floating_point():
        raise ValueError(
            f"the loss {name} must return a real scalar tensor, got shape {tuple(output.shape)} of {output.dtype}"
        )
    if not math.isfinite(output.detach()):
        raise ValueError(f"the loss {name} must be finite, got {float(output.detach())}")
    return output


def _checked_graph(loss: Callable[..., Any], output: Tensor) -> Tensor:
    name = name_of(loss)
    if not output.requires_grad:
        raise ValueError(
            f"the loss {name} must depend on its point through torch operations, got a value without a graph"
        )
    return output

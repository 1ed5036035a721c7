"""Derivatives of a loss on a manifold, by autograd: Euclidean and Riemannian gradient, Riemannian Hessian-vector products."""

from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def hessian_vector_product(loss: Loss, manifold: geoopt.Manifold, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The Riemannian gradient at X and the Riemannian Hessian applied to the tangent vector U, both (..., n, p).

    Two backward passes and `manifold.ehess2rhess`; where the manifold has none, the projected derivative of the gradient field along U,
    valid for the metric of the surrounding space. A loss of shape (...,) is summed. Raises TypeError or ValueError for a loss that is not
    a real tensor, does not depend on X, or whose gradient is not finite. Source: AMS08 (Absil, Mahony, Sepulchre 2008), sec. 5.3.
    """
    leaf = x.detach().as_subclass(Tensor).requires_grad_()
    with torch.enable_grad():
        egrad = derivative(loss, evaluate(loss, leaf), leaf, twice=True)
    u = u.detach().as_subclass(Tensor)
    return manifold.egrad2rgrad(leaf.detach(), egrad.detach()), hessian(manifold, leaf, egrad)(u)


def evaluate(loss: Loss, x: Tensor) -> Tensor:
    """The loss at X. Raises TypeError where it is no tensor, ValueError where it is not real."""
    value = loss(x)
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss {name_of(loss)} must return a real tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"the loss {name_of(loss)} must return a real tensor, got {value.dtype}")
    return value


def derivative(loss: Loss, value: Tensor, leaf: Tensor, twice: bool) -> Tensor:
    """The Euclidean gradient at `leaf`, with a graph if `twice`. Raises ValueError where there is none or it is not finite."""
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=twice, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the loss {name_of(loss)} must depend on x through torch operations, but has no gradient")
    if not bool(torch.isfinite(gradient.detach()).all()):
        raise ValueError(f"the gradient of the loss {name_of(loss)} must be finite, but holds NaN or infinity")
    return gradient


def hessian(manifold: geoopt.Manifold, leaf: Tensor, egrad: Tensor) -> Callable[[Tensor], Tensor]:
    """U -> the Riemannian Hessian times U."""
    x, fixed = leaf.detach(), egrad.detach()

    def from_euclidean(u: Tensor) -> Tensor:
        product: Tensor = manifold.ehess2rhess(x, fixed, vector_product(egrad, leaf, u).detach(), u)
        return product

    def from_gradient_field(u: Tensor) -> Tensor:
        # The derivative along u, as the derivative with respect to w of w's product with the transposed Jacobian.
        w = torch.zeros_like(x, requires_grad=True)
        with torch.enable_grad():
            field = manifold.egrad2rgrad(leaf, egrad)
            transposed = vector_product(field, leaf, w, twice=True)
            product: Tensor = manifold.proju(x, vector_product(transposed, w, u))
        return product.detach()

    has_own = hasattr(manifold, "ehess2rhess") and call(from_euclidean, torch.zeros_like(x)) is not None
    return from_euclidean if has_own else from_gradient_field


def vector_product(output: Tensor, leaf: Tensor, vector: Tensor, twice: bool = False) -> Tensor:
    """The vector-Jacobian product of `output` with respect to `leaf`."""
    if not output.requires_grad:  # constant
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(
        output, leaf, vector, retain_graph=True, create_graph=twice, allow_unused=True, materialize_grads=True
    )
    return product


def name_of(loss: Loss) -> str:
    """The name of a loss, for messages."""
    return getattr(loss, "__qualname__", type(loss).__name__)


def call(operation: Callable[..., Any], *args: Any) -> Any:
    """The result, or None where the manifold does not implement the operation."""
    try:
        return operation(*args)
    except NotImplementedError:
        return None

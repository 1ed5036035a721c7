"""Clipping of gradients by their length on the tangent space."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.optim.base import manifold_of
from grassmann_ssl.sharding import local, whole


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Any] | Tensor, max_norm: float) -> Tensor:
    """Shorten all gradients by one factor so that the norm of the Riemannian gradient is at most `max_norm`; returns the norm before.

    The squared norm is the sum over parameters of ||grad L||^2 in the metric of each, for ordinary ones that of .grad. The part of a
    Euclidean gradient normal to the manifold, which no step follows, does not count, unlike in torch.nn.utils.clip_grad_norm_. A norm that
    is not finite leaves the gradients as they are, for the optimizer to see. Does not wait for the device.
    Raises ValueError where max_norm is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    given: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    given = [p for p in given if p.grad is not None]
    if not given:
        return torch.zeros(())
    squares = []
    for p in given:
        manifold = manifold_of(p)
        gradient = whole(p.grad)
        if manifold is None:
            squares.append(torch.linalg.vector_norm(gradient).square())
        else:
            x = whole(p.detach())
            squares.append(manifold.inner(x, manifold.egrad2rgrad(x, gradient)).sum())
    device = squares[0].device
    norm = torch.stack([s.to(device) for s in squares]).sum().sqrt()
    factor = torch.where(torch.isfinite(norm), (max_norm / norm).clamp_max(1), 1)
    for p in given:
        local(p.grad).mul_(factor.to(p.device, p.grad.real.dtype))
    return norm

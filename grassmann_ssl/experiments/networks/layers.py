"""Joint gradient descent of several layers, batched over seeds, each weight free or on a manifold."""

from collections.abc import Callable, Sequence

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.optim import RiemannianSGD


def descend(
    loss: Callable[..., Tensor],
    weights: Sequence[Tensor],
    manifolds: Sequence[geoopt.Manifold],
    *,
    learning_rate: float,
    steps: int,
    observe: Callable[[int, tuple[Tensor, ...]], object] = lambda step, weights: None,
    on_step: Callable[[], object] = lambda: None,
) -> tuple[Tensor, ...]:
    """Descend `loss(*weights)` by W_i <- Retr(-lr grad_i L) on the manifold of each weight, all gradients taken at the same point.

    `weights` are tensors (*b, ., .), one for each manifold; `loss` returns one number per leading index (*b), independent of the others.
    `observe(step, weights)` is called before every step and at the end; training stops when it returns True. Time = learning
    rate x step. A product of layers depends on the basis of each of them: use a retraction that leaves the basis unrotated ("polar")
    for the steps to follow the flow closely. Returns the final weights.
    """
    parameters = [
        geoopt.ManifoldParameter(w.clone(), manifold=manifold) for w, manifold in zip(weights, manifolds, strict=True)
    ]
    free = all(isinstance(manifold, geoopt.Euclidean) for manifold in manifolds)
    optimizer = (torch.optim.SGD if free else RiemannianSGD)(parameters, lr=learning_rate)
    for step in range(steps + 1):
        if observe(step, tuple(p.detach() for p in parameters)) is True or step == steps:
            break
        gradients = torch.autograd.grad(loss(*parameters).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        on_step()
    return tuple(p.detach() for p in parameters)

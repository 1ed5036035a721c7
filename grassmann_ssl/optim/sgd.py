"""Riemannian stochastic gradient descent with momentum."""

from typing import Any, ClassVar

import geoopt
import torch
from torch import Tensor
from torch.optim.sgd import sgd

from grassmann_ssl.optim.base import RiemannianOptimizer, check_range, orthonormal
from grassmann_ssl.optim.bucket import State


class RiemannianSGD(RiemannianOptimizer):
    """Gradient descent with momentum on manifolds; ordinary parameters take the step of torch.optim.SGD.

    M <- momentum T(M) + grad L(X),  X <- Retr_X(-lr M);  with `nesterov` the step is -lr (grad L + momentum M). grad L is the Riemannian
    gradient, T the transport of the last step. On our manifolds T is completed by the projection that the gradient needs anyway (it is
    linear), so that a step on Gr(n, p) costs five n x p x p products, four without momentum; `momentum_buffer` is then tangent at the
    point before the step, in the basis of the point after it. On the Grassmannian whole trajectories are independent of the basis.
    `weight_decay` (added to the gradient, as torch does) acts on ordinary parameters. Settings in the order of torch and geoopt;
    `dampening` is refused. See `RiemannianOptimizer`.
    Source: Becigneul & Ganea, ICLR 2019 (Riemannian momentum); AMS08 = Absil, Mahony, Sepulchre 2008, sec. 8.1.
    """

    momentum_keys: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        stabilize: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        nonfinite: str = "skip",
    ) -> None:
        if dampening:
            raise ValueError(
                f"dampening must be 0, got {dampening}: it only shortens steps, which lr x (1 - dampening) does too"
            )
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, defaults, nonfinite=nonfinite, maximize=maximize, stabilize=stabilize, foreach=foreach)

    def _check_settings(self, group: dict[str, Any]) -> None:
        check_range("lr", group["lr"], 0.0)
        check_range("momentum", group["momentum"], 0.0)
        check_range("weight_decay", group["weight_decay"], 0.0)
        if group["nesterov"] and group["momentum"] <= 0:
            raise ValueError(f"nesterov needs momentum > 0, got {group['momentum']}")

    def _initial(self, group: dict[str, Any], manifold: Any, p: Tensor) -> State:
        return {"momentum_buffer": torch.zeros_like(p.detach())} if group["momentum"] else {}

    def _advance(
        self, group: dict[str, Any], manifold: geoopt.Manifold, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor | float | None:
        lr, momentum, nesterov = group["lr"], group["momentum"], group["nesterov"]
        if not orthonormal(manifold):
            self._advance_elsewhere(group, manifold, x, gradient, states)
            return None
        if not momentum:
            return manifold.step_(x, manifold.proju_(x, manifold.sharp(gradient), in_place=False), rate=-lr)
        buffer = states["momentum_buffer"]
        gradient = manifold.sharp(gradient)
        if not nesterov:
            # The last step left the buffer unprojected: one projection serves it and the gradient.
            manifold.proju_(x, torch.add(gradient, buffer, alpha=momentum, out=buffer))
            return manifold.step_(x, buffer, buffer, -lr)
        gradient = manifold.proju(x, gradient)
        torch.add(gradient, manifold.proju_(x, buffer), alpha=momentum, out=buffer)
        return manifold.step_(x, torch.add(gradient, buffer, alpha=momentum), buffer, -lr)

    def _advance_elsewhere(
        self, group: dict[str, Any], manifold: geoopt.Manifold, x: Tensor, gradient: Tensor, states: State
    ) -> None:
        """The same on any manifold of geoopt's, by its own operations."""
        lr, momentum = group["lr"], group["momentum"]
        gradient = manifold.egrad2rgrad(x, gradient)
        if not momentum:
            x.copy_(manifold.retr(x, -lr * gradient))
            return
        buffer = states["momentum_buffer"].mul_(momentum).add_(gradient)
        step = -lr * (gradient + momentum * buffer if group["nesterov"] else buffer)
        end, moved = manifold.retr_transp(x, step, buffer)
        x.copy_(end)
        buffer.copy_(moved)

    def _initial_ordinary(self, group: dict[str, Any], p: Tensor) -> State:
        # Torch starts with the first gradient, which zero gives too: there is no dampening.
        return {"momentum_buffer": torch.zeros_like(p)} if group["momentum"] else {}

    def _advance_ordinary(
        self,
        group: dict[str, Any],
        values: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        found_inf: Tensor | None,
    ) -> None:
        buffers: list[Tensor | None] = [*states["momentum_buffer"]] if group["momentum"] else [None] * len(values)
        sgd(
            values, gradients, buffers, fused=True, found_inf=found_inf, weight_decay=group["weight_decay"], momentum=group["momentum"],
            lr=group["lr"], dampening=0.0, nesterov=group["nesterov"], maximize=group["maximize"],
        )  # fmt: skip

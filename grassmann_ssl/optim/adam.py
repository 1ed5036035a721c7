"""Riemannian Adam with second moments that do not depend on the basis."""

import math
from typing import Any, ClassVar

import geoopt
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from grassmann_ssl.optim.base import (
    RiemannianOptimizer,
    check_range,
    manifold_of,
    orthonormal,
    tangent_gradient,
)
from grassmann_ssl.optim.bucket import State
from grassmann_ssl.optim.memory import matrix_of
from grassmann_ssl.precision import HALF

SECOND_MOMENTS = ("matrix", "row")


class RiemannianAdam(RiemannianOptimizer):
    """Adam on manifolds; ordinary parameters take the step of torch.optim.AdamW.

    M <- b1 T(M) + (1 - b1) G,  v <- b2 v + (1 - b2) |G|^2,  X <- Retr_X(-lr P(M_hat / (v_hat^{1/2} + eps))), with the Riemannian gradient
    G, bias corrections M_hat = M / (1 - b1^k) and v_hat = v / (1 - b2^k), and the projection P onto the tangent space. Entrywise or
    columnwise |G|^2 depends on the basis X Q and is no function on the Grassmannian; these are: "matrix", |G|^2 = ||G||^2 in the metric,
    one number per matrix (on geoopt's products, per factor), so that a step has a length of about lr; and "row", |G_i|^2 the squared norm
    of each row, n numbers per matrix, so that each row moves by about lr and a step is about n^{1/2} longer. "row" needs one of our matrix
    manifolds. `amsgrad` keeps the largest v_hat so far. `weight_decay` is decoupled and acts on ordinary parameters. Memory: M and 1 or n
    numbers per matrix.
    Sources: Becigneul & Ganea, ICLR 2019; Kasai, Jawanpuria, Mishra, arXiv 1902.01144 (whose right statistic depends on the basis).
    """

    momentum_keys: ClassVar[tuple[str, ...]] = ("exp_avg",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        second_moment: str = "matrix",
        stabilize: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        nonfinite: str = "skip",
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "second_moment": second_moment, "amsgrad": amsgrad, "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, nonfinite=nonfinite, maximize=maximize, stabilize=stabilize, foreach=foreach)

    def _check_settings(self, group: dict[str, Any]) -> None:
        check_range("lr", group["lr"], 0.0)
        check_range("eps", group["eps"], 0.0)
        check_range("weight_decay", group["weight_decay"], 0.0)
        for beta in group["betas"]:
            check_range("betas", beta, 0.0, 1.0)
        if group["second_moment"] not in SECOND_MOMENTS:
            raise ValueError(f"second_moment must be 'matrix' or 'row', got {group['second_moment']!r}")

    def _check_parameter(self, name: str, p: Tensor) -> None:
        super()._check_parameter(name, p)
        if p.dtype in HALF and manifold_of(p) is not None:
            raise TypeError(
                f"{name} is {p.dtype}, in which second moments stand still; RiemannianSGD takes half precision"
            )

    def _initial(self, group: dict[str, Any], manifold: Any, p: Tensor) -> State:
        base, x = matrix_of(manifold, p)
        per_matrix = (*p.shape[: p.ndim - manifold.ndim], *(1,) * manifold.ndim)
        shape = per_matrix
        if not orthonormal(base):
            factors = manifold.component_inner(p.detach(), torch.zeros_like(p)).shape
            # geoopt's Siegel spaces do not keep the dimensions of a batch.
            shape = per_matrix if math.prod(factors) == math.prod(per_matrix) else factors
        if group["second_moment"] == "row":
            if not orthonormal(base):
                raise ValueError(f"second_moment 'row' needs Grassmann, GeneralizedGrassmann or Stiefel, got {base}")
            columns = (*x.shape[:-1], 1)
            shape = torch.Size(columns) if base is manifold else manifold.to_weight(x.new_empty(columns)).shape
        second = torch.zeros(shape, dtype=p.real.dtype, device=p.device)
        state = {
            "step": torch.zeros(per_matrix, dtype=second.dtype, device=p.device),
            "exp_avg": torch.zeros_like(p.detach()),
            "exp_avg_sq": second,
        }
        return {**state, "max_exp_avg_sq": second.clone()} if group["amsgrad"] else state

    def _advance(
        self, group: dict[str, Any], manifold: geoopt.Manifold, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor | float | None:
        (beta1, beta2), row = group["betas"], group["second_moment"] == "row"
        gradient, length = tangent_gradient(manifold, x, gradient)
        average = states["exp_avg"]
        if orthonormal(manifold):  # as in RiemannianSGD, the last step left the projection of the average to this one
            manifold.proju_(x, average)
        average.lerp_(gradient, 1 - beta1)
        if row:
            square = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square_()  # half the time of vecdot
        elif length is not None:
            square = length * length
        elif orthonormal(manifold):
            square = manifold.inner(x, gradient, keepdim=True)
        else:
            square = manifold.component_inner(x, gradient).real.reshape_as(states["exp_avg_sq"])

        # The host works out the rate of a single matrix of its own: as tensors its eight operations take as long as the step.
        def read(value: Tensor) -> Any:
            return float(value) if x.is_cpu and value.numel() == 1 else value

        count = states["step"]
        steps = read(count.fill_(float(count) + 1) if x.is_cpu and count.numel() == 1 else count.add_(1))
        scale = read(states["exp_avg_sq"].lerp_(square, 1 - beta2)) / (1 - beta2**steps)
        if group["amsgrad"]:
            largest = states["max_exp_avg_sq"]
            scale = read(torch.maximum(largest, torch.as_tensor(scale, dtype=largest.dtype), out=largest))
        size = scale**0.5 + group["eps"]
        if not group["eps"]:
            size = size + (size == 0)  # of a gradient that was always 0, so that the step is 0 and not 0 / 0
        rate = -group["lr"] / (1 - beta1**steps)
        if row:
            taken: Tensor | float = manifold.step_(x, manifold.proju_(x, average / size), average, rate)
            return taken
        rate = rate / size
        if not orthonormal(manifold):
            end, moved = manifold.retr_transp(x, rate * average, average)
            average.copy_(moved)
            x.copy_(end)
            return None
        return manifold.step_(x, average, average, rate)

    def _initial_ordinary(self, group: dict[str, Any], p: Tensor) -> State:
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        state = {"step": torch.zeros((), dtype=torch.float32, device=p.device)}
        return state | {name: torch.zeros_like(p) for name in names}

    def _advance_ordinary(
        self,
        group: dict[str, Any],
        values: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        found_inf: Tensor | None,
    ) -> None:
        beta1, beta2 = group["betas"]
        adamw(
            values, gradients, states["exp_avg"], states["exp_avg_sq"], states.get("max_exp_avg_sq", []), states["step"], fused=True,
            found_inf=found_inf, amsgrad=group["amsgrad"], beta1=beta1, beta2=beta2, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
        )  # fmt: skip

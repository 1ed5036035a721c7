"""EMA teachers: the exponential moving average of a model's weights, along geodesics where they are constrained."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from grassmann_ssl.nn.averages import moved


class Teacher(nn.Module):
    """EMA teacher: a copy of a model, without gradients, that `update` moves towards the model.

    Free parameters and floating buffers: W_t <- m W_t + (1 - m) W. Constrained parameters: the point at 1 - m of the geodesic from W_t to
    W, so that the teacher's weight stays on the manifold; on manifolds without a logarithm in closed form (Stiefel), the average projected
    onto it. Other buffers (counters) are copied. Running statistics are averaged too, since those of a batch belong to the weights of its
    step. The teacher starts as a copy of the model, in its mode (training or evaluation).
    The basis of a subspace is averaged as well: it is the one nearest to m W_t' + (1 - m) W, where W_t' is the end of the geodesic with the
    teacher's basis carried along. So m = 1 keeps the teacher, m = 0 copies the model, and under a constant model the teacher converges to
    it in its basis: a loss that compares embeddings of both depends on coordinates, not on subspaces.
    `momentum` is m where `update` is given none.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.996) -> None:
        super().__init__()
        self.model, self.momentum = copy.deepcopy(model).requires_grad_(False), momentum

    def forward(self, *inputs: Any) -> Tensor:
        embeddings: Tensor = self.model(*inputs)
        return embeddings

    @torch.no_grad()
    def update(self, model: nn.Module, momentum: float | None = None) -> None:
        """One EMA step, of decay m = `momentum` or that of the teacher, towards a model of the same architecture.

        Raises ValueError unless 0 <= momentum <= 1, and where the names of parameters or buffers are not those of the teacher.
        """
        momentum = self.momentum if momentum is None else momentum
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1, got {momentum}")
        own, theirs = dict(self.model.named_parameters()), dict(model.named_parameters())
        _check_names(own, theirs)
        _check_names(dict(self.model.named_buffers()), dict(model.named_buffers()))
        ends = moved(self.model, model, 1 - momentum)
        for name, end in ends.items():
            own[name].copy_(end)
        averaged: list[tuple[Tensor, Tensor]] = [(own[name], theirs[name].detach()) for name in own if name not in ends]
        for mine, other in zip(self.model.buffers(), model.buffers(), strict=True):
            if mine.dtype.is_floating_point:
                averaged.append((mine, other))
            else:
                mine.copy_(other)
        if averaged:
            torch._foreach_lerp_([mine for mine, _ in averaged], [other for _, other in averaged], 1 - momentum)


def _check_names(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    if own.keys() != theirs.keys():
        missing, extra = sorted(own.keys() - theirs.keys()), sorted(theirs.keys() - own.keys())
        raise ValueError(
            f"model must have the parameters and buffers that the teacher was copied from: it lacks {missing[:3]}, it has {extra[:3]} "
            "besides; below DistributedDataParallel, give its .module"
        )


def cosine_momentum(step: int, steps: int, base: float) -> float:
    """m = 1 - (1 - base)(cos(pi k / K) + 1)/2, k = `step` of K = `steps`: from `base` to 1. Source: BYOL, arXiv 2006.07733, sec. 3.2."""
    return 1 - (1 - base) * (math.cos(math.pi * step / max(1, steps)) + 1) / 2

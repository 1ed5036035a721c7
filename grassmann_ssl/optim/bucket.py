"""Parameters that advance as one batch: what a step reads and writes, found once and kept from step to step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.optim.memory import in_place, matrix_of, stack, write_matrix
from grassmann_ssl.sharding import is_sharded

State = dict[str, Tensor]


class Bucket:
    """Constrained parameters of one shape, dtype, device and manifold, and their states, as matrices (..., n, p), stacked if several."""

    def __init__(self, params: list[Any], states: Mapping[Tensor, State]) -> None:
        self.params = params
        self.keys = list(states[params[0]])
        self.tensors = [params, *([states[p][key] for p in params] for key in self.keys)]
        self.places = [_place(p) for p in params]
        self.manifolds = [p.manifold for p in params]
        self.manifold = matrix_of(self.manifolds[0], params[0])[0]
        self.matrices = [[self._matrix(k, t) for k, t in enumerate(tensors)] for tensors in self.tensors]
        self.plain = len(params) == 1 and self.manifold is self.manifolds[0] and not is_sharded(params[0])
        self.views = all(in_place(t) for tensors in self.tensors for t in tensors)

    def holds(self, states: Mapping[Tensor, State]) -> bool:
        """Whether the matrices still are the memory of parameters and states: not after load_state_dict or a swap of `.data`.

        They keep the memory they know, so that new memory has another address.
        """
        return self.views and all(
            self.places[k] == _place(p)
            and p.manifold is self.manifolds[k]
            and len(states[p]) == len(self.keys)
            and all(states[p][key] is self.tensors[i][k] for i, key in enumerate(self.keys, 1))
            for k, p in enumerate(self.params)
        )

    def gradient(self) -> Tensor:
        """The gradients of all parameters."""
        if self.plain:
            gradient: Tensor = self.params[0].grad.detach()
            return gradient
        return stack([self._matrix(k, p.grad) for k, p in enumerate(self.params)])

    def in_place(self, finite: Tensor | None) -> bool:
        """Whether a step may write to the parameter itself: the only one, where nothing has to be undone.

        Every new n x p matrix costs as much as a pass over it.
        """
        return finite is None and self.views and len(self.params) == 1

    def matrices_of_one(self) -> list[Tensor]:
        """The point and every state of the only parameter, to be written to."""
        return [matrices[0] for matrices in self.matrices]

    def read(self) -> list[Tensor]:
        """The points and every state, copied."""
        return [torch.stack(ts) if len(ts) > 1 else ts[0].clone() for ts in self.matrices]

    def write(self, values: list[Tensor], finite: Tensor | None) -> None:
        """Write points and every state back where `finite` (None: known to be)."""
        new = [
            value for all_of_one in values for value in (all_of_one.unbind() if len(self.params) > 1 else [all_of_one])
        ]
        old = [matrix for matrices in self.matrices for matrix in matrices]
        if finite is not None:
            new = [torch.where(finite, value, matrix) for value, matrix in zip(new, old, strict=True)]
        if self.views:
            torch._foreach_copy_(old, new)
            return
        targets = [(k, t) for tensors in self.tensors for k, t in enumerate(tensors)]
        for (k, target), value in zip(targets, new, strict=True):
            write_matrix(self.manifolds[k], target, value)

    def _matrix(self, k: int, tensor: Tensor) -> Tensor:
        matrix: Tensor = matrix_of(self.manifolds[k], tensor)[1]
        return matrix


def _place(p: Tensor) -> tuple[int, tuple[int, ...]]:
    """Where a parameter lies in memory, and how."""
    return (p.data_ptr(), p.stride())

"""The parameters of a line search as stacks of points, and their systems: all matrices together, or each by itself."""

import copy
import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from grassmann_ssl.optim.base import manifold_of
from grassmann_ssl.optim.memory import in_place, matrix_of, write_matrix
from grassmann_ssl.optim.search import Numbers

Vectors = list[Tensor]
"""one tensor for each stack: points, tangent vectors"""
PerMatrix = Float64[np.ndarray, " m"]


class Points:
    """The points of parameters, stacked where manifold, shape, dtype and device are equal; an ordinary parameter counts as one matrix.

    Their numbers are those of systems: of one that holds all matrices, or of one for each of the `matrices`, in the order of the
    parameters. A first call of `couple` says which.
    """

    def __init__(self, params: list[Tensor]) -> None:
        alike: dict[Any, list[tuple[int, Tensor]]] = defaultdict(list)
        self.matrices = 0
        for p in params:
            manifold = manifold_of(p)
            alike[(manifold, p.shape, p.dtype, p.device)].append((self.matrices, p))
            self.matrices += 1 if manifold is None else math.prod(p.shape[: p.ndim - manifold.ndim])
        self.stacks = [Stack([p for _, p in found], [place for place, _ in found]) for found in alike.values()]
        self.order = np.concatenate([s.places for s in self.stacks])
        self.constrained = np.empty(self.matrices, dtype=bool)
        for s in self.stacks:
            self.constrained[s.places] = s.manifold is not None
        self.systems = 0

    def couple(self, losses: int) -> None:
        """Take the matrices for one system where there is one loss, and each for its own where there is one for each of them.

        Raises ValueError for another number, and where it is not that of the last call.
        """
        if losses not in (1, self.matrices) or self.systems not in (0, losses):
            needed = (
                f"1 or {self.matrices}, as many as there are matrices"
                if not self.systems
                else f"{self.systems} as before"
            )
            raise ValueError(
                f"the closure must return a scalar or one loss for every matrix: {needed}, got {losses} of them"
            )
        self.systems = losses

    def inner(self, u: Vectors, v: Vectors) -> PerMatrix:
        """<U, V> of every matrix."""
        found = [s.space.inner(s.x, a, b) for s, a, b in zip(self.stacks, u, v, strict=True)]
        numbers = np.empty(self.matrices)
        numbers[self.order] = np.concatenate([n.reshape(-1).double().cpu().numpy() for n in found])
        return numbers

    def sum(self, numbers: PerMatrix) -> Numbers:
        """The sums over the matrices of each system."""
        return numbers.sum(keepdims=True) if self.systems == 1 else numbers

    def largest(self, numbers: PerMatrix) -> Numbers:
        """The largest over the matrices of each system."""
        return numbers.max(keepdims=True) if self.systems == 1 else numbers

    def scale(self, numbers: Numbers, v: Vectors) -> Vectors:
        """V times the number of its system."""
        return [s.spread(numbers) * u for s, u in zip(self.stacks, v, strict=True)]

    def choose(self, systems: np.ndarray, u: Vectors, v: Vectors) -> Vectors:
        """U in those systems, V in the others."""
        if systems.all() or not systems.any():
            return u if systems.all() else v
        return [torch.where(s.spread(systems), a, b) for s, a, b in zip(self.stacks, u, v, strict=True)]

    def move(self, points: Vectors) -> None:
        """Put the parameters there."""
        for s, x in zip(self.stacks, points, strict=True):
            s.put(x)

    def gradients(self) -> Vectors:
        """The Riemannian gradients."""
        return [s.space.egrad2rgrad(s.x, s.gather([p.grad for p in s.params])) for s in self.stacks]


class Stack:
    """Parameters of one kind: points X (k, ..., n, p), or (..., n, p) of a single one, and the places of their matrices among all.

    Spaces are ours with polar retractions, which leave the basis alone, so that vectors kept from earlier points need not be turned.
    """

    def __init__(self, params: list[Tensor], starts: list[int]) -> None:
        self.params, self.manifold = params, manifold_of(params[0])
        self.many = len(params) > 1
        if self.manifold is None:
            self.space: Any = _Flat(len(params))
        else:
            self.space = copy.copy(matrix_of(self.manifold, params[0])[0])
            self.space.retraction = "polar"
        self.x = self.gather([p.detach() for p in params])
        each = self.x.ndim - self.many if self.manifold is None else 2
        self.lead = self.x.shape[: self.x.ndim - each]
        self.ones = (1,) * each
        own = math.prod(self.lead) // len(params)
        self.places = np.concatenate([np.arange(start, start + own) for start in starts])
        # Where parameters are views of their points, or points of parameters, writing to the one is writing to the other.
        self.targets = [matrix_of(self.manifold, p)[1] if in_place(p) else None for p in params]

    def gather(self, tensors: list[Tensor | None]) -> Tensor:
        """Tensors in the shapes of the parameters (None: zeros) as those of the points; of a single one, stored in place, a view."""
        whole = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, self.params, strict=True)]
        return matrix_of(self.manifold, torch.stack(whole) if self.many else whole[0])[1]

    def put(self, x: Tensor) -> None:
        """Move the parameters to other points."""
        self.x.copy_(x)
        for p, target, own in zip(self.params, self.targets, self.apart(self.x), strict=True):
            if target is None:
                write_matrix(self.manifold, p, own)
            elif self.many:
                target.copy_(own)

    def apart(self, v: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
        """The part of each parameter in a stack."""
        return v.unbind(axis) if self.many else (v,)

    def together(self, parts: list[Tensor], axis: int = 0) -> Tensor:
        """The inverse of `apart`."""
        return torch.stack(parts, axis) if self.many else parts[0]

    def spread(self, numbers: np.ndarray) -> Any:
        """Numbers of systems as factors of the points; a single number as a float."""
        if len(numbers) == 1:
            return float(numbers[0])
        own = torch.from_numpy(numbers[self.places]).reshape(*self.lead, *self.ones).to(self.x.device)
        return own if numbers.dtype == bool else own.to(self.x.real.dtype)


class _Flat:
    """The space of ordinary parameters, k of one shape."""

    def __init__(self, count: int) -> None:
        self.count = count

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return u.clone()

    def flat(self, v: Tensor) -> Tensor:
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).reshape(self.count, -1).sum(1)

    def tangent_products(self, x: Tensor, v: Tensor) -> Tensor:
        v = v.flatten(1)
        return v @ v.mT

"""Riemannian limited-memory BFGS."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from grassmann_ssl.optim.base import check_range
from grassmann_ssl.optim.line_search import Evaluation, LineSearchOptimizer, Move, steepest
from grassmann_ssl.optim.points import Points, Stack, Vectors
from grassmann_ssl.optim.search import Numbers


@dataclass
class Pairs:
    """The last m pairs (2 m + 1, *stack): s in slots 0 .. m - 1, y in the next m, room for a gradient in the last; how many there were."""

    vectors: Vectors
    count: int


class RiemannianLBFGS(LineSearchOptimizer):
    """Limited-memory BFGS: D = -H grad L by the two-loop recursion over the last `history_size` pairs s = t D, y = g_new - g_old.

    Pairs are transported by projection to the point where they are used, all inner products at once as one Gram matrix: with
    V = [s, y, g] it is V^H V - (X^H V)^H (X^H V), so that nothing but p x p matrices is transported and the recursion runs on numbers.
    Pairs whose <s, y> is not above rounding are left out. The first step tried is 1: most iterations cost one evaluation.
    See `LineSearchOptimizer`. Sources: Nocedal & Wright 2006, algorithm 7.4; Chen, Wang, Zhou 2014 (recursion on the Gram matrix);
    Huang, Gallivan, Absil 2015 (on manifolds). Raises ValueError for settings out of range.
    """

    own_dtype_keys: ClassVar[tuple[str, ...]] = ("count",)

    def __init__(
        self, params: Any, *, max_iter: int = 20, tolerance_grad: float = 1e-7, history_size: int = 10
    ) -> None:
        check_range("history_size", history_size, 1)
        super().__init__(params, max_iter=max_iter, tolerance_grad=tolerance_grad, history_size=history_size)

    def search_direction(
        self, memory: Pairs | None, points: Points, here: Evaluation
    ) -> tuple[Vectors, Numbers, np.ndarray]:
        down, first = steepest(points, here)
        if memory is None:
            return down, first, np.ones(points.systems, dtype=bool)
        size = self.param_groups[0]["history_size"]
        for v, g in zip(memory.vectors, here.gradient, strict=True):
            v[-1].copy_(g)
        newest = [(memory.count - 1 - k) % size for k in range(min(memory.count, size))]
        if points.systems == 1:
            products = (s.space.tangent_products(s.x, v) for s, v in zip(points.stacks, memory.vectors, strict=True))
            gram = sum(g.double().cpu() for g in products).numpy()[None]
            weights, known = two_loop(gram, newest, size)
            direction = [
                s.space.proju(s.x, torch.tensordot(torch.from_numpy(weights[0]).to(v), v, 1))
                for s, v in zip(points.stacks, memory.vectors, strict=True)
            ]
        else:
            tangent = [s.space.proju(s.x, v) for s, v in zip(points.stacks, memory.vectors, strict=True)]
            gram = np.empty((points.matrices, 2 * size + 1, 2 * size + 1))
            gram[points.order] = np.concatenate([_products(s, v) for s, v in zip(points.stacks, tangent, strict=True)])
            weights, known = two_loop(gram, newest, size)
            direction = [_combine(s, weights, v) for s, v in zip(points.stacks, tangent, strict=True)]
        return direction, np.where(known, 1.0, first), ~known

    def remember(self, memory: Pairs | None, points: Points, move: Move) -> Pairs:
        size = self.param_groups[0]["history_size"]
        if memory is None:
            memory = Pairs([g.new_zeros(2 * size + 1, *g.shape) for g in move.direction], 0)
        slot = memory.count % size
        steps = points.scale(move.t, move.direction)
        for s, v, step, old, new in zip(
            points.stacks, memory.vectors, steps, move.old.gradient, move.new.gradient, strict=True
        ):
            v[slot].copy_(step)
            torch.sub(new, old, out=v[size + slot])
            if move.failed.any():
                v.mul_(s.spread((~move.failed).astype(float)))
        return Pairs(memory.vectors, memory.count + 1)

    def recall(self, points: Points) -> Pairs | None:
        params = [p for s in points.stacks for p in s.params]
        if not all(self.state[p] for p in params):
            return None
        vectors = [s.together([self.state[p]["pairs"] for p in s.params], 1) for s in points.stacks]
        return Pairs(vectors, int(self.state[params[0]]["count"]))

    def store(self, memory: Pairs | None, points: Points) -> None:
        if memory is None:
            return
        for s, v in zip(points.stacks, memory.vectors, strict=True):
            for p, pairs in zip(s.params, s.apart(v, 1), strict=True):
                self.state[p].update(pairs=pairs, count=torch.tensor(memory.count))


def two_loop(
    gram: Float64[np.ndarray, "s k k"], newest: list[int], size: int
) -> tuple[Float64[np.ndarray, "s k"], np.ndarray]:
    """Weights of s_0.., y_0.., g in D = -H g of every system, from the products of all of them; and which systems have a pair at all.

    s_i is vector i, y_i vector `size` + i and g the last; `newest` lists the slots of pairs, newest first. A pair is taken where <s, y> is
    above rounding, which leaves products of short vectors negative or 0. Source: Nocedal & Wright 2006, algorithm 7.4, on coordinates.
    """
    q = np.zeros(gram.shape[:2])
    q[:, -1] = 1.0
    eps = np.finfo(np.float64).eps
    scale, known = np.ones(len(gram)), np.zeros(len(gram), dtype=bool)
    passed = []
    for i in newest:
        ss, sy, yy = gram[:, i, i], gram[:, i, size + i], gram[:, size + i, size + i]
        taken = (ss > 0) & (yy > 0) & (sy > eps * np.sqrt(np.maximum(ss * yy, 0)))
        inverse = np.divide(1.0, sy, out=np.zeros_like(sy), where=taken)
        first = (q * gram[:, i]).sum(1) * inverse
        q[:, size + i] -= first
        scale = np.where(taken & ~known, np.divide(sy, yy, out=np.ones_like(sy), where=taken), scale)
        known |= taken
        passed.append((i, inverse, first))
    q *= scale[:, None]
    for i, inverse, first in reversed(passed):
        q[:, i] += first - (q * gram[:, size + i]).sum(1) * inverse
    return -q, known


def _products(stack: Stack, v: Tensor) -> Float64[np.ndarray, "m k k"]:
    """The inner products of tangent vectors V (k, *stack), for every matrix."""
    flat, rows = (a.reshape(len(v), len(stack.places), -1).movedim(0, 1) for a in (stack.space.flat(v), v))
    return (rows.conj() @ flat.mT).real.double().cpu().numpy()


def _combine(stack: Stack, weights: Float64[np.ndarray, "s k"], v: Tensor) -> Tensor:
    """The sum over k of weights and V (k, *stack), every matrix with its own."""
    rows = v.reshape(len(v), len(stack.places), -1).movedim(0, 1)
    own = torch.from_numpy(weights[stack.places]).to(v)[:, None]
    return (own @ rows).reshape(v.shape[1:])

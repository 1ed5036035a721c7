"""Riemannian conjugate gradients."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from grassmann_ssl.optim.line_search import Evaluation, LineSearchOptimizer, Move, steepest
from grassmann_ssl.optim.points import Points, Vectors
from grassmann_ssl.optim.search import Numbers


@dataclass
class Last:
    """The last direction and the gradient before it, and the first step to try next; NaN in systems without a past."""

    direction: Vectors
    gradient: Vectors
    guess: Numbers


class RiemannianCG(LineSearchOptimizer):
    """Nonlinear conjugate gradients: D <- -grad L + max(0, b) T(D), with Hestenes and Stiefel's b cut at that of Dai and Yuan.

    b = min(<g, y>, <g, g>) / <T(D), y>, y = g - T(g_old), T the transport by projection; memory for D and one gradient. The first step
    tried is where the slope of the last search would have vanished. See `LineSearchOptimizer`. Sources: Nocedal & Wright 2006,
    sec. 5.2; Sato 2016 (on manifolds).
    """

    own_dtype_keys: ClassVar[tuple[str, ...]] = ("guess",)

    def __init__(self, params: Any, *, max_iter: int = 20, tolerance_grad: float = 1e-7) -> None:
        super().__init__(params, max_iter=max_iter, tolerance_grad=tolerance_grad)

    def search_direction(
        self, memory: Last | None, points: Points, here: Evaluation
    ) -> tuple[Vectors, Numbers, np.ndarray]:
        down, first = steepest(points, here)
        if memory is None:
            return down, first, np.ones(points.systems, dtype=bool)
        fresh = np.isnan(memory.guess)
        old = [s.space.proju(s.x, d) for s, d in zip(points.stacks, memory.direction, strict=True)]
        # No projection: the products below are with tangent vectors.
        change = [g - before for g, before in zip(here.gradient, memory.gradient, strict=True)]
        along = points.sum(points.inner(old, change))
        best = np.minimum(points.sum(points.inner(here.gradient, change)), points.sum(here.squares))
        known = (along > 0) & ~fresh
        b = np.maximum(np.divide(best, along, out=np.zeros_like(along), where=known), 0.0)
        direction = [g + d for g, d in zip(down, points.scale(b, old), strict=True)]
        return direction, np.where(fresh, first, memory.guess), fresh

    def remember(self, memory: Last | None, points: Points, move: Move) -> Last:
        rise = move.along - move.slope
        flat = np.divide(-move.slope, rise, out=np.full_like(rise, 4.0), where=rise > 0)
        guess = np.where(move.t > 0, move.t * np.clip(flat, 0.25, 4.0), np.nan)
        return Last(move.direction, move.old.gradient, guess)

    def recall(self, points: Points) -> Last | None:
        params = [p for s in points.stacks for p in s.params]
        if not all(self.state[p] for p in params):
            return None
        direction, gradient = (
            [s.together([self.state[p][key] for p in s.params]) for s in points.stacks]
            for key in ("direction", "gradient")
        )
        guesses = np.empty(points.matrices)
        for s in points.stacks:
            guesses[s.places] = torch.cat([self.state[p]["guess"] for p in s.params]).cpu().numpy()
        return Last(direction, gradient, guesses[: points.systems])

    def store(self, memory: Last | None, points: Points) -> None:
        if memory is None:
            return
        for s, d, g in zip(points.stacks, memory.direction, memory.gradient, strict=True):
            guesses = np.broadcast_to(memory.guess, points.matrices)[s.places].reshape(len(s.params), -1)
            for p, direction, gradient, guess in zip(s.params, s.apart(d), s.apart(g), guesses, strict=True):
                self.state[p].update(direction=direction, gradient=gradient, guess=torch.from_numpy(guess))

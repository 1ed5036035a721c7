"""Common base of the optimizers with a line search, for losses of the full batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.optim.base import RiemannianOptimizer, check_range, eager, manifold_of, orthonormal, refuse_sparse
from grassmann_ssl.optim.memory import in_place, matrix_of
from grassmann_ssl.optim.points import PerMatrix, Points, Vectors
from grassmann_ssl.optim.search import Numbers, search
from grassmann_ssl.sharding import is_sharded


@dataclass
class Evaluation:
    """What a closure tells of the points: its loss, as the values of the systems, the gradients, and their squared norms by matrix."""

    loss: Tensor
    value: Numbers
    gradient: Vectors
    squares: PerMatrix


@dataclass
class Move:
    """A step t D from one evaluation to the next, with the slopes along D at both ends; t = 0 in systems that stay.

    failed   systems in which no trial was accepted
    """

    direction: Vectors
    t: Numbers
    old: Evaluation
    new: Evaluation
    slope: Numbers
    along: Numbers
    failed: np.ndarray


class LineSearchOptimizer(RiemannianOptimizer):
    """Base of the two: `step(closure)` runs up to `max_iter` iterations, each a direction and a line search.

    `closure` clears the gradients, computes the loss, calls backward and returns the loss; it must give the same loss for the same
    parameters. A scalar loss is searched along one curve for all parameters together. Where the matrices are independent, the closure
    returns their losses, one for every matrix in the order of the parameters (an ordinary parameter counts as one), after backward of their
    sum: then direction, line search and convergence are those of each matrix alone. Parameters of one shape and manifold are stacked.
    An iteration accepts t when L falls enough (Armijo, 1e-4), or, where rounding hides the fall, when the slope along the curve has
    flattened (Hager & Zhang's approximate condition), and when the slope is not steeper than 0.9 of that at 0; no matrix moves further
    than pi/2. Trial points with a loss or gradient that is not finite are stepped back from; one at the start raises FloatingPointError.
    These optimizers wait for the device. After a step `gradient_norm` is the largest norm of the Riemannian gradient of a matrix; a search
    ends early where that is at most `tolerance_grad`, or where no trial was accepted, which `stalled` tells. `evaluations` counts calls of
    closures. Sources: Nocedal & Wright 2006, algorithms 3.5, 3.6, 7.4; Hager & Zhang 2005; Ring & Wirth 2012 (on manifolds).
    """

    def __init__(self, params: Any, *, max_iter: int, tolerance_grad: float, **settings: Any) -> None:
        check_range("max_iter", max_iter, 1)
        check_range("tolerance_grad", tolerance_grad, 0.0)
        self.gradient_norm = math.inf
        self.stalled = False
        self.evaluations = 0
        super().__init__(
            params,
            {"max_iter": max_iter, "tolerance_grad": tolerance_grad, **settings},
            nonfinite="raise",
            maximize=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("gradient_norm", "stalled", "evaluations")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The parameters; all are searched in one step, so that there is one group. Raises ValueError for a second one."""
        if self.param_groups:
            raise ValueError(f"{type(self).__name__} searches all parameters together and takes one group of them")
        super().add_param_group(param_group)

    @eager
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Up to `max_iter` iterations; returns the loss before them.

        Raises TypeError without a closure and for sparse gradients, ValueError for losses that are neither one nor one for every matrix,
        FloatingPointError for a loss or gradient at the start that is not finite.
        """
        if closure is None:
            raise TypeError(f"{type(self).__name__}.step needs a closure that computes the loss and calls backward")
        group = self.param_groups[0]
        params = group["params"]
        if not all(map(in_place, params)):
            self._refuse_overlaps(params)
        points = Points(params)
        start = here = self._evaluate(closure, points)
        if not np.isfinite(here.value).all():
            raise FloatingPointError(
                f"the loss or its gradient is not finite at the start (loss {here.value.max()}); nothing was changed"
            )
        self._follow(params, self.own_dtype_keys)
        memory = self.recall(points)
        stalled = np.zeros(points.systems, dtype=bool)
        for _ in range(group["max_iter"]):
            active = (np.sqrt(points.largest(here.squares)) > group["tolerance_grad"]) & ~stalled
            if not active.any():
                break
            self.steps += 1
            direction, first, fresh = self.search_direction(memory, points, here)
            move = _search(lambda: self._evaluate(closure, points), points, here, direction, first, active)
            memory, here = self.remember(memory, points, move), move.new
            stalled |= move.failed & fresh  # the others are searched once more, without the past
        self.store(memory, points)
        self.gradient_norm = math.sqrt(here.squares.max())
        self.stalled = bool(stalled.any())
        return start.loss

    def _evaluate(self, closure: Callable[[], Tensor], points: Points) -> Evaluation:
        with torch.enable_grad():
            loss = closure().detach()
        self.evaluations += 1
        points.couple(loss.numel())
        refuse_sparse(p.grad for p in self.param_groups[0]["params"] if p.grad is not None)
        gradient = points.gradients()
        squares = points.inner(gradient, gradient)
        value = loss.reshape(-1).double().cpu().numpy()
        finite = np.isfinite(value) & np.isfinite(points.sum(squares))
        return Evaluation(loss, np.where(finite, value, math.inf), gradient, squares)

    def _check_parameter(self, name: str, p: Tensor) -> None:
        super()._check_parameter(name, p)
        if is_sharded(p):
            raise ValueError(f"{type(self).__name__} does not take sharded parameters, but {name} is sharded")
        manifold = manifold_of(p)
        if manifold is not None and not orthonormal(matrix_of(manifold, p)[0]):
            raise ValueError(
                f"{type(self).__name__} needs Grassmann, GeneralizedGrassmann or Stiefel, but {name} is on {manifold}"
            )

    def _check_settings(self, group: dict[str, Any]) -> None:
        """Settings are checked where they are taken: there is one group."""

    def search_direction(self, memory: Any, points: Points, here: Evaluation) -> tuple[Vectors, Numbers, np.ndarray]:
        """The search direction, the first step to try in each system, and in which of them the past has no part in it."""
        raise NotImplementedError

    def recall(self, points: Points) -> Any:
        """What the states keep of the last steps; None where they keep nothing."""
        raise NotImplementedError

    def remember(self, memory: Any, points: Points, move: Move) -> Any:
        """What the next direction needs, which is nothing of the past where a search failed."""
        raise NotImplementedError

    def store(self, memory: Any, points: Points) -> None:
        """Write to the states what `recall` reads."""
        raise NotImplementedError


def steepest(points: Points, here: Evaluation) -> tuple[Vectors, Numbers]:
    """The direction down the gradient, and a first step in which no matrix moves further than 1."""
    return [-g for g in here.gradient], 1 / np.maximum(np.sqrt(points.largest(here.squares)), 1.0)


def _search(
    evaluate: Callable[[], Evaluation],
    points: Points,
    here: Evaluation,
    direction: Vectors,
    first: Numbers,
    active: np.ndarray,
) -> Move:
    """Search in the `active` systems; the others stay, and so do those in which the search fails."""
    start = [s.x.clone() for s in points.stacks]
    if not active.all():
        direction = points.scale(active.astype(float), direction)
    slope = points.sum(points.inner(here.gradient, direction))
    lengths = np.sqrt(points.largest(np.where(points.constrained, points.inner(direction, direction), 0.0)))
    new, along = here, slope

    def trial(t: Numbers) -> tuple[Numbers, Numbers]:
        nonlocal new, along
        ends = [s.space.retr(x, u) for s, x, u in zip(points.stacks, start, points.scale(t, direction), strict=True)]
        points.move(points.choose(active, ends, start))
        new = evaluate()
        # The gradient is tangent at the new points: transporting the direction there by projection would change nothing.
        along = np.where(np.isfinite(new.value), points.sum(points.inner(new.gradient, direction)), math.inf)
        return new.value, along

    rounding = 4 * torch.finfo(here.loss.dtype).eps * np.abs(here.value)
    with np.errstate(divide="ignore"):
        longest = np.pi / 2 / lengths
    t = search(trial, here.value, slope, first, longest=longest, rounding=rounding)
    failed = active & (t == 0)
    if failed.any():
        points.move(points.choose(~failed, [s.x for s in points.stacks], start))
        new = Evaluation(
            new.loss,
            np.where(failed, here.value, new.value),
            points.choose(~failed, new.gradient, here.gradient),
            np.where(failed, here.squares, new.squares),
        )
    return Move(direction, t, here, new, slope, along, failed)

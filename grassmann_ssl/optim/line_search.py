"""Conjugate gradients and limited-memory BFGS with a line search, for losses of the full batch."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from grassmann_ssl.optim.base import RiemannianOptimizer, check_range, manifold_of, matrix_of, orthonormal
from grassmann_ssl.optim.sharding import is_sharded

Vectors = list[Tensor]
ARMIJO, CURVATURE, TRIALS = 1e-4, 0.9, 25


class LineSearchOptimizer(RiemannianOptimizer):
    """Base of the two: `step(closure)` runs up to `max_iter` iterations, each a direction and a line search for all parameters together.

    `closure` clears the gradients, computes the loss, calls backward and returns the loss, a scalar; it must give the same loss for the
    same parameters. An iteration accepts t when L falls enough (Armijo, 1e-4), or, where rounding hides the fall, when the slope along the
    curve has flattened (Hager & Zhang's approximate condition), and when the slope is not steeper than 0.9
    of that at 0. Trial points with a loss or gradient that is not finite are stepped back from; one at the start raises FloatingPointError.
    These optimizers wait for the device. After a step `gradient_norm` is the norm of the Riemannian gradient; it ends early where that is
    at most `tolerance_grad`, or where no trial was accepted, which `stalled` tells. `evaluations` counts calls of closures.
    Sources: Nocedal & Wright 2006, algorithms 3.5, 3.6, 7.4; Hager & Zhang 2005; Ring & Wirth 2012 (on manifolds).
    """

    def __init__(self, params: Any, *, max_iter: int, tolerance_grad: float, **settings: Any) -> None:
        check_range("max_iter", max_iter, 1)
        check_range("tolerance_grad", tolerance_grad, 0.0)
        self.gradient_norm = math.inf
        self.stalled = False
        self.evaluations = 0
        self._eps = 0.0  # of the dtype of the loss
        super().__init__(
            params,
            {"max_iter": max_iter, "tolerance_grad": tolerance_grad, **settings},
            nonfinite="raise",
            maximize=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("gradient_norm", "stalled", "evaluations", "_eps")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The parameters; all are searched together, so that there is one group. Raises ValueError for a second one."""
        if self.param_groups:
            raise ValueError(f"{type(self).__name__} searches all parameters together and takes one group of them")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Up to `max_iter` iterations; returns the loss before them. Raises TypeError without a closure."""
        if closure is None:
            raise TypeError(f"{type(self).__name__}.step needs a closure that computes the loss and calls backward")
        group = self.param_groups[0]
        params = group["params"]
        spaces, points = map(list, zip(*map(space_of, params), strict=True))
        value, gradient = self._evaluate(closure, params, spaces, points)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss or its gradient is not finite at the start (loss {value}); nothing was changed"
            )
        before = torch.tensor(value, dtype=points[0].real.dtype)
        for _ in range(group["max_iter"]):
            self.gradient_norm = math.sqrt(_inner(spaces, points, gradient, gradient))
            self.stalled = False
            if self.gradient_norm <= group["tolerance_grad"]:
                break
            moved = self._iterate(closure, params, spaces, points, value, gradient)
            if moved is None and self.state[params[0]]:  # once more, without the past
                self._forget(params)
                moved = self._iterate(closure, params, spaces, points, value, gradient)
            if moved is None:
                self.stalled = True
                break
            value, gradient = moved
        self.gradient_norm = math.sqrt(_inner(spaces, points, gradient, gradient))
        return before

    def _iterate(
        self,
        closure: Callable[[], Tensor],
        params: list[Tensor],
        spaces: list[Any],
        points: Vectors,
        value: float,
        gradient: Vectors,
    ) -> tuple[float, Vectors] | None:
        """Search along one direction: the value and gradient at the new points, or None, and the points where they were."""
        self.steps += 1
        start = [x.clone() for x in points]
        direction, first = self.search_direction(params, spaces, points, gradient)
        slope = _inner(spaces, points, gradient, direction)
        if not slope < 0:
            return None
        found: dict[float, tuple[float, Vectors, float]] = {}

        def trial(t: float) -> tuple[float, float]:
            for p, x, space, old, d in zip(params, points, spaces, start, direction, strict=True):
                x.copy_(space.retr(old, t * d))
                torch.autograd.graph.increment_version(p)
            f, g = self._evaluate(closure, params, spaces, points)
            # The gradient is tangent at the new points: transporting the direction there by projection would change nothing.
            along = _inner(spaces, points, g, direction) if math.isfinite(f) else math.inf
            found[t] = f, g, along
            return f, along

        length = math.sqrt(
            sum(
                _inner([s], [x], [d], [d])
                for s, x, d in zip(spaces, start, direction, strict=True)
                if not isinstance(s, _Flat)
            )
        )
        longest = math.pi / 2 / length if length else math.inf
        t = search(trial, value, slope, first, longest=longest, rounding=4 * self._eps * abs(value))
        if t is None:
            for x, old in zip(points, start, strict=True):
                x.copy_(old)
            return None
        value, new, along = found[t]
        self._remember(params, direction, t, gradient, new, slope, along)
        return value, new

    def _evaluate(
        self, closure: Callable[[], Tensor], params: list[Tensor], spaces: list[Any], points: Vectors
    ) -> tuple[float, Vectors]:
        with torch.enable_grad():
            loss = closure()
        self.evaluations += 1
        value = float(loss.detach())
        self._eps = torch.finfo(loss.dtype).eps
        gradients = [
            torch.zeros_like(x) if p.grad is None else matrix_of(manifold_of(p), p.grad)[1]
            for p, x in zip(params, points, strict=True)
        ]
        if not math.isfinite(value) or not bool(torch.isfinite(get_total_norm(gradients))):
            return math.inf, gradients
        return value, [s.egrad2rgrad(x, g) for s, x, g in zip(spaces, points, gradients, strict=True)]

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

    def _forget(self, params: list[Tensor]) -> None:
        for p in params:
            self.state[p].clear()

    def search_direction(
        self, params: list[Tensor], spaces: list[Any], points: Vectors, gradient: Vectors
    ) -> tuple[Vectors, float]:
        """The search direction at the points, and the first step to try."""
        raise NotImplementedError

    def _remember(
        self, params: list[Tensor], direction: Vectors, t: float, old: Vectors, new: Vectors, slope: float, along: float
    ) -> None:
        """Keep what the next direction needs: the gradients at both ends of the step t D, and the slopes along it."""
        raise NotImplementedError


class RiemannianCG(LineSearchOptimizer):
    """Nonlinear conjugate gradients: D <- -grad L + max(0, b) T(D), with Hestenes and Stiefel's b cut at that of Dai and Yuan.

    b = min(<g, y>, <g, g>) / <T(D), y>, y = g - T(g_old), T the transport by projection; memory for D and one gradient. The first step
    tried is where the slope of the last search would have vanished. See `LineSearchOptimizer`. Sources: Nocedal & Wright 2006,
    sec. 5.2; Sato 2016 (on manifolds).
    """

    def __init__(self, params: Any, *, max_iter: int = 20, tolerance_grad: float = 1e-7) -> None:
        super().__init__(params, max_iter=max_iter, tolerance_grad=tolerance_grad)

    def search_direction(
        self, params: list[Tensor], spaces: list[Any], points: Vectors, gradient: Vectors
    ) -> tuple[Vectors, float]:
        size = _inner(spaces, points, gradient, gradient)
        if "direction" not in self.state[params[0]]:
            return _steepest(gradient, size)
        old = [space.proju(x, self.state[p]["direction"]) for p, space, x in zip(params, spaces, points, strict=True)]
        # No projection: the products below are with tangent vectors.
        change = [g - self.state[p]["gradient"] for p, g in zip(params, gradient, strict=True)]
        along = _inner(spaces, points, old, change)
        b = min(_inner(spaces, points, gradient, change), size) / along if along > 0 else 0.0
        direction = [max(b, 0.0) * d - g for g, d in zip(gradient, old, strict=True)]
        return direction, float(self.state[params[0]]["guess"])

    def _remember(
        self, params: list[Tensor], direction: Vectors, t: float, old: Vectors, new: Vectors, slope: float, along: float
    ) -> None:
        flat = slope / (slope - along) if along > slope else 4.0
        guess = torch.tensor(t * min(max(flat, 0.25), 4.0), dtype=torch.float64)
        for p, d, g in zip(params, direction, old, strict=True):
            self.state[p].update(direction=d, gradient=g, guess=guess)


class RiemannianLBFGS(LineSearchOptimizer):
    """Limited-memory BFGS: D = -H grad L by the two-loop recursion over the last `history_size` pairs s = t D, y = g_new - g_old.

    Pairs are transported by projection to the point where they are used, all inner products at once as one Gram matrix: with
    V = [s, y, g] it is V^H V - (X^H V)^H (X^H V), so that nothing but p x p matrices is transported and the recursion runs on numbers.
    Pairs whose <s, y> is not above rounding are left out. The first step tried is 1: most iterations cost one evaluation.
    See `LineSearchOptimizer`. Sources: Nocedal & Wright 2006, algorithm 7.4; Chen, Wang, Zhou 2014 (recursion on the Gram matrix);
    Huang, Gallivan, Absil 2015 (on manifolds). Raises ValueError for settings out of range.
    """

    def __init__(
        self, params: Any, *, max_iter: int = 20, tolerance_grad: float = 1e-7, history_size: int = 10
    ) -> None:
        check_range("history_size", history_size, 1)
        super().__init__(params, max_iter=max_iter, tolerance_grad=tolerance_grad, history_size=history_size)

    def search_direction(
        self, params: list[Tensor], spaces: list[Any], points: Vectors, gradient: Vectors
    ) -> tuple[Vectors, float]:
        size = self.param_groups[0]["history_size"]
        count = int(self.state[params[0]]["count"]) if self.state[params[0]] else 0
        if not count:
            return _steepest(gradient, _inner(spaces, points, gradient, gradient))
        stacks = []
        for p, g in zip(params, gradient, strict=True):
            self.state[p]["pairs"][-1].copy_(g)
            stacks.append(self.state[p]["pairs"])
        gram = sum(
            s.tangent_products(x, v).double().cpu() for s, x, v in zip(spaces, points, stacks, strict=True)
        ).tolist()
        newest = [(count - 1 - k) % size for k in range(min(count, size))]
        weights = two_loop(gram, newest, size)
        direction = [
            space.proju(x, torch.tensordot(torch.tensor(weights, dtype=v.dtype, device=v.device), v, 1))
            for space, x, v in zip(spaces, points, stacks, strict=True)
        ]
        return direction, 1.0

    def _remember(
        self, params: list[Tensor], direction: Vectors, t: float, old: Vectors, new: Vectors, slope: float, along: float
    ) -> None:
        size = self.param_groups[0]["history_size"]
        for p, d, g, g_new in zip(params, direction, old, new, strict=True):
            state = self.state[p]
            if not state:
                state["pairs"] = d.new_zeros(2 * size + 1, *d.shape)
                state["count"] = torch.zeros((), dtype=torch.int64)
            slot = int(state["count"]) % size
            torch.mul(d, t, out=state["pairs"][slot])
            torch.sub(g_new, g, out=state["pairs"][size + slot])
            state["count"] += 1


def two_loop(gram: list[list[float]], newest: list[int], size: int) -> list[float]:
    """Weights of s_0.., y_0.., g in D = -H g, from the products of all of them; `newest` lists the slots of pairs, newest first.

    s_i is vector i, y_i vector size + i and g the last. Source: Nocedal & Wright 2006, algorithm 7.4, on coordinates.
    """
    q = [0.0] * len(gram)
    q[-1] = 1.0

    def product(row: int) -> float:
        return sum(w * v for w, v in zip(q, gram[row], strict=True) if w)

    eps = torch.finfo(torch.float64).eps
    kept = [i for i in newest if gram[i][size + i] > eps * math.sqrt(gram[i][i] * gram[size + i][size + i])]
    first: dict[int, float] = {}
    for i in kept:
        first[i] = product(i) / gram[i][size + i]
        q[size + i] -= first[i]
    if kept:
        scale = gram[kept[0]][size + kept[0]] / gram[size + kept[0]][size + kept[0]]
        q = [scale * w for w in q]
    for i in reversed(kept):
        q[i] += first[i] - product(size + i) / gram[i][size + i]
    return [-w for w in q]


def search(
    trial: Callable[[float], tuple[float, float]],
    value: float,
    slope: float,
    first: float,
    *,
    longest: float = math.inf,
    rounding: float = 0.0,
) -> float | None:
    """A step 0 < t <= `longest` that satisfies the conditions of `LineSearchOptimizer`, the last one tried; None where no trial does.

    `trial(t)` gives the value and slope along the curve; `value` and `slope` < 0 are those at 0, and `rounding` is the error of values.
    Brackets by growing steps, then interpolates by cubics, kept away from the ends of the bracket. At `longest` a fall is enough.
    """
    low, f_low, s_low = 0.0, value, slope
    high: tuple[float, float, float] | None = None
    t = min(first, longest)
    for _ in range(TRIALS):
        f, s = trial(t)
        falls = f <= value + ARMIJO * t * slope
        flat = abs(f - value) <= rounding and s <= (2 * ARMIJO - 1) * slope
        steep = s < CURVATURE * slope and t < longest
        if math.isfinite(f) and (falls or flat) and not steep and s <= -CURVATURE * slope:
            return t
        if not math.isfinite(f) or not (falls or flat) or f > f_low + rounding or s > 0:
            high = (t, f, s)
        else:
            low, f_low, s_low = t, f, s
        if high is None:  # to where the slope would vanish, two to ten times as far
            t = min(max(2 * t, min(t * slope / (slope - s) if s > slope else math.inf, 10 * t)), longest)
        else:
            t = _between(low, f_low, s_low, *high)
        if high is not None and abs(high[0] - low) <= 1e-14 * abs(low):
            return None
    return None


def _between(a: float, fa: float, sa: float, b: float, fb: float, sb: float) -> float:
    """The minimum of the cubic through two values and slopes, at least a tenth of the bracket away from its ends."""
    middle = (a + b) / 2
    if not (math.isfinite(fb) and math.isfinite(sb)):
        return a + (b - a) / 10
    d1 = sa + sb - 3 * (fa - fb) / (a - b)
    root = d1 * d1 - sa * sb
    if root < 0:
        return middle
    d2 = math.copysign(math.sqrt(root), b - a)
    denominator = sb - sa + 2 * d2
    t = middle if denominator == 0 else b - (b - a) * (sb + d2 - d1) / denominator
    margin = abs(b - a) / 10
    return min(max(t, min(a, b) + margin), max(a, b) - margin)


class _Flat:
    """The space of an ordinary parameter."""

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return u.clone()

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum()

    def tangent_products(self, x: Tensor, v: Tensor) -> Tensor:
        v = v.flatten(1)
        return v @ v.mT


def space_of(p: Tensor) -> tuple[Any, Tensor]:
    """The space of a parameter and its value there.

    Ours are used with polar retractions: they leave the basis alone, so that vectors kept from earlier points need not be turned.
    """
    manifold = manifold_of(p)
    if manifold is None:
        return _Flat(), p.detach()
    base, x = matrix_of(manifold, p)
    twin = copy.copy(base)
    twin.retraction = "polar"
    return twin, x


def _steepest(gradient: Vectors, size: float) -> tuple[Vectors, float]:
    """The direction down the gradient, of squared length `size`, and a first step of length at most 1."""
    return [-g for g in gradient], 1 / max(math.sqrt(size), 1.0)


def _inner(spaces: list[Any], points: Vectors, u: Vectors, v: Vectors) -> float:
    return sum(float(s.inner(x, a, b).sum()) for s, x, a, b in zip(spaces, points, u, v, strict=True))

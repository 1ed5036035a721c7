"""Common base of the optimizers: constrained and ordinary parameters in one step, stacked by shape, that never waits for the device."""

import functools
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeGuard, TypeVar, cast

import geoopt
import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch._compile import _disable_dynamo
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from grassmann_ssl.manifolds.base import OrthonormalMatrices
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.optim.bucket import Bucket, State
from grassmann_ssl.optim.memory import in_memory_order, matrix_of, overlaps, sharing, write_matrix
from grassmann_ssl.precision import HALF
from grassmann_ssl.sharding import is_sharded, whole

NONFINITE = ("skip", "raise")
ROUNDING = 16
"""Up to this many eps of the Euclidean gradient its projection is rounding: measured are up to 5 from the projection, as many from X."""
HALF_ROUNDING = 2
"""The same for half-precision points, whose projection is computed in float32 and rounded once: measured are up to 0.7."""
OVERLAP = "entries of {} share memory, as those of an expanded tensor do, and cannot move apart: make it contiguous"
Step = TypeVar("Step", bound=Callable[..., Any])


def eager(step: Step) -> Step:
    """A step without gradients that torch.compile leaves as it is: dynamo would trace it into one that mixes the states of parameters.

    Torch wraps every step for its profiler and the hooks of a step, and leaves alone one that says it is `hooked`: this one, which goes
    that way only where there is a hook or a profiler, since each call of it takes as long as five small products.
    """

    @functools.wraps(step)
    def quiet(self: Any, closure: Any = None, **known: Any) -> Any:
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # as torch.no_grad does, which takes ten times as long to get there
        try:
            return step(self, closure, **known)
        finally:
            torch._C._set_grad_enabled(before)

    hooked = torch.optim.Optimizer.profile_hook_step(quiet)
    untraced = _disable_dynamo(hooked)

    @functools.wraps(step)
    def chosen(self: Any, closure: Any = None, **known: Any) -> Any:
        if torch.compiler.is_compiling():  # leaving dynamo costs 1.5 us a call
            return untraced(self, closure)
        # What is known of the gradients is not of those that a hook leaves.
        return hooked(self, closure) if _observed(self) else quiet(self, closure, **known)

    chosen.hooked = True  # type: ignore[attr-defined]  # as torch marks what it has wrapped
    return cast(Step, chosen)


def _observed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a profiler or a hook wants to know of a step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or _profiler_enabled()
    )


class RiemannianOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: parameters with a manifold take Riemannian steps, ordinary ones the step of torch's own optimizer.

    `params` is a model (whose constrained parameters are then all expected), or what torch's optimizers take: parameters, named
    parameters, or groups of them. A parameter is constrained where it carries a `manifold` (geoopt.ManifoldParameter, `nn.constrain`).
    Constrained parameters of one shape, dtype, device and manifold advance as one batch. Weight decay acts on ordinary parameters alone:
    it has no effect on X^H X = I, and a group of constrained parameters with weight decay is refused.

    A gradient with NaN or infinity: `nonfinite="skip"` leaves every parameter and state of that step untouched, counts it and does not
    wait for the device; "raise" waits, and raises FloatingPointError naming the parameters before anything changes.
    `report()` tells what was counted. Time of a trajectory = lr x step. Under fully_shard give the model: every process gathers a
    constrained parameter and takes its step alike. Parameters may be stored in any order, such as channels_last, and states follow them to
    another dtype or device. torch.compile leaves the step as it is. `stabilize` = k calls `stabilize()` after every k-th step; our
    manifolds need none. `foreach` is there for code written for torch: None and True are what is done anyway.

    Raises ValueError where no parameter is constrained, where a constrained one of the model is missing, is off its manifold, holds no
    point of it, or shares memory with another, and for settings outside their range; TypeError for dtypes in which the manifold does not
    compute.
    """

    momentum_keys: ClassVar[tuple[str, ...]] = ()
    """states that are tangent vectors, in the shape of the parameter"""
    own_dtype_keys: ClassVar[tuple[str, ...]] = ()
    """states whose dtype is not that of the parameter"""
    approaches: ClassVar[bool] = False
    """whether points are off their manifold on purpose, as those of `Landing`: layers do not warn of it"""
    only_on: ClassVar[tuple[type[geoopt.Manifold], ...]] = ()
    """the only manifolds it supports; none for any"""

    def __init__(
        self,
        params: torch.nn.Module | Iterable[Any],
        defaults: dict[str, Any],
        *,
        nonfinite: str,
        maximize: bool,
        stabilize: int | None = None,
        foreach: bool | None = None,
    ) -> None:
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be 'skip' or 'raise', got {nonfinite!r}")
        if foreach is not None and not foreach:
            raise ValueError(
                "foreach must be None or True, got False: parameters of one shape are always stepped together"
            )
        self.nonfinite = nonfinite
        self.steps = self.skipped = self.matrices = 0
        self.beyond = 0
        self.counts: dict[torch.device, Tensor] = {}
        self._kept: dict[int, tuple[list[Tensor], list[Any], list[Bucket], list[Tensor]]] = {}
        if isinstance(params, torch.nn.Module):
            params = _named(params)
        super().__init__(params, {**defaults, "maximize": maximize, "stabilize": stabilize})
        if all(getattr(p, "manifold", None) is None for group in self.param_groups for p in group["params"]):
            raise ValueError(
                "none of the parameters has a manifold: give a model, or parameters made by grassmann_ssl.nn.constrain or "
                "geoopt.ManifoldParameter; for ordinary parameters alone use torch.optim"
            )

    def __getstate__(self) -> dict[str, Any]:
        names = ("nonfinite", "steps", "skipped", "matrices", "beyond", "counts")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kept = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does, after checking its settings and its points. Raises as the class."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_settings(group)
            if group["stabilize"] is not None:
                check_range("stabilize", group["stabilize"], 1)
            for name, p in zip(_names(group, len(self.param_groups) - 1), group["params"], strict=True):
                self._check_parameter(name, p)
            self._check_shared_memory()
            if group.get("weight_decay", 0) and all(manifold_of(p) is not None for p in group["params"]):
                raise ValueError(
                    "weight_decay has no effect on parameters whose length the constraint fixes; give it in a group of ordinary ones"
                )
        except (ValueError, TypeError):
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does, which casts states to the dtype of their parameter; those with a dtype of their own keep it."""
        super().load_state_dict(state_dict)
        places = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(places, params, strict=True):
            for key in self.own_dtype_keys:
                if key in self.state[p]:
                    self.state[p][key] = state_dict["state"][index][key].clone()

    @eager
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor] | None = None, *, finite: Tensor | bool | None = None
    ) -> Tensor | None:
        """One step of every parameter that has a gradient; `closure` reevaluates the loss, which is returned.

        finite  whether all gradients are, as `finite_norm` has found before; None: not known

        Raises TypeError for sparse gradients, and FloatingPointError for non-finite ones with `nonfinite="raise"`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return loss
        flag = self._finite(gradients, finite)
        self.steps += 1
        masked: Tensor | None = None
        if isinstance(flag, Tensor):
            masked = flag
            self._counts(flag.device)[0] += ~flag
        elif not flag:
            self.skipped += 1
            return loss
        for index, group in enumerate(self.param_groups):
            buckets, ordinary = self._parts(index)
            for bucket in buckets:
                here = None if masked is None else masked.to(bucket.params[0].device)
                self._step_bucket(group, bucket, here)
            for device in {p.device for p in ordinary}:
                found = None if masked is None else (~masked).to(device, torch.float32)
                self._step_ordinary(group, [p for p in ordinary if p.device == device], found)
            if group["stabilize"] is not None and self.steps % group["stabilize"] == 0:
                self._stabilize(group)
        return loss

    def report(self) -> dict[str, float]:
        """Counters of the steps so far; waits for the device.

        `steps` and `skipped`: calls of `step` with a gradient, and those skipped because a gradient was not finite;
        `beyond_injectivity`: the share of matrix steps on our manifolds that were longer than the injectivity radius pi/2 of Gr(n, p),
        where a geodesic stops being the shortest.
        """
        skipped, beyond, taken = (sum(int(c[i]) for c in self.counts.values()) for i in range(3))
        return {
            "steps": self.steps,
            "skipped": self.skipped + skipped,
            "beyond_injectivity": (self.beyond + beyond) / max(self.matrices + taken, 1),
        }

    @torch.no_grad()
    def stabilize(self) -> None:
        """Put constrained parameters back onto their manifolds, and the vectors in their states onto the tangent spaces.

        Not needed in training. Call it after replacing B of a `GeneralizedGrassmann`, or after editing parameters by hand.
        """
        for group in self.param_groups:
            self._stabilize(group)

    def _stabilize(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if (manifold := manifold_of(p)) is None:
                continue
            self._follow([p], self.own_dtype_keys)
            states = [self.state[p][key] for key in self.momentum_keys if key in self.state[p]]
            base, x = matrix_of(manifold, p)
            vectors = [matrix_of(manifold, s)[1] for s in states]
            if hasattr(base, "carry"):
                end, *moved = base.carry(x, *vectors)
            else:
                end = base.projx(x)
                moved = [base.proju(end, v) for v in vectors]
            for target, new in zip([p, *states], [end, *moved], strict=True):
                write_matrix(manifold, target, new)

    def _finite(self, gradients: list[Tensor], known: Tensor | bool | None) -> Tensor | bool:
        """Whether every gradient is finite, which may be known; raises where that was asked for."""
        finite = finite_norm(gradients) if known is None else known
        if self.nonfinite == "raise" and not finite:
            guilty = [
                name
                for i, group in enumerate(self.param_groups)
                for name, p in zip(_names(group, i), group["params"], strict=True)
                if p.grad is not None and not bool(torch.isfinite(p.grad).all())
            ]
            raise FloatingPointError(f"the gradient of {', '.join(guilty)} is not finite; nothing was changed")
        return finite

    def _parts(self, index: int) -> tuple[list[Bucket], list[Tensor]]:
        """The parameters of a group that have gradients: the constrained ones in buckets, and the ordinary ones; kept while they stay."""
        group = self.param_groups[index]
        params = [p for p in group["params"] if p.grad is not None]
        manifolds = [getattr(p, "manifold", None) for p in params]
        if index in self._kept:
            known, of_known, buckets, ordinary = self._kept[index]
            # A schedule may switch momentum on.
            started = all(b.keys for b in buckets) or not group.get("momentum")
            if (
                started
                and same(params, known)
                and same(manifolds, of_known)
                and all(b.holds(self.state) for b in buckets)
            ):
                return buckets, ordinary
        ordinary = []
        constrained: dict[Any, list[Tensor]] = defaultdict(list)
        for p in params:
            manifold = manifold_of(p)
            if manifold is None:
                ordinary.append(p)
            else:
                if not self.state[p]:
                    self.state[p].update(self._initial(group, manifold, p))
                constrained[(manifold, p.shape, p.dtype, p.device)].append(p)
        for alike in constrained.values():
            self._follow(alike, self.own_dtype_keys)
        buckets = [Bucket(alike, self.state) for alike in constrained.values()]
        self._kept[index] = (params, manifolds, buckets, ordinary)
        return buckets, ordinary

    def _step_bucket(self, group: dict[str, Any], bucket: Bucket, finite: Tensor | None) -> None:
        """Take the step of a bucket, and write parameters and states back where `finite` (None: known to be)."""
        direct = bucket.in_place(finite)
        if not direct:
            self._refuse_overlaps(bucket.params)
        x, *states = values = bucket.matrices_of_one() if direct else bucket.read()
        gradient = bucket.gradient()
        length = self._advance(
            group,
            bucket.manifold,
            x,
            -gradient if group["maximize"] else gradient,
            dict(zip(bucket.keys, states, strict=True)),
        )
        if length is not None:
            self._count(length, finite)
        if not direct:
            bucket.write(values, finite)

    def _step_ordinary(self, group: dict[str, Any], params: list[Tensor], found_inf: Tensor | None) -> None:
        """Torch's own step of ordinary parameters on one device, left out where `found_inf` is 1."""
        for p in params:
            if not self.state[p]:
                self.state[p].update(self._initial_ordinary(group, p))
        self._follow(params, ("step",))  # which torch keeps in float32
        keys = list(self.state[params[0]])
        gradients: list[Any] = [p.grad for p in params]
        originals = [params, gradients, *([self.state[p][k] for p in params] for k in keys)]
        (values, gradients, *states), copies = in_memory_order(originals)
        if copies:
            self._refuse_overlaps(params)
        self._advance_ordinary(group, values, gradients, dict(zip(keys, states, strict=True)), found_inf)
        for view, copy in copies:
            view.copy_(copy)

    def _follow(self, params: list[Tensor], fixed: tuple[str, ...]) -> None:
        """Move states to where their parameters are, and to their precision but for those in `fixed`.

        load_state_dict leaves a state named step where the file was loaded to, and model.double() leaves all of them behind.
        """
        for p in params:
            for key, value in self.state[p].items():
                if value.device != p.device or (value.dtype != p.dtype and key not in fixed):
                    alike = value.is_complex() == p.is_complex()
                    dtype = value.dtype if key in fixed else p.dtype if alike else p.dtype.to_real()
                    self.state[p][key] = value.to(p.device, dtype)

    def _count(self, length: Tensor | float, finite: Tensor | None) -> None:
        """Count the matrix steps that were taken, and those of them beyond the injectivity radius."""
        if not isinstance(length, Tensor):
            self.matrices += 1
            self.beyond += length > math.pi / 2
        elif finite is not None:
            self._counts(length.device)[1] += ((length > math.pi / 2) & finite).sum()
            self._counts(length.device)[2] += finite * length.numel()
        else:
            self.matrices += length.numel()
            if device_side(length):
                self._counts(length.device)[1] += (length > math.pi / 2).sum()
            elif length.numel() and float(length.max()) > math.pi / 2:
                self.beyond += int((length > math.pi / 2).sum())

    def _counts(self, device: torch.device) -> Tensor:
        """Counted on a device: skipped steps, matrix steps beyond the injectivity radius, matrix steps where the host does not know."""
        if device not in self.counts:
            self.counts[device] = torch.zeros(3, dtype=torch.int64, device=device)
        return self.counts[device]

    def _check_settings(self, group: dict[str, Any]) -> None:
        """Raise ValueError naming the setting that is out of range."""
        raise NotImplementedError

    def _initial(self, group: dict[str, Any], manifold: Any, p: Tensor) -> State:
        """The state of a constrained parameter before its first step."""
        raise NotImplementedError

    def _advance(
        self, group: dict[str, Any], manifold: geoopt.Manifold, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor | float | None:
        """Step from X (..., n, p) in place of X and the states; returns the length of the step on our manifolds, one number per matrix."""
        raise NotImplementedError

    def _initial_ordinary(self, group: dict[str, Any], p: Tensor) -> State:
        """The state of an ordinary parameter before its first step, as torch has it."""
        raise NotImplementedError

    def _advance_ordinary(
        self,
        group: dict[str, Any],
        values: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        found_inf: Tensor | None,
    ) -> None:
        """Torch's fused step, in place of contiguous values and states on one device; left out where `found_inf` is 1."""
        raise NotImplementedError

    def _refuse_overlaps(self, params: list[Tensor]) -> None:
        """Raise ValueError naming the parameters whose entries share memory with one another."""
        guilty = [p for p in params if not p.is_contiguous() and not is_sharded(p) and overlaps(p)]
        for i, group in enumerate(self.param_groups if guilty else []):
            for name, p in zip(_names(group, i), group["params"], strict=True):
                if any(p is one for one in guilty):
                    raise ValueError(OVERLAP.format(name))

    def _check_shared_memory(self) -> None:
        named = [
            (name, p)
            for i, group in enumerate(self.param_groups)
            for name, p in zip(_names(group, i), group["params"], strict=True)
        ]
        for places in sharing([p for _, p in named]):
            (one, p), (other, q) = (named[k] for k in places)
            if manifold_of(p) is not None or manifold_of(q) is not None:
                raise ValueError(
                    f"{one} and {other} share memory, so that one would undo the step of the other: tie the modules by one parameter"
                )

    def _check_parameter(self, name: str, p: Tensor) -> None:
        manifold = manifold_of(p)
        if not is_sharded(p) and overlaps(p):
            raise ValueError(OVERLAP.format(name))
        if manifold is None:
            if p.is_complex():
                raise TypeError(f"{name} is complex and has no manifold; ordinary parameters must be real")
            return
        if p.is_meta:
            raise ValueError(f"{name} is on the meta device; load its values before making an optimizer")
        with torch.no_grad():
            good, reason = manifold.check_point_on_manifold(whole(p.detach()), explain=True)
        if not good:
            raise ValueError(f"{name} is not on {manifold}: {reason}")
        if self.only_on and type(matrix_of(manifold, p)[0]) not in self.only_on:
            needed = " or ".join(f"{one.__name__}()" for one in self.only_on)
            raise ValueError(f"{type(self).__name__} needs parameters on {needed}, but {name} is on {manifold}")


def check_range(name: str, value: Any, low: float, below: float = float("inf")) -> None:
    """Raise ValueError unless low <= value < below."""
    if not low <= value < below:  # true for NaN
        raise ValueError(
            f"{name} must be at least {low:g}" + f" and below {below:g}" * (below < float("inf")) + f", got {value}"
        )


def refuse_sparse(gradients: Iterable[Tensor]) -> None:
    """Raise TypeError where a gradient is sparse."""
    if any(gradient.is_sparse for gradient in gradients):
        raise TypeError("sparse gradients are not supported: every row of a constrained matrix moves in a step")


def finite_norm(gradients: list[Tensor]) -> Tensor | bool:
    """Whether the 2-norm of all gradients is finite: a tensor where reading it would wait for a device.

    It is 30 times as fast as the largest entry, and gradients whose norm overflows make no sensible step either. Raises TypeError for
    sparse ones.
    """
    refuse_sparse(gradients)
    if len(gradients) == 1:
        norm = whole(torch.linalg.vector_norm(gradients[0]))
    else:
        norms = torch._foreach_norm(gradients)
        norm = whole(torch.linalg.vector_norm(torch.stack([one.to(norms[0].device) for one in norms])))
    return torch.isfinite(norm) if device_side(norm) else math.isfinite(norm)


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(a) == len(b) and all(map(operator.is_, a, b))


def orthonormal(manifold: geoopt.Manifold) -> TypeGuard[OrthonormalMatrices]:
    """Whether the manifold is one of ours, whose projection is linear and may be left to the next step."""
    return isinstance(manifold, OrthonormalMatrices)


def tangent_gradient(manifold: geoopt.Manifold, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """The Riemannian gradient, for steps that do not shrink with it; on our manifolds 0 where it is rounding of the Euclidean one.

    Where a Euclidean gradient is normal, as at a critical point, its computed projection is noise and not even tangent; scaled up to a
    whole step it would walk at random and off the manifold. Its length is needed for that: (..., 1, 1), None where the metric of the
    manifold is not the Frobenius one.
    """
    if not orthonormal(manifold):
        return manifold.egrad2rgrad(x, gradient), None
    ambient = manifold.sharp(gradient)
    tangent = manifold.proju_(x, ambient, in_place=False)
    # Frobenius norms, whatever the metric: rounding is relative to entries, and the norm of B costs an n x n product.
    length, full = (torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True) for v in (tangent, ambient))
    rounding = (HALF_ROUNDING if x.dtype in HALF else ROUNDING) * torch.finfo(x.dtype).eps
    if not (x.is_cpu and x.ndim == 2):
        clear = length > rounding * full
        tangent.mul_(clear)
        length.mul_(clear)
    elif float(length) <= rounding * float(full):
        tangent.zero_()
        length.zero_()
    return tangent, length if ambient is gradient else None


def manifold_of(p: Tensor) -> geoopt.Manifold | None:
    """The manifold of a constrained parameter, None for an ordinary one."""
    manifold = getattr(p, "manifold", None)
    return None if isinstance(manifold, geoopt.Euclidean) else manifold


def device_side(flag: Tensor) -> bool:
    """Whether reading a flag would make the host wait: not on the CPU, where a branch is cheaper than a masked write."""
    return flag.device.type != "cpu"


def _named(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """The trainable parameters of a model by name, after checking that all its constrained ones are among them."""
    named: list[tuple[str, Any]] = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    expected = constraints(model)
    for name, p in named:
        if is_sharded(p) and name in expected:
            p.manifold = expected[name]  # fully_shard has replaced the parameter
    seen = {name for name, p in named if manifold_of(p) is not None}
    missing = set(expected) - seen
    if missing:
        raise ValueError(
            f"the model constrains {', '.join(sorted(missing))}, but no trainable parameter with a manifold has that name"
        )
    return named


def _names(group: dict[str, Any], index: int) -> list[str]:
    given = group.get("param_names")
    return given or [f"parameter {i} of group {index}" for i in range(len(group["params"]))]

"""A loss of two views, measured: what it is invariant under, whether its gradient is right, what it does with hostile rows.

>>> from grassmann_ssl.objectives import check_objective
>>> report = check_objective("nt_xent")
>>> report.ok, report.manifold
(True, 'Grassmann')
"""

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from grassmann_ssl.manifolds.checks import check_rotation_invariance
from grassmann_ssl.objectives.own import made
from grassmann_ssl.objectives.registry import REGISTRY, Objective, objective
from grassmann_ssl.registry import is_own, own

VIEWS = "z", "z_positive"
ROUNDING = 1e4  # of identities, in eps
GRADIENT = 1e-6  # relative; central differences of fourth order leave 1e-10 in float64
SINGLE = 1e-3  # relative error of a gradient in float32 that keeps half of its digits
DIRECTIONS = 4  # along which the gradient of a view is compared with differences
SCALES = 0.5, 2.0, 3.0


@dataclass(frozen=True)
class Finding:
    """One thing measured: `value`, whether it is as it has to be, and what it says."""

    name: str
    value: float
    ok: bool
    says: str


@dataclass(frozen=True)
class ObjectiveCheck:
    """What `check_objective` measured of a loss: findings by name, and the manifold that fits.

    rotation_invariant  whether L(z Q) = L(z), as measured
    manifold            "Grassmann" or "Stiefel", of the weights of a linear last layer; `why`: the reason
    """

    loss: str
    shape: tuple[int, int]
    findings: tuple[Finding, ...]
    rotation_invariant: bool
    manifold: str
    why: str

    def __getitem__(self, name: str) -> Finding:
        return {finding.name: finding for finding in self.findings}[name]

    @property
    def ok(self) -> bool:
        """Whether every finding is as it has to be."""
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"{self.loss} on two views of shape {self.shape}: {'ok' if self.ok else 'NOT ok'}"]
        for one in self.findings:
            lines.append(f"  {one.name:{width}}  {one.value:<9.2g} {'   ' if one.ok else 'NOT'} {one.says}")
        return "\n".join([*lines, f"  manifold: {self.manifold}, since {self.why}"])


def check_objective(
    loss: str | Objective | Callable[..., Tensor],
    *,
    n: int = 24,
    d: int = 6,
    processes: int = 1,
    raises: bool = False,
    generator: torch.Generator | None = None,
) -> ObjectiveCheck:
    """Measure a loss of two views on random correlated ones, z and z' (n, d), and say which manifold fits.

    rotation      largest relative change under z -> z Q, z' -> z' Q, Q orthogonal; fails where it is not what an `Objective` declares
    permutation   relative change under a common permutation of the rows
    scale         k of L(c z) = c^k L(z), c > 0, NaN where there is none; directions: relative change where every row is scaled by itself
    gradient      in z and in z', relative to differences of the value; an `Objective` declares what of the value is constant in it
    float32       relative error of the gradient in float32; bfloat16, float16: that for views of that type, fails where not finite
    equal views, duplicate rows, zero rows: 1 where value and gradient are finite there, else 0
    processes     if more than one: relative error of the mean value and of the gradient where so many processes (gloo, on the CPU) share
                  the rows, as DistributedDataParallel takes them

    Takes a registered name, PACKAGE.MODULE:NAME, an `Objective`, or a callable (z, z_positive) or (z=..., z_positive=...) that returns a
    scalar. A module is copied and put in its evaluation mode, so that a state that it keeps stays as it is. Raises ValueError for a
    registered loss of other arguments, for processes that cannot share n rows equally or cannot import the loss, and for a loss that is
    not finite, not a scalar or not deterministic on the views; AssertionError with what failed if `raises`.
    """
    if processes < 1 or n % processes:
        raise ValueError(f"processes must be at least 1 and divide n = {n}, got {processes}")
    measured = _Loss(loss, d)
    generator = generator or torch.Generator().manual_seed(0)
    views = _views(n, d, generator)
    value = measured.value(views)
    invariant, rotation = _rotation(measured, views, generator)
    findings = (
        rotation,
        _permutation(measured, views, value, generator),
        *_scale(measured, views, value, generator),
        *(_gradient(measured, views, k, generator) for k in range(2)),
        *(_precision(measured, views, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        *(_finite(measured, name, hostile) for name, hostile in _hostile(views).items()),
        *((_processes(measured, loss, views, processes),) if processes > 1 else ()),
    )
    manifold = "Grassmann" if invariant else "Stiefel"
    why = (
        "L(z Q) = L(z): with a linear last layer it is a function of the subspace of the weights"
        if invariant
        else f"it changes by {rotation.value:.2g} where z is turned: it depends on the basis, and not on the subspace of the weights alone"
    )
    result = ObjectiveCheck(measured.name, (n, d), findings, invariant, manifold, why)
    if raises and not result.ok:
        failed = "; ".join(f"{one.name} {one.value:.3g}: {one.says}" for one in findings if not one.ok)
        raise AssertionError(f"{measured.name} fails: {failed}")
    return result


class _Loss:
    """The loss as a function of two views in any precision, and what is declared of it."""

    def __init__(self, given: str | Objective | Callable[..., Tensor], d: int) -> None:
        self.name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
        loss: Any = given
        if isinstance(given, str):
            loss = own(given) if is_own(given) else objective(given)
        loss = made(loss, self.name)
        self.declared = loss if isinstance(loss, Objective) else None
        if isinstance(loss, Objective):
            self.name = loss.label
            if loss.arguments != VIEWS:
                raise ValueError(
                    f"{loss.name} takes {', '.join(loss.arguments)}: check_objective takes losses of {' and '.join(VIEWS)}"
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # of the state that it begins with
                loss = loss.new(d)
        self.module = copy.deepcopy(loss).eval() if isinstance(loss, nn.Module) else None
        self.function: Callable[..., Any] = self.module or loss
        named = signature(self.module.forward if self.module else self.function).parameters
        self.by_name = all(view in named for view in VIEWS)

    def __call__(self, views: Tensor) -> Tensor:
        """The value at both views (2, n, d), with its graph. Raises ValueError where it is no scalar."""
        if self.module is not None:
            self.module.to(torch.promote_types(views.dtype, torch.float32))
        arguments = dict(zip(VIEWS, views, strict=True))
        value = self.function(**arguments) if self.by_name else self.function(*arguments.values())
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{self.name} must return a floating scalar, got {got}")
        return value.reshape(())

    def value(self, views: Tensor) -> float:
        """The value, checked. Raises ValueError where it is not finite or not the same twice."""
        with torch.no_grad():
            first, again = (float(self(views)) for _ in range(2))
        if not math.isfinite(first):
            raise ValueError(f"{self.name} must be finite on random views, got {first}")
        if abs(first - again) > ROUNDING * torch.finfo(views.dtype).eps * (1 + abs(first)):
            raise ValueError(f"{self.name} must be deterministic, but gave {first:.17g}, then {again:.17g}")
        return first

    def gradient(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient (2, n, d); the gradient is 0 where the value does not depend on a view."""
        leaf = views.detach().clone().requires_grad_()
        value = self(leaf)
        if not value.requires_grad:
            return value, torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
        return value.detach(), gradient


def _views(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Two correlated views (2, n, d), of means other than 0 and standard deviations on both sides of 1."""
    z, noise = torch.randn(2, n, d, dtype=torch.float64, generator=generator)
    scales = torch.linspace(0.3, 1.7, d, dtype=torch.float64)
    return torch.stack([z, 0.8 * z + 0.6 * noise]) * scales + 0.2


def _rotation(loss: _Loss, views: Tensor, generator: torch.Generator) -> tuple[bool, Finding]:
    def stacked(x: Tensor) -> Tensor:
        return loss(x.reshape(views.shape))

    found = check_rotation_invariance(stacked, views.flatten(0, 1), generator=generator)
    invariant = found.change <= found.tolerance  # of the value: a stop-gradient turns the gradient alone
    is_so = "rotation-invariant" if invariant else "not rotation-invariant"
    if loss.declared is None:
        return invariant, Finding("rotation", found.change, True, is_so)
    right = invariant == loss.declared.rotation_invariant
    says = f"{is_so}, as declared" if right else f"{is_so}, and declared to be {'not so' if invariant else 'so'}"
    return invariant, Finding("rotation", found.change, right, says)


def _permutation(loss: _Loss, views: Tensor, value: float, generator: torch.Generator) -> Finding:
    change = _change(loss, views[:, torch.randperm(views.shape[1], generator=generator)], value)
    right = change <= _rounding(views)
    says = "the order of rows does not matter" if right else "the order of rows matters: a batch has none"
    return Finding("permutation", change, right, says)


def _scale(loss: _Loss, views: Tensor, value: float, generator: torch.Generator) -> tuple[Finding, Finding]:
    with torch.no_grad():
        ratios = [float(loss(c * views)) / value if value else math.nan for c in SCALES]
    degrees = [math.log(r) / math.log(c) if r > 0 else math.nan for r, c in zip(ratios, SCALES, strict=True)]
    same = max(degrees) - min(degrees) <= _rounding(views) * 100  # false for NaN
    degree = round(degrees[0], 6) + 0.0 if same and all(map(math.isfinite, degrees)) else math.nan
    words = f"homogeneous of degree {degree:g}" if degree else "scale-invariant"
    lengths = 0.5 + torch.rand(views.shape[1], 1, dtype=views.dtype, generator=generator)
    change = _change(loss, lengths * views, value)
    directional = change <= _rounding(views)
    right = loss.declared is None or loss.declared.directional == directional
    says = "the directions of rows alone matter" if directional else "the lengths of rows matter"
    return (
        Finding("scale", degree, True, "neither homogeneous nor scale-invariant" if math.isnan(degree) else words),
        Finding("directions", change, right, says if right else f"{says}, and it is declared otherwise"),
    )


def _gradient(loss: _Loss, views: Tensor, k: int, generator: torch.Generator) -> Finding:
    """|differences - <gradient, u>| over their sizes, along random u in one view; of fourth order in the step."""
    _, gradient = loss.gradient(views)
    step, worst, slopes = 1e-3, 0.0, 0.0
    for _ in range(DIRECTIONS):
        u = torch.zeros_like(views)
        u[k] = torch.randn(views.shape[1:], dtype=views.dtype, generator=generator)
        u /= u.norm()
        with torch.no_grad():
            near, far = (float(loss(views + t * step * u)) - float(loss(views - t * step * u)) for t in (1, 2))
        difference, slope = (8 * near - far) / (12 * step), float((gradient * u).sum())
        scale = math.sqrt(float(gradient[k].square().sum()) / u[k].numel()) + abs(difference) + math.ulp(1.0)
        worst, slopes = max(worst, abs(difference - slope) / scale), slopes + abs(difference)
    name, right = f"gradient in {VIEWS[k]}", worst <= GRADIENT
    constant = loss.declared.detached if loss.declared else ""
    if constant:
        says = f"that of the value, {constant} too" if right else f"that of the value but for {constant}"
        return Finding(name, worst, not right, f"{says}, declared to be constants in it")
    if right:
        says = "that of the value"
    elif not gradient[k].any() and slopes:
        says = f"there is none, and the value depends on {VIEWS[k]}: it is detached (a stop-gradient)"
    else:
        says = "is not that of the value: it is wrong, or a part of the value is detached"
    return Finding(name, worst, right, says)


def _precision(loss: _Loss, views: Tensor, dtype: torch.dtype) -> Finding:
    rounded = views.to(dtype)
    name, half = str(dtype).removeprefix("torch."), dtype != torch.float32
    try:
        value, gradient = loss.gradient(rounded)
    except (RuntimeError, TypeError, ValueError) as refusal:
        return Finding(name, math.inf, False, f"is refused: {str(refusal).splitlines()[0]}")
    _, exact = loss.gradient(rounded.double())
    error = float((gradient.double() - exact).norm() / exact.norm()) if exact.any() else float(gradient.double().norm())
    if not (bool(value.isfinite()) and math.isfinite(error)):
        return Finding(name, math.inf, False, "value or gradient is not finite")
    right = half or error <= SINGLE
    return Finding(name, error, right, f"relative error of the gradient{'' if right else ': it loses its digits'}")


def _hostile(views: Tensor) -> dict[str, Tensor]:
    equal, double, zero = views[:1].repeat(2, 1, 1), views.clone(), views.clone()
    half = views.shape[1] // 2
    double[:, half : 2 * half] = views[:, :half]
    zero[:, :2] = 0
    return {"equal views": equal, "duplicate rows": double, "zero rows": zero}


def _finite(loss: _Loss, name: str, views: Tensor) -> Finding:
    value, gradient = loss.gradient(views)
    parts = [what for what, x in (("value", value), ("gradient", gradient)) if not bool(x.isfinite().all())]
    says = "value and gradient are finite" if not parts else f"{' and '.join(parts)} not finite"
    return Finding(name, float(not parts), not parts, says)


def _processes(loss: _Loss, given: Any, views: Tensor, count: int) -> Finding:
    """Every process has its rows: their values have the mean L, and their gradients over `count` are those of L."""
    whole, gradient = loss.gradient(views)
    if isinstance(given, Objective) and given.name in REGISTRY:
        given = given.name, dict(given.options)
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(_share, (given, views, count, folder), nprocs=count, start_method=method)  # type: ignore[no-untyped-call]  # torch gives it no types
        except (ProcessExitedException, ProcessRaisedException):
            raise  # the loss fails in one of them
        except Exception as refusal:  # whatever hinders that it is sent to them
            raise ValueError(f"{loss.name} must be a loss that other processes can import: {refusal}") from None
        parts = [load_file(Path(folder, f"{rank}.safetensors")) for rank in range(count)]
    value = sum(float(part["value"]) for part in parts) / count
    together = torch.cat([part["gradient"] for part in parts], dim=1) / count
    error = max(
        abs(value - float(whole)) / (1 + abs(float(whole))), float((together - gradient).norm() / gradient.norm())
    )
    right = error <= GRADIENT
    says = f"{count} processes train as one" if right else f"{count} processes do not train as one on all rows"
    return Finding("processes", error, right, says)


def _share(rank: int, given: Any, views: Tensor, count: int, folder: str) -> None:
    """What one process computes of its rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    loss = objective(given[0], **given[1]) if isinstance(given, tuple) else given
    value, gradient = _Loss(loss, views.shape[2]).gradient(views.chunk(count, dim=1)[rank])
    save_file({"value": value, "gradient": gradient.contiguous()}, Path(folder, f"{rank}.safetensors"))
    dist.barrier()
    dist.destroy_process_group()


def _change(loss: _Loss, views: Tensor, value: float) -> float:
    """|L - value| / (1 + |value|)."""
    with torch.no_grad():
        return abs(float(loss(views)) - value) / (1 + abs(value))


def _rounding(views: Tensor) -> float:
    return ROUNDING * float(torch.finfo(views.dtype).eps)

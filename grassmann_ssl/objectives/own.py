"""Objectives of the user: any function of two views' embeddings, described by measuring it."""

import copy
from collections.abc import Callable
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from torch import Tensor, nn

from grassmann_ssl.objectives.registry import REGISTRY, Objective, objective
from grassmann_ssl.registry import is_own, own

ROWS = 64  # on which it is measured
# Of its size: between rounding, 1e-13 and 1e-6, and what rotations change in losses that see them, 1e-3 and more.
SAME = {torch.float64: 1e-6, torch.float32: 1e-4}
PAIR = ("z", "z_positive")
EMBEDDINGS = (("prediction", "target", "projection"), ("prediction", "target"), PAIR)
REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
HOOKS = ("renew", "remember")  # what a training calls beside the loss


def own_objective(loss: Callable[..., Any] | Objective | str, *, dim: int, name: str = "") -> Objective:
    """The objective of the user's loss, a function, a module, or PACKAGE.MODULE:NAME of one; an `Objective` as it is.

    It is called with z and z_positive, or with prediction and target (and projection), by the names of its arguments; any other loss with
    z and z_positive in this order. Arguments of a function with a default are its options. A class is made first, of the options that
    follow its name, if any. What a module keeps and trains is part of the training.
    Measured on 64 rows of dimension `dim`, with the same random numbers each time, in float64, or in float32 where it fails in that:
    `invariance`, whether the value stays under rotations z Q; `directional`, whether it stays when every row is scaled. Raises ValueError
    where the loss cannot be called so, its value is not one finite number, or has no gradient in any of the embeddings.
    """
    given: Any = own(loss) if isinstance(loss, str) else loss
    if isinstance(given, Objective):
        return given
    for known in REGISTRY.values():
        if given is known.function:
            return known
    name = name or (loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__))
    given = made(given, name)
    names, by_name, options = _arguments(given, name)
    try:
        invariant, directional = _measured(given, names, by_name, name, dim, torch.float64)
    except ValueError:  # such as one that multiplies by a matrix in float32
        invariant, directional = _measured(given, names, by_name, name, dim, torch.float32)
    if isinstance(given, nn.Module):
        function: Any = _held(given, names, by_name)
    else:
        function = given if by_name else partial(_by_position, given)
    return Objective(name, function, "your own", invariance=invariant, directional=directional, options=options)


def _measured(
    given: Any, names: tuple[str, ...], by_name: bool, name: str, dim: int, dtype: torch.dtype
) -> tuple[bool, bool]:
    """Whether the value of a loss stays under rotations, and whether it does when every row is scaled."""
    drawn = torch.randn(len(names) + 1, ROWS, dim, dtype=torch.float64, generator=_generator())
    views = drawn[:1] + 0.5 * drawn[1:]
    turn = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=_generator()))[0]
    lengths = torch.rand(ROWS, 1, dtype=torch.float64, generator=_generator()) + 0.5

    def value(views: Tensor) -> float:
        # Of a module a copy, so that what it remembers stays as it is; of the views too, which the loss may change.
        twin = copy.deepcopy(given).to("cpu", dtype) if isinstance(given, nn.Module) else given
        embeddings = {key: 1 * x.to(dtype).clone().requires_grad_() for key, x in zip(names, views, strict=True)}
        return _value(twin if by_name else partial(_by_position, twin), embeddings, name)

    usual = value(views)

    def stays(changed: Tensor) -> bool:
        return abs(value(changed) - usual) <= SAME[dtype] * max(1.0, abs(usual))

    return stays(views @ turn), stays(views * lengths)


def made(loss: Any, name: str) -> Any:
    """The loss that a class, or one with options bound, makes; any other as it is. Raises ValueError where it needs more."""
    if not isinstance(loss.func if isinstance(loss, partial) else loss, type):
        return loss
    try:
        return loss()
    except TypeError as error:
        raise ValueError(f"{name}() cannot be made: {error}; give one that is made already") from None


def resolved(name: str, *, dim: int) -> Objective:
    """The objective of a registered name, or of PACKAGE.MODULE:NAME, with options or not. Raises ValueError as `objective` and `own`."""
    return own_objective(name, dim=dim) if is_own(name) else objective(name)


def _arguments(loss: Any, name: str) -> tuple[tuple[str, ...], bool, dict[str, Any]]:
    """Names of the embeddings that the loss takes, whether it calls them so, and its options."""
    module = isinstance(loss, nn.Module)
    parameters = signature(loss.forward if module else loss).parameters.values()
    required = [p for p in parameters if p.default is Parameter.empty and p.kind not in REST]
    labels = [p.name for p in required if "label" in p.name]
    if labels:
        raise ValueError(f"{name} takes {labels[0]}: a loss gets the embeddings of two views alone")
    options = {} if module else {p.name: p.default for p in parameters if p.default is not Parameter.empty}
    for names in EMBEDDINGS:
        if {p.name for p in required} == set(names):
            return names, True, options
    if len(required) != 2 or any(p.kind is Parameter.KEYWORD_ONLY for p in required):
        takes = ", ".join(p.name for p in required) or "nothing"
        raise ValueError(
            f"{name} must take the embeddings of two views: z and z_positive, or prediction and target; it takes {takes}"
        )
    return PAIR, False, options


def _by_position(loss: Any, *, z: Tensor, z_positive: Tensor, **options: Any) -> Any:
    return loss(z, z_positive, **options)


def _held(loss: nn.Module, names: tuple[str, ...], by_name: bool) -> type[nn.Module]:
    """A class of modules that hold the user's: it is registered, and so are its parameters and buffers."""

    class Own(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.own = loss
            for hook in HOOKS:
                if hasattr(loss, hook):
                    setattr(self, hook, getattr(loss, hook))

        def forward(self, **embeddings: Tensor) -> Any:
            chosen = {key: embeddings[key] for key in names}
            return self.own(**chosen) if by_name else self.own(*chosen.values())

    forward: Any = Own.forward
    forward.__signature__ = Signature([Parameter(key, Parameter.POSITIONAL_OR_KEYWORD) for key in ("self", *names)])
    return Own


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _value(function: Callable[..., Any], embeddings: dict[str, Tensor], name: str) -> float:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        try:
            value = function(**embeddings)
        except Exception as error:  # whatever a loss raises
            reason = (str(error).splitlines() or [""])[0]
            shape = " x ".join(map(str, next(iter(embeddings.values())).shape))
            raise ValueError(f"{name} fails on embeddings of {shape}: {type(error).__name__}: {reason}") from None
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must return one number, a tensor of shape (), got {got}")
        if not bool(torch.isfinite(value)):
            raise ValueError(f"{name} is {float(value.detach())} on embeddings drawn from a normal distribution")
        given = list(embeddings.values())
        if not value.requires_grad or all(
            x is None for x in torch.autograd.grad(value.sum(), given, allow_unused=True)
        ):
            raise ValueError(f"{name} passes no gradient to the embeddings: is it detached, or a constant?")
        return float(value.detach())

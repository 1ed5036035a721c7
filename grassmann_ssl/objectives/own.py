"""Objectives of the user: any function of two views' embeddings, described by measuring it."""

import copy
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from grassmann_ssl.objectives.registry import REGISTRY, Objective
from grassmann_ssl.registry import is_own, own

ROWS = 64  # on which it is measured
SAME = 1e-6  # of its size: between rounding in float64, 1e-13, and what rotations change in losses that see them, 1e-3 and more
EMBEDDINGS = (("prediction", "target", "projection"), ("prediction", "target"), ("z", "z_positive"))


def own_objective(loss: Callable[..., Tensor] | str, *, dim: int, name: str = "") -> Objective:
    """The objective of the user's loss, a function, a module, or PACKAGE.MODULE:NAME of one; an `Objective` as it is.

    It is called with z and z_positive, or with prediction and target (and projection), by the names of its arguments; any other loss
    with z and z_positive in this order. Arguments with a default are its options. A class is made first, without arguments.
    Measured, in float64 on 64 rows of dimension `dim`, with the same random numbers each time: `invariance`, whether the value stays under
    rotations z Q; `directional`, whether it stays when every row is scaled. Raises ValueError where the loss cannot be called so, or its
    value is not one finite number.
    """
    if isinstance(loss, Objective):
        return loss
    given: Callable[..., Any] = own(loss) if isinstance(loss, str) else loss
    if isinstance(given, Objective):
        return given
    for known in REGISTRY.values():
        if given is known.function:
            return known
    name = name or (loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__))
    if isinstance(given, type):
        try:
            given = given()
        except TypeError as error:
            raise ValueError(f"{name}() cannot be made: {error}; give one that is made already") from None
    function, named, options = _named(given, name)
    arguments = dict(zip(named, _rows(len(named), dim), strict=True))
    value = _value(given, function, arguments, name)
    turn = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=_generator()))[0]
    lengths = torch.rand(ROWS, 1, dtype=torch.float64, generator=_generator()) + 0.5

    def stays(change: Callable[[Tensor], Tensor]) -> bool:
        changed = _value(given, function, {key: change(z) for key, z in arguments.items()}, name)
        return bool(abs(changed - value) <= SAME * max(1.0, abs(value)))

    return Objective(
        name,
        function,
        "your own",
        invariance=stays(lambda z: z @ turn),
        directional=stays(lambda z: z * lengths),
        options=options,
    )


def resolved(name: str, *, dim: int) -> Objective:
    """The objective of a registered name, or of PACKAGE.MODULE:NAME. Raises ValueError for an unknown one (lists the known ones)."""
    return own_objective(name, dim=dim) if is_own(name) else REGISTRY[name]


def _named(loss: Callable[..., Tensor], name: str) -> tuple[Callable[..., Tensor], tuple[str, ...], dict[str, Any]]:
    """The loss as a function of its embeddings by keyword, their names, and its options."""
    parameters = signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
    required = [p.name for p in parameters.values() if p.default is Parameter.empty and p.kind not in _REST]
    options = {p.name: p.default for p in parameters.values() if p.default is not Parameter.empty}
    for names in EMBEDDINGS:
        if set(required) == set(names):
            return loss, names, options
    if len(required) != 2 or any(parameters[one].kind is Parameter.KEYWORD_ONLY for one in required):
        raise ValueError(
            f"{name} must take the embeddings of two views: z and z_positive, or prediction and target; it takes "
            f"{', '.join(required) or 'nothing'}"
        )
    return partial(_by_position, loss), ("z", "z_positive"), options


_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _by_position(loss: Callable[..., Tensor], *, z: Tensor, z_positive: Tensor, **options: Any) -> Tensor:
    value: Tensor = loss(z, z_positive, **options)
    return value


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _rows(count: int, dim: int) -> Tensor:
    """Embeddings of views that are alike, (count, ROWS, dim)."""
    drawn = torch.randn(count + 1, ROWS, dim, dtype=torch.float64, generator=_generator())
    return drawn[:1] + 0.5 * drawn[1:]


def _value(
    loss: Callable[..., Tensor], function: Callable[..., Tensor], arguments: dict[str, Tensor], name: str
) -> float:
    """Its value, by a copy, so that what it remembers stays as it is."""
    if isinstance(loss, nn.Module):
        twin = copy.deepcopy(loss).double()
        function = twin if function is loss else partial(_by_position, twin)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            value = function(**arguments)
        except Exception as error:  # whatever a loss raises
            reason = (str(error).splitlines() or [""])[0]
            shape = " x ".join(map(str, next(iter(arguments.values())).shape))
            raise ValueError(f"{name} fails on embeddings of {shape}: {type(error).__name__}: {reason}") from None
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return one number, a tensor of shape (), got {got}")
    if not bool(torch.isfinite(value)):
        raise ValueError(f"{name} is {float(value)} on embeddings drawn from a normal distribution")
    return float(value)

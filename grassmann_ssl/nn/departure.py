"""Weights that have left their manifold: how far, and a warning of it in the forward pass that makes no host wait for a device."""

import gc
import warnings
from dataclasses import dataclass, field
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.precision import HALF, no_autocast

# What rounding to bfloat16 can do to X^H X; the longest of retraction steps leaves less, a few sqrt(eps) of float32. The next retraction
# removes it. Weights that nothing holds on the manifold are soon off by more, those of a layer that was not constrained by about 1.
TOLERANCE = torch.finfo(torch.bfloat16).eps
EVERY = 64
"""Checks are at forward passes 2, 4, 8, ... and then at every multiple of this: their cost is far below that of a step."""


@dataclass
class Watch:
    """The forward passes of a module in training, what its last check found on a device, and whether it has warned."""

    passes: int = 0
    found: dict[str, Tensor] = field(default_factory=dict)
    warned: bool = False

    def due(self) -> bool:
        """Whether this forward pass is one that checks."""
        self.passes += 1
        power_of_two = self.passes & (self.passes - 1) == 0
        return not self.warned and self.passes > 1 and (self.passes % EVERY == 0 or power_of_two)


def departure(manifold: Any, x: Tensor) -> Tensor | None:
    """The largest entry of X^H B X - I, where this is how far X is from the manifold: on ours and on geoopt's Stiefel manifolds."""
    if hasattr(manifold, "gram"):
        gram = manifold.gram
    elif isinstance(manifold, geoopt.Stiefel):
        gram = _euclidean
    else:
        return None
    with torch.no_grad(), no_autocast(x.device.type):
        x = x.detach().float() if x.dtype in HALF else x.detach()
        largest: Tensor = (gram(x, x) - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)).abs().max()
        return largest


def notice(module: nn.Module, watch: Watch, layouts: dict[str, WeightLayout]) -> None:
    """Warn once, naming parameter and optimizer, where a weight of a module is off its manifold.

    On the CPU at once; on a device the number that a check leaves on its way to the host is read by the next check.
    """
    for name, layout in layouts.items():
        weight: Any = module._parameters.get(name)
        # Functional calls and sharding put other tensors in its place, which are judged where they come from.
        if type(weight) is not geoopt.ManifoldParameter or weight.is_meta:
            continue
        if weight.is_cuda and torch.cuda.is_current_stream_capturing():
            continue
        error = departure(layout.manifold, layout.to_point(weight))
        if error is None:
            continue
        before = watch.found.get(name)
        if weight.is_cpu:
            before = error
        else:
            watch.found[name] = error.to("cpu", non_blocking=True)
        if before is not None and not float(before) <= TOLERANCE:
            _warn(module, name, weight, float(before))
            watch.warned = True


def _warn(module: nn.Module, name: str, weight: Tensor, error: float) -> None:
    owners = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer) and _holds(o, weight)]
    if any(getattr(o, "approaches", False) for o in owners):
        return
    plain = [
        f"{type(o).__module__.removesuffix('.' + type(o).__name__.lower())}.{type(o).__name__}"
        for o in owners
        if not isinstance(o, geoopt.optim.mixin.OptimMixin) and not hasattr(o, "momentum_keys")
    ]
    culprit = f"{' and '.join(plain)} steps" if plain else "something besides its optimizer changes"
    warnings.warn(
        f"{name} of {type(module).__name__}({module.extra_repr()}) has left its manifold: an entry of its Gram matrix is {error:.2g} off "
        f"the identity, and what the constraint promises does not hold. {culprit} it as an ordinary parameter: use an optimizer of "
        "grassmann_ssl.optim or geoopt.optim",
        stacklevel=5,
    )


def _holds(optimizer: torch.optim.Optimizer, weight: Tensor) -> bool:
    groups = getattr(optimizer, "param_groups", ())  # of one that is being made there are none
    return any(p is weight for group in groups for p in group["params"])


def _euclidean(u: Tensor, v: Tensor) -> Tensor:
    return u.mH @ v

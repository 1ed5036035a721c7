"""Constrained layers of torch models: the same forward pass and checkpoint, the weight a point of a manifold.

A weight is made a `geoopt.ManifoldParameter`, which optimizers of geoopt's kind step along its manifold. Which parameters are constrained
is kept on the module, by name, because torch replaces parameter objects, or swaps their content, and forgets their class.
"""

import functools
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.nn.departure import TOLERANCE, Watch, notice
from grassmann_ssl.precision import FULL

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def constrain(
    module: nn.Module, name: str = "weight", manifold: geoopt.Manifold | None = None, *, transpose: bool | None = None
) -> nn.Module:
    """Put the parameter `name` of a module on a manifold (default: Grassmann()), and return the same module.

    For Linear, Conv1d, Conv2d, Conv3d with groups = 1, and any module with a 2-d parameter. The weight (out, in, *kernel) is projected
    onto the manifold in place and becomes a `geoopt.ManifoldParameter` on a `WeightLayout`. By default the longer side of its matrix
    (out, in * prod(kernel)) is n: where out <= in * prod(kernel) its rows are orthonormal, else its columns. `transpose` = True asks for
    rows, False for columns. Names and shapes in the state_dict do not change; loading a state_dict whose weight is off the manifold raises
    ValueError. The parameter object is kept, and so are ties to other modules and optimizers that hold it. A forward pass in training warns
    once where the weight has left the manifold, as under an optimizer that does not know of it.
    Raises ValueError or TypeError where the parameter is missing, tied within the module, parametrized, or on a manifold already, where its
    dtype or shape does not fit the manifold, and for the single point Gr(n, n).
    """
    manifold = Grassmann() if manifold is None else manifold
    weight = _parameter(module, name)
    layout = _layout(module, name, weight, manifold, transpose)
    _project(weight, layout)
    weight.grad = None
    if not isinstance(module, Constrained):
        kind: Any = type(module)
        module.__class__ = _constrained_class(kind)
    module.__dict__.setdefault("_constraints", {})[name] = layout
    module.__dict__.setdefault("_watch", Watch())
    _attach(module)
    return module


def constraints(model: nn.Module) -> dict[str, geoopt.Manifold]:
    """The manifold of every constrained parameter of a model, by the name that `model.named_parameters()` gives it.

    Also below DistributedDataParallel and torch.compile, and where FSDP has sharded the parameters.
    """
    return {
        f"{prefix}.{name}" if prefix else name: layout
        for prefix, module in model.named_modules()
        if isinstance(module, Constrained)
        for name, layout in module._constraints.items()
    }


class Constrained(nn.Module):
    """Mixin of constrained modules: puts parameters back on their manifolds after torch has replaced them.

    In training it looks now and then whether they still are on them, and warns once of one that is not.
    """

    _constraints: dict[str, WeightLayout]
    _watch: Watch

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self.training and not torch.compiler.is_compiling() and self._watch.due():
            self._look()
        return super().__call__(*inputs, **named)

    def _look(self) -> None:
        """Warn once where the constraint does not hold."""
        notice(self, self._watch, self._constraints)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch gives it no types
        _attach(self)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, layout in self._constraints.items():
            _check_loaded(state_dict.get(prefix + name), getattr(self, name), prefix + name, layout)
        super()._load_from_state_dict(state_dict, prefix, *args)
        _attach(self)

    def extra_repr(self) -> str:
        described = (f"{name}: {layout.extra_repr()}" for name, layout in self._constraints.items())
        return ", ".join(filter(None, (super().extra_repr(), *described)))


class GrassmannLinear(Constrained, nn.Linear):
    """nn.Linear with orthonormal rows: its weight (out, in) is a point of Gr(in, out), initialised uniformly (Haar measure).

    y = x W^T + b, x (..., in), with p = out_features < in_features = n. Raises ValueError for other sizes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not in_features > out_features >= 1:
            raise ValueError(
                f"in_features must be above out_features >= 1, got in_features = {in_features}, out_features = {out_features}"
            )
        super().__init__(in_features, out_features, bias, device, dtype)
        constrain(self, transpose=True)

    def reset_parameters(self) -> None:
        """Draw the weight uniformly on the manifold, and the bias as nn.Linear does."""
        super().reset_parameters()
        layout = WeightLayout(Grassmann(), transpose=True)
        with torch.no_grad():
            self.weight.copy_(layout.random(*self.weight.shape, dtype=self.weight.dtype, device=self.weight.device))


@functools.cache
def _constrained_class(kind: Any) -> type[nn.Module]:
    """The class of constrained modules of a class: one for all of them, so that their types compare equal."""

    def reset_parameters(self: Any) -> None:
        kind.reset_parameters(self)
        for name, layout in self._constraints.items():
            _project(getattr(self, name), layout)

    # Found by its base, since no module of Python holds it by name.
    members: dict[str, Any] = {"__reduce_ex__": lambda self, protocol: (_bare, (kind,), self.__dict__)}
    if hasattr(kind, "reset_parameters"):
        members["reset_parameters"] = reset_parameters
    return type(f"Constrained{kind.__name__}", (Constrained, kind), members)


def _bare(kind: Any) -> nn.Module:
    """A constrained module of a class, before its state is restored."""
    return nn.Module.__new__(_constrained_class(kind))


def _project(weight: Tensor, layout: WeightLayout) -> None:
    if not weight.is_meta:
        # Not copied into the old storage, which need not be contiguous: FSDP takes contiguous parameters only.
        weight.data = layout.projx(weight.detach())


def _attach(module: Any) -> None:
    """Tell the constrained parameters of a module their manifolds, and bring along what these manifolds hold."""
    for name, layout in module._constraints.items():
        weight = getattr(module, name)
        if not weight.is_meta:
            layout.to(weight.device, weight.dtype)
        # Anything else, such as a sharded tensor, keeps its class: `constraints` knows its manifold.
        if type(weight) in (nn.Parameter, geoopt.ManifoldParameter):
            # In place, because an optimizer may hold this object.
            weight.__class__ = geoopt.ManifoldParameter
            weight.manifold = layout


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter to constrain. Raises ValueError or TypeError where it cannot be."""
    kind = type(module).__name__
    if isinstance(name, geoopt.Manifold):
        raise TypeError(f"name must be that of a parameter, got {name}: give the manifold as manifold={name}")
    if parametrize.is_parametrized(module, name):
        raise ValueError(f"{name} of {kind} is parametrized: remove the parametrization first")
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"name must be a parameter of {kind}, one of {sorted(module._parameters)}, got {name!r}")
    if is_lazy(weight):
        raise ValueError(f"{name} of {kind} has no shape yet: run the lazy module once first")
    if isinstance(weight, geoopt.ManifoldTensor):
        raise ValueError(f"{name} of {kind} is already on a manifold: {weight.manifold}")
    if not _holds_values(weight):
        raise ValueError(
            f"{name} of {kind} is a {type(weight.data).__name__}: constrain the module before it is sharded"
        )
    names = [other for other, p in module.named_parameters(remove_duplicate=False) if p is weight]
    if len(names) > 1:
        raise ValueError(f"{name} of {kind} is tied: it is one parameter under the names {', '.join(names)}")
    return weight


def _layout(
    module: nn.Module, name: str, weight: Tensor, manifold: geoopt.Manifold, transpose: bool | None
) -> WeightLayout:
    """Where a weight lives. Raises ValueError or TypeError where it cannot."""
    if weight.dtype not in FULL:
        raise TypeError(f"{name} must be one of float32, float64, complex64 and complex128, got {weight.dtype}")
    if isinstance(module, CONVOLUTIONS) and name == "weight":
        if module.groups != 1:
            raise ValueError(f"a constrained convolution must have groups = 1, got groups = {module.groups}")
    elif weight.ndim != 2:
        raise ValueError(
            f"{name} must be 2-d, or the weight of a Conv1d, Conv2d or Conv3d; got shape {tuple(weight.shape)} "
            f"in {type(module).__name__}"
        )
    out, inputs = weight.flatten(1).shape
    rows = out <= inputs if transpose is None else transpose
    layout = WeightLayout(manifold, rows, tuple(weight.shape[2:]))
    n, p = (inputs, out) if rows else (out, inputs)
    if not n >= p >= 1:
        raise ValueError(
            f"transpose = {transpose} asks for {p} orthonormal {'rows' if rows else 'columns'} with {n} entries, "
            f"but {name} of shape {tuple(weight.shape)} is a {out} x {inputs} matrix"
        )
    if n == p and isinstance(manifold, Grassmann):
        raise ValueError(
            f"{name} of shape {tuple(weight.shape)} is a square matrix, and Gr({n}, {n}) is a single point, on which nothing can be "
            "trained; Stiefel() trains square orthonormal weights"
        )
    layout.assert_check_point(weight)
    return layout


def _holds_values(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary one, not one that stands for others, as sharded and fake tensors do."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def _check_loaded(value: Any, weight: Tensor, name: str, layout: WeightLayout) -> None:
    """Raise ValueError where a weight of a checkpoint is off its manifold.

    Meta tensors have no values; sharded ones are not gathered, since a process that loads alone would wait for the others forever. Missing
    values and other shapes are for torch to report.
    """
    if not isinstance(value, Tensor) or value.shape != weight.shape or value.is_meta or not _holds_values(value):
        return
    place = value.device if weight.is_meta else weight.device
    value = value.detach().to(place, torch.promote_types(weight.dtype, torch.float32))
    good, reason = layout.check_point_on_manifold(value, explain=True, atol=TOLERANCE)
    if not good:
        raise ValueError(
            f"{name} in the state_dict is not on {layout.extra_repr()}: {reason}. Load it into the module before `constrain`, which "
            "projects it"
        )

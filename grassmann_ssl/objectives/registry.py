"""The registry of objectives, and what each declares beside its function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from grassmann_ssl.data.moments import Moments
from grassmann_ssl.distributed import process_count
from grassmann_ssl.registry import Registry, nearest, parted, with_options

Loss = TypeVar("Loss", bound=Callable[..., Any])


@dataclass(frozen=True)
class Objective:
    """An objective bound to its options: a function of embeddings and, for linear models, of the moments of their inputs.

    function     the loss; or a class whose instances are losses, renewed at every step by their method `renew(step)`; or a class of
                 modules, losses that keep a state of `dim` dimensions
    source       paper and equation
    invariance   whether L(z Q) = L(z) for every orthogonal Q, or the condition on the options under which it holds
    directional  it depends on z / ||z|| only: collapse is judged on the directions
    whitens      it whitens over the batch: needs more rows than dimensions
    detached     what of its value it takes no gradient of, beside targets, in words
    rows         fewest rows, of all processes together
    needs_teacher  its targets are embeddings of a momentum teacher
    moments      the loss of a linear model, from its weights and the moments cross and second of its inputs, or from `matrix`
    slope        the gradient of `moments` in the weights, of the same arguments, where it has a closed form
    gaussian     `moments` is the loss for Gaussian inputs only
    matrix       C of a trace loss, which is tr(W^T C W) for a linear model, from the moments of its inputs
    checks       option -> a validator, which raises ValueError for a value outside its range
    options      the options of the function by name, with their values
    """

    name: str
    function: Callable[..., Any]
    source: str
    invariance: bool | Callable[..., bool]
    directional: bool = False
    whitens: bool = False
    detached: str = ""
    rows: int = 1
    needs_teacher: bool = False
    moments: Callable[..., Tensor] | None = None
    slope: Callable[..., Tensor] | None = None
    gaussian: bool = False
    matrix: Callable[[Moments], Tensor] | None = None
    checks: Mapping[str, Callable[[str, Any], None]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def bind(self, **options: Any) -> "Objective":
        """The same objective with other options. Raises ValueError for an unknown one, a value of another type or outside its range."""
        declared = signature(self.function).parameters
        for option, value in options.items():
            if option not in self.options:
                raise ValueError(self._refusal(option))
            _check_type(option, value, declared[option].annotation)
            if option in self.checks and value is not None:
                self.checks[option](option, value)
        return replace(self, options={**self.options, **options})

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from the declared ones."""
        usual = _options(self.function)
        return {name: value for name, value in self.options.items() if value != usual.get(name)}

    @property
    def label(self) -> str:
        """Its name, with the options that differ from the declared ones, such as vicreg:variance=10."""
        return with_options(self.name, self.given)

    def _refusal(self, option: str) -> str:
        others = [one.name for one in REGISTRY.values() if option in one.options]
        if others:
            return f"{option} is a setting of {', '.join(others)}; {self.name} has none"
        return f"{self.name} has no setting {option!r}: it has {', '.join(self.options) or 'none'}{nearest(option, self.options)}"

    @cached_property
    def loss(self) -> Callable[..., Tensor]:
        """The loss with its options bound: a function of embeddings by keyword, (n, d) each -> scalar.

        Takes z and z_positive, with z_negative where `triplets`; or, where `predictive`, prediction, target and projection. Raises
        ValueError where it keeps a state, which depends on d.
        """
        if self.stateful:
            raise ValueError(f"{self.name} keeps a state: make its loss for embeddings of d dimensions by new(d)")
        if isinstance(self.function, type):
            made: Callable[..., Tensor] = self.function(**self.options)
            return made
        loss = partial(self.function, **self.options) if self.options else self.function
        return partial(_without_projection, loss) if self.predictive and not self.needs_predictor else loss

    def new(self, dim: int) -> Callable[..., Tensor]:
        """The loss for embeddings of `dim` dimensions: where it keeps a state, a new module, its random part from torch's generator."""
        if not self.stateful:
            return self.loss
        made: Callable[..., Tensor] = self.function(dim=dim, **self.options)
        return made

    @property
    def stateful(self) -> bool:
        """Whether its losses are modules: what they keep are buffers, renewed by their method `remember`, and parameters to train."""
        return isinstance(self.function, type) and issubclass(self.function, nn.Module)

    @property
    def from_moments(self) -> "Callable[[Moments], MomentLoss] | None":
        """Moments of the inputs -> the loss of a linear model, a function of its weights (..., m, d) -> (...); None where there is none."""
        if self.moments is None:
            return None
        known, usual = signature(self.moments).parameters, _options(self.function)
        return self._of_weights if all(o in known or v == usual[o] for o, v in self.options.items()) else None

    def _of_weights(self, moments: Moments) -> "MomentLoss":
        assert self.moments is not None
        values = {"cross": moments.cross, "second": moments.second, **self.options}
        if self.matrix is not None:
            values["matrix"] = self.matrix(moments)
        settings = {name: values[name] for name in signature(self.moments).parameters if name != "weights"}
        return MomentLoss(self.moments, self.slope, settings)

    @property
    def rotation_invariant(self) -> bool:
        """Whether L(z Q) = L(z) for every orthogonal Q: with a linear last layer, a function on the Grassmannian."""
        return self.invariance(**self.options) if callable(self.invariance) else self.invariance

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the embeddings that its function takes."""
        return tuple(
            _required(
                getattr(self.function, _call_of(self.function)) if isinstance(self.function, type) else self.function
            )
        )

    @property
    def triplets(self) -> bool:
        """Whether it takes the embeddings z_negative of negatives."""
        return "z_negative" in self.arguments

    @property
    def predictive(self) -> bool:
        """Whether it takes predictions and targets, which it passes no gradient to."""
        return "prediction" in self.arguments

    @property
    def needs_predictor(self) -> bool:
        """Whether it takes the projection, the input of the predictor, too."""
        return "projection" in self.arguments

    @property
    def is_trace(self) -> bool:
        """Whether the loss of a linear model is tr(W^T C W): homogeneous of degree 2, its gradient flow linear."""
        return self.matrix is not None


@dataclass(frozen=True)
class MomentLoss:
    """The loss of a linear model on given data, a function of its weights (..., m, d) -> (...), differentiable by autograd."""

    loss: Callable[..., Tensor]
    slope: Callable[..., Tensor] | None
    settings: Mapping[str, Any]

    def __call__(self, weights: Tensor) -> Tensor:
        return self.loss(weights=weights, **self.settings)

    def gradient(self, weights: Tensor) -> Tensor:
        """Its gradient (..., m, d), of every leading index its own: in closed form where there is one, at the cost of its products."""
        if self.slope is not None:
            with torch.no_grad():
                return self.slope(weights=weights, **self.settings)
        gradient: Tensor = torch.func.grad(lambda w: self(w).sum())(weights.detach())
        return gradient


REGISTRY: Registry[Objective] = Registry("objective")


def declare(*, name: str = "", rotation_invariant: bool | Callable[..., bool], **facts: Any) -> Callable[[Loss], Loss]:
    """Decorator that registers a function as an objective; its options are the arguments with a default, `facts` fields of `Objective`.

    Its other arguments are embeddings: the function that it returns raises TypeError for what is no tensor and ValueError, by name, unless
    all are floating, of one shape (n, d), with the rows that it needs. Raises ValueError where the name, by default that of the function,
    is taken.
    """

    def add(function: Loss) -> Loss:
        known, least = name or function.__name__, facts.get("rows", 1)
        checked: Any = function
        if isinstance(function, type):
            setattr(checked, _call_of(function), _checked(known, getattr(checked, _call_of(function)), least))
        else:
            checked = _checked(known, function, least)
        chosen = Objective(known, checked, invariance=rotation_invariant, options=_options(function), **facts)
        REGISTRY.add(known, chosen)
        return cast(Loss, checked)

    return add


def objective(name: str, **options: Any) -> Objective:
    """The objective of a name, with the options given, after the name or as arguments, and the defaults for the rest.

    `objective("vicreg:variance=10")` is `objective("vicreg", variance=10)`. Raises ValueError for an unknown name (lists the known ones,
    suggests the nearest), an unknown option, or a value of another type or outside its range.
    """
    base, named = parted(name)
    return REGISTRY[base].bind(**named, **options)


def options_of(name: str, **given: Any) -> dict[str, Any]:
    """Those of the given options that the objective of a name has. Raises ValueError for an unknown name."""
    return {option: value for option, value in given.items() if option in REGISTRY[name].options}


KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"), int: (Integral, "a whole number"), float: (Real, "a number"), str: (str, "text"),
    NoneType: (NoneType, "none"),
}  # fmt: skip


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError where an option is of none of the types that it is annotated with, as far as these are of KINDS."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if not all(kind in KINDS for kind in kinds):
        return
    if not any(isinstance(value, KINDS[kind][0]) and (kind is bool or not isinstance(value, bool)) for kind in kinds):
        raise ValueError(f"{name} must be {' or '.join(KINDS[kind][1] for kind in kinds)}, got {value!r}")


def positive(name: str, value: float) -> None:
    """Raise ValueError where an option is not positive."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def not_negative(name: str, value: float) -> None:
    """Raise ValueError where an option is negative."""
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def share(name: str, value: float) -> None:
    """Raise ValueError where an option is outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")


def _checked(name: str, function: Callable[..., Tensor], least: int) -> Callable[..., Tensor]:
    """The loss, with its embeddings checked: torch would broadcast one row against many, and columns alike."""
    embeddings = tuple(_required(function))

    @wraps(function)
    def checked(*args: Any, **arguments: Any) -> Tensor:
        first = arguments.get(embeddings[0])
        for one in embeddings:
            z = arguments.get(one)
            if z is None:
                continue  # Python names what is missing
            if not isinstance(z, Tensor):
                raise TypeError(f"{name}: {one} must be a torch.Tensor, got {type(z).__name__}")
            if z.ndim != 2 or not z.numel():
                raise ValueError(f"{name}: {one} must have a shape (n, d) with n, d >= 1, got {tuple(z.shape)}")
            if not z.is_floating_point():
                raise ValueError(f"{name}: {one} must be floating, got {z.dtype}")
            if first is not None and z.shape != first.shape:
                raise ValueError(
                    f"{name}: {embeddings[0]} and {one} must have one shape, got {tuple(first.shape)} and {tuple(z.shape)}"
                )
        if first is not None and (count := process_count() * len(first)) < least:
            raise ValueError(f"{name}: {least} rows or more are needed, in all processes together, got {count}")
        return function(*args, **arguments)

    return checked


def _call_of(cls: type) -> str:
    """The method of a class of losses that takes the embeddings."""
    return "forward" if issubclass(cls, nn.Module) else "__call__"


def _required(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments without a default."""
    parameters = signature(function).parameters.values()
    return [p.name for p in parameters if p.default is Parameter.empty and p.name != "self"]


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in signature(function).parameters.values() if p.default is not Parameter.empty}


def _without_projection(
    loss: Callable[..., Tensor], *, prediction: Tensor, target: Tensor, projection: Tensor
) -> Tensor:
    return loss(prediction=prediction, target=target)

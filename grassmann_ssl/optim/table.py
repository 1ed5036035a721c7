"""The optimizers of an encoder by name: what steps its constrained and its free parameters, and which constraints they go with."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.nn.constraint_table import Constraint
from grassmann_ssl.nn.placement import PLACES, is_pattern
from grassmann_ssl.optim.adam import RiemannianAdam
from grassmann_ssl.optim.base import RiemannianOptimizer
from grassmann_ssl.optim.lars import LARS
from grassmann_ssl.optim.line_search import LineSearchOptimizer
from grassmann_ssl.optim.sgd import RiemannianSGD
from grassmann_ssl.registry import Registry


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options of an optimizer."""

    PREFIX: ClassVar[str] = ""
    momentum: float = 0.9
    """momentum of sgd, lars and muon"""
    weight_decay: float = 1e-4
    """weight decay of matrices and kernels that are not constrained"""
    predictor_rate: float = 1.0
    """learning rate of a trained predictor over that of everything else: alpha_p of Tian et al. 2021 (arXiv 2102.06810)"""


@dataclass(frozen=True)
class Parts:
    """What is to be stepped, and how.

    held    parameters on a manifold; `lifted`: matrices whose updates a comparator orthogonalises
    free    groups of the others, with and without weight decay
    """

    held: list[Tensor]
    lifted: list[Tensor]
    free: list[dict[str, Any]]
    lr: float
    options: OptimizerOptions


@dataclass(frozen=True)
class Optimizer:
    """A named optimizer. Which constraints it goes with is said by them: `Constraint.optimizers`.

    make         parts -> torch's optimizers of them
    source       paper
    options      those of `OptimizerOptions` that it has
    comparator   it takes the place of a constraint: its own step goes to the layers of `places`, the others are free
    least_torch  the version of torch that first has it, or ""
    own          the user's own: whether it goes with a constraint is seen when it is made, by `check_stepped`
    """

    name: str
    make: Callable[[Parts], list[torch.optim.Optimizer]]
    source: str
    options: tuple[str, ...] = ("momentum", "weight_decay", "predictor_rate")
    comparator: bool = False
    places: tuple[str, ...] = PLACES
    least_torch: str = ""
    own: bool = False

    def check(self, constraint: Constraint, where: str) -> None:
        """Raise ValueError where torch is too old, or for a constraint or place that the optimizer does not go with."""
        if self.least_torch and torch.__version__ < self.least_torch:
            raise ValueError(f"optimizer {self.name} needs torch {self.least_torch} or newer")
        if self.own:
            return
        if self.name not in constraint.optimizers:
            if self.comparator:
                raise ValueError(
                    f"optimizer {self.name} is a comparator for constraints, it does not go with {constraint.name}"
                )
            others = " or ".join(constraint.optimizers)
            raise ValueError(f"constraint {constraint.name} is stepped by {others}, not by {self.name}")
        if where not in self.places and not is_pattern(where):
            raise ValueError(f"optimizer {self.name} is for matrices: use where = {' or '.join(self.places)}")


def optimizers(
    chosen: Optimizer,
    parameters: Mapping[str, Tensor],
    *,
    held: Collection[str],
    lifted: Collection[str],
    lr: float,
    options: OptimizerOptions,
) -> list[torch.optim.Optimizer]:
    """The optimizers of named parameters: of those `held` by a manifold, those `lifted` by a comparator, and the free ones.

    Weight decay acts on free matrices and kernels. What is named predictor.* has a learning rate of its own, and decays at it. Raises
    ValueError as `check_stepped`.
    """
    free = {key: p for key, p in parameters.items() if key not in held and key not in lifted}
    # Decay would shrink the signs on the diagonal of a parametrization's matrix too, which torch rounds down to 0.
    decayed = {key for key, p in free.items() if p.ndim > 1 and ".parametrizations." not in key}
    fast = {key for key in free if options.predictor_rate != 1 and key.startswith("predictor.")}
    groups = [
        {"params": [p for key, p in free.items() if key in decayed - fast], "weight_decay": options.weight_decay},
        {"params": [p for key, p in free.items() if key not in decayed | fast], "weight_decay": 0.0},
        *(
            {
                "params": [p for key, p in free.items() if key in of],
                "weight_decay": decay,
                "lr": lr * options.predictor_rate,
            }
            for of, decay in ((fast & decayed, options.weight_decay), (fast - decayed, 0.0))
        ),
    ]
    parts = Parts(
        [p for key, p in parameters.items() if key in held],
        [p for key, p in parameters.items() if key in lifted],
        [group for group in groups if group["params"]],
        lr,
        options,
    )
    made = chosen.make(parts)
    check_stepped(made, parameters, held)
    return made


def check_stepped(
    made: Sequence[torch.optim.Optimizer], parameters: Mapping[str, Tensor], held: Collection[str]
) -> None:
    """Raise ValueError unless every parameter is stepped by one optimizer, once, and those `held` by a manifold by a Riemannian one."""
    stepped: dict[int, list[torch.optim.Optimizer]] = {}
    for optimizer in made:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                stepped.setdefault(id(parameter), []).append(optimizer)
    forgotten = [name for name, p in parameters.items() if id(p) not in stepped]
    if forgotten:
        raise ValueError(f"the optimizer does not step {_listed(forgotten)}: give it all parameters that it gets")
    twice = [name for name, p in parameters.items() if len(stepped[id(p)]) > 1]
    if twice:
        raise ValueError(f"{_listed(twice)} would be stepped twice")
    known = {id(p) for p in parameters.values()}
    if len(stepped.keys() - known):
        raise ValueError(
            "the optimizer steps parameters that are not of this training: make it from those that it gets"
        )
    refuse_plain(made, parameters, held)


def refuse_plain(
    made: Sequence[torch.optim.Optimizer], parameters: Mapping[str, Tensor], held: Collection[str]
) -> None:
    """Raise ValueError, naming it, for a parameter `held` by a manifold that one of these optimizers would take off it."""
    stepping = {id(p): optimizer for optimizer in made for group in optimizer.param_groups for p in group["params"]}
    for name in parameters.keys() & set(held):
        optimizer = stepping.get(id(parameters[name]))
        if optimizer is not None and not isinstance(optimizer, (RiemannianOptimizer, geoopt.optim.mixin.OptimMixin)):
            raise ValueError(
                f"{name} is on a manifold, and torch's {type(optimizer).__name__} would take it off: use a Riemannian optimizer, such as "
                "grassmann_ssl.RiemannianSGD or RiemannianAdam"
            )


def own_optimizer(make: Callable[[list[Tensor]], Any], name: str) -> Optimizer:
    """The user's own optimizer: a function from the list of all parameters to one of torch's optimizers, or several."""

    def made(parts: Parts) -> list[torch.optim.Optimizer]:
        found = make([*parts.held, *parts.lifted, *(p for group in parts.free for p in group["params"])])
        several = list(found) if isinstance(found, (list, tuple)) else [found]
        for one in several:
            if not isinstance(one, torch.optim.Optimizer):
                raise ValueError(f"{name} must return an optimizer of torch's kind, got {type(one).__name__}")
            if isinstance(one, (LineSearchOptimizer, torch.optim.LBFGS)):
                raise ValueError(
                    f"{type(one).__name__} takes the loss several times a step, for full batches; take a first-order optimizer for views"
                )
        return several

    return Optimizer(name, made, "your own", options=(), own=True)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _sgd(parts: Parts) -> list[torch.optim.Optimizer]:
    settings: dict[str, Any] = {"lr": parts.lr, "momentum": parts.options.momentum}
    if parts.held:
        return [RiemannianSGD([{"params": parts.held}, *parts.free], **settings)]
    return [torch.optim.SGD(parts.free, **settings)]


def _adam(parts: Parts) -> list[torch.optim.Optimizer]:
    if parts.held:
        return [RiemannianAdam([{"params": parts.held}, *parts.free], lr=parts.lr)]
    return [torch.optim.AdamW(parts.free, lr=parts.lr)]


def _lars(parts: Parts) -> list[torch.optim.Optimizer]:
    free = LARS(parts.free, parts.lr, momentum=parts.options.momentum)
    return [free, *_sgd(replace(parts, free=[]))] if parts.held else [free]


def _muon(parts: Parts) -> list[torch.optim.Optimizer]:
    options = parts.options
    muon = torch.optim.Muon(parts.lifted, lr=parts.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    return [*_sgd(parts), muon]


RIEMANNIAN = "Becigneul & Ganea 2019, arXiv 1810.00760"
OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
for _one in (
    Optimizer("sgd", _sgd, RIEMANNIAN),
    Optimizer("adam", _adam, RIEMANNIAN, ("weight_decay", "predictor_rate")),
    Optimizer("lars", _lars, "You et al. 2017, arXiv 1708.03888"),
    Optimizer("muon", _muon, "Jordan et al. 2024, Muon", comparator=True, places=("last", "linear"), least_torch="2.9"),
):
    OPTIMIZERS.add(_one.name, _one)

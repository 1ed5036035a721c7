"""The settings of `pretrain`: those of `train`, some of them values of the user's own in place of names."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import geoopt
from torch import nn

from grassmann_ssl.audit import CollapseMonitor
from grassmann_ssl.data.batches import Split
from grassmann_ssl.data.loaded import Pick, Source
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.constraint_table import Constraint, constraint_on
from grassmann_ssl.nn.encoders import Architecture
from grassmann_ssl.nn.predictors import Predictor
from grassmann_ssl.objectives import Objective
from grassmann_ssl.objectives.own import own_objective
from grassmann_ssl.optim.table import Optimizer, own_optimizer
from grassmann_ssl.runs import setting
from grassmann_ssl.runs.config import VALUE

PARTS = ("encoder", "data", "objective", "projector", "constraint", "predictor", "teacher", "optimizer", "schedule")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is a value and no name; None where the name counts.

    views   what of a batch the views are, as in `Loaded`
    probed  labelled data, to probe the encoder with
    monitor sees the embeddings of every step
    """

    encoder: nn.Module | None = None
    data: Source | None = None
    objective: Callable[..., Any] | Objective | None = None
    projector: nn.Module | None = None
    constraint: geoopt.Manifold | None = None
    predictor: nn.Module | None = None
    teacher: nn.Module | Callable[[nn.Module], nn.Module] | None = None
    optimizer: Callable[..., Any] | None = None
    schedule: Callable[[int], float] | None = None
    views: Pick = None
    probed: Split | None = None
    monitor: CollapseMonitor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the settings that are values."""
        return tuple(name for name in PARTS if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Train the user's own encoder, on their own data and objective, as `train` does."""

    NAME: ClassVar[str] = "pretrain"
    projector: str = "mlp"
    """projection head: mlp, by `hidden`, `dim` and `head`, or what the user's own is called"""
    teacher: float | str = 0.0  # type: ignore[assignment]  # the user's own has a name
    """momentum of the EMA teacher, or what the user's own is called"""
    given: Given = field(default_factory=Given, metadata={VALUE: True}, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        with setting("schedule"):
            self.rate(0)

    @property
    def own(self) -> Collection[str]:
        return self.given.names

    def rate(self, step: int) -> float:
        given = self.given.schedule
        return super().rate(step) if given is None else float(given(step))

    def architecture(self) -> Architecture:
        given = self.given.encoder
        return super().architecture() if given is None else Architecture(self.encoder, lambda: given, ())

    def loss(self) -> Objective:
        if self.given.objective is None:
            return super().loss()
        with setting("objective"):
            loss = own_objective(self.given.objective, dim=self.dim, name=self.objective)
        return self.seeded(loss)

    def constraint_used(self) -> Constraint:
        given = self.given.constraint
        return super().constraint_used() if given is None else constraint_on(given)

    def predictor_used(self) -> Predictor | None:
        given = self.given.predictor
        if given is None:
            return super().predictor_used()
        return Predictor(self.predictor, lambda dim: given, False, "your own")

    def optimizer_used(self) -> Optimizer:
        given = self.given.optimizer
        return super().optimizer_used() if given is None else own_optimizer(given, self.optimizer)

    def projector_used(self) -> nn.Module | None:
        return self.given.projector

    def teacher_used(self) -> nn.Module | Callable[[nn.Module], nn.Module] | None:
        return self.given.teacher

    def own_modules(self) -> list[nn.Module]:
        given = self.given
        parts: tuple[Any, ...] = (given.encoder, given.projector, given.predictor, given.teacher, given.objective)
        return [part for part in parts if isinstance(part, nn.Module)]

    def monitor_used(self) -> CollapseMonitor | None:
        return self.given.monitor

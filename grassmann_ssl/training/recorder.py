"""Recording of a training, on its device until the end."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grassmann_ssl.shown import Shown


@dataclass(frozen=True, repr=False)
class Trajectory(Shown):
    """The recorded steps of a batch of runs: K logged steps, leading batch dimensions *b of the weights.

    The true weights are exp(log_norm) * weights; log_norm is 0 unless `train_full_batch` rescaled the weights, and `loss` and
    `gradient_norm` are those of the recorded weights. `time` = learning rate x step.
    """

    step: Int[Tensor, " k"]
    time: Float[Tensor, " k"]
    loss: Float[Tensor, " k *b"]
    gradient_norm: Float[Tensor, " k *b"]
    log_norm: Float[Tensor, " k *b"]
    weights: Float[Tensor, " k *b m d"]
    learning_rate: float
    wall_time: float

    def first(self, count: int) -> "Trajectory":
        """The first `count` logged steps."""
        axis = {
            name: getattr(self, name)[:count]
            for name in ("step", "time", "loss", "gradient_norm", "log_norm", "weights")
        }
        return replace(self, **axis)


@dataclass
class Recorder:
    """Collects tensors at the steps that are to be logged. Nothing is copied to the host before `stacked`."""

    steps: Collection[int]
    records: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)

    def due(self, step: int) -> bool:
        """Whether this step is logged."""
        return step in self.steps

    def record(self, step: int, **values: Tensor) -> None:
        """Keep a copy of each value."""
        # One append: an interrupt leaves a record whole or absent.
        self.records.append((step, {name: value.detach().clone() for name, value in values.items()}))

    @property
    def done(self) -> int:
        """The last recorded step; 0, the start, before there is any."""
        return self.records[-1][0] if self.records else 0

    def stacked(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The logged steps, and each value with a leading axis over them, on the host."""
        steps = torch.tensor([step for step, _ in self.records])
        names = self.records[0][1]
        return steps, {name: torch.stack([values[name] for _, values in self.records]).cpu() for name in names}

"""Many comparisons trained as one tensor program: the cells of a sweep that have one shape."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear.compare import LOGGED, CompareConfig, Problem, compare, problem_of, train
from grassmann_ssl.objectives.registry import MomentLoss
from grassmann_ssl.runs import ConfigError, Outcome
from grassmann_ssl.training import Trajectory

MEMORY = 2**28
"""bytes of recorded weights that are held at once"""


@dataclass(frozen=True)
class _Scaled:
    """A loss whose gradient is multiplied by the learning rate of each run, so that all take steps of rate 1."""

    loss: MomentLoss
    rates: Tensor

    def __call__(self, weights: Tensor) -> Tensor:
        return self.loss(weights)

    def gradient(self, weights: Tensor) -> Tensor:
        return self.rates[:, None, None, None] * self.loss.gradient(weights)


def packed(configs: Sequence[CompareConfig]) -> Iterator[Callable[..., Outcome]]:
    """What runs each of these configs, in their order: `compare`, its arms trained together with those of the others.

    Data, learning rates, initial scales and seeds may differ; runs are packed where all else is the same, as many at once as fit in
    `MEMORY`. A run that cannot be, and every one of a pack in which some weights are not finite, is trained alone. What comes out is that
    of `compare` alone up to rounding.
    """
    waiting = list(configs)
    while waiting:
        count = max(1, min(MEMORY // max(_bytes(waiting[0]), 1), len(waiting)))
        pack, waiting = waiting[:count], waiting[count:]
        yield from _pack(pack)


def _bytes(config: CompareConfig) -> int:
    """Of the recorded weights of a run, of inputs as wide as those of images."""
    m = max(64, len(config.spectrum))
    return len(config.objectives) * len(config.arms) * min(config.steps, LOGGED) * config.seeds * m * config.dim * 8


def _pack(configs: Sequence[CompareConfig]) -> list[Callable[..., Outcome]]:
    problems: list[Problem | None] = []
    groups: dict[Any, list[int]] = {}
    for k, config in enumerate(configs):
        try:
            problems.append(problem_of(config))
        except ConfigError:  # said by `compare`, in its turn
            problems.append(None)
            continue
        shape = problems[-1].initial.shape  # type: ignore[union-attr]
        alike = (config.objectives, config.arms, config.steps, config.barlow_lambda, config.dtype, config.device)
        groups.setdefault((*alike, shape), []).append(k)
    runs: list[Callable[..., Outcome]] = [compare] * len(configs)
    for members in groups.values():
        of = [one for k in members if (one := problems[k]) is not None]
        for k, problem, trajectories in zip(members, of, trained_together(of), strict=True):
            if trajectories:
                runs[k] = partial(compare, trained=(problem, trajectories))
    return runs


def trained_together(problems: Sequence[Problem]) -> list[dict[tuple[str, str], Trajectory]]:
    """The arms of problems of one shape; of none of them where only one is left, or where some weights are not finite."""
    found: list[dict[tuple[str, str], Trajectory]] = [{} for _ in problems]
    if len(problems) == 1:
        return found
    first = problems[0]
    moments = Moments(
        *(torch.stack([getattr(one.moments, field.name) for one in problems])[:, None] for field in fields(Moments))
    )
    for name, arm in first.rates:
        rates = [one.learning_rate((name, arm)) for one in problems]
        loss = _Scaled(first.loss(name, moments), torch.tensor(rates, dtype=torch.float64).to(first.initial))
        start = torch.stack([one.start(arm) for one in problems])
        try:
            together = train(first, name, arm, loss, start, 1.0)
        except RuntimeError:  # a decomposition that one of them does not have
            return [{} for _ in problems]
        if not torch.isfinite(together.weights[-1]).all():
            return [{} for _ in problems]
        for k, rate in enumerate(rates):
            found[k][name, arm] = replace(
                together,
                time=together.step.double() * rate,
                loss=together.loss[:, k],
                gradient_norm=together.gradient_norm[:, k] / rate,
                log_norm=together.log_norm[:, k],
                weights=together.weights[:, k],
                learning_rate=rate,
                wall_time=together.wall_time / len(problems),
            )
    return found

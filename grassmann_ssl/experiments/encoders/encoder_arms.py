"""Assembly of a training run from its settings: encoder, head, predictor, teacher, constraint, optimizers, and updates after a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grassmann_ssl.data.augment import Augmentation
from grassmann_ssl.data.batches import augmentations
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.batch_norm import globalise_batch_norm
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear
from grassmann_ssl.nn.heads import projector
from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.nn.placement import layers_at
from grassmann_ssl.nn.predictors import PREDICTORS, DirectPredictor
from grassmann_ssl.nn.teacher import Teacher, cosine_momentum
from grassmann_ssl.objectives import Objective
from grassmann_ssl.optim.table import OPTIMIZERS, optimizers
from grassmann_ssl.runs import setting


@dataclass
class Arm:
    """One training run without its data.

    followers     called with the step, after the optimizers
    observers     called with the number of steps done, before a step
    constrained   names of the constrained or penalised layers
    held_last     whether the constraint holds the rank of the last weight
    """

    method: JointEmbedding
    loss: Objective
    optimizers: list[torch.optim.Optimizer]
    augmentation: Augmentation
    constrained: list[str]
    held_last: bool
    feature_layer: FeatureOrthonormalLinear | None
    followers: list[Callable[[int], object]] = field(default_factory=list)
    observers: list[Callable[[int], object]] = field(default_factory=list)

    @property
    def last_weight(self) -> tuple[Tensor | None, Tensor | None]:
        """The last weight, where a constraint holds its rank, and the metric of its rows, where that is not the identity."""
        last: Any = self.method.projector.last
        return last.weight if self.held_last else None, last.metric if self.feature_layer is not None else None

    def time_of(self, steps: np.ndarray, config: TrainConfig) -> np.ndarray:
        """Gradient-flow time t = sum of the learning rates of the steps done / (1 - momentum)."""
        rates = [config.rate(k) for k in range(config.steps)]
        inertia = OPTIMIZERS[config.optimizer].inertia(config.optimizer_options)
        time: np.ndarray = config.lr * np.concatenate([[0.0], np.cumsum(rates)])[steps] / inertia
        return time

    @contextmanager
    def features_of_last_layer(self) -> Iterator[list[Tensor]]:
        """Collects the inputs of the constrained last layer in the list while the context is open."""
        caught: list[Tensor] = []
        assert self.feature_layer is not None
        handle = self.feature_layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
        try:
            yield caught
        finally:
            handle.remove()


def assemble(config: TrainConfig, channels: int, size: int, process: Process) -> Arm:
    """Build the method on the CPU from the seed, constrain it, move it to its device, and build the optimizers.

    Raises ConfigError for an encoder or a constraint that does not fit the images or the layers.
    """
    device = process.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        with setting("encoder"):
            body: Any = encoder(config.encoder, in_channels=channels, image_size=size, stem=config.stem)
        constraint = CONSTRAINTS[config.constraint]
        held_last = constraint.rank_of_w and config.where == "last"
        centred = config.head == "centred" or (config.head == "auto" and held_last)
        head = projector(body.out_features, (config.hidden, config.dim), "centred" if centred else "standard")
        loss = config.loss()
        online = nn.Sequential(body, head)
        with setting("constraint"):
            constrained = constraint.put(online, config.where)
        if not constraint.rank_of_w:
            with torch.no_grad():
                for parameter in head.last.parameters():
                    parameter.mul_(config.init_scale)
        q = None if config.predictor == "none" else _predictor(config)
    if process.count > 1:
        for part in (online, q):
            if part is not None:
                globalise_batch_norm(part)
    online.to(device)
    teacher = Teacher(online) if config.teacher else None
    soft = [online.get_submodule(name) for name in constrained] if constraint.in_loss else []
    feature_layer = head.last if isinstance(head.last, FeatureOrthonormalLinear) else None
    method = JointEmbedding(
        online[0], online[1], loss.loss,
        predictor=q, teacher=teacher, stop_gradient=loss.predictive, orthogonality=(config.constraint_options.penalty, soft),
    ).to(device)  # fmt: skip
    arm = Arm(
        method,
        loss,
        _optimizers(config, method),
        augmentations(config.augmentation, config.data, size)[0],
        constrained,
        held_last,
        feature_layer,
    )
    if hasattr(loss.loss, "renew"):
        arm.observers.append(loss.loss.renew)
    if feature_layer is not None:
        arm.followers.append(lambda step: feature_layer.follow(*arm.optimizers))
    if isinstance(q, DirectPredictor):
        arm.followers.append(lambda step: q.update())
    if teacher is not None:
        arm.followers.append(
            lambda step: teacher.update(method.online, cosine_momentum(step, config.steps, config.teacher))
        )
    return arm


def _predictor(config: TrainConfig) -> nn.Module:
    chosen = PREDICTORS[config.predictor]
    return chosen.make(config.dim, **{name: getattr(config.predictor_options, name) for name in chosen.options})


def _optimizers(config: TrainConfig, method: JointEmbedding) -> list[torch.optim.Optimizer]:
    lifted = layers_at(method.online, config.where) if OPTIMIZERS[config.optimizer].comparator else []
    return optimizers(
        config.optimizer,
        {name: p for name, p in method.named_parameters() if p.requires_grad},
        held=constraints(method),
        lifted=[f"online.{name}.weight" for name in lifted],
        lr=config.lr,
        options=config.optimizer_options,
    )

"""Assembly of a training run from its settings: encoder, head, predictor, teacher, constraint, optimizers, and updates after a step."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.batch_norm import globalise_batch_norm
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.encoders import made
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear
from grassmann_ssl.nn.heads import projector
from grassmann_ssl.nn.joint_embedding import JointEmbedding, evaluating
from grassmann_ssl.nn.placement import layers_at
from grassmann_ssl.nn.predictors import DirectPredictor
from grassmann_ssl.nn.teacher import Teacher, cosine_momentum
from grassmann_ssl.objectives import Objective
from grassmann_ssl.optim.table import optimizers
from grassmann_ssl.precision import FULL
from grassmann_ssl.runs import ConfigError, setting
from grassmann_ssl.streams import say


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
    constrained: list[str]
    held_last: bool
    feature_layer: FeatureOrthonormalLinear | None
    followers: list[Callable[[int], object]] = field(default_factory=list)
    observers: list[Callable[[int], object]] = field(default_factory=list)

    @property
    def last_weight(self) -> tuple[Tensor | None, Tensor | None]:
        """The last weight, where a constraint holds its rank, and the metric of its rows, where that is not the identity."""
        if not self.held_last:
            return None, None
        last: Any = self.method.online.get_submodule(self.constrained[-1])
        if (
            last.weight.shape[0] > last.weight.shape[1]
        ):  # its columns are orthonormal: z cannot use all of its dimensions
            return None, None
        return last.weight, last.metric if self.feature_layer is not None else None

    def time_of(self, steps: np.ndarray, config: TrainConfig) -> np.ndarray:
        """Gradient-flow time t = sum of the learning rates of the steps done / (1 - momentum), of the first group of parameters."""
        rates = [config.rate(k) for k in range(config.steps)]
        group = self.optimizers[0].param_groups[0]
        lr, inertia = group.get("initial_lr", group["lr"]), 1 - group.get("momentum", 0.0)
        time: np.ndarray = lr * np.concatenate([[0.0], np.cumsum(rates)])[steps] / inertia
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


def assemble(config: TrainConfig, example: Tensor, process: Process) -> Arm:
    """Build the method on the CPU from the seed, constrain it, move it to its device, and build the optimizers.

    `example` (n, ...): some rows of a view, or their like in shape and type. Raises ConfigError for parts that do not fit it or each other.
    """
    device = process.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        body = _encoder(config, example)
        features = output(body, example, f"encoder {config.encoder}")
        constraint = config.constraint_used()
        loss = config.loss()
        head = _projector(config, features)
        online = nn.Sequential(OrderedDict(encoder=body, projector=head))
        embedded = output(online, example, "encoder and projector")
        if embedded.shape[1] != config.dim:
            raise ConfigError(
                f"dim = {config.dim}, and the embeddings of your projector have {embedded.shape[1]} dimensions"
            )
        last, makes_z = _last_linear(online, example)
        held_before = [name.removesuffix(".weight") for name in constraints(online)]
        where = last if config.where == "last" and last and last != layers_at(online, "last")[0] else config.where
        with setting("constraint"):
            constrained = constraint.put(online, where)
            constraint.check_layers(config.where, constrained, last)
            if constraint.subspace and not makes_z:
                raise ConfigError(
                    f"constraint: {constraint.name} is for the layer that makes z, and z is not the output of {last or 'any'}, the "
                    "last linear layer: what follows it is not rotation-invariant; end your projector with a linear layer, or use stiefel"
                )
        stays = [name for name in held_before if name not in constrained]
        if stays:
            say(f"constrained already, and stays so: {', '.join(stays)}")
            constrained = [*stays, *constrained]
        held_last = constraint.rank_of_w and constrained[-1:] == [last] and makes_z
        if not constraint.rank_of_w and config.init_scale != 1:
            with torch.no_grad():
                for parameter in online.get_submodule(last).parameters():
                    parameter.mul_(config.init_scale)
        q = _predictor(config, features.dtype)
        if q is not None and "predictor" in config.own:
            width = output(q, embedded, "predictor", "embeddings").shape[1]
            if width != config.dim:
                raise ConfigError(
                    f"predictor: its predictions have {width} dimensions, and the embeddings have dim = {config.dim}"
                )
        objective: Any = loss.new(config.dim)
        if loss.stateful and "objective" not in config.all_own:
            objective.to(torch.promote_types(features.dtype, torch.float32))
    if process.count > 1:
        for part in (online, q):
            if part is not None:
                globalise_batch_norm(part)
    online.to(device)
    teacher = _teacher(config, online, example)
    soft = [online.get_submodule(name) for name in constrained] if constraint.in_loss else []
    layer = online.get_submodule(last) if last else None
    feature_layer = layer if isinstance(layer, FeatureOrthonormalLinear) else None
    method = JointEmbedding(
        body, head, objective,
        predictor=q, teacher=teacher, stop_gradient=loss.predictive, orthogonality=(config.constraint_options.penalty, soft),
    ).to(device)  # fmt: skip
    arm = Arm(method, loss, _optimizers(config, method, where), constrained, held_last, feature_layer)
    if hasattr(objective, "renew"):
        arm.observers.append(objective.renew)
    if feature_layer is not None:
        arm.followers.append(lambda step: feature_layer.follow(*arm.optimizers))
    if isinstance(q, DirectPredictor):
        arm.followers.append(lambda step: q.update())
    if teacher is not None and "teacher" not in config.own:
        arm.followers.append(
            lambda step: teacher.update(method.online, cosine_momentum(step, config.steps, config.teacher))
        )
    elif hasattr(teacher, "update"):
        arm.followers.append(lambda step: teacher.update(method.online))
    return arm


def _encoder(config: TrainConfig, example: Tensor) -> nn.Module:
    """The encoder that the settings name, or that is given."""
    kind = config.architecture()
    channels, size = (
        (example.shape[1], example.shape[-1] if example.ndim == 4 else 1) if example.ndim in (2, 4) else (1, 1)
    )
    with setting("encoder"):
        body: Any = made(kind, in_channels=channels, image_size=size, stem=config.stem, width=config.width)
        if not isinstance(body, nn.Module):
            raise ConfigError(f"encoder: {config.encoder} must make a torch.nn.Module, got {type(body).__name__}")
    return body.cpu()


def output(module: nn.Module, example: Tensor, name: str, kind: str = "views") -> Tensor:
    """A module's output (n, k) for the example, in evaluation mode.

    Raises ConfigError for any other output, one that is not finite or has no gradient in any weight, and where the module fails.
    """
    out = _output(module, example, name, kind)
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ConfigError(f"{name} must return a tensor (n, k), one row a view, got {got}; pool what is more")
    if not bool(out.isfinite().all()):
        raise ConfigError(f"{name} returns what is not finite, of {kind} that are: look at its weights")
    if not out.requires_grad and any(p.requires_grad for p in module.parameters()):
        raise ConfigError(f"{name} passes no gradient to its weights: is its output detached, or made under no_grad?")
    return out.detach()


def _output(module: nn.Module, example: Tensor, name: str, kind: str) -> Any:
    """What a module returns for the example, in evaluation mode, on its own device. Raises ConfigError where it fails."""
    place = next((p.device for p in module.parameters()), example.device)
    try:
        with torch.enable_grad(), evaluating(module):
            return module(example.to(place))
    except Exception as error:  # whatever the user's module raises
        shape = " x ".join(map(str, example.shape[1:]))
        raise ConfigError(f"{name} cannot take the {kind} of {shape}: {(str(error).splitlines() or [''])[0]}") from None


def _projector(config: TrainConfig, features: Tensor) -> nn.Module:
    """The projection head of features (n, k), in their dtype.

    Centred before a last layer that is constrained as such, unless the settings say otherwise.
    """
    given = config.projector_used()
    if given is not None:
        return given.cpu()
    held = config.constraint_used().rank_of_w and config.where == "last"
    kind = ("centred" if held else "standard") if config.head == "auto" else config.head
    return projector(features.shape[1], (config.hidden, config.dim), kind).to(features.dtype)


def _last_linear(online: nn.Module, example: Tensor) -> tuple[str, bool]:
    """The name of the linear layer that was called last on the example, "" where none is, and whether its output is that of the whole."""
    called: list[tuple[str, Tensor]] = []
    handles = [
        m.register_forward_hook(lambda _, inputs, out, name=name: called.append((name, out)))
        for name, m in online.named_modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        z = _output(online, example, "encoder and projector", "views")
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        return "", False
    name, out = called[-1]
    return name, out.shape == z.shape and torch.equal(out, z)


def _predictor(config: TrainConfig, dtype: torch.dtype) -> nn.Module | None:
    chosen = config.predictor_used()
    if chosen is None:
        return None
    if chosen.closed_form and dtype not in FULL:
        raise ConfigError(
            f"predictor {config.predictor} needs an encoder in float32 or float64, got {str(dtype).removeprefix('torch.')}; `precision` "
            "is for trainings in half"
        )
    made = chosen.make(config.dim, **{name: getattr(config.predictor_options, name) for name in chosen.options})
    return made.cpu() if "predictor" in config.own else made.to(dtype)


def _teacher(config: TrainConfig, online: nn.Module, example: Tensor) -> Any:
    """A copy of the encoder and its head that follows them, or the user's own module, without gradients; None where there is none."""
    given = config.teacher_used()
    if given is None:
        return Teacher(online) if config.teacher else None
    with setting("teacher"):
        made: Any = given if isinstance(given, nn.Module) else given(online)
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"teacher: {config.teacher} must make a torch.nn.Module of the model, got {type(made).__name__}"
        )
    trained = {id(p): name for name, p in online.named_parameters()}
    for p in made.parameters():
        if id(p) in trained:
            raise ConfigError(
                f"teacher: {trained[id(p)]} is a weight of the teacher and of the model that is trained: give a copy"
            )
    width = output(made, example, "teacher").shape[1]
    if width != config.dim:
        raise ConfigError(f"teacher: its targets have {width} dimensions, and the embeddings have dim = {config.dim}")
    return made.requires_grad_(False)


def _optimizers(config: TrainConfig, method: JointEmbedding, where: str) -> list[torch.optim.Optimizer]:
    chosen = config.optimizer_used()
    lifted = layers_at(method.online, where) if chosen.comparator else []
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if not trained:
        raise ConfigError(
            "there is nothing to train: no weight of encoder, projector and predictor requires a gradient"
        )
    with setting("optimizer"):
        return optimizers(
            chosen,
            trained,
            held=constraints(method),
            lifted=[f"online.{name}.weight" for name in lifted],
            lr=config.lr,
            options=config.optimizer_options,
        )

"""From settings to what trains: encoder, head, predictor and teacher, the constraint where it goes, optimizers, and what follows a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import geoopt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from grassmann_ssl.data.augment import Augmentation
from grassmann_ssl.data.batches import augmentations
from grassmann_ssl.distributed import Process
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.nn.batch_norm import globalise_batch_norm
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear, feature_orthonormal
from grassmann_ssl.nn.heads import projector
from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.nn.placement import constrain_model, layers_at
from grassmann_ssl.nn.predictors import DirectPredictor, predictor
from grassmann_ssl.nn.teacher import Teacher, cosine_momentum
from grassmann_ssl.objectives import Objective, objective, options_of
from grassmann_ssl.optim import LARS, RiemannianAdam, RiemannianSGD
from grassmann_ssl.runs import ConfigError, setting

if TYPE_CHECKING:
    from grassmann_ssl.experiments.encoders.train import TrainConfig

MANIFOLDS: dict[str, Callable[[], geoopt.Manifold]] = {
    "grassmann": Grassmann,
    "stiefel": Stiefel,
    "geoopt-stiefel": geoopt.EuclideanStiefel,
}
HARD = (*MANIFOLDS, "feature-orthonormal", "parametrization")


@dataclass
class Arm:
    """Everything of one training run but its data.

    followers     called with the step after the optimizers; observers: with the number of steps done, before a step
    constrained   names of the weights that the constraint holds or pulls
    """

    method: JointEmbedding
    loss: Objective
    optimizers: list[torch.optim.Optimizer]
    augmentation: Augmentation
    constrained: list[str]
    constraint_rank: tuple[int, int] | None
    feature_layer: FeatureOrthonormalLinear | None
    followers: list[Callable[[int], object]] = field(default_factory=list)
    observers: list[Callable[[int], object]] = field(default_factory=list)

    def time_of(self, steps: np.ndarray, config: TrainConfig) -> np.ndarray:
        """t = sum of the learning rates of the steps done / (1 - momentum): the time of gradient flow."""
        rates = [config.rate(k) for k in range(config.steps)]
        inertia = 1 - config.momentum if config.optimizer != "adam" else 1.0
        return config.lr * np.concatenate([[0.0], np.cumsum(rates)])[steps] / inertia

    @contextmanager
    def features_of_last_layer(self) -> Iterator[list[Tensor]]:
        """While it lasts, what enters the constrained last layer is put into the list."""
        caught: list[Tensor] = []
        assert self.feature_layer is not None
        handle = self.feature_layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
        try:
            yield caught
        finally:
            handle.remove()


def check_arm(config: TrainConfig) -> None:
    """Raise ConfigError for settings that do not go together."""
    loss = _objective(config)
    if config.dim >= config.hidden and config.where == "last":
        raise ConfigError(
            f"dim = {config.dim} must be below hidden = {config.hidden}: the head's last layer maps hidden to dim"
        )
    if loss.whitens and config.batch <= config.dim:
        raise ConfigError(
            f"{loss.name} whitens over the batch: batch must be above dim = {config.dim}, got {config.batch}"
        )
    if not loss.predictive and (config.predictor != "none" or config.teacher):
        raise ConfigError(f"{config.objective} compares two embeddings: it takes no predictor and no teacher")
    if loss.needs_predictor and config.predictor == "none":
        raise ConfigError(f"{config.objective} needs a predictor")
    if config.constraint == "grassmann":
        if config.where != "last":
            raise ConfigError(
                f"constraint grassmann on the {config.where} layers: what follows an inner layer is not rotation-invariant, so the loss "
                "is no function on the Grassmannian; use --constraint stiefel"
            )
        if not loss.rotation_invariant:
            raise ConfigError(
                f"constraint grassmann: {config.objective} is not rotation-invariant, so it is no function on the Grassmannian; use "
                "--constraint stiefel"
            )
        if config.predictor == "mlp":
            raise ConfigError(
                "constraint grassmann: an mlp predictor is not rotation-equivariant; use --constraint stiefel"
            )
    if config.constraint == "feature-orthonormal" and config.where != "last":
        raise ConfigError("constraint feature-orthonormal is for the last layer of the head: use --where last")
    if config.constraint == "feature-orthonormal" and not loss.rotation_invariant:
        raise ConfigError(
            f"constraint feature-orthonormal: {config.objective} is not rotation-invariant, so it is no function of a subspace"
        )
    if config.optimizer == "lars" and config.constraint == "geoopt-stiefel":
        raise ConfigError("constraint geoopt-stiefel is stepped by sgd or adam, not by lars")
    if config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError("optimizer muon needs torch 2.9 or newer")
        if config.constraint in (*HARD, "penalty"):
            raise ConfigError(
                f"optimizer muon is a comparator for constraints, it does not go with {config.constraint}"
            )
        if config.where == "conv":
            raise ConfigError("optimizer muon is for matrices: use --where last or linear")


def _objective(config: TrainConfig) -> Objective:
    given = {} if config.temperature is None else {"temperature": config.temperature}
    with setting():
        return objective(config.objective, **options_of(config.objective, seed=config.seed), **given)


def assemble(config: TrainConfig, channels: int, size: int, process: Process) -> Arm:
    """Build the method on the CPU from the seed, constrain it, move it to its device, and make the optimizers."""
    device = process.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        with setting("encoder"):
            body: Any = encoder(config.encoder, in_channels=channels, image_size=size, stem=config.stem)
        centred = config.head == "centred" or (
            config.head == "auto" and config.constraint in HARD and config.where == "last"
        )
        head = projector(body.out_features, (config.hidden, config.dim), "centred" if centred else "standard")
        loss = _objective(config)
        online = nn.Sequential(body, head)
        with setting("constraint"):
            constrained, feature_layer = _constrain(config, online)
        if config.constraint not in HARD:
            with torch.no_grad():
                for parameter in head.last.parameters():
                    parameter.mul_(config.init_scale)
        q = None if config.predictor == "none" else _predictor(config)
    if process.count > 1:
        globalise_batch_norm(online)
    online.to(device)
    teacher = Teacher(online) if config.teacher else None
    soft = [online.get_submodule(name) for name in constrained] if config.constraint == "penalty" else []
    method = JointEmbedding(
        online[0], online[1], loss.loss,
        predictor=q, teacher=teacher, stop_gradient=loss.predictive, orthogonality=(config.penalty, soft),
    ).to(device)  # fmt: skip
    arm = Arm(
        method,
        loss,
        _optimizers(config, method, constrained),
        augmentations(config.augmentation, config.data, size)[0],
        constrained,
        (config.dim, config.hidden) if config.constraint in HARD and config.where == "last" else None,
        feature_layer,
    )
    if hasattr(loss.loss, "renew"):
        arm.observers.append(loss.loss.renew)
    if feature_layer is not None:
        arm.followers.append(lambda step: feature_layer.follow(*arm.optimizers))
    if isinstance(q, DirectPredictor):
        arm.followers.append(lambda step: q.update(method.z))
    if teacher is not None:
        arm.followers.append(
            lambda step: teacher.update(method.online, cosine_momentum(step, config.steps, config.teacher))
        )
    return arm


def _predictor(config: TrainConfig) -> nn.Module:
    if config.predictor in ("linear", "mlp"):
        return predictor(config.predictor, config.dim)
    return DirectPredictor(
        config.dim, kind=config.predictor, alpha=config.predictor_alpha, rho=config.predictor_rho, eps=config.predictor_eps,
        every=config.predictor_every,
    )  # fmt: skip


def _constrain(config: TrainConfig, online: nn.Module) -> tuple[list[str], FeatureOrthonormalLinear | None]:
    """Put the constraint on its layers; names of these layers, and the feature-orthonormal one."""
    names = layers_at(online, config.where)
    if config.constraint in MANIFOLDS:
        return constrain_model(online, MANIFOLDS[config.constraint](), where=config.where), None
    if config.constraint == "feature-orthonormal":
        layer = online.get_submodule(names[-1])
        assert isinstance(layer, nn.Linear)
        return names, feature_orthonormal(layer)
    if config.constraint == "parametrization":
        for name in names:
            parametrizations.orthogonal(online.get_submodule(name))
    return names if config.constraint in ("parametrization", "penalty") else [], None


def _optimizers(config: TrainConfig, method: JointEmbedding, constrained: list[str]) -> list[torch.optim.Optimizer]:
    """Constrained weights by a Riemannian optimizer, the others by the one that is asked for; decay on free matrices and kernels."""
    on_manifold = set(constraints(method))
    by_muon = (
        {f"online.{name}.weight" for name in layers_at(method.online, config.where)}
        if config.optimizer == "muon"
        else set()
    )
    named = {name: p for name, p in method.named_parameters() if p.requires_grad}
    held = [p for name, p in named.items() if name in on_manifold]
    lifted = [p for name, p in named.items() if name in by_muon]
    free = [p for name, p in named.items() if name not in on_manifold | by_muon]
    # Decay would shrink the signs on the diagonal of a parametrization's matrix too, which torch rounds down to 0.
    shrunk = {p for name, p in named.items() if p.ndim > 1 and ".parametrizations." not in name}
    decayed = {"params": [p for p in free if p in shrunk], "weight_decay": config.weight_decay}
    plain = {"params": [p for p in free if p not in shrunk], "weight_decay": 0.0}
    groups: list[dict[str, Any]] = [group for group in (decayed, plain) if group["params"]]
    sgd: dict[str, Any] = {"lr": config.lr, "momentum": config.momentum}
    if config.optimizer == "lars":
        lars: list[torch.optim.Optimizer] = [LARS(groups, **sgd)]
        return lars + ([RiemannianSGD(held, **sgd)] if held else [])
    if config.optimizer == "adam":
        return [
            RiemannianAdam([{"params": held}, *groups], lr=config.lr)
            if held
            else torch.optim.AdamW(groups, lr=config.lr)
        ]
    first: torch.optim.Optimizer = (
        RiemannianSGD([{"params": held}, *groups], **sgd) if held else torch.optim.SGD(groups, **sgd)
    )
    return [first, torch.optim.Muon(lifted, **sgd, weight_decay=config.weight_decay)] if lifted else [first]

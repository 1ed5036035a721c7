"""The way in from Python: your encoder, your data and your loss, trained and judged in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences

import geoopt  # isort: skip
from grassmann_ssl.audit import CollapseMonitor
from grassmann_ssl.data.batches import Split
from grassmann_ssl.data.loaded import Loaded, Pick, Source
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import output
from grassmann_ssl.experiments.encoders.material import Batches
from grassmann_ssl.experiments.encoders.pretrain_config import PARTS, Given, PretrainConfig
from grassmann_ssl.experiments.encoders.train import train
from grassmann_ssl.experiments.encoders.trained_encoder import Pretrained
from grassmann_ssl.objectives import REGISTRY, Objective
from grassmann_ssl.registry import nearest
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, RunConfig, setting
from grassmann_ssl.streams import progress as bar

TeacherOf = Callable[[nn.Module], nn.Module]
OptimizerOf = Callable[[list[Tensor]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
TAKES: dict[str, tuple[tuple[Any, ...], str]] = {
    "encoder": ((nn.Module, str), "a torch.nn.Module or a name"),
    "data": ((Iterable, Callable, str), "batches of views, such as a DataLoader, or a name"),
    "objective": ((Objective, Callable, str), "a function or module of two embeddings, an Objective, or a name"),
    "projector": ((nn.Module, NoneType), "a torch.nn.Module"),
    "constraint": ((geoopt.Manifold, str), "a manifold of geoopt or a name"),
    "predictor": ((nn.Module, str), "a torch.nn.Module or a name"),
    "teacher": ((Callable, float, int), "a momentum, a torch.nn.Module, or a function from the model to one"),
    "schedule": ((Callable, str), "a function from the step to a factor of the learning rate, or a name"),
    "optimizer": ((Callable, str), "a function from the list of all parameters, such as `lambda p: SGD(p, lr=0.1)`, or a name"),
}  # fmt: skip


def pretrain(
    encoder: nn.Module | str,
    data: Source | str,
    objective: Callable[..., Tensor] | Objective | str = "nt_xent",
    *,
    views: Pick = None,
    projector: nn.Module | None = None,
    constraint: geoopt.Manifold | str = "none",
    where: str = "last",
    predictor: nn.Module | str = "none",
    teacher: nn.Module | TeacherOf | float = 0.0,
    optimizer: OptimizerOf | str = "sgd",
    schedule: Callable[[int], float] | str = "cosine",
    epochs: int | None = None,
    probe: Sequence[Tensor] | None = None,
    monitor: CollapseMonitor | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Pretrained | None:
    """Train your encoder on two or more views, with or without a constraint, judge collapse, and say what was learned.

    encoder     any module from a view (n, ...) to representations (n, k), trained in place; or a name, as all parts but `data`
    data        batches of views: a DataLoader, any iterable that can be gone through again, or a function that returns one; or a name.
                A batch holds tensors (n, ...) as a tuple, a list or a dict, or such a collection of views first and labels after it
    objective   a function or module of (z, z_positive), or of (prediction, target), or an `Objective`; whether it is rotation-invariant
                is measured
    views       which entries of a batch are the views, by place or key, or a function from a batch to them
    projector   a module from (n, k) to embeddings (n, d); by default an MLP, `hidden` = 64, `dim` = 8
    constraint  a manifold, or a name of docs/encoders.md; on the layers of `where`: last, linear, conv, or a pattern as "encoder.layer4.*"
    predictor   a module (n, d) -> (n, d), for objectives of prediction and target
    teacher     what makes their targets: the momentum of an average of the encoder and its head, such as 0.99, rising to 1; or a module
                from a view to targets (n, d), or a function from the model to one, such as `lambda m: Teacher(m, momentum=0.99)`. It gets
                no gradients; `update(model)` is called after every step, and what has no such method stays as it is
    optimizer   a function from the list of all parameters to an optimizer, such as `lambda p: RiemannianAdam(p, lr=1e-3)`; a constrained
                weight is refused under one that would take it off its manifold
    schedule    cosine or constant, after `warmup` steps; or a function from the step to the factor of all learning rates
    epochs      in place of `steps`
    probe       labelled inputs of the encoder (x, y, x_test, y_test): its representation is probed at the end
    monitor     sees the embeddings of every step, and acts as it was told where they collapse
    out         run folder: what `train` keeps, checkpoints and a page; the same call goes on after an interrupt. None: nothing is written,
                `outcome.save(folder)` does
    settings    all others of `train`: steps, lr, warmup, precision, accumulate, seed, save_every, overwrite, ..., and
                device, by default that of the encoder

    Random numbers of Python, numpy and torch follow the seed, and are put back after it. Under torchrun every process goes through all
    batches and takes its share of the rows; all but the first return None. Raises ConfigError, before training, for parts that do not fit;
    Diverged for a loss that is not finite; CollapseError where the monitor is to raise it.
    """
    given: dict[str, Any] = {"encoder": encoder, "data": data, "objective": objective, "projector": projector}
    given |= {"constraint": constraint, "predictor": predictor, "teacher": teacher, "optimizer": optimizer}
    given["schedule"] = schedule
    _check_kinds(given, monitor, out)
    if isinstance(settings.get("log"), str):
        settings["log"] = (settings["log"],)
    given = {name: value for name, value in given.items() if value is not None}
    values = {name: value for name, value in given.items() if not isinstance(value, (str, float, int))}
    names = given | {name: described(value) for name, value in values.items()}
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    _check_known(settings, names["objective"])
    if isinstance(encoder, nn.Module):
        settings = {"device": str(next((p.device for p in encoder.parameters()), "cpu")), **settings}
    RunConfig(seed=settings.get("seed", RunConfig.seed))  # the data are looked at before the other settings
    if "data" in values:
        settings |= _of_data(values, views, settings, epochs)
    elif views is not None or epochs is not None:
        raise ConfigError(
            f"{'views' if views is not None else 'epochs'}: only for data of your own, got data = {data!r}"
        )
    probed = None if probe is None else _probed(probe)
    config = PretrainConfig.of(
        **names, **settings, where=where, out=None if out is None else Path(out),
        given=Given(**values, views=views, probed=probed, monitor=monitor),
    )  # fmt: skip
    if out is None:
        for name in ("overwrite", "resume", "save_every"):
            if name in settings:
                raise ConfigError(f"{name} has no effect without out, the folder of the run")
        return train(config, bar if progress else None)
    outcome = run(config, bar if progress else None, experiment=train)
    assert outcome is None or isinstance(outcome, Pretrained)
    return outcome


def _check_kinds(given: dict[str, Any], monitor: Any, out: Any) -> None:
    """Raise ConfigError for a part of another kind, and where nothing can be trained."""
    for name, value in given.items():
        kinds, words = TAKES[name]
        if not isinstance(value, kinds):
            raise ConfigError(f"{name} must be {words}, got {type(value).__name__}")
    if monitor is not None and not isinstance(monitor, CollapseMonitor):
        raise ConfigError(f"monitor must be a CollapseMonitor, got {type(monitor).__name__}")
    if monitor is not None and monitor.step:
        raise ConfigError(f"monitor: it has seen {monitor.step} steps of another training: give a new one")
    if out is not None and not isinstance(out, (str, Path)):
        raise ConfigError(f"out must be a path, got {type(out).__name__}")
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise ConfigError(
            "pretrain trains: call it outside of torch.no_grad, inference_mode and autocast, which `precision` is for"
        )


def _check_known(settings: dict[str, Any], objective: str) -> None:
    """Raise ConfigError for a setting that there is none of, with the nearest, or how an option is given."""
    known = {one.name for one in PretrainConfig.known()} - {*PARTS, "where", "out"}
    for name in settings.keys() - known:
        hint = nearest(name, [*known, *signature(pretrain).parameters])
        if having := [one.name for one in REGISTRY.values() if name in one.options]:
            one = objective if objective in having else having[0]
            hint = f"; an option follows the name of its objective: {one}:{name}={settings[name]}"
        raise ConfigError(f"pretrain has no argument {name!r}{hint}")


def described(value: Any) -> str:
    """What a part is called in the record: its own name, or that of its class."""
    if isinstance(value, partial):
        return described(value.func)
    if isinstance(value, Objective):
        return value.label
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__


def _of_data(values: dict[str, Any], views: Pick, settings: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """The settings that follow from the user's data and projector."""
    seed, cpu = settings.get("seed", RunConfig.seed), torch.device("cpu")
    with setting("data"):
        batches = Batches(Loaded(values["data"], seed, Process(0, 1, cpu), views))
    if "batch" in settings:
        raise ConfigError("batch: your data make the batches")
    found: dict[str, Any] = {"batch": len(batches.first[0])}
    if "projector" in values and isinstance(values.get("encoder"), nn.Module):
        if "dim" in settings:
            raise ConfigError("dim: that of your projector is seen, give none")
        whole = nn.Sequential(values["encoder"], values["projector"])
        found["dim"] = output(whole, batches.example, "encoder and projector").shape[1]
    if epochs is not None:
        if "steps" in settings:
            raise ConfigError("epochs and steps are both given: give one of them")
        if not isinstance(epochs, int) or epochs < 1:
            raise ConfigError(f"epochs must be a whole number from 1 on, got {epochs!r}")
        try:
            there, parts = epochs * len(batches.loaded), settings.get("accumulate", 1)
        except TypeError:
            raise ConfigError("epochs: the length of your data is not known; give steps") from None
        if parts > there:
            raise ConfigError(
                f"epochs = {epochs} have {there} batches, fewer than one step takes: accumulate = {parts}"
            )
        found["steps"] = there // parts
    return found


def _probed(probe: Sequence[Tensor]) -> Split:
    if not isinstance(probe, (tuple, list)) or len(probe) != 4:
        got = f"{len(probe)} entries" if isinstance(probe, (tuple, list)) else type(probe).__name__
        raise ConfigError(f"probe must be (x, y, x_test, y_test), got {got}")
    try:
        x, y, x_test, y_test = (torch.as_tensor(one) for one in probe)
    except (TypeError, ValueError, RuntimeError) as error:  # such as names of classes
        raise ConfigError(f"probe must hold tensors or arrays of numbers: {str(error).splitlines()[0]}") from None
    y, y_test = (labels.long() if labels.dtype == torch.bool else labels for labels in (y, y_test))
    for inputs, labels, name in ((x, y, "x and y"), (x_test, y_test, "x_test and y_test")):
        if labels.ndim != 1 or len(inputs) != len(labels) or not len(labels):
            raise ConfigError(
                f"probe: {name} must be as many inputs as labels (n,), got {tuple(inputs.shape)} and {tuple(labels.shape)}"
            )
    for inputs, labels, name in ((x, y, "x and y"), (x_test, y_test, "x_test and y_test")):
        if labels.is_floating_point() or (inputs.is_floating_point() and not bool(inputs.isfinite().all())):
            raise ConfigError(f"probe: labels must be integers and inputs finite, got {name} that are not")
    unknown = sorted(set(y_test.tolist()) - set(y.tolist()))
    if unknown:
        raise ConfigError(f"probe: y_test has the class {unknown[0]}, which y has not")
    return Split(x, y, x_test, y_test)

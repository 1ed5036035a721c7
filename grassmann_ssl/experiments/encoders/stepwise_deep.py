"""Is the embedding of a deep network learned stepwise, and does its tangent kernel after training predict it?"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

import theory
from grassmann_ssl.data.files import DataOptions
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble
from grassmann_ssl.experiments.encoders.fitting import fit, settle
from grassmann_ssl.experiments.encoders.material import Material, material_of
from grassmann_ssl.experiments.encoders.train_config import DATA, TrainConfig
from grassmann_ssl.metrics.steps import LEAST_RECORDS, detect_steps, eigenvalue_steps
from grassmann_ssl.nn.encoders import ENCODERS
from grassmann_ssl.nn.ntk import empirical_ntk, not_scalar, scalar_kernel
from grassmann_ssl.optim.table import OptimizerOptions
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import (
    ConfigError,
    Finding,
    LoggedConfig,
    Logs,
    Outcome,
    Part,
    Parts,
    Progress,
    Run,
    RunFolder,
    choice,
    ticking,
)
from grassmann_ssl.training.schedules import log_spaced

Array = NDArray[np.float64]
OBJECTIVES = {"barlow_twins": 0.02, "nt_xent": 0.05, "vicreg": 0.004}  # and their learning rates
APART = 0.15  # of log t: as near as detected steps are told apart in benchmarks/steps.py
CHUNK = 50  # samples per Jacobian batch
SEEN = (
    "z",
    "directions",
    "h",
)  # whose eigenvalues are recorded: embeddings, z / ||z||, and the representations before the head


@dataclass(frozen=True, kw_only=True)
class StepwiseDeepConfig(LoggedConfig):
    """Stepwise learning of an encoder from a small initial last layer and the usual one, and its embedding against its tangent kernel."""

    NAME: ClassVar[str] = "stepwise-deep"
    EXAMPLE: ClassVar[str] = "stepwise-deep --objectives barlow_twins --steps 300"
    RESUMES: ClassVar[bool] = True
    data: Annotated[str, choice(DATA)] = "digits"
    """data, as in train"""
    data_options: Annotated[DataOptions, tyro.conf.arg(name=DataOptions.PREFIX)] = field(default_factory=DataOptions)
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """encoder, as in train"""
    width: int | None = None
    """width of the encoder, as in train; a narrow resnet is a quick one"""
    objectives: tuple[Annotated[str, choice(OBJECTIVES)], ...] = tuple(OBJECTIVES)
    """objectives to train; barlow_twins is without normalisation"""
    dim: int = 8
    """embedding dimension d"""
    init_scales: tuple[float, ...] = (1e-2, 1.0)
    """scales of the initial weights of the head's last layer, each trained with every objective, 1 the usual one; earlier layers are
    batch-normalised and therefore scale-invariant"""
    batch: int = 512
    """batch size; small eigenvalues of a small batch's moments are noise"""
    steps: int = 600
    """steps of plain gradient descent at a constant learning rate"""
    records: int = 120
    """number of recorded spectra; a step needs about three before it and after it"""
    pairs: int = 100
    """positive pairs on which the tangent kernel is computed"""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or not self.objectives:
            hint = nearest(unknown[0], OBJECTIVES) if unknown else ""
            raise ConfigError(
                f"objectives must be some of {', '.join(OBJECTIVES)}, got {', '.join(unknown) or 'none'}{hint}"
            )
        self.need("records", least=10)
        self.need("init_scales", above=0)
        named = [f"{scale:g}" for scale in self.init_scales]
        if not named or len(set(named)) < len(named):
            raise ConfigError(f"init_scales must differ from each other, got {' '.join(named) or 'none'}")
        if 2 * self.pairs <= self.dim:
            raise ConfigError(f"pairs must be above dim / 2 = {self.dim / 2:g}, got {self.pairs}")
        seen = len(log_spaced(self.steps, self.records)) - 1  # without t = 0
        if seen < LEAST_RECORDS:
            raise ConfigError(
                f"steps = {self.steps} and records = {self.records} leave {seen} records after the start, and steps are detected in at "
                f"least {LEAST_RECORDS}: raise steps or records"
            )
        for objective, scale in self.trainings.values():
            self.train_config(objective, scale)

    @property
    def trainings(self) -> dict[str, tuple[str, float]]:
        """The objective and the scale of the start of every training, by name."""
        return {f"{name} from {scale:g}": (name, scale) for scale in self.init_scales for name in self.objectives}

    def train_config(self, objective: str, init_scale: float) -> TrainConfig:
        """The settings of one training run. Raises ConfigError for settings that cannot be run."""
        return TrainConfig(
            objective=objective, lr=OBJECTIVES[objective], data=self.data, data_options=self.data_options,
            encoder=self.encoder, width=self.width, dim=self.dim, batch=self.batch,
            steps=self.steps, records=self.records, init_scale=init_scale, schedule="constant",
            optimizer_options=OptimizerOptions(momentum=0.0, weight_decay=0.0), seed=self.seed, device=self.device,
        )  # fmt: skip


def stepwise_deep(
    config: StepwiseDeepConfig, progress: Progress | None = None, folder: RunFolder | None = None
) -> Outcome:
    """Train every objective from every start, detect learning steps, and compare embeddings with tangent kernels.

    The prediction is the closed form of a kernel method (`theory.kernel`): the span of the top-d functions of the kernel, averaged over
    outputs, on pairs of views; from the kernel before and after training, in evaluation mode. Agreement is the mean squared cosine of the
    principal angles between the spans, 1 for equal ones and d / 2n by chance. That the kernel after training predicts the embedding is an
    observation of Simon et al. 2023 on ResNets (arXiv 2303.15438), not a theorem: the kernel changes during training. Ctrl-C keeps the
    completed trainings, and so does the folder, if one is given, until all are. Raises ConfigError for more pairs than samples, or data
    that cannot be read.
    """
    run = Run(config)
    process = Process(0, 1, run.device)
    trainings = config.trainings
    material = material_of(config.train_config(*next(iter(trainings.values()))), process, progress)
    pairs = len(torch.cat(list(material.view(0, config.pairs))))
    if config.pairs > pairs:
        raise ConfigError(f"pairs must be at most {pairs}, got {config.pairs}")
    tick = ticking(progress, len(trainings) * config.steps)
    parts, notes = Parts(folder), {f"samples of {config.data}": material.fingerprint}

    def trained_on(name: str) -> Part:
        work = partial(_objective, config, name, material, process, lambda _, n=1: tick(name, n), run.logs)
        return parts.of(name, notes, work, lambda: tick(name, config.steps))

    done = run.parts(list(trainings), trained_on)
    run.resumed = parts.resumed(len(trainings))
    trained = list(trainings)[: len(done)]
    record: dict[str, Any] = {
        "chance": config.dim / (2 * config.pairs),
        "runs": {name: one for name, (one, _) in zip(trained, done, strict=True)},
    }
    arrays = {
        f"{name}_{key}": values for name, (_, own) in zip(trained, done, strict=True) for key, values in own.items()
    }
    spans = {name: arrays[f"{name}_outputs"] for name in trained}
    record["between"] = {
        f"{a} and {b}": overlap(spans[a], spans[b])
        for a, b in itertools.combinations(spans, 2)
        if trainings[a][1] == trainings[b][1]
    }
    columns = {
        "objective": np.concatenate([[trainings[name][0]] * len(arrays[f"{name}_time"]) for name in trained]),
        "init_scale": np.concatenate([[trainings[name][1]] * len(arrays[f"{name}_time"]) for name in trained]),
        "time": np.concatenate([arrays[f"{name}_time"] for name in trained]),
        "loss": np.concatenate([arrays[f"{name}_loss"] for name in trained]),
    }
    return run.finish([*_findings(config, record), material.finding()], record, columns, arrays)


def _objective(
    config: StepwiseDeepConfig,
    name: str,
    material: Material,
    process: Process,
    tick: Any,
    logs: Logs,
    checkpoint: Callable[[], Path | None],
) -> Part:
    """One training: the record of its steps and overlaps, and its arrays."""
    objective, init_scale = config.trainings[name]
    settings = config.train_config(objective, init_scale)
    before = assemble(settings, material.example, process)
    settle(before, material)
    with logs.of(name) as log:
        trained = fit(settings, material, process, tick, checkpoint, log, settled=True)
    recorded, values = trained.recorder.stacked()
    time = trained.arm.time_of(recorded.numpy(), settings)
    arrays = {"time": time, "loss": values["loss"].numpy()}
    found = {}
    for seen in SEEN:
        arrays[seen] = values[seen].numpy()
        steps = eigenvalue_steps(time, arrays[seen][:, : config.dim], log_time=True)
        found[seen] = sorted(one.highest for one in steps if one.highest is not None)
    falls = detect_steps(time[1:], arrays["loss"][1:], falling=True, log_time=True)
    pairs = torch.cat([torch.cat(list(material.view(k, config.pairs))) for k in (0, 1)]).double()
    span = arrays["outputs"] = _outputs(trained.arm, pairs)
    kernels = {when: _kernel(arm, pairs) for when, arm in (("before", before), ("after", trained.arm))}
    record = {
        "objective": objective,
        "init_scale": init_scale,
        "verdict": evaluation.collapse_verdict(trained.arm, material),
        "judged": "directions" if trained.arm.loss.directional else "z",
        **{f"steps_of_{seen}": times for seen, times in found.items()},
        "apart": {seen: apart(times) for seen, times in found.items()},
        "steps_of_loss": list(falls.times),
        "overlap": {when: overlap(span, _predicted(k, config.dim)) for when, (k, _) in kernels.items()},
        "not_scalar": {when: rest for when, (_, rest) in kernels.items()},
    }
    return record, arrays


def apart(times: list[float]) -> int:
    """How many of the steps, in order, come one by one: at least APART of log t after the one before that counts."""
    last, count = -np.inf, 0
    for t in times:
        if np.log(t) >= last + APART:
            last, count = float(np.log(t)), count + 1
    return count


def overlap(a: Array, b: Array) -> float:
    """Mean squared cosine of the principal angles between the column spans of a (n, d) and b (n, k), over the smaller of d and k."""
    q, r = (np.linalg.qr(x)[0] for x in (a, b))
    return float((np.linalg.svd(q.T @ r, compute_uv=False) ** 2).mean())


def _network(arm: Arm) -> nn.Module:
    """The network in float64 and evaluation mode, without in-place operations (for torch.func)."""
    network = copy.deepcopy(arm.method.online).double().eval()
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network


@torch.no_grad()
def _outputs(arm: Arm, pairs: torch.Tensor) -> Array:
    found: Array = _network(arm)(pairs).numpy(force=True)
    return found


def _kernel(arm: Arm, pairs: torch.Tensor) -> tuple[Array, float]:
    """The tangent kernel averaged over outputs, and the relative size of its remainder."""
    kernel = empirical_ntk(_network(arm), pairs, chunk=CHUNK)
    return scalar_kernel(kernel).numpy(force=True), float(not_scalar(kernel))


def _predicted(kernel: Array, d: int) -> Array:
    modes = theory.kernel.kernel_modes(kernel)
    return theory.kernel.training_embeddings(modes, min(d, int((modes.gamma > 0).sum())))


def _counted(times: list[float]) -> str:
    """How many steps there are, and when."""
    return f"{len(times)}" + (f", at t = {', '.join(f'{t:.3g}' for t in times)}" if times else "")


def _findings(config: StepwiseDeepConfig, record: dict[str, Any]) -> list[Finding]:
    lines = []
    for name, one in record["runs"].items():
        seen = "cov z" if one["judged"] == "z" else "cov z/|z|, since the loss sees directions only"
        lines.append(
            Finding(
                f"{name}: steps of eigenvalues of {seen}",
                f"one per learned eigenvalue, at most d = {config.dim}",
                _counted(one[f"steps_of_{one['judged']}"]),
                f"{one['apart'][one['judged']]} of them one by one",
            )
        )
        lines.append(
            Finding(
                f"{name}: steps of the {config.dim} largest eigenvalues of cov h, the representation before the head",
                None,
                _counted(one["steps_of_h"]),
                f"{one['apart']['h']} of them one by one",
            )
        )
        lines.append(
            Finding(
                f"{name}: falls of the loss",
                None,
                _counted(one["steps_of_loss"]),
            )
        )
        lines.append(Finding(f"{name}: collapse", None, evaluation.verdict_in_words(one["verdict"])))
        lines += [
            Finding(
                f"{name}: overlap of the embedding with the top modes of the tangent kernel {when} training",
                predicted,
                f"{one['overlap'][when]:.2f}",
            )
            for when, predicted in (
                ("before", f"1 if the kernel stays constant; by chance {record['chance']:.2g}"),
                ("after", f"by chance {record['chance']:.2g}; no theory, since this kernel is itself measured"),
            )
        ]
    lines += [
        Finding(
            f"overlap of the embeddings of {pair}",
            f"1 if their kernels stay constant; by chance {record['chance']:.2g}",
            f"{value:.2f}",
        )
        for pair, value in record["between"].items()
    ]
    return lines

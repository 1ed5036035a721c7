"""Train an encoder, constrained or not, on two views of images, and judge what it learned."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro

from grassmann_ssl.data.batches import AUTO, Split, Views, augmentations, load_split
from grassmann_ssl.data.files import FORMATS
from grassmann_ssl.data.images import BUNDLED
from grassmann_ssl.data.presets import PRESETS
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble, check_arm
from grassmann_ssl.nn.constraint_table import CONSTRAINTS, ConstraintOptions
from grassmann_ssl.nn.encoders import ENCODERS, architecture
from grassmann_ssl.nn.placement import PLACES
from grassmann_ssl.nn.predictors import PREDICTORS, PredictorOptions
from grassmann_ssl.nn.resnet import STEMS
from grassmann_ssl.objectives import EMBEDDING_LOSSES
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, Outcome, Progress, Run, RunConfig, choice, setting
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import PRECISIONS, train_encoder
from grassmann_ssl.training.schedules import SCHEDULES, log_spaced, warmup_cosine
from grassmann_ssl.training.spectra import SpectraRecorder
from grassmann_ssl.training.torchrun import parallelise, processes
from grassmann_ssl.training.watch import Diverged, FiniteWatch

SEEN = 1024  # images at most on which spectra are recorded
DATA = (*BUNDLED, *(f"{name}:PATH" for name in FORMATS))
CHOICES: dict[str, tuple[str, ...]] = {
    "head": ("auto", "standard", "centred"),
    "objective": tuple(EMBEDDING_LOSSES),
    "predictor": ("none", *PREDICTORS),
    "constraint": tuple(CONSTRAINTS),
    "where": PLACES,
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "precision": tuple(PRECISIONS),
    "stem": STEMS,
}
TIMED = 0.2  # share of the steps at the start that is left out of the time per step


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train an encoder on two views of images, with or without a constraint on its weights, and judge what it learned."""

    NAME: ClassVar[str] = "train"
    data: Annotated[str, choice(DATA)] = "digits"
    """images: digits and photos come with scikit-learn, FORMAT:PATH is read from files"""
    augmentation: Annotated[str, choice((AUTO, *PRESETS))] = "auto"
    """preset of the views; auto is digits for the data digits and simclr elsewhere"""
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """encoder; timm:NAME is a model of timm"""
    stem: Annotated[str, choice(CHOICES["stem"])] = "cifar"
    """first layers of a resnet: cifar (3 x 3), stl or imagenet (7 x 7)"""
    hidden: int = 64
    """width of the projection head's hidden layer"""
    dim: int = 8
    """embedding dimension d, below `hidden`"""
    head: Annotated[str, choice(CHOICES["head"])] = "auto"
    """projection head: standard (linear, batch norm, relu, linear), centred (before the last layer a batch norm without gain, and that
    layer without bias), or auto: centred where its last layer is constrained"""
    objective: Annotated[str, choice(CHOICES["objective"])] = "negative_cosine"
    """objective: docs/objectives.md says what each is"""
    temperature: float | None = None
    """temperature of an objective that has one; that of its source where not given"""
    predictor: Annotated[str, choice(CHOICES["predictor"])] = "none"
    """predictor, for objectives that regress a target"""
    predictor_options: Annotated[PredictorOptions, tyro.conf.arg(name=PredictorOptions.PREFIX)] = field(
        default_factory=PredictorOptions
    )
    teacher: float = 0.0
    """momentum of a moving-average teacher at the start, rising to 1; 0: the target is the encoder itself without gradient"""
    constraint: Annotated[str, choice(CHOICES["constraint"])] = "none"
    """constraint on weights: docs/encoders.md says what each guarantees"""
    where: Annotated[str, choice(CHOICES["where"])] = "last"
    """layers to constrain: the last linear layer of the head, all linear layers, or all convolutions"""
    constraint_options: Annotated[ConstraintOptions, tyro.conf.arg(name=ConstraintOptions.PREFIX)] = field(
        default_factory=ConstraintOptions
    )
    optimizer: Annotated[str, choice(CHOICES["optimizer"])] = "sgd"
    """optimizer; muon steps the layers of `where`, and sgd the others"""
    lr: float = 0.05
    """learning rate at the end of the warm-up"""
    schedule: Annotated[str, choice(CHOICES["schedule"])] = "cosine"
    """learning rate after the warm-up: cosine, down to 0, or constant"""
    optimizer_options: Annotated[OptimizerOptions, tyro.conf.arg(name=OptimizerOptions.PREFIX)] = field(
        default_factory=OptimizerOptions
    )
    warmup: int = 0
    """steps of linear warm-up"""
    batch: int = 256
    """images of a batch, over all processes"""
    accumulate: int = 1
    """batches whose gradients make one step"""
    steps: int = 600
    """optimizer steps"""
    precision: Annotated[str, choice(CHOICES["precision"])] = "float32"
    """precision of the encoder; losses and constrained steps are in float32"""
    init_scale: float = 1.0
    """factor of the initial weights of the head's last layer, unless they are constrained: below 1 for stepwise learning"""
    records: int = 60
    """how often spectra are recorded, at equal ratios of the step"""
    checkpoint: str | None = None
    """file to save to, and to go on from where it exists"""
    save_every: int = 1000
    """steps between two checkpoints"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(value, known)}")
        with setting("encoder"):
            architecture(self.encoder)
        with setting("augmentation"):
            augmentations(self.augmentation, self.data, 1)
        self.need("predictor_every", "hidden", "dim", "accumulate", "steps", "save_every", least=1)
        self.need("records", "batch", least=2)
        self.need("lr", "init_scale", "predictor_alpha", above=0)
        self.need("momentum", "teacher", "predictor_rho", least=0, most=0.9999)
        self.need("weight_decay", "predictor_eps", "penalty", "warmup", least=0)
        self._refuse_without_effect()
        if self.warmup >= self.steps:
            raise ConfigError(f"warmup must be below steps = {self.steps}, got {self.warmup}")
        check_arm(self)

    def _refuse_without_effect(self) -> None:
        """Raise ConfigError for a setting that differs from its default and has no effect beside the others."""
        constraint, optimizer = CONSTRAINTS[self.constraint], OPTIMIZERS[self.optimizer]
        idle: dict[str, str | bool] = {
            "stem": "stem" not in architecture(self.encoder).takes and f"with encoder {self.encoder}",
            "where": not (constraint.rank_of_w or constraint.in_loss or optimizer.comparator)
            and f"with constraint {self.constraint}",
            "init_scale": constraint.rank_of_w and f"with constraint {self.constraint}",
            "save_every": self.checkpoint is None and "without checkpoint",
        }
        for group, registry in (("predictor", PREDICTORS), ("constraint", CONSTRAINTS), ("optimizer", OPTIMIZERS)):
            chosen = getattr(self, group)
            for one in self.known():
                if one.group == f"{group}_options" and not (
                    chosen in registry and one.field in registry[chosen].options
                ):
                    owners = ", ".join(name for name, other in registry.items() if one.field in other.options)
                    idle[one.name] = f"with {group} {chosen}: it is an option of {owners}"
        values = self.values()
        for one in self.known():
            if idle.get(one.name) and values[one.name] != one.default:
                raise ConfigError(f"{one.name} = {values[one.name]} has no effect {idle[one.name]}")

    def rate(self, step: int) -> float:
        """Factor of the learning rate at a step."""
        return warmup_cosine(step, self.steps, warmup=self.warmup, end=SCHEDULES[self.schedule])


@dataclass
class Trained:
    """What `fit` leaves: the arm as trained, its records, and what it cost."""

    arm: Arm
    recorder: SpectraRecorder
    seconds_per_step: float
    done: int
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)


def train(config: TrainConfig, progress: Progress | None = None) -> Outcome | None:
    """Train, record, judge and report; under torchrun all processes train together, the first one writes, and the others return None.

    Raises ConfigError before any training for settings that cannot be run, and `Diverged` where the loss is not finite: the checkpoint,
    if one is kept, is then the last good one. An interrupt (Ctrl-C) keeps what was done so far.
    """
    with processes(config.device) as process:
        run = Run(config) if process.first else None
        generator = torch.Generator().manual_seed(config.seed)
        with setting("data"):
            split = load_split(config.data, generator).to(process.device)
        tick = progress(config.steps) if progress and process.first else None
        trained = fit(config, split, process, tick)
        if run is None:
            return None
        judged = evaluation.judge(config, trained.arm, split)
        record, metrics, arrays = evaluation.collect(config, trained, judged)
        return run.finish(evaluation.findings(config, record), record, metrics, arrays)


def prepare(config: TrainConfig, split: Split, process: Process) -> tuple[Views, Arm]:
    """The views and the arm of a training run, which nothing has trained yet. Raises ConfigError for what does not fit the images."""
    size = config_size(split)
    with setting("augmentation"):
        pair = augmentations(config.augmentation, config.data, size)
    with setting():
        views = Views(split.train, pair, config.batch, config.seed, process, config.accumulate)
    return views, assemble(config, split.train.shape[1], size, process)


def fit(config: TrainConfig, split: Split, process: Process, tick: Any = None) -> Trained:
    """Train one encoder on the images of a split."""
    views, arm = prepare(config, split, process)
    watch = FiniteWatch(process.device)
    seen = evaluation.seen_views(split.train[:SEEN], views.pair[0], config.seed, process.device)
    recorder = SpectraRecorder(arm.method, seen, log_spaced(config.steps, config.records), watch)
    start = _resume(config, arm)
    clock = _Clock(config.steps, start)
    observers: list[Callable[[int], object]] = [clock.pause, recorder, *arm.observers]
    if config.checkpoint is not None and process.first:
        observers.append(_Saver(config, arm, watch, start))
    observers.append(clock.resume)
    if tick is not None:
        observers.append(lambda step: tick("train") if step > start else None)
    interrupted = False
    try:
        train_encoder(
            parallelise(arm.method),
            views,
            arm.optimizers,
            steps=config.steps,
            rate=config.rate,
            watch=watch,
            start=start,
            accumulate=config.accumulate,
            precision=config.precision,
            observers=observers,
            after_step=arm.followers,
        )
    except KeyboardInterrupt:
        if not len(recorder):
            raise
        interrupted = True
    return Trained(arm, recorder, clock.per_step(), clock.done, interrupted)


def config_size(split: Split) -> int:
    """The side of the square views: that of the images, the shorter one."""
    return min(split.train.shape[-2:])


def _notes(config: TrainConfig) -> dict[str, Any]:
    """The settings that a checkpoint must agree on."""
    left_out = ("device", "out", "overwrite", "records", "checkpoint", "save_every")
    return {name: value for name, value in config.values().items() if name not in left_out}


def _resume(config: TrainConfig, arm: Arm) -> int:
    if config.checkpoint is None:
        return 0
    path = Path(config.checkpoint)
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"checkpoint: {path.parent} is not a folder that can be written")
    if not path.exists():
        return 0
    with setting("checkpoint"):
        return load_checkpoint(path, arm.method, arm.optimizers, _notes(config))


class _Saver:
    """Saves every `save_every` steps and at the end, nothing that is not finite."""

    def __init__(self, config: TrainConfig, arm: Arm, watch: FiniteWatch, start: int) -> None:
        self.config, self.arm, self.watch, self.start = config, arm, watch, start

    def __call__(self, step: int) -> None:
        due = step == self.config.steps or step % self.config.save_every == 0
        if due and step > self.start:
            self.watch.check()
            values = self.arm.method.state_dict()
            bad = [n for n, v in values.items() if v.dtype.is_floating_point and not bool(torch.isfinite(v).all())]
            if bad:
                raise Diverged(f"weights are not finite at step {step}: {', '.join(bad)}")
            assert self.config.checkpoint is not None
            save_checkpoint(
                Path(self.config.checkpoint), self.arm.method, self.arm.optimizers, step, _notes(self.config)
            )


class _Clock:
    """Seconds of steps, without those of the observers between `pause` and `resume` and of the first steps."""

    def __init__(self, steps: int, start: int) -> None:
        self.first = start + int(TIMED * (steps - start))
        self.seconds, self.counted, self.done = 0.0, 0, start
        self._since: float | None = None

    def pause(self, step: int) -> None:
        if self._since is not None and step > self.first:
            self.seconds += time.perf_counter() - self._since
            self.counted += 1
        self.done = step

    def resume(self, step: int) -> None:
        self._since = time.perf_counter()

    def per_step(self) -> float:
        return self.seconds / self.counted if self.counted else float("nan")

"""Training of one encoder from its settings: the trained arm, its recorded spectra, and checkpoints."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.augment import Augmentation, Draw, as_floating, keyed_generator
from grassmann_ssl.data.batches import Split, Views, augmentations
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.interrupt import Interrupted
from grassmann_ssl.nn.joint_embedding import chunk_size, embeddings
from grassmann_ssl.runs import ConfigError, Finding, setting
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import grad_scaler, train_encoder
from grassmann_ssl.training.schedules import log_spaced
from grassmann_ssl.training.spectra import SpectraRecorder
from grassmann_ssl.training.torchrun import parallelise, refuse_differences
from grassmann_ssl.training.watch import Diverged, FiniteWatch

SEEN = 1024  # most images on which spectra are recorded
TIMED = 0.2  # initial share of the steps excluded from the time per step
VIEWS_STEP = 2**40  # key of the views used for evaluation


@dataclass
class Trained:
    """The result of `fit`: the trained arm, its recorded spectra, and its cost."""

    arm: Arm
    recorder: SpectraRecorder
    seconds_per_step: float
    done: int


@dataclass(frozen=True)
class SeenViews:
    """One evaluation view of each image: chunks of them, made anew whenever they are gone through, so that one is held at a time."""

    images: Tensor
    augmentation: Augmentation
    draw: Draw

    def __iter__(self) -> Iterator[Tensor]:
        size = chunk_size(self.images)
        for start in range(0, len(self.images), size):
            rows = slice(start, start + size)
            yield self.augmentation.apply(as_floating(self.images[rows]), self.draw.rows(rows))

    def first(self, count: int) -> "SeenViews":
        """Those of the first images."""
        return SeenViews(self.images[:count], self.augmentation, self.draw.rows(slice(count)))

    def stacked(self) -> Tensor:
        """All of them, (n, c, size, size)."""
        return torch.cat(list(self))


def seen_views(images: Tensor, augmentation: Augmentation, seed: int, number: int = 0) -> SeenViews:
    """One evaluation view of each image, determined by the seed and the view's number."""
    generator = keyed_generator(seed=seed, step=VIEWS_STEP, rank=0, view=number, device=images.device)
    _, channels, height, width = images.shape
    return SeenViews(images, augmentation, augmentation.draw(len(images), channels, height, width, generator))


def prepare(config: TrainConfig, split: Split, process: Process) -> tuple[Views, Arm]:
    """The views and the untrained arm of a training run. Raises ConfigError for settings that do not fit the images."""
    if all(torch.equal(one, split.train[0]) for one in split.train):  # ends at the first that differs
        raise ConfigError(f"data: the {len(split.train):,} images to train on are all the same")
    size = config_size(split)
    with setting("augmentation"):
        pair = augmentations(config.augmentation, config.data, size)
    with setting():
        views = Views(split.train, pair, config.batch, config.seed, process, config.accumulate)
    arm = assemble(config, split.train.shape[1], size, process)
    _check_images(config, arm, "views", seen_views(split.train[:1], pair[0], config.seed).stacked())
    if split.train_labels is not None or config.embeddings:  # whole, as the probes take them
        _check_images(config, arm, "training images", split.train[:1])
        _check_images(config, arm, "test images", split.test[:1])
    return views, arm


def _check_images(config: TrainConfig, arm: Arm, kind: str, images: Tensor) -> None:
    """Raise ConfigError, before training, for an encoder that cannot take images of this shape."""
    try:
        embeddings(arm.method, images)
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = " x ".join(map(str, images.shape[1:]))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"encoder {config.encoder} cannot take the {kind} of {shape}: {reason}") from None


def images_finding(split: Split) -> Finding:
    """Which images there were, and what was passed over."""
    return Finding("images", measured=split.described)


def fit(config: TrainConfig, split: Split, process: Process, tick: Any = None) -> Trained:
    """Train one encoder on the images of a split.

    Raises ConfigError for settings that do not fit the images or the checkpoint, and Diverged for a loss that is not finite; and
    Interrupted, a KeyboardInterrupt that carries the encoder as trained until Ctrl-C, if spectra were recorded and a step was done.
    """
    views, arm = prepare(config, split, process)
    watch = FiniteWatch(process.device)
    seen = seen_views(split.train[:SEEN], views.pair[0], config.seed)
    recorder = SpectraRecorder(arm.method, seen, log_spaced(config.steps, config.records), watch)
    scaler = grad_scaler(config.precision, process.device)
    start = _resume(config, arm, scaler, recorder)
    clock = _Clock(config.steps, start)
    observers: list[Callable[[int], object]] = [clock.pause, recorder, *arm.observers]
    if config.checkpoint is not None and process.first:
        observers.append(_Saver(config, arm, scaler, recorder, start))
    observers.append(clock.resume)
    if tick is not None:
        observers.append(lambda step: tick("train") if step > start else None)

    def trained() -> Trained:
        return Trained(arm, recorder, clock.per_step(), clock.done)

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
            scaler=scaler,
            observers=observers,
            after_step=arm.followers,
        )
    except KeyboardInterrupt:
        if not len(recorder) or not clock.done:
            raise
        raise Interrupted(trained(), clock.done, config.steps) from None
    refuse_differences(arm.method)
    return trained()


def config_size(split: Split) -> int:
    """The side of the square views: the images' shorter side."""
    return min(split.train.shape[-2:])


def _notes(config: TrainConfig) -> dict[str, Any]:
    """The settings that a checkpoint must share."""
    left_out = ("device", "out", "overwrite", "records", "checkpoint", "save_every")
    return {name: value for name, value in config.values().items() if name not in left_out}


def _resume(config: TrainConfig, arm: Arm, scaler: torch.amp.GradScaler, recorder: SpectraRecorder) -> int:
    if config.checkpoint is None:
        return 0
    path = Path(config.checkpoint)
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"checkpoint: {path.parent} is not a folder that can be written")
    if not path.exists():
        return 0
    with setting("checkpoint"):
        return load_checkpoint(path, arm.method, arm.optimizers, _notes(config), scaler, recorder)


class _Saver:
    """Saves every `save_every` steps and at the end. Raises Diverged for weights that are not finite."""

    def __init__(
        self, config: TrainConfig, arm: Arm, scaler: torch.amp.GradScaler, recorder: SpectraRecorder, start: int
    ) -> None:
        self.config, self.arm, self.scaler, self.recorder, self.start = config, arm, scaler, recorder, start

    def __call__(self, step: int) -> None:
        due = step == self.config.steps or step % self.config.save_every == 0
        if due and step > self.start:
            self.recorder.watch.check()
            values = self.arm.method.state_dict()
            bad = [n for n, v in values.items() if v.dtype.is_floating_point and not bool(torch.isfinite(v).all())]
            if bad:
                raise Diverged(f"weights are not finite at step {step}: {', '.join(bad)}")
            assert self.config.checkpoint is not None
            path, notes = Path(self.config.checkpoint), _notes(self.config)
            save_checkpoint(path, self.arm.method, self.arm.optimizers, step, notes, self.scaler, self.recorder)


class _Clock:
    """Seconds per step, excluding the first steps and the observers between `pause` and `resume`."""

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

"""Training of one encoder from its settings: the trained arm, its recorded spectra, and checkpoints."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.augment import Augmentation, Draw, as_floating, keyed_generator
from grassmann_ssl.data.batches import Split, Views, augmentations
from grassmann_ssl.data.stored import Pixels, chunks, subset
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.interrupt import STEP, Again, Interrupted, patience
from grassmann_ssl.nn.joint_embedding import chunk_size, embeddings
from grassmann_ssl.runs import ConfigError, Finding, Tell, setting
from grassmann_ssl.runs.folder import binding
from grassmann_ssl.streams import say
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import grad_scaler, train_encoder
from grassmann_ssl.training.schedules import log_spaced
from grassmann_ssl.training.spectra import SpectraRecorder
from grassmann_ssl.training.torchrun import parallelise, refuse_differences
from grassmann_ssl.training.watch import Diverged, FiniteWatch

SEEN = 1024  # most images on which spectra are recorded
TIMED = 0.2  # initial share of the steps excluded from the time per step
SHARE, FIRST_COST = 0.01, 0.01  # of the time that checkpoints take, and seconds that the first one is expected to take
COMPARED = 64  # images that are compared with the first at a time
VIEWS_STEP = 2**40  # key of the views used for evaluation


@dataclass
class Trained:
    """The result of `fit`: the trained arm, its recorded spectra, its cost, where it was resumed (0: nowhere), and what was not saved."""

    arm: Arm
    recorder: SpectraRecorder
    seconds_per_step: float
    done: int
    start: int
    unsaved: str | None


@dataclass(frozen=True)
class SeenViews:
    """One evaluation view of each image: chunks of them, made anew whenever they are gone through, so that one is held at a time."""

    images: Pixels
    augmentation: Augmentation
    draw: Draw

    def __iter__(self) -> Iterator[Tensor]:
        size = chunk_size(self.images)
        for k, images in enumerate(chunks(self.images, size)):
            yield self.augmentation.apply(as_floating(images), self.draw.rows(slice(k * size, (k + 1) * size)))

    def first(self, count: int) -> "SeenViews":
        """Those of the first images."""
        return SeenViews(subset(self.images, slice(count)), self.augmentation, self.draw.rows(slice(count)))

    def stacked(self) -> Tensor:
        """All of them, (n, c, size, size)."""
        return torch.cat(list(self))


def seen_views(images: Pixels, augmentation: Augmentation, seed: int, number: int = 0) -> SeenViews:
    """One evaluation view of each image, determined by the seed and the view's number."""
    generator = keyed_generator(seed=seed, step=VIEWS_STEP, rank=0, view=number, device=images.device)
    _, channels, height, width = images.shape
    return SeenViews(images, augmentation, augmentation.draw(len(images), channels, height, width, generator))


def prepare(config: TrainConfig, split: Split, process: Process) -> tuple[Views, Arm]:
    """The views and the untrained arm of a training run. Raises ConfigError for settings that do not fit the images."""
    first = split.train[0]
    if all(bool((some == first).all()) for some in chunks(split.train, COMPARED)):  # ends at the first that differs
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


def fit(
    config: TrainConfig,
    split: Split,
    process: Process,
    tick: Any = None,
    checkpoint: Callable[[], Path | None] = lambda: None,
    log: Tell | None = None,
) -> Trained:
    """Train one encoder on the images of a split.

    `checkpoint()`, asked when all is checked, is the file that the training goes on from, if there is one, and saves to. A signal that
    waits (`grassmann_ssl.interrupt.patience`) is answered between two steps, after a checkpoint. `log` is told the numbers of every record.

    Raises ConfigError for settings that do not fit the images or the checkpoint, and Diverged for a loss that is not finite; and
    Interrupted, a KeyboardInterrupt that carries the encoder as trained until Ctrl-C, if spectra were recorded and a step was done.
    """
    views, arm = prepare(config, split, process)
    watch = FiniteWatch(process.device)
    seen = seen_views(subset(split.train, slice(SEEN)), views.pair[0], config.seed)
    recorder = SpectraRecorder(arm.method, seen, log_spaced(config.steps, config.records), watch)
    scaler = grad_scaler(config.precision, process.device)
    path = checkpoint()
    notes = {} if path is None else _notes(config, split)
    start = _resume(path, arm, notes, scaler, recorder)
    if start and process.first:
        say(f"resumed at step {start} of {config.steps}")
    clock = _Clock(config.steps, start)
    observers: list[Callable[[int], object]] = [clock.pause, recorder, *arm.observers]
    if log is not None:
        observers.append(recorder.telling(log))
    saver = Saver(config, arm, scaler, recorder, path, notes, start)
    if process.first:
        observers.append(saver)
    observers.append(clock.resume)
    if tick is not None:
        if start:
            tick("train", start)
        observers.append(lambda step: tick("train") if step > start else None)

    def trained() -> Trained:
        return Trained(arm, recorder, clock.per_step(), clock.done, start, saver.unsaved)

    patience.begin(STEP)
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
    except Again:
        raise
    except KeyboardInterrupt:
        if not len(recorder) or not clock.done:
            raise
        raise Interrupted(trained(), clock.done, config.steps) from None
    refuse_differences(arm.method)
    return trained()


def config_size(split: Split) -> int:
    """The side of the square views: the images' shorter side."""
    return min(split.train.shape[-2:])


def _notes(config: TrainConfig, split: Split) -> dict[str, Any]:
    """The settings and the data that a checkpoint must share."""
    return {**binding(config), f"images of {config.data}": split.fingerprint}


def _resume(
    path: Path | None, arm: Arm, notes: dict[str, Any], scaler: torch.amp.GradScaler, recorder: SpectraRecorder
) -> int:
    """The step that a training begins with."""
    if path is None or not path.exists():
        return 0
    try:
        return load_checkpoint(path, arm.method, arm.optimizers, notes, scaler, recorder)
    except ValueError as error:
        raise ConfigError(f"out: {error}; --no-resume starts the run anew") from None


class Saver:
    """Saves between two steps, and answers a signal there. Raises Diverged for weights that are not finite.

    It saves at every `save_every`-th step, or else as often as takes SHARE of the time; at the end, and before a signal is answered. What
    cannot be saved is said, and the training goes on.
    """

    def __init__(
        self,
        config: TrainConfig,
        arm: Arm,
        scaler: torch.amp.GradScaler,
        recorder: SpectraRecorder,
        path: Path | None,
        notes: dict[str, Any],
        start: int,
    ) -> None:
        self.config, self.arm, self.scaler, self.recorder = config, arm, scaler, recorder
        self.path, self.notes, self.start = path, notes, start
        self.unsaved: str | None = None
        self._cost, self._since = FIRST_COST, time.perf_counter()

    def __call__(self, step: int) -> None:
        if self.path is not None and step > self.start and (patience.waiting or self._due(step)):
            self._save(self.path, step)
        if patience.waiting:
            patience.answer(f"after step {step} of {self.config.steps}")

    def _due(self, step: int) -> bool:
        if self.config.save_every is not None:
            return step == self.config.steps or step % self.config.save_every == 0
        return step == self.config.steps or time.perf_counter() - self._since >= self._cost / SHARE

    def _save(self, path: Path, step: int) -> None:
        begin = time.perf_counter()
        self.recorder.watch.check()
        values = self.arm.method.state_dict()
        bad = [n for n, v in values.items() if v.dtype.is_floating_point and not bool(torch.isfinite(v).all())]
        if bad:
            raise Diverged(f"weights are not finite at step {step}: {', '.join(bad)}")
        try:
            path.parent.mkdir(exist_ok=True)
            save_checkpoint(path, self.arm.method, self.arm.optimizers, step, self.notes, self.scaler, self.recorder)
        except OSError as error:
            if self.unsaved is None:
                self.unsaved = f"the checkpoint of step {step} could not be saved: {error.strerror or error}"
                say(f"{self.unsaved}; the training goes on")
        self._since = time.perf_counter()
        self._cost = self._since - begin


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

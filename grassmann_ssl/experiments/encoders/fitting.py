"""Training of one encoder from its settings: the trained arm, its recorded spectra, and checkpoints."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.batches import Split
from grassmann_ssl.data.randomness import GlobalRandomness
from grassmann_ssl.data.stored import subset
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble, output
from grassmann_ssl.experiments.encoders.material import Material
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.interrupt import STEP, Again, Interrupted, patience
from grassmann_ssl.metrics.probes import knn_accuracy, ridge_probe
from grassmann_ssl.nn.batch_norm import settle_batch_norm
from grassmann_ssl.nn.joint_embedding import JointEmbedding, embeddings, floating
from grassmann_ssl.nn.unchanged import unchanged_on_error
from grassmann_ssl.runs import ConfigError, Tell
from grassmann_ssl.runs.folder import binding
from grassmann_ssl.streams import say
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import grad_scaler, train_encoder
from grassmann_ssl.training.schedules import log_spaced
from grassmann_ssl.training.spectra import SpectraRecorder
from grassmann_ssl.training.torchrun import parallelise, refuse_differences
from grassmann_ssl.training.watch import Diverged, FiniteWatch

PROBED = 1024  # most samples of each part that are probed during a training
TIMED = 0.2  # initial share of the steps excluded from the time per step
SHARE, FIRST_COST = 0.01, 0.01  # of the time that checkpoints take, and seconds that the first one is expected to take
Steps = Callable[[int, int], tuple[Tensor, ...]]


@dataclass
class Trained:
    """The result of `fit`: the trained arm, its recorded spectra, its cost, where it was resumed (0: nowhere), and what was not saved."""

    arm: Arm
    recorder: SpectraRecorder
    seconds_per_step: float
    done: int
    start: int
    unsaved: str | None


def online_probes(method: JointEmbedding, split: Split | None) -> Callable[[], dict[str, float]]:
    """What probes the representation of some labelled samples. Raises ConfigError where there are none."""
    if split is None or split.train_labels is None or split.test_labels is None:
        raise ConfigError("online_probes: the data have no labels to probe with")
    parts = [subset(images, slice(PROBED)) for images in (split.train, split.test)]
    labels = split.train_labels[:PROBED], split.test_labels[:PROBED]

    def probe() -> dict[str, float]:
        train, test = (embeddings(method, images)["h"] for images in parts)
        given = (train, labels[0], test, labels[1])
        return {"knn": knn_accuracy(*given, k=min(20, len(train))), "ridge": ridge_probe(*given).accuracy}

    return probe


def prepare(config: TrainConfig, material: Material, process: Process) -> tuple[Steps, Arm]:
    """The views of the steps and the untrained arm of a training run. Raises ConfigError for settings that do not fit the data."""
    views = material.steps(config)
    arm = assemble(config, material.example, process)
    for crop in material.smaller:
        output(arm.method.encoder, crop, f"encoder {config.encoder}", "small crops")
    labelled = material.labelled
    if labelled is not None and (
        labelled.train_labels is not None or config.embeddings
    ):  # whole, as the probes take them
        for kind, part in (("training samples", labelled.train), ("test samples", labelled.test)):
            output(arm.method.encoder, floating(part[:1]), f"encoder {config.encoder}", kind)
    return views, arm


def fit(
    config: TrainConfig,
    material: Material,
    process: Process,
    tick: Any = None,
    checkpoint: Callable[[], Path | None] = lambda: None,
    log: Tell | None = None,
    settled: bool = False,
) -> Trained:
    """Train one encoder on what there is to train on.

    `settled`: batch normalisation begins with the statistics of the samples (`settle`), which evaluation needs from the first step on.

    `checkpoint()`, asked when all is checked, is the file that the training goes on from, if there is one, and saves to. A signal that
    waits (`grassmann_ssl.interrupt.patience`) is answered between two steps, after a checkpoint. `log` is told the numbers of every record.

    Raises ConfigError for settings that do not fit the data or the checkpoint, and Diverged for a loss that is not finite; and
    Interrupted, a KeyboardInterrupt that carries the encoder as trained until Ctrl-C, if spectra were recorded and a step was done.
    """
    randomness = GlobalRandomness(process.device)
    with randomness.kept():
        randomness.seed(config.seed, 0)
        return _fit(config, material, process, tick, checkpoint, log, settled, randomness)


def settle(arm: Arm, material: Material) -> None:
    """Give batch normalisation the running statistics of the watched views, instead of mean 0 and variance 1.

    Without that, evaluation sees scales move for some 20 steps in which the statistics catch up, whatever is learned.
    """
    settle_batch_norm(arm.method.online, map(floating, material.watched()))


def _fit(
    config: TrainConfig,
    material: Material,
    process: Process,
    tick: Any,
    checkpoint: Callable[[], Path | None],
    log: Tell | None,
    settled: bool,
    randomness: GlobalRandomness,
) -> Trained:
    with unchanged_on_error(*config.own_modules()):
        views, arm = prepare(config, material, process)
        watch = FiniteWatch(process.device)
        probes = online_probes(arm.method, material.labelled) if config.online_probes else dict
        times = log_spaced(config.steps, config.records)
        recorder = SpectraRecorder(arm.method, material.watched(), times, watch, probes)
        scaler = grad_scaler(config.precision, process.device)
        path = checkpoint()
        notes = {} if path is None else _notes(config, material)
        kept = _Recorded(recorder, randomness)
        start = _resume(path, arm, notes, scaler, kept)
        if settled and not start:
            settle(arm, material)
    if start and process.first:
        say(f"resumed at step {start} of {config.steps}")
    clock = _Clock(config.steps, start)
    observers: list[Callable[[int], object]] = [clock.pause, recorder, *arm.observers]
    if log is not None:
        observers.append(recorder.telling(log))
    saver = Saver(config, arm, scaler, kept, path, notes, start)
    if process.first:
        observers.append(saver)
    observers.append(clock.resume)
    if tick is not None:
        if start:
            tick("train", start)
        observers.append(lambda step: tick("train") if step > start else None)

    def trained() -> Trained:
        return Trained(arm, recorder, clock.per_step(), clock.done, start, saver.unsaved)

    monitor = config.monitor_used()
    followers = list(arm.followers)
    if monitor is not None:
        monitor.attach(arm.method, "online.projector", judge=False)
        followers.append(lambda step: monitor.end_step(step + 1))
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
            after_step=followers,
        )
    except Again:
        raise
    except KeyboardInterrupt:
        if not len(recorder) or not clock.done:
            raise
        raise Interrupted(trained(), clock.done, config.steps) from None
    finally:
        if monitor is not None:
            monitor.detach()
    refuse_differences(arm.method)
    return trained()


def _notes(config: TrainConfig, material: Material) -> dict[str, Any]:
    """The settings and the data that a checkpoint must share."""
    return {**binding(config), f"samples of {config.data}": material.fingerprint}


class _Recorded:
    """What a checkpoint keeps besides weights and optimizers: the records, and the global random states."""

    def __init__(self, recorder: SpectraRecorder, randomness: GlobalRandomness) -> None:
        self.recorder, self.randomness = recorder, randomness

    def state(self) -> dict[str, Tensor]:
        return self.recorder.state() | {f"random_{name}": value for name, value in self.randomness.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        random = {name.removeprefix("random_"): value for name, value in state.items() if name.startswith("random_")}
        self.recorder.restore({name: value for name, value in state.items() if not name.startswith("random_")})
        self.randomness.restore(random)


def _resume(path: Path | None, arm: Arm, notes: dict[str, Any], scaler: torch.amp.GradScaler, kept: _Recorded) -> int:
    """The step that a training begins with."""
    if path is None or not path.exists():
        return 0
    try:
        return load_checkpoint(path, arm.method, arm.optimizers, notes, scaler, kept)
    except ValueError as error:
        raise ConfigError(f"out: {error}; resume = False (--no-resume) starts the run anew") from None


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
        kept: _Recorded,
        path: Path | None,
        notes: dict[str, Any],
        start: int,
    ) -> None:
        self.config, self.arm, self.scaler, self.kept = config, arm, scaler, kept
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
        self.kept.recorder.watch.check()
        values = self.arm.method.state_dict()
        bad = [n for n, v in values.items() if v.dtype.is_floating_point and not bool(torch.isfinite(v).all())]
        if bad:
            raise Diverged(f"weights are not finite at step {step}: {', '.join(bad)}")
        try:
            path.parent.mkdir(exist_ok=True)
            save_checkpoint(path, self.arm.method, self.arm.optimizers, step, self.notes, self.scaler, self.kept)
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

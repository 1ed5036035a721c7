"""A training step of an encoder under every constraint against the same step without one, and where the time of the whole loop goes."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import figures, seconds
from grassmann_ssl.data.batches import Views, augmentations
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import Arm, assemble
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear
from grassmann_ssl.training.encoders import train_encoder
from grassmann_ssl.training.watch import Diverged, FiniteWatch

NAME = "encoder_step"
PAGE = "docs/encoders.md"
FREE = "none"
OURS = ("grassmann", "feature-orthonormal", "stiefel")
PEERS = ("parametrization", "geoopt-stiefel", "penalty", "muon")
EXACT = ("grassmann", "stiefel")  # nothing is timed where their rows are not orthonormal
LOOPS = (FREE, "grassmann")
CHECKED_STEPS, CHECKED_IMAGES, TOLERANCE = 3, 8, 50 * torch.finfo(torch.float32).eps
PROFILED = 2
PARTS = ("views", "forward and backward", "optimizer and followers")
PairOfViews = Callable[[int, int], tuple[Tensor, ...]]


def run(
    device: torch.device,
    repeats: int,
    *,
    encoder: str = "resnet18",
    batch: int | None = None,
    size: int = 32,
    hidden: int = 512,
    dim: int = 128,
    objectives: tuple[str, ...] | None = None,
    target: float = 1.0,
) -> list[dict[str, Any]]:
    """Check, then time; per objective one record of steps, and one of the loop for each constraint of LOOPS.

    A turn times each side for about `target` seconds, on a CPU one step at least. Raises RuntimeError where a constrained weight is not
    orthonormal after CHECKED_STEPS steps, or a loss is not finite.
    """
    cuda = device.type == "cuda"
    batch = batch or (512 if cuda else 64)
    records = []
    for objective in objectives or (("nt_xent", "negative_cosine") if cuda else ("nt_xent",)):
        setting = {
            "objective": objective,
            "encoder": encoder,
            "batch": batch,
            "size": size,
            "hidden": hidden,
            "dim": dim,
        }
        sides = {name: Training(settings(name, setting), size, device) for name in (FREE, *OURS, *PEERS)}
        deviations = {name: checked(name, side, size) for name, side in sides.items()}
        timed = steps(sides, batch, size, device, repeats, target)
        records.append({"kind": "step", **setting, "deviation": deviations, **timed})
        chosen = {name: sides[name] for name in LOOPS}
        for record in loops(chosen, size, repeats, timed["steps_per_turn"]):
            records.append({"kind": "loop", **setting, **record})
        for side in sides.values():
            side.watch.check()
    return records


def settings(name: str, setting: dict[str, Any]) -> TrainConfig:
    """The settings of a side; sides differ in the constraint alone, and muon in the optimizer of the last layer."""
    chosen: dict[str, Any] = {"optimizer": "muon"} if name == "muon" else {"constraint": name}
    common: dict[str, Any] = {key: value for key, value in setting.items() if key != "size"}
    return TrainConfig(**common, **chosen, head="centred", stem="cifar", where="last")


class Training:
    """An arm and its number of steps done: the project's own training loop, some steps at a time."""

    def __init__(self, config: TrainConfig, size: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.arm: Arm = assemble(config, torch.zeros(2, 3, size, size), Process(0, 1, device))
        self.watch = FiniteWatch(device)
        self.done = 0

    def advance(self, views: PairOfViews, count: int, parts: "Parts | None" = None) -> None:
        """Take `count` steps; with `parts`, their parts are timed."""
        train_encoder(
            self.arm.method,
            views if parts is None else parts.timed(views),
            self.arm.optimizers,
            steps=self.done + count,
            rate=lambda step: 1.0,
            watch=self.watch,
            start=self.done,
            observers=self.arm.observers if parts is None else [*self.arm.observers, parts.begin],
            after_step=self.arm.followers if parts is None else [*self.arm.followers, parts.end],
        )
        self.done += count

    def per_step(self, views: PairOfViews, count: int) -> float:
        """Seconds per step."""
        return seconds(lambda: self.advance(views, count), 1, self.device) / count


class Parts:
    """Seconds of the parts of steps, from marks set while the loop runs; waits for the device at every mark."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0

    def mark(self, part: str | None) -> None:
        """The time since the last mark was that of a part, or of none."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if part is not None:
            self.seconds[part] += now - self._last
        self._last = now

    def begin(self, step: int) -> None:
        """Called before a step."""
        self.mark(None)

    def timed(self, views: PairOfViews) -> PairOfViews:
        """The same views."""

        def made(step: int, part: int) -> tuple[Tensor, ...]:
            pair = views(step, part)
            self.mark(PARTS[0])
            return pair

        return made

    def before_optimizer(self, *_: object) -> None:
        """Called before the first optimizer's step."""
        self.mark(PARTS[1])

    def end(self, step: int) -> None:
        """Called after the last follower."""
        self.mark(PARTS[2])


def fixed_views(batch: int, size: int, device: torch.device) -> PairOfViews:
    """The same two views in every step, of normal noise."""
    pair = torch.randn(2, batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda step, part: (pair[0], pair[1])


def checked(name: str, side: Training, size: int) -> float | None:
    """Largest entry of |W B W^T - I| after a few steps on a few images, in float64; None where W is not constrained.

    B = I, and for the feature-orthonormal layer its metric. Raises RuntimeError where training diverges, or for a constraint of EXACT where
    the entry is above TOLERANCE.
    """
    try:
        side.advance(fixed_views(CHECKED_IMAGES, size, side.device), CHECKED_STEPS)
        side.watch.check()
    except Diverged as error:
        raise RuntimeError(f"{NAME}: {name}: {error}; nothing was timed") from None
    if not side.arm.constrained or name == "penalty":
        return None
    worst = max(_off(side.arm.method.online.get_submodule(layer)) for layer in side.arm.constrained)
    if name in EXACT and not worst <= TOLERANCE:
        raise RuntimeError(f"{NAME}: rows of {name} are orthonormal only to {worst:.2g}; nothing was timed")
    return worst


def _off(layer: Any) -> float:
    # A plain tensor: the parameter's class would drag its manifold along.
    weight = layer.weight.detach().as_subclass(Tensor).double()
    metric = layer.metric.double() if isinstance(layer, FeatureOrthonormalLinear) else torch.eye(weight.shape[1])
    gram = weight @ metric.to(weight) @ weight.mT
    return float((gram - torch.eye(len(gram)).to(gram)).abs().max())


def steps(
    sides: dict[str, Training], batch: int, size: int, device: torch.device, repeats: int, target: float
) -> dict[str, Any]:
    """Time every side in turn, `repeats` times, and its ratio to the side without constraint that was timed next to it.

    That side is timed between every two others, so that a change of the machine's speed hits both sides of a ratio; every other turn
    goes the other way round, so that a steady change favours no side.
    """
    views = fixed_views(batch, size, device)
    sides[FREE].advance(views, 1)
    count = max(1, round(target / sides[FREE].per_step(views, 1)))
    others = [name for name in sides if name != FREE]
    order = [(others[i], FREE, *others[i + 1 : i + 2]) for i in range(0, len(others), 2)]
    times: dict[str, list[float]] = {name: [] for name in sides}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for turn in range(repeats):
        backwards = -1 if turn % 2 else 1
        for group in order[::backwards]:
            taken = {name: sides[name].per_step(views, count) for name in group[::backwards]}
            for name, value in taken.items():
                times[name].append(value)
                if name != FREE:
                    ratios[name].append(value / taken[FREE])
    return {
        "steps_per_turn": count,
        "seconds": {name: spread(values) for name, values in times.items()},
        "ratio_to_none": {name: spread(values) for name, values in ratios.items()},
    }


def loops(sides: dict[str, Training], size: int, repeats: int, count: int) -> list[dict[str, Any]]:
    """Images per second of whole loops, views included, in turns of `count` steps, and the share of each part.

    Shares are from separate steps, since marks wait for the device; one record per side.
    """
    views = {name: random_views(side, size) for name, side in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for name, side in sides.items():
        side.advance(views[name], 1)
    for _ in range(repeats):
        for name, side in sides.items():
            rates[name].append(side.config.batch / side.per_step(views[name], count))
    return [
        {
            "constraint": name,
            "steps_per_turn": count,
            "images_per_second": spread(rates[name]),
            "shares": shares(side, views[name]),
            "profiled_steps": PROFILED,
        }
        for name, side in sides.items()
    ]


def random_views(side: Training, size: int) -> Views:
    """The views of the simclr preset, of images of noise."""
    images = torch.randint(
        256, (4 * side.config.batch, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    pair = augmentations("simclr", side.config.data, size)
    return Views(images.to(side.device), pair, side.config.batch, side.config.seed, Process(0, 1, side.device))


def shares(side: Training, views: PairOfViews) -> dict[str, float]:
    """Share of the time of each part of a step."""
    parts = Parts(side.device)
    handle = side.arm.optimizers[0].register_step_pre_hook(parts.before_optimizer)
    try:
        side.advance(views, PROFILED, parts)
    finally:
        handle.remove()
    whole = sum(parts.seconds.values())
    return {part: parts.seconds[part] / whole for part in PARTS}


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One table: the steps, then the loops."""
    lines = ["| training an encoder | device | measured |", "|---|---|---|"]
    for result in results:
        for row in result["records"]:
            what = f"{row['encoder']}, {row['objective']}, {row['batch']} images of {row['size']} × {row['size']}"
            head = f"head {row['hidden']} → {row['dim']}"
            if row["kind"] == "loop":
                low, middle, high = (figures(row["images_per_second"][key]) for key in ("low", "median", "high"))
                shares = ", ".join(f"{part} {share:.2%}" for part, share in row["shares"].items())
                with_views = f"{what}: the loop with its views, {constraint(row['constraint'])}"
                lines.append(f"| {with_views} | {result['device']} | {middle} images/s [{low}, {high}]: {shares} |")
                continue
            free = figures(row["seconds"][FREE]["median"])
            lines.append(f"| {what}, {head}: a step without constraint | {result['device']} | {free} s |")
            for name, ratio in row["ratio_to_none"].items():
                low, middle, high = (f"{ratio[key]:.3f}" for key in ("low", "median", "high"))
                lines.append(f"| the same, {constraint(name)} | {result['device']} | {middle}× [{low}, {high}] |")
    return lines


def constraint(name: str) -> str:
    """Label of a side in the table."""
    if name == FREE:
        return "without constraint"
    return "last layer by Muon" if name == "muon" else name

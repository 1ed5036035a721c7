"""What `pretrain` adds to a loop that a reader would write with the same parts: a step of each in turn."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import figures, summary
from grassmann_ssl import pretrain
from grassmann_ssl.nn.constrain import constrain
from grassmann_ssl.nn.encoders import encoder as encoder_of
from grassmann_ssl.objectives.nt_xent import nt_xent
from grassmann_ssl.optim import RiemannianSGD

NAME = "overhead"
PAGE = "docs/your_own.md"
LR = 0.1
Views = tuple[Tensor, ...]


class Interleaved:
    """The same two views again and again, each time after a step of the bare loop; `times`: when a batch was asked for, and when given."""

    def __init__(self, shape: tuple[int, ...], steps: int, step: Callable[[Views], None], device: torch.device) -> None:
        self.pair = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
        self.steps, self.step, self.device = steps, step, device
        self.times = list[tuple[float, float]]()

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, number: int) -> None:
        """Told before every pass: 0 is the training, others look at the data."""
        self.training = number == 0

    def __iter__(self) -> Iterator[Views]:
        for _ in range(self.steps):
            if self.training:
                asked = self._now()
                self.step(self.pair)
                self.times.append((asked, self._now()))
            yield self.pair

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def linear() -> nn.Module:
    """The smallest encoder that is trained."""
    return nn.Linear(64, 64)


def resnet18() -> nn.Module:
    """A ResNet-18 with the stem of small images."""
    return encoder_of("resnet18", in_channels=3, image_size=16, stem="cifar")


STEPS = {"linear": 500, "resnet18": 4}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (linear, (64, 64), 64),
    "resnet18": (resnet18, (64, 3, 16, 16), 512),
}


def bare_loop(encoder: nn.Module, head: nn.Module, device: torch.device) -> Callable[[Views], None]:
    """The step of a loop with the same encoder, head, loss, constraint and optimizer, and nothing else."""
    model = nn.Sequential(encoder, head).to(device).train()
    constrain(head)
    optimizer = RiemannianSGD(model.parameters(), lr=LR, momentum=0.9)

    def step(views: Views) -> None:
        first, second = views
        loss = nt_xent(z=model(first.to(device)), z_positive=model(second.to(device)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def run(device: torch.device, repeats: int, *, steps: dict[str, int] = STEPS) -> list[dict[str, Any]]:
    """One record per model, from medians of turns of so many steps, in one training; the first turn is not timed.

    Raises RuntimeError where both ways do not end with the same bits.
    """
    records = []
    for name, count in steps.items():
        make, shape, width = MODELS[name]
        (encoder, head), (other, other_head) = (
            (torch.manual_seed(0), make(), nn.Linear(width, 8, bias=False))[1:] for _ in range(2)
        )
        data = Interleaved(shape, (1 + repeats) * count + 1, bare_loop(other, other_head, device), device)
        pretrain(
            encoder, data, "nt_xent", projector=head, constraint="grassmann", epochs=1, progress=False, records=2,
            schedule="constant", optimizer=lambda p: RiemannianSGD(p, lr=LR, momentum=0.9), device=str(device),
        )  # fmt: skip
        if not torch.equal(head.weight, other_head.weight):
            raise RuntimeError(f"{NAME}: {name}: both ways end in different weights; nothing is reported")
        asked, given = torch.tensor(data.times, dtype=torch.float64).T
        spent = torch.stack([(given - asked)[:-1], asked[1:] - given[:-1]])
        bare, ours = spent.view(2, 1 + repeats, count)[:, 1:].median(2).values
        found = {key: summary(one.tolist()) for key, one in (("added", ours - bare), ("share", ours / bare - 1))}
        seconds = {"bare": summary(bare.tolist()), "pretrain": summary(ours.tolist())}
        records.append({"kind": name, "shape": list(shape), "steps": count, "seconds": seconds, **found})
    return records


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per model and device."""
    lines = ["| encoder, batch | device | bare loop | `pretrain` adds | share |", "|---|---|---|---|---|"]
    for result in results:
        for row in result["records"]:
            shape = " x ".join(map(str, row["shape"]))
            bare, added = (1e6 * one["median"] for one in (row["seconds"]["bare"], row["added"]))
            lines.append(
                f"| {row['kind']}, {shape} | {result['device']} | {figures(bare)} us | {figures(added)} us | "
                f"{row['share']['median']:.1%} ({row['share']['low']:.1%} to {row['share']['high']:.1%}) |"
            )
    return lines

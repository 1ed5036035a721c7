"""What `pretrain` adds to a loop that a reader would write with the same parts: from one batch to the next, in the same turn."""

import itertools
import statistics
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
WARM = 0.25  # first share of the steps, which is not timed


class Timed:
    """The same two views again and again, and the time at which every batch was asked for."""

    def __init__(self, shape: tuple[int, ...], steps: int) -> None:
        self.pair = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
        self.steps, self.passes = steps, list[list[float]]()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        asked: list[float] = []
        self.passes.append(asked)
        for _ in range(self.steps):
            asked.append(time.perf_counter())
            yield self.pair

    def per_step(self) -> float:
        """Median time from one batch to the next of the longest pass, that of the training."""
        asked = max(self.passes, key=lambda times: times[-1] - times[0])
        return statistics.median(b - a for a, b in list(itertools.pairwise(asked))[int(WARM * self.steps) :])


def linear() -> nn.Module:
    """The smallest encoder that is trained."""
    return nn.Linear(64, 64)


def resnet18() -> nn.Module:
    """A ResNet-18 with the stem of small images."""
    return encoder_of("resnet18", in_channels=3, image_size=32, stem="cifar")


STEPS = {"linear": 2000, "resnet18": 6}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (linear, (64, 64), 64),
    "resnet18": (resnet18, (64, 3, 32, 32), 512),
}


def bare(encoder: nn.Module, head: nn.Module, data: Timed, device: torch.device) -> None:
    """The loop with the same encoder, head, loss, constraint and optimizer, and nothing else."""
    model = nn.Sequential(encoder, head).to(device).train()
    constrain(head)
    optimizer = RiemannianSGD(model.parameters(), lr=LR, momentum=0.9)
    for first, second in data:
        loss = nt_xent(z=model(first.to(device)), z_positive=model(second.to(device)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def run(device: torch.device, repeats: int, *, steps: dict[str, int] = STEPS) -> list[dict[str, Any]]:
    """One record per model: seconds per step of both ways, one turn after the other, and what `pretrain` adds in each turn.

    Raises RuntimeError where both ways do not end with the same bits.
    """
    records = []
    for name, count in steps.items():
        make, shape, width = MODELS[name]
        times: dict[str, list[float]] = {"bare": [], "pretrain": []}
        for _ in range(repeats):
            ends = {}
            for way in times:
                torch.manual_seed(0)
                encoder, head, data = make(), nn.Linear(width, 8, bias=False), Timed(shape, count)
                if way == "bare":
                    bare(encoder, head, data, device)
                else:
                    pretrain(
                        encoder, data, "nt_xent", projector=head, constraint="grassmann", epochs=1, progress=False,
                        schedule="constant", optimizer=lambda p: RiemannianSGD(p, lr=LR, momentum=0.9), device=str(device),
                    )  # fmt: skip
                times[way].append(data.per_step())
                ends[way] = head.weight.detach()
            if not torch.equal(ends["bare"], ends["pretrain"]):
                raise RuntimeError(f"{NAME}: {name}: both ways end in different weights; nothing is reported")
        added = [ours - bare for bare, ours in zip(*times.values(), strict=True)]
        shares = [ours / bare - 1 for bare, ours in zip(*times.values(), strict=True)]
        found = {way: summary(values) for way, values in times.items()}
        records.append(
            {
                "kind": name,
                "shape": list(shape),
                "steps": count,
                "seconds": found,
                "added": summary(added),
                "share": summary(shares),
            }
        )
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

"""What the collapse monitor costs beside a training step of a ResNet-18: keeping the rows of every step, and a judgement now and then."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import figures, paired
from grassmann_ssl.audit import CollapseMonitor, audit_embeddings
from grassmann_ssl.nn.resnet import ResNet
from grassmann_ssl.objectives import objective

NAME = "monitor"
PAGE = "docs/encoders.md"
ROWS = 1024
LENGTHS = (1_000, 10_000)  # steps of a training run
PARTS = ("keep", "judge")


def run(
    device: torch.device, repeats: int, *, batch: int | None = None, size: int = 32, target: float = 0.2
) -> list[dict[str, Any]]:
    """Check the monitor against the audit of the same rows, then time its parts in turn with the step.

    `ratio_to_ours` of a part is its share of the step of the same turn. Raises RuntimeError where monitor and audit differ.
    """
    batch = batch or (512 if device.type == "cuda" else 64)
    step, z = training(batch, size, device)
    monitor = CollapseMonitor(rows=ROWS, every=10**9, on_collapse=lambda found: None)
    batches = [z.roll(k, 1) for k in range(-(-ROWS // len(z)))]
    for rows in batches:
        monitor.update(rows)
    found, expected = monitor.judge(), audit_embeddings(torch.cat(batches)[-ROWS:])
    if found.kinds != expected.kinds or found.dimensions_used != expected["dimensions_used"].value:
        raise RuntimeError(f"{NAME}: the monitor says {found}, the audit {expected!r}; nothing was timed")
    timed = paired(step, {"keep": lambda: monitor.update(z), "judge": monitor.judge}, device, repeats, target)
    share = {part: timed["ratio_to_ours"][part]["median"] for part in PARTS}
    judged = {str(steps): judgements(steps) for steps in LENGTHS}
    overhead = {steps: share["keep"] + share["judge"] * count / int(steps) for steps, count in judged.items()}
    setting = {"batch": batch, "size": size, "rows": ROWS, "dim": z.shape[1]}
    return [{**setting, **timed, "judgements": judged, "overhead": overhead}]


def training(batch: int, size: int, device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """A step of NT-Xent by SGD on two views of noise, and the embeddings of both views."""
    torch.manual_seed(0)
    model = ResNet("resnet18", stem="cifar").to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    loss = objective("nt_xent").loss
    images = torch.randn(2 * batch, 3, size, size).to(device)

    def step() -> None:
        optimizer.zero_grad()
        z, positive = model(images).chunk(2)
        loss(z=z, z_positive=positive).backward()
        optimizer.step()

    return step, model(images).detach()


def judgements(steps: int) -> int:
    """How many judgements the monitor makes in so many steps."""
    monitor = CollapseMonitor(rows=2, on_collapse=lambda found: None)
    for _ in range(steps):
        monitor.update(torch.eye(2))
    return len(monitor.judgements)


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and part, and per length of a run."""
    lines = ["| the collapse monitor beside a step of ResNet-18 | device | measured |", "|---|---|---|"]
    for result in results:
        for row in result["records"]:
            seconds = {part: figures(row["seconds"][part]["median"]) for part in ("ours", *PARTS)}
            what = f"nt_xent, two views of {row['batch']} images of {row['size']} × {row['size']}"
            of = f"{row['rows']:,} × {row['dim']}"
            device = result["device"]
            lines += [
                f"| the step: {what} | {device} | {seconds['ours']} s |",
                f"| to keep its embeddings | {device} | {seconds['keep']} s |",
                f"| to judge the last {of} | {device} | {seconds['judge']} s |",
            ]
            for steps, share in row["overhead"].items():
                count = row["judgements"][steps]
                lines.append(f"| all of it over {int(steps):,} steps, {count} judgements | {device} | {share:.2%} |")
    return lines

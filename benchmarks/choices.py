"""Retractions and optimizers compared: the time of one step and the progress made, on the same problem."""

import functools
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from benchmarks.harness import paired, summary
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.optim import Landing, RiemannianAdam, RiemannianMuon, RiemannianSGD

NAME = "choices"
PAGE = "docs/choosing.md"
SHAPE = (1024, 64)
SGD = functools.partial(RiemannianSGD, momentum=0.9)
MUON = functools.partial(RiemannianMuon, momentum=0.9)
CASES: dict[str, tuple[Callable[[], geoopt.Manifold], Callable[..., Any]]] = {
    "RiemannianSGD, momentum, cholesky-qr": (Grassmann, SGD),
    "RiemannianSGD, momentum, polar": (functools.partial(Grassmann, "polar"), SGD),
    "RiemannianSGD, momentum, exponential": (functools.partial(Grassmann, "exponential"), SGD),
    "RiemannianSGD, no momentum": (Grassmann, RiemannianSGD),
    "RiemannianSGD, momentum, Stiefel": (Stiefel, SGD),
    "RiemannianAdam, per matrix": (Grassmann, RiemannianAdam),
    "RiemannianAdam, per row": (Grassmann, functools.partial(RiemannianAdam, second_moment="row")),
    "RiemannianMuon": (Grassmann, MUON),
    "RiemannianMuon, Stiefel": (Stiefel, MUON),
    "Landing": (Grassmann, Landing),
}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
REFERENCE = "RiemannianSGD, momentum, cholesky-qr"


def run(
    device: torch.device, repeats: int, shape: tuple[int, int] = SHAPE, target: float = 0.2, steps: int = 50
) -> list[dict[str, Any]]:
    """Time every case against the first in turn, and descend with each at its best learning rate of `RATES`."""
    stepping = {name: step(name, shape, 1e-4, device)[0] for name in CASES}
    reference = stepping.pop(REFERENCE)
    timed = paired(reference, stepping, device, repeats, target)
    times = {REFERENCE: timed["seconds"]["ours"], **timed["seconds"]}
    ratios = {REFERENCE: summary([1.0]), **timed["ratio_to_ours"]}
    records = []
    for name in CASES:
        gap, rate = min((descend(name, shape, rate, steps, device), rate) for rate in RATES)
        records.append(
            {"case": name, "shape": list(shape), "seconds": times[name],
             "ratio": ratios[name], "steps": steps,
             "gap": gap, "learning_rate": rate}
        )  # fmt: skip
    return records


def costs(shape: tuple[int, int]) -> Tensor:
    """c (n, 1) from 0 to 1 with a gap after the first p: curvatures 2 (c_j - c_i) at the minimum, from 0.4 to 2."""
    n, p = shape
    return torch.cat([torch.linspace(0, 0.3, p), torch.linspace(0.5, 1, n - p)])[:, None]


def step(name: str, shape: tuple[int, int], rate: float, device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A closure that takes one step on tr(X^T diag(c) X), c of `costs`; and the point."""
    manifold, optimizer = CASES[name]
    point = geoopt.ManifoldParameter(
        manifold().random(*shape, generator=torch.Generator().manual_seed(0)).to(device), manifold=manifold()
    )
    made = optimizer([point], lr=rate)
    cost = costs(shape).to(device)
    point.grad = torch.zeros(shape, device=device)

    def advance() -> None:
        torch.mul(2 * cost, point.detach(), out=point.grad)
        made.step()

    return advance, point


def descend(name: str, shape: tuple[int, int], rate: float, steps: int, device: torch.device) -> float:
    """Excess of the cost over its minimum after the steps, relative to that at the start; inf where it is not finite."""
    advance, point = step(name, shape, rate, device)
    cost = costs(shape).double().to(device)

    def gap() -> float:
        x = torch.linalg.qr(point.detach().as_subclass(Tensor).double())[0]
        return float((cost * x * x).sum() - cost[: shape[1]].sum())

    before = gap()
    for _ in range(steps):
        advance()
    after = gap() / before
    return after if after == after else float("inf")


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and case."""
    lines = [
        "| optimizer, retraction | device | time of a step | best learning rate | cost left |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            lines.append(
                f"| {row['case']} | {result['device']} | {row['ratio']['median']:.2f}× | {row['learning_rate']:g} | {row['gap']:.1e} |"
            )
    return lines

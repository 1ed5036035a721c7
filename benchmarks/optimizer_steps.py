"""One step of our first-order optimizers on Gr(n, p), small to large, against geoopt's on its Euclidean Stiefel manifold."""

from collections.abc import Callable, Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor

from benchmarks.harness import paired
from grassmann_ssl.manifolds import Grassmann, principal_angles
from grassmann_ssl.optim import RiemannianAdam, RiemannianSGD

NAME = "optimizer_steps"
PAGE = "docs/choosing.md"
SHAPES: tuple[tuple[int, ...], ...] = ((64, 8), (4096, 16, 4), (512, 32), (784, 128), (2048, 128))
LISTS = (((64, 8), 6), ((64, 8), 100))
"""shapes of which a model has several"""
DTYPES = (torch.float32, torch.float64)
PEER = "geoopt"
RATE = 0.01
Optimizer = Callable[[Sequence[Tensor]], torch.optim.Optimizer]
OURS: dict[str, tuple[str, Optimizer]] = {
    "momentum": ("cholesky-qr", lambda points: RiemannianSGD(points, RATE, momentum=0.9)),
    "momentum, polar": ("polar", lambda points: RiemannianSGD(points, RATE, momentum=0.9)),
    "no momentum": ("cholesky-qr", lambda points: RiemannianSGD(points, RATE)),
    "Adam": ("cholesky-qr", lambda points: RiemannianAdam(points, RATE)),
    "Adam, per row": ("cholesky-qr", lambda points: RiemannianAdam(points, RATE, second_moment="row")),
}
THEIRS: dict[str, Optimizer] = {
    "momentum": lambda points: geoopt.optim.RiemannianSGD(points, RATE, momentum=0.9),
    "no momentum": lambda points: geoopt.optim.RiemannianSGD(points, RATE),
    "Adam": lambda points: geoopt.optim.RiemannianAdam(points, RATE),
}
AGREEMENT_STEPS, TOLERANCE = 10, 1e-4
"""After these steps subspaces in float32 may differ from those in float64 by rounding: a few eps a step, amplified by the momentum."""


def run(
    device: torch.device,
    repeats: int,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    lists: tuple[tuple[tuple[int, ...], int], ...] = LISTS,
    target: float = 0.1,
) -> list[dict[str, Any]]:
    """Check agreement, then time; a record for every shape, dtype and optimizer. Raises RuntimeError where results disagree."""
    # Gradients that never change end normal to the points, and averages of them decay to numbers that a CPU multiplies 50 times slower.
    torch.set_flush_denormal(True)
    try:
        return _records(device, repeats, shapes, lists, target)
    finally:
        torch.set_flush_denormal(False)


def _records(
    device: torch.device,
    repeats: int,
    shapes: tuple[tuple[int, ...], ...],
    lists: tuple[tuple[tuple[int, ...], int], ...],
    target: float,
) -> list[dict[str, Any]]:
    records = []
    for shape, count in [*((shape, 1) for shape in shapes), *lists]:
        for name in OURS:
            error = disagreement(name, shape, device)
            if not error <= TOLERANCE:
                raise RuntimeError(f"{NAME} {name} {shape}: float32 is {error:.2g} rad off float64; nothing was timed")
            for dtype in DTYPES:
                peer = theirs(name.split(",")[0], shape, count, dtype, device)
                timed = paired(ours(name, shape, count, dtype, device)[1], {PEER: peer}, device, repeats, target)
                records.append(
                    {
                        "shape": list(shape),
                        "parameters": count,
                        "dtype": str(dtype).removeprefix("torch."),
                        "optimizer": name,
                        "agreement_rad": error,
                        **timed,
                    }
                )
    return records


def ours(
    name: str, shape: tuple[int, ...], count: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Callable[[], object]]:
    """Our points, and a call that takes one step."""
    retraction, make = OURS[name]
    points = _points(Grassmann(retraction), shape, count, dtype, device)
    return points, make(points).step


def theirs(
    name: str, shape: tuple[int, ...], count: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """The same of geoopt, whose retraction is a QR decomposition."""
    return THEIRS[name](_points(geoopt.EuclideanStiefel(), shape, count, dtype, device)).step


def _points(
    manifold: geoopt.Manifold, shape: tuple[int, ...], count: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Points with gradients, the same for every dtype: that of the cost tr(X^T diag(c) X) where they start, kept."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.linspace(0, 1, shape[-2], dtype=torch.float64)[:, None]
    points = []
    for _ in range(count):
        start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0].contiguous()
        point = geoopt.ManifoldParameter(start.to(device, dtype), manifold=manifold)
        point.grad = (2 * cost * start).to(device, dtype)
        points.append(point)
    return points


def disagreement(name: str, shape: tuple[int, ...], device: torch.device) -> float:
    """Largest principal angle between our subspaces in float32 and in float64, after a few steps."""
    ends = []
    for dtype in DTYPES:
        (point,), step = ours(name, shape, 1, dtype, device)
        for _ in range(AGREEMENT_STEPS):
            step()
        ends.append(torch.linalg.qr(point.detach().as_subclass(Tensor).double())[0])
    return float(principal_angles(*ends).max())


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device, shape and dtype; a column per optimizer."""
    lines = [f"| n × p | dtype | device | {' | '.join(OURS)} |", "|---" * (3 + len(OURS)) + "|"]
    for result in results:
        ratios: dict[tuple[str, str], dict[str, str]] = {}
        for row in result["records"]:
            *batch, n, p = row["shape"]
            shape = f"{row['parameters']} × " * (row["parameters"] > 1) + "".join(f"{b} × " for b in batch)
            shape = f"{shape}({n} × {p})" if shape else f"{n} × {p}"
            low, middle, high = (row["ratio_to_ours"][PEER][key] for key in ("low", "median", "high"))
            ratios.setdefault((shape, row["dtype"]), {})[row["optimizer"]] = f"{middle:.3g}× [{low:.3g}, {high:.3g}]"
        lines += [
            f"| {shape} | {dtype} | {result['device']} | {' | '.join(cells[name] for name in OURS)} |"
            for (shape, dtype), cells in ratios.items()
        ]
    return lines

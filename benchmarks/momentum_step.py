"""One momentum step on Gr(n, p): our RiemannianSGD against geoopt's on its Stiefel manifolds, and against its own matrix products."""

from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from benchmarks.harness import paired, seconds
from grassmann_ssl.manifolds import Grassmann, principal_angles
from grassmann_ssl.optim import RiemannianSGD

NAME = "momentum_step"
PAGE = "README.md"
SHAPES: tuple[tuple[int, ...], ...] = ((512, 32), (2048, 128), (64, 256, 16))
CUDA_SHAPES = (*SHAPES, (1024, 256, 16), (8192, 256))
LEARNING_RATE, MOMENTUM = 0.01, 0.9
PEERS = {"geoopt EuclideanStiefel": geoopt.EuclideanStiefel, "geoopt Stiefel (default)": geoopt.Stiefel}
PRODUCTS = "own matrix products"
CAPTURED = "ours, captured as a CUDA graph"
# After AGREEMENT_STEPS float32 steps subspaces may differ from float64 by rounding: a few eps a step, amplified by the momentum.
AGREEMENT_STEPS, TOLERANCE = 10, 1e-4


def run(
    device: torch.device, repeats: int, shapes: tuple[tuple[int, ...], ...] | None = None, target: float = 0.2
) -> list[dict[str, Any]]:
    """Check agreement, then time, every shape; one record each. Raises RuntimeError where results disagree."""
    records = []
    for shape in shapes or (CUDA_SHAPES if device.type == "cuda" else SHAPES):
        error = disagreement(shape, device)
        if not error <= TOLERANCE:
            raise RuntimeError(f"{NAME} {shape}: subspaces differ from float64 by {error:.2g} rad; nothing was timed")
        sides: dict[str, Callable[[], object]] = {
            name: geoopt_step(manifold(), shape, device) for name, manifold in PEERS.items()
        }
        sides[PRODUCTS] = own_products(shape, device)
        step = our_step(shape, device)
        if device.type == "cuda":
            sides[CAPTURED] = captured(our_step(shape, device))
        record = {"shape": list(shape), "agreement_rad": error, **paired(step, sides, device, repeats, target)}
        if device.type == "cuda":
            record["bound_seconds"] = bound(shape, device)
        records.append(record)
    return records


def problem(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """A start on the manifold and the gradient scale of the cost tr(X^T diag(c) X), the same for every dtype."""
    generator = torch.Generator().manual_seed(0)
    start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]
    return start.to(device, dtype), torch.linspace(0, 1, shape[-2], dtype=torch.float64)[:, None].to(device, dtype)


def our_step(shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """A closure that takes one step of our optimizer, the gradient of the cost written by hand: 2 c X."""
    start, cost = problem(shape, torch.float32, device)
    point = geoopt.ManifoldParameter(start.contiguous(), manifold=Grassmann())
    return _stepping(point, cost, RiemannianSGD([point], lr=LEARNING_RATE, momentum=MOMENTUM))


def geoopt_step(manifold: geoopt.Manifold, shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """The same with geoopt's optimizer."""
    start, cost = problem(shape, torch.float32, device)
    point = geoopt.ManifoldParameter(start.contiguous(), manifold=manifold)
    return _stepping(point, cost, geoopt.optim.RiemannianSGD([point], lr=LEARNING_RATE, momentum=MOMENTUM))


def _stepping(point: Tensor, cost: Tensor, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    point.grad = torch.zeros_like(point.detach())

    def step() -> Tensor:
        torch.mul(2 * cost, point.detach(), out=point.grad)
        optimizer.step()
        return point

    return step


def captured(step: Callable[[], Tensor]) -> Callable[[], None]:
    """Replay of a step recorded once as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def own_products(shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """The five n x p x p products of a momentum step alone.

    A = X^T V, X A, the Gram matrix Z^T Z, and two products with p x p matrices (the new point, and the momentum in its basis).
    """
    x, _ = problem(shape, torch.float32, device)
    small = x.mT @ x

    def step() -> Tensor:
        a = x.mT @ x
        x @ a
        x.mT @ x
        x @ small
        return x @ small

    return step


def bound(shape: tuple[int, ...], device: torch.device, entries: int = 2**28, order: int = 8192) -> float:
    """The least time of a step on a device: the larger of its memory traffic, 20 n p bytes, and its 10 n p^2 operations.

    At the rates of a copy of that many entries and a float32 product of that order, measured here.
    """
    *batch, n, p = shape
    count = torch.Size(batch).numel()
    large = torch.empty(entries, dtype=torch.float32, device=device)
    other = torch.empty_like(large)
    square = torch.randn(order, order, device=device)
    other.copy_(large)
    square @ square
    bandwidth = 8 * large.numel() / seconds(lambda: other.copy_(large), 10, device)
    rate = 2 * order**3 / seconds(lambda: square @ square, 10, device)
    return max(20 * count * n * p / bandwidth, 10 * count * n * p * p / rate)


def disagreement(shape: tuple[int, ...], device: torch.device) -> float:
    """Largest principal angle, after a few steps, between our float32 step and Riemannian momentum written out in float64."""
    x, cost = problem(shape, torch.float64, device)
    momentum = torch.zeros_like(x)
    for _ in range(AGREEMENT_STEPS):
        gradient = 2 * cost * x
        momentum = MOMENTUM * momentum + gradient - x @ (x.mT @ gradient)
        left, _, right = torch.linalg.svd(x - LEARNING_RATE * momentum, full_matrices=False)
        x = left @ right
        momentum = momentum - x @ (x.mT @ momentum)
    step = our_step(shape, device)
    for _ in range(AGREEMENT_STEPS):
        point = step()
    # A plain tensor: the parameter's class would drag its manifold along.
    ours = point.detach().as_subclass(Tensor).double()
    return float(principal_angles(torch.linalg.qr(ours)[0], x).max())


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and shape."""
    lines = [
        "| n × p | device | faster than geoopt EuclideanStiefel | faster than geoopt Stiefel | time over its own products |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            *batch, n, p = row["shape"]
            shape = f"{batch[0]} matrices of {n} × {p}" if batch else f"{n} × {p}"
            cells = []
            for peer in (*PEERS, PRODUCTS):
                low, middle, high = (row["ratio_to_ours"][peer][key] for key in ("low", "median", "high"))
                if peer == PRODUCTS:  # ours over products, where the record holds products over ours
                    low, middle, high = 1 / high, 1 / middle, 1 / low
                cells.append(f"{middle:.3g}× [{low:.3g}, {high:.3g}]")
            lines.append(f"| {shape} | {result['device']} | " + " | ".join(cells) + " |")
    return lines

"""The eigenspace of the p smallest eigenvalues of symmetric matrices, to a gradient norm of 1e-6: our solvers against pymanopt's.

In float64, with derivatives written by hand on both sides; pymanopt's run on its own Grassmann manifold, in numpy. A batch is of
independent problems: one product manifold for pymanopt and for `solve`, and for our line searches every matrix for itself.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geoopt
import numpy as np
import pymanopt
import torch
from torch import Tensor

from benchmarks.harness import figures, paired
from grassmann_ssl.manifolds import Grassmann, principal_angles
from grassmann_ssl.manifolds.pymanopt import solve
from grassmann_ssl.optim import RiemannianCG, RiemannianLBFGS

NAME = "solvers"
PAGE = "docs/choosing.md"
SHAPES: tuple[tuple[int, ...], ...] = ((64, 8), (512, 32), (2048, 128), (100, 64, 8), (4096, 16, 4))
GAP = 0.1
"""between the eigenvalues that are sought and the others, which fill an interval of length 1"""
GRADIENT_NORM = 1e-6
MOST = 5000
TARGET = 0.05
"""seconds that a product is timed for in a turn"""
OURS = ("RiemannianLBFGS", "RiemannianCG", "solve, trust-regions", "solve, conjugate-gradient")
PEERS = ("pymanopt TrustRegions", "pymanopt ConjugateGradient")


@dataclass(frozen=True)
class Cost:
    """tr(X^T A X), summed over a batch, with its derivatives."""

    a: Tensor

    def each(self, x: Tensor) -> Tensor:
        """Of every matrix by itself."""
        return (x * (self.a @ x)).sum((-2, -1))

    def __call__(self, x: Tensor) -> Tensor:
        return self.each(x).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """2 A X."""
        return (self.a @ x).mul_(2)

    def hessian(self, x: Tensor, u: Tensor) -> Tensor:
        """2 A U."""
        return (self.a @ u).mul_(2)


def run(device: torch.device, repeats: int, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[dict[str, Any]]:
    """Solve with each in turn, `repeats` times; a record for every shape. Raises RuntimeError where a solver misses an eigenspace."""
    return [_record(shape, device, repeats) for shape in shapes]


def _record(shape: tuple[int, ...], device: torch.device, repeats: int) -> dict[str, Any]:
    cost, start, best = problem(shape, device)
    calls: dict[str, Callable[[], tuple[Tensor, int]]] = {
        "RiemannianLBFGS": lambda: ours(RiemannianLBFGS, cost, start),
        "RiemannianCG": lambda: ours(RiemannianCG, cost, start),
        "solve, trust-regions": lambda: through_pymanopt(cost, start, "trust-regions"),
        "solve, conjugate-gradient": lambda: through_pymanopt(cost, start, "conjugate-gradient"),
        "pymanopt TrustRegions": lambda: theirs(pymanopt.optimizers.TrustRegions, cost, start),
        "pymanopt ConjugateGradient": lambda: theirs(pymanopt.optimizers.ConjugateGradient, cost, start),
    }
    if device.type != "cpu":  # pymanopt's own geometry is numpy
        calls = {name: call for name, call in calls.items() if name in OURS}
    times: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, dict[str, Any]] = {}
    for call in calls.values():
        call()  # what is imported and compiled at the first call is no time of a solver
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            point, evaluations = call()
            times[name].append(time.perf_counter() - begin)
            angle = float(principal_angles(torch.linalg.qr(point)[0], best).max())
            # A gradient of 1e-6 leaves an angle of about 1e-6 over the gap of the eigenvalues.
            if not angle <= 1e-3:
                raise RuntimeError(f"{NAME} {shape}: {name} ended {angle:.2g} rad off the eigenspace")
            found[name] = {"angle_rad": angle, "evaluations": evaluations}
    peers = [name for name in PEERS if name in calls]
    ratios = {}
    for name in (name for name in calls if name in OURS):
        if peers:
            turns = [min(times[peer][k] for peer in peers) / times[name][k] for k in range(repeats)]
            ratios[name] = statistics.median(turns)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    record = {"shape": list(shape), "seconds": seconds, "best_peer_over": ratios, "found": found}
    if peers:
        a, x = cost.a.numpy(), start.numpy()
        product = paired(lambda: cost.a @ start, {"numpy": lambda: np.matmul(a, x)}, device, repeats, TARGET)
        record["product"] = {name: time["median"] for name, time in product["seconds"].items()}
    return record


def problem(shape: tuple[int, ...], device: torch.device) -> tuple[Cost, Tensor, Tensor]:
    """The cost, a start, and the eigenspaces."""
    *batch, n, p = shape
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(*batch, n, n, dtype=torch.float64, generator=generator))[0]
    values = torch.linspace(0, 1, n, dtype=torch.float64)
    values[p:] += GAP
    a = (basis * values) @ basis.mT
    start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]
    return Cost(((a + a.mT) / 2).to(device)), start.contiguous().to(device), basis[..., :p].to(device)


def ours(kind: type, cost: Cost, start: Tensor) -> tuple[Tensor, int]:
    """A line-search optimizer, run until the gradients of all matrices together are small enough."""
    point = geoopt.ManifoldParameter(start.clone(), manifold=Grassmann())
    tolerance = GRADIENT_NORM / math.sqrt(math.prod(start.shape[:-2]))
    optimizer = kind([point], max_iter=MOST, tolerance_grad=tolerance)

    @torch.no_grad()
    def closure() -> Tensor:
        moved = cost.a @ point
        point.grad = 2 * moved
        return (point * moved).sum((-2, -1))

    optimizer.step(closure)
    return point.detach().as_subclass(Tensor), optimizer.evaluations


def through_pymanopt(cost: Cost, start: Tensor, method: str) -> tuple[Tensor, int]:
    """A pymanopt solver on our manifold."""
    solution = solve(cost, Grassmann(), start, method=method, max_iterations=MOST, min_gradient_norm=GRADIENT_NORM)
    return solution.point, solution.evaluations


def theirs(kind: type, cost: Cost, start: Tensor) -> tuple[Tensor, int]:
    """The same on pymanopt's own manifold."""
    *batch, n, p = start.shape
    manifold = pymanopt.manifolds.Grassmann(n, p, k=math.prod(batch))
    a = cost.a.numpy()
    calls = 0

    def value(x: np.ndarray) -> float:
        nonlocal calls
        calls += 1
        return float((x * (a @ x)).sum())

    def gradient(x: np.ndarray) -> np.ndarray:
        return 2 * (a @ x)

    def hessian(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        return 2 * (a @ u)

    written = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold, written(value), euclidean_gradient=written(gradient), euclidean_hessian=written(hessian)
    )
    solver = kind(verbosity=0, max_iterations=MOST, max_time=math.inf, min_gradient_norm=GRADIENT_NORM)
    return torch.as_tensor(solver.run(problem, initial_point=start.numpy()).point), calls


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and shape: the fastest of ours and of pymanopt's, the ratio of every solver of ours, and that of a product."""
    lines = [
        f"| n × p | device | fastest of ours | fastest of pymanopt's | {' | '.join(OURS)} | a product AX, torch's over numpy's |",
        "|---" * (5 + len(OURS)) + "|",
    ]
    for result in results:
        for row in result["records"]:
            *batch, n, p = row["shape"]
            shape = "".join(f"{b} × " for b in batch) + (f"({n} × {p})" if batch else f"{n} × {p}")
            fastest = [
                f"{figures(row['seconds'][name] * 1e3)} ms, {name}" if name else "–"
                for name in (
                    min((name for name in names if name in row["seconds"]), key=row["seconds"].get, default=None)
                    for names in (OURS, PEERS)
                )
            ]
            ratios = [f"{row['best_peer_over'][name]:.3g}×" if name in row["best_peer_over"] else "–" for name in OURS]
            product = row.get("product")
            apart = f"{product['ours'] / product['numpy']:.3g}×" if product else "–"
            lines.append(f"| {shape} | {result['device']} | {' | '.join([*fastest, *ratios, apart])} |")
    return lines

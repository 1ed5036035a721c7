"""The eigenspace of the p smallest eigenvalues of a symmetric matrix, to a gradient norm of 1e-6: our solvers against pymanopt's.

In float64; pymanopt's run on its own Grassmann manifold with its own torch backend.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import geoopt
import pymanopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds import Grassmann, principal_angles
from grassmann_ssl.manifolds.pymanopt import solve
from grassmann_ssl.optim import RiemannianCG, RiemannianLBFGS

NAME = "solvers"
PAGE = "docs/choosing.md"
SHAPE = (1000, 32)
GRADIENT_NORM = 1e-6
OURS = ("RiemannianLBFGS", "RiemannianCG", "solve, trust-regions", "solve, conjugate-gradient")
PEERS = ("pymanopt TrustRegions", "pymanopt ConjugateGradient")


def run(device: torch.device, repeats: int, shape: tuple[int, int] = SHAPE) -> list[dict[str, Any]]:
    """Solve with each in turn, `repeats` times; one record. Raises RuntimeError where a solver misses the eigenspace."""
    n, p = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, n, dtype=torch.float64, generator=generator)
    a = ((a + a.mT) / 2 / n**0.5).to(device)
    start = torch.linalg.qr(torch.randn(n, p, dtype=torch.float64, generator=generator))[0].to(device)
    best = torch.linalg.eigh(a)[1][:, :p]

    def loss(x: Tensor) -> Tensor:
        return (x * (a @ x)).sum()

    calls: dict[str, Callable[[], tuple[Tensor, int]]] = {
        "RiemannianLBFGS": lambda: ours(RiemannianLBFGS, loss, start),
        "RiemannianCG": lambda: ours(RiemannianCG, loss, start),
        "solve, trust-regions": lambda: through_pymanopt(loss, start, "trust-regions"),
        "solve, conjugate-gradient": lambda: through_pymanopt(loss, start, "conjugate-gradient"),
        "pymanopt TrustRegions": lambda: theirs(pymanopt.optimizers.TrustRegions, loss, start),
        "pymanopt ConjugateGradient": lambda: theirs(pymanopt.optimizers.ConjugateGradient, loss, start),
    }
    if device.type != "cpu":  # pymanopt's own geometry is numpy
        calls = {name: call for name, call in calls.items() if name in OURS}
    times: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            point, evaluations = call()
            times[name].append(time.perf_counter() - begin)
            angle = float(principal_angles(torch.linalg.qr(point)[0], best).max())
            # A gradient of 1e-6 leaves an angle of about 1e-6 over the gap of the eigenvalues.
            if not angle <= 1e-3:
                raise RuntimeError(f"{NAME}: {name} ended {angle:.2g} rad off the eigenspace")
            found[name] = {"angle_rad": angle, "evaluations": evaluations}
    peers = [name for name in PEERS if name in calls]
    ratios = {}
    for name in (name for name in calls if name in OURS):
        if peers:
            turns = [min(times[peer][k] for peer in peers) / times[name][k] for k in range(repeats)]
            ratios[name] = statistics.median(turns)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return [{"shape": list(shape), "seconds": seconds, "best_peer_over": ratios, "found": found}]


def ours(kind: type, loss: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, int]:
    """A line-search optimizer, run to the gradient norm."""
    point = geoopt.ManifoldParameter(start.clone(), manifold=Grassmann())
    optimizer = kind([point], max_iter=5000, tolerance_grad=GRADIENT_NORM)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach().as_subclass(Tensor), optimizer.evaluations


def through_pymanopt(loss: Callable[[Tensor], Tensor], start: Tensor, method: str) -> tuple[Tensor, int]:
    """A pymanopt solver on our manifold."""
    solution = solve(loss, Grassmann(), start, method=method, max_iterations=5000, min_gradient_norm=GRADIENT_NORM)
    return solution.point, solution.evaluations


def theirs(kind: type, loss: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, int]:
    """The same on pymanopt's own manifold."""
    manifold = pymanopt.manifolds.Grassmann(*start.shape)
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return loss(x)

    problem = pymanopt.Problem(manifold, pymanopt.function.pytorch(manifold)(counted))
    solver = kind(verbosity=0, max_iterations=5000, min_gradient_norm=GRADIENT_NORM)
    return torch.as_tensor(solver.run(problem, initial_point=start.numpy()).point), calls


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and solver."""
    lines = [
        "| solver | n × p | device | time | evaluations of the loss | best of pymanopt's takes |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            n, p = row["shape"]
            for name, value in row["seconds"].items():
                ratio = f"{row['best_peer_over'][name]:.3g}×" if name in row["best_peer_over"] else "–"
                count = row["found"][name]["evaluations"]
                lines.append(f"| {name} | {n} × {p} | {result['device']} | {value:.3g} s | {count} | {ratio} |")
    return lines

"""Exponential, logarithm and distance on Gr(n, p): ours in float32, the peers in float64, which is what they offer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.harness import figures, paired
from grassmann_ssl.manifolds import Grassmann, principal_angles

NAME = "closed_forms"
PAGE = "docs/choosing.md"
SHAPES: tuple[tuple[int, ...], ...] = ((512, 16), (64, 512, 16))
OPERATIONS = ("exp", "log", "dist")
TOLERANCE = 1e-5  # float32: a few eps times the square root of n
PYMANOPT, SCIPY, GEOMSTATS = "pymanopt", "scipy subspace_angles", "geomstats"


def run(
    device: torch.device, repeats: int, shapes: tuple[tuple[int, ...], ...] = SHAPES, target: float = 0.2
) -> list[dict[str, Any]]:
    """Check agreement, then time, every operation on every shape. Raises RuntimeError where results disagree."""
    records = []
    for shape in shapes:
        x, u, y = problem(shape, device)
        for operation in OPERATIONS:
            ours = our_side(operation, x, u, y)
            sides = peers(operation, shape, x, u, y)
            error = disagreement(operation, ours(), sides[PYMANOPT]())
            if not error <= TOLERANCE:
                raise RuntimeError(f"{NAME} {operation} {shape}: off pymanopt by {error:.2g}; nothing was timed")
            timed = paired(ours, sides, device, repeats, target)
            records.append({"shape": list(shape), "operation": operation, "difference": error, **timed})
    return records


def problem(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """X, a tangent vector of spectral norm 1, and the end of its geodesic, in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]
    u = Grassmann().random_tangent(x, generator=generator)
    u = u / torch.linalg.matrix_norm(u, 2, keepdim=True)
    y = Grassmann().expmap(x, u)
    return x.to(device, torch.float32), u.to(device, torch.float32), y.to(device, torch.float32)


def our_side(operation: str, x: Tensor, u: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Our operation, as a closure."""
    manifold = Grassmann()
    if operation == "exp":
        return lambda: manifold.expmap(x, u)
    return (lambda: manifold.logmap(x, y)) if operation == "log" else (lambda: manifold.dist(x, y))


def peers(operation: str, shape: tuple[int, ...], x: Tensor, u: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """Calls of the peers that have the operation, on the same points."""
    *batch, n, p = shape
    a, v, b = (t.cpu().double().numpy() for t in (x, u, y))
    peer = pymanopt.manifolds.Grassmann(n, p, k=batch[0] if batch else 1)
    calls: dict[str, Callable[[], object]] = {
        PYMANOPT: {"exp": lambda: peer.exp(a, v), "log": lambda: peer.log(a, b), "dist": lambda: peer.dist(a, b)}[
            operation
        ]
    }
    if operation == "dist" and not batch:
        calls[SCIPY] = lambda: scipy.linalg.subspace_angles(a, b)
    if not batch and (theirs := _geomstats(operation, n, p, a, v, b)):
        calls[GEOMSTATS] = theirs
    return calls


def _geomstats(
    operation: str, n: int, p: int, a: np.ndarray, v: np.ndarray, b: np.ndarray
) -> Callable[..., Any] | None:
    """The same with geomstats' projectors, where it is installed (it needs numpy < 2.4)."""
    try:
        from geomstats.geometry.grassmannian import Grassmannian
    except ImportError:
        return None
    space = Grassmannian(n, p)
    point, end, tangent = a @ a.T, b @ b.T, v @ a.T + a @ v.T
    return {
        "exp": lambda: space.metric.exp(tangent, point),
        "log": lambda: space.metric.log(end, point),
        "dist": lambda: space.metric.dist(point, end),
    }[operation]


def disagreement(operation: str, ours: Tensor, theirs: object) -> float:
    """Largest angle between end points, entry of the difference of logarithms, or difference of distances."""
    result = torch.as_tensor(theirs, dtype=torch.float64)
    ours = ours.detach().cpu().double()
    if operation == "exp":
        return float(principal_angles(torch.linalg.qr(ours)[0], torch.linalg.qr(result)[0]).max())
    if operation == "dist":  # pymanopt's distance of a batch is that of the product
        return float((torch.linalg.vector_norm(ours) - result).abs())
    return float((ours - result).abs().max())


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device, shape and operation."""
    names = (PYMANOPT, SCIPY, GEOMSTATS)
    lines = ["| operation | n × p | device | ours | " + " | ".join(f"faster than {name}" for name in names) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(names))
    for result in results:
        for row in result["records"]:
            *batch, n, p = row["shape"]
            shape = f"{batch[0]} matrices of {n} × {p}" if batch else f"{n} × {p}"
            cells = [
                f"{figures(row['ratio_to_ours'][name]['median'])}×" if name in row["ratio_to_ours"] else "–"
                for name in names
            ]
            ours = f"{figures(1e6 * row['seconds']['ours']['median'])} µs"
            lines.append(f"| {row['operation']} | {shape} | {result['device']} | {ours} | " + " | ".join(cells) + " |")
    return lines

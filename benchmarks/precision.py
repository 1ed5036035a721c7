"""Rounding errors: orthonormality after many noisy float32 steps, and the end points of logarithms up to the cut locus."""

from typing import Any

import geoopt
import torch

from grassmann_ssl.manifolds import Grassmann, principal_angles
from grassmann_ssl.optim import RiemannianSGD

NAME = "precision"
PAGE = "docs/choosing.md"
STEPS = 20_000
DRIFT_SHAPES = ((256, 16), (256, 32), (512, 64))
RETRACTIONS = ("cholesky-qr", "polar", "exponential")
LARGEST_ANGLES = (1e-4, 1.0, 1.57, torch.pi / 2 - 1e-4, torch.pi / 2 - 1e-7, torch.pi / 2)


def run(device: torch.device, repeats: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """One record per measurement; `repeats` is not used, since nothing is timed."""
    drifts = [
        {
            "kind": "drift",
            "shape": list(shape),
            "retraction": retraction,
            "steps": steps,
            "error": drift(shape, retraction, steps, device),
        }
        for shape in DRIFT_SHAPES
        for retraction in RETRACTIONS
    ]
    return drifts + [
        {"kind": "logarithm", "angle": angle, "error": endpoint(angle, device)} for angle in LARGEST_ANGLES
    ]


def drift(shape: tuple[int, int], retraction: str, steps: int, device: torch.device) -> float:
    """Largest entry of X^T X - I after steps with momentum along Gaussian gradients, of lengths about 0.3, never re-orthonormalised."""
    generator = torch.Generator(device).manual_seed(0)
    manifold = Grassmann(retraction)
    point = geoopt.ManifoldParameter(manifold.random(*shape, generator=generator, device=device), manifold=manifold)
    # A step of lr times a Gaussian gradient, amplified by momentum 0.9 to (1 - 0.81)^{-1/2}.
    optimizer = RiemannianSGD([point], lr=0.3 * 0.19**0.5 / (shape[0] * shape[1]) ** 0.5, momentum=0.9)
    for _ in range(steps):
        point.grad = torch.randn(shape, generator=generator, device=device)
        optimizer.step()
    x = point.detach().as_subclass(torch.Tensor).double()
    return float((x.mT @ x - torch.eye(shape[1], dtype=x.dtype, device=device)).abs().max())


def endpoint(angle: float, device: torch.device) -> float:
    """Largest angle between Exp_X(Log_X(Y)) and Y in float32; principal angles spread from 0 to `angle`; the worst of 100 pairs."""
    generator = torch.Generator().manual_seed(0)
    p, n = 16, 128
    basis = torch.linalg.qr(torch.randn(100, n, n, dtype=torch.float64, generator=generator))[0]
    angles = torch.linspace(0, 1, p, dtype=torch.float64) * angle
    turn = torch.linalg.qr(torch.randn(100, p, p, dtype=torch.float64, generator=generator))[0]
    x = basis[..., :p]
    y = (x * angles.cos() + basis[..., p : 2 * p] * angles.sin()) @ turn
    a, b = x.float().to(device), y.float().to(device)
    end = Grassmann().expmap(a, Grassmann().logmap(a, b))
    return float(principal_angles(*(torch.linalg.qr(t.double())[0] for t in (end, b))).max())


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """Two tables in one: drift, then logarithms."""
    lines = ["| measured in float32 | device | error |", "|---|---|---|"]
    for result in results:
        for row in result["records"]:
            if row["kind"] == "drift":
                n, p = row["shape"]
                what = f"orthonormality after {row['steps']:,} noisy steps, {row['retraction']}, {n} × {p}"
            else:
                gap = torch.pi / 2 - row["angle"]
                largest = f"π/2 − {gap:.0e}" if 0 < gap < 1e-3 else "π/2" if gap == 0 else f"{row['angle']:g}"
                what = f"end point of the logarithm, largest angle {largest}"
            lines.append(f"| {what} | {result['device']} | {row['error']:.1e} |")
    return lines

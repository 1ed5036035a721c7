"""Does anything grow over a million steps? Memory, distance from the manifold, and the record, of tiny problems."""

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch

from benchmarks.harness import figures
from grassmann_ssl.experiments.linear.compare import LOGGED, CompareConfig
from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.optim import RiemannianSGD
from grassmann_ssl.run import run as run_experiment
from grassmann_ssl.training.schedules import evenly_spaced

NAME = "long_runs"
PAGE = "docs/runs.md"
SHAPE = (12, 3)
LOOKS = 100
"""how often memory and weights are looked at"""
GROWTH = 2**22
"""bytes that a process may grow from a tenth of the steps on: pages that the allocator has not given back"""
EPS = 64
"""most distance from the manifold, in units of the machine epsilon"""


@dataclass
class Look:
    """The memory of this process, looked at now and then."""

    steps: int
    bytes: list[int] = field(default_factory=list)
    done: int = 0

    def __call__(self, label: str = "", count: int = 1) -> bool:
        """Count a step, and whether it is one of those to look at."""
        self.done += count
        if self.done % max(1, self.steps // LOOKS):
            return False
        self.bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return True

    @property
    def growth(self) -> int:
        """Bytes that the largest of the last tenth is above the largest of the second tenth."""
        tenth = max(1, len(self.bytes) // 10)
        return max(self.bytes[-tenth:]) - max(self.bytes[tenth : 2 * tenth] or self.bytes[:1])


def run(device: torch.device, repeats: int, *, steps: int = 1_000_000) -> list[dict[str, Any]]:
    """A run of `compare` on the Grassmannian, and an optimizer on gradients that never end. Each once: `repeats` does nothing.

    Raises RuntimeError where memory or the distance from the manifold grows, or a logged step is missing.
    """
    found = [_run(device, steps), _optimizer(device, steps)]
    for row in found:
        for name, most in (("growth", GROWTH), ("first", EPS), ("last", EPS)):
            if row[name] > most:
                raise RuntimeError(f"{NAME}: {row['what']}: {name} is {row[name]}, at most {most} was expected")
    return found


def _run(device: torch.device, steps: int) -> dict[str, Any]:
    look = Look(steps)
    config = {
        "objectives": ("barlow_twins",), "arms": ("grassmann",), "data": "gaussian", "dim": SHAPE[1], "seeds": 1, "init_scales": ()
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        settings = CompareConfig.of(**config, steps=steps, device=str(device), out=Path(scratch) / "run")
        start = time.perf_counter()
        outcome = run_experiment(settings, lambda total: look, page=False)
        seconds = time.perf_counter() - start
    assert outcome is not None
    course = {
        name: outcome.arrays[f"course/barlow_twins/grassmann/{name}"] for name in ("time", "loss", "effective_rank")
    }
    logged = np.array(sorted(evenly_spaced(steps, max(1, steps // LOGGED))))
    rate = outcome.record["arms"]["barlow_twins"]["grassmann"]["learning_rate"]
    numbers = [*course.values(), *(outcome.metrics[name] for name in ("loss", "gradient_norm", "cross_eigenvalues"))]
    if not np.array_equal(course["time"], logged * rate) or not all(np.isfinite(values).all() for values in numbers):
        raise RuntimeError(f"{NAME}: the record of compare is not whole")
    errors = outcome.metrics["orthonormality_error"] / np.finfo(float).eps
    return _row("`compare`, Barlow Twins on the Grassmannian, float64", steps, seconds, look, errors) | {
        "logged": len(logged)
    }


def _optimizer(device: torch.device, steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    manifold = Grassmann()
    point = geoopt.ManifoldParameter(manifold.random(*SHAPE, dtype=torch.float32, device=device), manifold=manifold)
    optimizer, look, errors = RiemannianSGD([point], lr=0.01, momentum=0.9), Look(steps), []
    start = time.perf_counter()
    for _ in range(steps):
        point.grad = torch.randn_like(point)
        optimizer.step()
        if look():
            w = point.detach().double()
            errors.append(float(torch.linalg.matrix_norm(w.mT @ w - torch.eye(SHAPE[1], device=device))))
    seconds = time.perf_counter() - start
    return _row(
        "RiemannianSGD, momentum 0.9, gradients of noise, float32",
        steps,
        seconds,
        look,
        np.array(errors) / torch.finfo(torch.float32).eps,
    )


def _row(what: str, steps: int, seconds: float, look: Look, errors: np.ndarray) -> dict[str, Any]:
    """`first` and `last`: largest distance from the manifold in the first and the last tenth of the steps, in machine epsilons."""
    tenth = max(1, len(errors) // 10)
    return {
        "what": what,
        "steps": steps,
        "seconds": seconds,
        "memory": max(look.bytes),
        "growth": look.growth,
        "first": float(errors[:tenth].max()),
        "last": float(errors[-tenth:].max()),
    }


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per training and device."""
    lines = [
        "| training | device | steps | per step | memory | grown by | ‖WᵀW − I‖ in the first tenth | in the last tenth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            cells = [
                row["what"], result["device"], f"{row['steps']:,}", f"{figures(1e6 * row['seconds'] / row['steps'])} µs",
                f"{row['memory'] / 2**20:,.0f} MiB", f"{row['growth'] / 2**20:.2f} MiB",
                f"{row['first']:.1f} eps", f"{row['last']:.1f} eps",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines

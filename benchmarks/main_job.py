"""The main job, `grassmann-ssl compare`: every arm, and the whole with its page, against the products of its steps in a bare loop."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import paired, summary
from grassmann_ssl.data import Moments, moments_of, triplets
from grassmann_ssl.experiments.linear.compare import LAW, LOGGED, CompareConfig
from grassmann_ssl.experiments.linear.predictions.predict import predict
from grassmann_ssl.manifolds import projector
from grassmann_ssl.run import run as run_experiment
from grassmann_ssl.training import ARMS, Trajectory, train_full_batch

NAME = "main_job"
PAGE = "docs/choosing.md"
BARE = "bare loop"
WHOLE = "the whole"
TURNS = 3
"""of the whole, which takes ten times as long as the turns of an arm"""
PART = 15
"""Timed are so many parts of an arm's steps, so that records are as frequent as in the job."""
TOLERANCE = 1e-9
"""Weights of the two loops differ by rounding: a few eps a step, amplified by the growth of the weights."""


def run(
    device: torch.device, repeats: int, config: CompareConfig | None = None, target: float = 0.2
) -> list[dict[str, Any]]:
    """Check agreement, then time every arm and the whole; a record each. Raises RuntimeError where weights disagree."""
    config = replace(config or CompareConfig(), device=str(device))
    generator = torch.Generator().manual_seed(config.seed)
    moments = moments_of(triplets(config.data, config.view(), generator, config.spectrum))
    draw = torch.randn(config.seeds, len(moments.mean), config.dim, dtype=torch.float64, generator=generator).to(device)
    moments = moments.to(draw)
    records = []
    bare = {}
    for name in config.objectives:
        for arm in config.arms:
            ours, theirs, rate = sides(config, name, arm, moments, draw)
            error = disagreement(ours(), theirs(), arm)
            if not error <= TOLERANCE:
                raise RuntimeError(f"{NAME} {name} {arm}: weights are {error:.2g} off the bare loop; nothing was timed")
            timed = paired(ours, {BARE: theirs}, device, repeats, target)
            records.append({"objective": name, "arm": arm, "steps": part(config), "difference": error, **timed})
            bare[name, arm] = theirs
            if (name, arm) == ("barlow_twins", "free"):
                scales = draw.new_tensor(config.init_scales)[:, None, None, None]
                scan = bare_loop(name, arm, moments, scales * draw, rate, part(config))
    turns = [whole(config, bare, scan) for _ in range(min(repeats, TURNS))]
    seconds = {side: summary([turn[side] for turn in turns]) for side in ("ours", BARE)}
    ratios = summary([turn[BARE] / turn["ours"] for turn in turns])
    records.append(
        {
            "objective": WHOLE,
            "arm": None,
            "steps": turns[0]["steps"],
            "seconds": seconds,
            "ratio_to_ours": {BARE: ratios},
        }
    )
    return records


def part(config: CompareConfig) -> int:
    """Steps of an arm that are timed."""
    return max(1, config.steps // PART)


def sides(
    config: CompareConfig, name: str, arm: str, moments: Moments, draw: Tensor
) -> tuple[Callable[[], Trajectory], Callable[[], Tensor], float]:
    """The first steps of an arm as `compare` takes them, the same as a bare loop, and the learning rate."""
    objective = config.objective(name)
    rate = predict(objective, moments.to("cpu"), config.dim, config.arms).learning_rate(arm)
    manifold = ARMS[arm]()
    start = config.init_scale * draw if arm == "free" else manifold.projx(draw)
    steps = part(config)
    assert objective.from_moments is not None
    loss = objective.from_moments(moments)

    def ours() -> Trajectory:
        return train_full_batch(
            loss,
            start,
            manifold,
            learning_rate=rate.default,
            steps=steps,
            log_every=max(1, config.steps // LOGGED),
            homogeneous=objective.is_trace and arm == "free",
        )

    return ours, bare_loop(name, arm, moments, start, rate.default, steps), rate.default


def bare_loop(name: str, arm: str, moments: Moments, start: Tensor, rate: float, steps: int) -> Callable[[], Tensor]:
    """The products of the steps, and nothing else: the gradient by hand, then W - rate G, or the projection of G and Cholesky-QR."""
    cross, second = moments.cross, moments.second
    matrix = {
        "linear_contrastive": moments.cross_negative - cross,
        "squared_contrastive": (moments.second_positive - moments.second_negative) / 2 - cross + moments.cross_negative,
        "linear_noncontrastive": -cross,
        "squared_noncontrastive": second - cross,
    }
    identity = torch.eye(start.shape[-1], dtype=start.dtype, device=start.device)

    def barlow_twins(w: Tensor) -> Tensor:
        moved = cross @ w
        return moved @ (4 * (w.mT @ moved - identity))

    def spectral_contrastive(w: Tensor) -> Tensor:
        moved = second @ w
        return moved @ (4 * (w.mT @ moved)) - (4 * cross) @ w

    of_trace = 2 * matrix[name] if name in matrix else None
    gradient = {"barlow_twins": barlow_twins, "spectral_contrastive": spectral_contrastive}.get(
        name, lambda w: of_trace @ w
    )

    @torch.no_grad()
    def loop() -> Tensor:
        w = start.clone()
        for _ in range(steps):
            g = gradient(w)
            if arm == "free":
                w.add_(g, alpha=-rate)
                continue
            z = w - rate * (g - w @ (w.mT @ g))
            factor = torch.linalg.cholesky_ex(z.mT @ z)[0]
            w = z @ torch.linalg.solve_triangular(factor, identity, upper=False).mT
        return w

    return loop


def disagreement(ours: Trajectory, bare: Tensor, arm: str) -> float:
    """How far the last weights are apart: relative to their size, or as projectors."""
    end, other = ours.log_norm[-1].exp()[..., None, None] * ours.weights[-1], bare.cpu()
    if arm != "free":
        end, other = projector(end), projector(other)
    return float(torch.linalg.matrix_norm(end - other).max() / torch.linalg.matrix_norm(other).max())


def whole(
    config: CompareConfig, bare: dict[tuple[str, str], Callable[[], Tensor]], scan: Callable[[], Tensor]
) -> dict[str, Any]:
    """Seconds of the whole job, page included, and of the bare loops of all its steps, from a part of each."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        outcome = run_experiment(replace(config, out=Path(folder) / "run"))
        ours = time.perf_counter() - begin
    assert outcome is not None
    scanned = outcome.record["agreement"]["barlow_twins"][LAW]["steps"]
    loops = {**dict.fromkeys(bare.values(), config.steps), scan: scanned}
    seconds = 0.0
    for loop, steps in loops.items():
        begin = time.perf_counter()
        loop()
        seconds += (time.perf_counter() - begin) * steps / part(config)
    return {"ours": ours, BARE: seconds, "steps": sum(loops.values())}


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device and arm, and one of the whole."""
    lines = [
        "| objective | arm | device | a step | of the bare loop | ours takes |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            ours, bare = (row["seconds"][side]["median"] / row["steps"] * 1e6 for side in ("ours", BARE))
            ratio = 1 / row["ratio_to_ours"][BARE]["median"]
            lines.append(
                f"| {row['objective']} | {row['arm'] or 'all'} | {result['device']} | {ours:.0f} µs | {bare:.0f} µs | {ratio:.2f}× |"
            )
    return lines

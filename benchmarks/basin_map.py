"""The basin of collapse, 256 x 256 simulated starts: our simulation against a loop over scipy's solve_ivp, and its memory."""

import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import figures, paired
from grassmann_ssl.experiments.phase.basin import BasinConfig, schedule, simulate_cells

NAME = "basin_map"
PAGE = "docs/theory.md"
SAMPLE = 100  # cells that the loop is timed on; its time is scaled to all of them
METHODS = ("RK45", "DOP853", "LSODA")  # the default of solve_ivp, its most accurate explicit one, its multistep one
TOLERANCES = tuple(10 ** (-k / 2) for k in range(2, 25))  # rtol = atol, the loosest that reaches our accuracy is timed
WORST = 1e-2  # a sampled end further off than this is a different end
LIMITS = (1, 2, 4)  # MiB given to the simulation


def run(
    device: torch.device, repeats: int, cells: int = 256, sample: int = SAMPLE, target: float = 0.2
) -> list[dict[str, Any]]:
    """Check ends against DOP853 at rtol 1e-12, then time; a record of times, and one of memory per limit.

    Raises RuntimeError where our ends are off, or no tolerance of a method reaches our accuracy.
    """
    config = BasinConfig(cells=cells)
    until, steps = schedule(config)
    until = float(until)
    chosen = np.random.default_rng(0).choice(cells**2, sample, replace=False)
    starts = np.stack([axis.ravel()[chosen] for axis in centres(config)], -1)
    reference = loop(config, starts, until, "DOP853", 1e-12)
    fates = simulate_cells(config, until, steps, device)
    error = worst(np.stack([fates.p, fates.s], -1)[chosen], reference)
    if not error <= WORST:
        raise RuntimeError(f"{NAME}: a simulated end is off by {error:.2g}; nothing was timed")
    fused = replace(config, compiled=True)
    begin = time.perf_counter()
    other = simulate_cells(fused, until, steps, device)
    cold = time.perf_counter() - begin
    if not np.abs(np.stack([other.p - fates.p, other.s - fates.s])).max() <= 1e-9:
        raise RuntimeError(f"{NAME}: compiled and plain steps disagree; nothing was timed")
    peers: dict[str, Callable[[], object]] = {"plain": lambda: simulate_cells(config, until, steps, device)}
    accuracy = {}
    for method in METHODS:
        rtol, reached = as_accurate(config, starts, until, method, error, reference)
        accuracy[method] = {"rtol": rtol, "error": reached}
        peers[f"solve_ivp {method}"] = looped(config, starts, until, method, rtol)
    times = paired(lambda: simulate_cells(fused, until, steps, device), peers, device, repeats, target)
    record = {
        "kind": "time",
        "cells": cells**2,
        "steps": steps,
        "first_call_seconds": cold,
        "error": error,
        "sample": sample,
        "solve_ivp": accuracy,
        **scaled(times, cells**2 / sample),
    }
    return [record] + [memory(replace(config, memory=limit), device) for limit in LIMITS]


def centres(config: BasinConfig) -> list[NDArray[np.float64]]:
    """Initial p and s (cells, cells) of every cell."""
    return list(np.meshgrid(*((edges[1:] + edges[:-1]) / 2 for edges in config.edges)))


def loop(
    config: BasinConfig, starts: NDArray[np.float64], until: float, method: str, rtol: float
) -> NDArray[np.float64]:
    """Ends (n, 2) of starts (n, 2), one call of solve_ivp each, in plain floating-point numbers as one would write it."""
    tau, alpha_p, eta, a = config.tau, config.alpha_p, config.eta, 1 + config.sigma2

    def slopes(_: float, state: NDArray[np.float64]) -> tuple[float, float]:
        p, s = state.tolist()
        pull = s * (tau - a * p)
        return alpha_p * pull - eta * p, 2 * (p * pull - eta * s)

    return np.stack(
        [solve_ivp(slopes, (0, until), start, method=method, rtol=rtol, atol=rtol).y[:, -1] for start in starts]
    )


def looped(
    config: BasinConfig, starts: NDArray[np.float64], until: float, method: str, rtol: float
) -> Callable[[], object]:
    """The loop as a closure to time."""
    return lambda: loop(config, starts, until, method, rtol)


def worst(ends: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Largest difference of p or s."""
    return float(np.abs(ends - reference).max())


def as_accurate(
    config: BasinConfig,
    starts: NDArray[np.float64],
    until: float,
    method: str,
    error: float,
    reference: NDArray[np.float64],
) -> tuple[float, float]:
    """The loosest tolerance whose ends are off by at most `error`, and their error. Raises RuntimeError where there is none."""
    for rtol in TOLERANCES:
        with np.errstate(over="ignore", invalid="ignore"):  # the loosest may blow up
            reached = worst(loop(config, starts, until, method, rtol), reference)
        if reached <= error:
            return rtol, reached
    raise RuntimeError(f"{NAME}: solve_ivp {method} does not reach an error of {error:.2g}; nothing was timed")


def scaled(times: dict[str, Any], factor: float) -> dict[str, Any]:
    """Times and ratios of the loop, for as many cells as our map has: its time is proportional to their number."""
    seconds, ratios = times["seconds"], times["ratio_to_ours"]

    def grow(values: dict[str, Any]) -> dict[str, Any]:
        return {key: factor * value for key, value in values.items()}

    whole = ("ours", "plain")  # these have simulated all cells
    return {
        "seconds": {name: values if name in whole else grow(values) for name, values in seconds.items()},
        "ratio_to_ours": {name: values if name in whole else grow(values) for name, values in ratios.items()},
    }


def memory(config: BasinConfig, device: torch.device) -> dict[str, Any]:
    """Peak bytes alive on the device while the first chunk is advanced, and its cells."""
    until, _ = schedule(config)
    chunks: list[int] = []
    peaks: list[int] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

        def on_step(cells: int) -> None:
            chunks.append(cells)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)

        simulate_cells(config, until, 2, device, on_step)
    else:
        gc.collect()
        with Alive() as alive:

            def on_step(cells: int) -> None:
                chunks.append(cells)
                peaks.append(alive.most)

            simulate_cells(config, until, 2, device, on_step)
    return {"kind": "memory", "limit_mib": config.memory, "chunk": chunks[1], "peak_bytes": peaks[1]}


class Alive(TorchDispatchMode):
    """Context manager: peak bytes of the tensors allocated under it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in given:
            size = result.untyped_storage().nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(result, self.drop, size)
        return result

    def drop(self, size: int) -> None:
        """Called when a tensor is freed."""
        self.now -= size


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One table: our times, the loops', our memory."""
    lines = ["| map of collapse | device | measured |", "|---|---|---|"]
    for result in results:
        rows = [row for row in result["records"] if row["kind"] == "time"]
        for row in rows:
            what = f"{row['cells']:,} starts, {row['steps']:,} steps of Runge-Kutta 4, compiled"
            took, once = figures(row["seconds"]["ours"]["median"]), figures(row["first_call_seconds"])
            lines.append(
                f"| {what} | {result['device']} | {took} s (first call {once} s), ends within {row['error']:.1e} |"
            )
            for name, ratio in row["ratio_to_ours"].items():
                low, middle, high = (figures(ratio[key]) for key in ("low", "median", "high"))
                took = figures(row["seconds"][name]["median"])
                if name == "plain":
                    what = "the same, not compiled"
                else:
                    held = row["solve_ivp"][name.removeprefix("solve_ivp ")]
                    reached = f"rtol {held['rtol']:.0e}, ends within {held['error']:.1e}"
                    what = f"loop over {name}, {reached}, from {row['sample']} cells"
                lines.append(f"| {what} | {result['device']} | {took} s, {middle}× [{low}, {high}] the time of ours |")
        for row in result["records"]:
            if row["kind"] == "memory":
                peak = figures(row["peak_bytes"] / 2**20)
                what = f"peak memory where {row['limit_mib']} MiB are given"
                lines.append(f"| {what} | {result['device']} | {peak} MiB for {row['chunk']:,} starts at once |")
    return lines

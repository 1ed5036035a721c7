"""Paired timing in one process, and the record of a run."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "geoopt", "numpy", "pymanopt", "scipy", "geomstats", "lightly")
STATUS = Path("/proc/self/status")


def resident_peak() -> int:
    """VmHWM in bytes, the peak of this program alone; getrusage keeps that of the program which started it."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def seconds(step: Callable[[], object], calls: int, device: torch.device) -> float:
    """Wall time per call of `calls` calls in a row, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def calls_for(step: Callable[[], object], device: torch.device, target: float) -> int:
    """How many calls take about `target` seconds, after a warm-up call; at least 1."""
    seconds(step, 1, device)
    return max(1, round(target / seconds(step, 1, device)))


def paired(
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    target: float,
) -> dict[str, Any]:
    """Time `ours` and each peer in turn, `repeats` times, and summarise the ratios peer / ours of each turn.

    Each turn runs for about `target` seconds a side, so that a change of the machine's speed hits both sides of a ratio.
    """
    steps = {"ours": ours, **peers}
    calls = {name: calls_for(step, device, target) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, calls[name], device))
    ratios = {name: [t / o for t, o in zip(times[name], times["ours"], strict=True)] for name in peers}
    return {
        "seconds": {name: summary(values) for name, values in times.items()},
        "ratio_to_ours": {name: summary(values) for name, values in ratios.items()},
    }


def figures(value: float) -> str:
    """Three significant figures, without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def environment(device: torch.device) -> dict[str, Any]:
    """Date, versions and device of a run."""
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "device_type": device.type,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES if _installed(p)}},
    }


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def write(path: Path, record: dict[str, Any]) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    os.replace(scratch, path)

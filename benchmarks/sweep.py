"""What cells of a sweep over linear models cost: as processes of their own, one after the other in one process, and packed."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import figures
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.run import run as run_alone
from grassmann_ssl.runs import Outcome, toml
from grassmann_ssl.runs.sweep import Cell, cells
from grassmann_ssl.sweep import sweep

NAME = "sweep"
PAGE = "docs/runs.md"


def run(
    device: torch.device, repeats: int, *, count: int = 1000, steps: int = 1000, data: str = "digits"
) -> list[dict[str, Any]]:
    """Processor seconds per cell: of a sweep of `count` cells, and of `repeats` of them as processes and alone, without a page, here.

    Raises RuntimeError where a packed cell is not, to 1e-9, that of a process.
    """
    settings = {
        "objectives": ("barlow_twins",), "data": data, "seeds": 1, "steps": steps, "init_scales": (), "device": str(device)
    }  # fmt: skip
    seeds = 5
    rates = [float(rate) for rate in np.linspace(0.01, 0.2, -(-count // seeds))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        grid: dict[str, list[Any]] = {"lr": rates, "seed": list(range(1, seeds + 1))}
        found = cells(CompareConfig, settings, grid, folder / "packed")[:count]
        tried = [found[k] for k in np.linspace(0, count - 1, repeats).astype(int)]
        processes = [_process(cell, folder) for cell in tried[: repeats // 2]]
        start = time.process_time()
        result = sweep(found, folder / "packed")
        packed = (time.process_time() - start) / count
        if result.failed:
            raise RuntimeError(f"{NAME}: {next(iter(result.failed.values()))}")
        processes += [_process(cell, folder) for cell in tried[repeats // 2 :]]
        alone = [_alone(cell, folder) for cell in tried]
        for cell in tried:
            _check(Outcome.load(cell.config.folder), Outcome.load(folder / "process" / cell.name), cell.name)
    seconds = {"process": statistics.median(processes), "alone": statistics.median(alone), "packed": packed}
    return [{"cells": count, "steps": steps, "data": data, "arms": 2, "seconds": seconds}]


def _process(cell: Cell, folder: Path) -> float:
    """Seconds of the command of a cell, which draws a page too."""
    settings = folder / f"{cell.name}.toml"
    settings.write_text(toml.dumps(cell.config.NAME, cell.config.values()), encoding="utf-8")
    words = ["compare", "--quiet", "--config", str(settings), "--out", str(folder / "process" / cell.name)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = _of_children()
    subprocess.run([sys.executable, "-m", "grassmann_ssl.cli", *words], check=True, env=environment)
    return _of_children() - start


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _alone(cell: Cell, folder: Path) -> float:
    config = CompareConfig.of(**cell.config.values() | {"out": folder / "alone" / cell.name})
    start = time.process_time()
    run_alone(config, page=False)
    return time.process_time() - start


def _check(packed: Outcome, alone: Outcome, name: str) -> None:
    for key, values in alone.arrays.items():
        if not np.allclose(packed.arrays[key], values, rtol=1e-9, atol=1e-9 * float(np.abs(values).max())):
            raise RuntimeError(f"{NAME}: {key} of cell {name} is another when packed")


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per device."""
    lines = [
        "| processor time per cell | device | a process of its own | alone in one process | packed | faster than processes |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            process, alone, packed = (row["seconds"][name] for name in ("process", "alone", "packed"))
            what = f"{row['cells']:,} of {row['arms']} arms, {row['data']}, {row['steps']:,} steps"
            times = " | ".join(f"{figures(value)} s" for value in (process, alone, packed))
            lines.append(f"| {what} | {result['device']} | {times} | {figures(process / packed)}× |")
    return lines

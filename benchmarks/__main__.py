"""`python -m benchmarks`: run the cases, write their JSON, and rewrite the tables."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from threadpoolctl import threadpool_limits

from benchmarks import (
    audit,
    audit_defaults,
    basin_map,
    choices,
    closed_forms,
    encoder_step,
    long_runs,
    losses,
    main_job,
    momentum_step,
    monitor,
    optimizer_steps,
    overhead,
    precision,
    process_counts,
    reproduction,
    solvers,
    steps,
    sweep,
    table,
)
from benchmarks.harness import environment

CASES = {
    case.NAME: case
    for case in (
        momentum_step,
        optimizer_steps,
        closed_forms,
        solvers,
        main_job,
        precision,
        choices,
        basin_map,
        losses,
        encoder_step,
        audit,
        audit_defaults,
        monitor,
        sweep,
        overhead,
        long_runs,
        process_counts,
        steps,
        reproduction,
    )
}


@dataclass(frozen=True)
class Config:
    """Time our code against its peers, side by side in one process with one thread."""

    cases: Annotated[tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join(CASES) + "} ...")] = tuple(CASES)
    """cases to run, of those in brackets; default: all"""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1, ..."""
    out: Path = table.RESULTS
    """folder for the JSON; tables are rewritten only where it is the project's own"""
    repeats: int = 11
    """turns per comparison; a turn times each side for 0.2 s"""


def main() -> int:
    """Run the cases. Exit code 2 and one line for settings that cannot be run, 1 where results disagree."""
    config = tyro.cli(Config, prog="python -m benchmarks", config=(tyro.conf.AvoidSubcommands,))
    unknown = [case for case in config.cases if case not in CASES]
    device = torch.device(config.device)
    if unknown or config.repeats < 1:
        print(f"error: known cases are {', '.join(CASES)}; repeats must be at least 1", file=sys.stderr)
        return 2
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"error: {device} is not there", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's BLAS, too: peers are not to have a core more
    for case in config.cases:
        try:
            records = CASES[case].run(device, config.repeats)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        path = table.save(
            {"case": case, **environment(device), "repeats": config.repeats, "records": records}, config.out
        )
        print(path)
        if config.out == table.RESULTS:
            table.rewrite(CASES[case], table.ROOT, table.RESULTS)
            if CASES[case] is audit_defaults:
                audit_defaults.picture({"records": records}, table.ROOT / audit_defaults.PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

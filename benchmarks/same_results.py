"""Do two checkouts compute the same? Runs every command at small settings in each and compares the run folders, number by number.

    python -m benchmarks.same_results write FOLDER [--commands ...]   the run folders of the checkout in the current directory
    python -m benchmarks.same_results compare A B                     print the differences; exit code 1 where there are any

A checkout without this file is run by its path: `python PATH/benchmarks/same_results.py write FOLDER`. Pictures are not compared.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from safetensors.numpy import load_file

SMALL: dict[str, str] = {
    "compare": "--objectives barlow_twins spectral_contrastive linear_contrastive squared_noncontrastive "
    "--seeds 2 --steps 200 --dim 3 --init-scales 1e-3 1e-5",
    "train": "--steps 6 --batch 64 --records 4 --constraint grassmann --objective negative_cosine --predictor directpred",
    "compare-encoders": "--arms constraint=none constraint=grassmann objective=vicreg,lr=0.005 --seeds 2 --steps 3 --records 3",
    "directpred-table": "--predictors linear directpred --weight-decay 0 --batch 32 --seeds 2 --steps 3 --records 3",
    "stepwise-deep": "--objectives barlow_twins --dim 4 --batch 64 --steps 30 --records 20 --pairs 12",
    "stepwise": "--seeds 3 --dim 3 --share 0.05",
    "phase-alignment": "--seeds 2 --dim 3 --inputs 5 --until 20",
    "phase-portraits": "--eta 0.0 0.15 --starts 4 3",
    "phase-fixed-points": "--etas 5",
    "phase-sweeps": "--until 10",
    "phase-ema": "--runs 2 --until 10",
    "phase-symmetry": "--seeds 2 --until 10",
    "phase-commutator": "--seeds 2 --until 5",
    "phase-flow-fields": "--starts 3 2",
    "phase-basin": "--cells 16",
    "phase-directpred": "--seeds 2 --eta 0.05 0.15 --until 40",
    "width": "--data gaussian --dim 3 --hidden 3 6 12 --seeds 2 --rates 0.2 0.1 --horizon 5",
    "kernel-change": "--widths 16 32 --seeds 2 --triplets 6 --horizon 2 --free-time 0.5 --spectrum 1.0 0.5 0.2 0.1",
    "ntk": "--pairs 24 --dim 2 --widths 16 64 --seeds 2 --init-scale 1e-3",
    "collapse": "--seeds 2 --spectrum 1.0 0.7 0.4 0.2 --dim 2 --noise 0.2 1.5 --steps 100 --slices 16",
    "audit": "{folder}/compare/arrays.safetensors --array moments/cross",  # of the run of compare
}
PROVENANCE = frozenset({"date", "versions", "git_commit", "machine", "out"})
TIME = re.compile(r"(^|_)(wall_time|seconds|ms)(_|$)")
NUMBER = r"\d[\d.,]*"
# One time, those of two seeds, or a mean with its interval: as the findings of `train` and `compare-encoders` say them.
TIME_IN_TEXT = re.compile(rf"{NUMBER}(?: and {NUMBER}| \[{NUMBER} to {NUMBER}\])? ms\b")
MOST = 20


@dataclass(frozen=True)
class Write:
    """Write the run folders of the checkout in the current directory."""

    folder: tyro.conf.Positional[Path]
    """folder of the run folders, one a command; runs that it holds are replaced, nothing else is removed"""
    commands: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COMMAND ...")] = tuple(SMALL)
    """commands to run; default: all"""


@dataclass(frozen=True)
class Compare:
    """Compare what two checkouts wrote."""

    a: tyro.conf.Positional[Path]
    """folder of the one checkout"""
    b: tyro.conf.Positional[Path]
    """folder of the other"""
    rename: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OLD=NEW ...")] = ()
    """commands of A that have another name in B"""


def write(folder: Path, commands: tuple[str, ...]) -> list[str]:
    """Run each command in a process of its own, on one thread; the names of those that failed."""
    failed = []
    for command in commands:
        line = [
            sys.executable,
            "-m",
            "grassmann_ssl.cli",
            command,
            *SMALL[command].format(folder=folder.resolve()).split(),
        ]
        line += ["--out", str(folder.resolve() / command), "--overwrite"]
        begin = time.perf_counter()
        done = subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        print(f"{command}: {time.perf_counter() - begin:.1f} s{', failed' if done.returncode else ''}", flush=True)
        if done.returncode:
            failed.append(command)
            print(done.stderr, file=sys.stderr, flush=True)
    return failed


def left_out(name: str) -> bool:
    """Whether a key of run.json or a column is provenance or time."""
    return name in PROVENANCE or bool(TIME.search(name))


def in_json(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Differences of two JSON values; numbers differ where their types do, NaN is NaN, and times in a text are left out."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a | b:
            if left_out(key):
                continue
            where = f"{path}.{key}" if path else key
            if key in a and key in b:
                yield from in_json(a[key], b[key], where)
            else:
                yield f"{where}: {_shown(a, key)} != {_shown(b, key)}"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from in_json(one, other, f"{path}[{i}]")
    elif _text(a) != _text(b):
        yield f"{path}: {_text(a):.80} != {_text(b):.80}"


def _text(value: Any) -> str:
    return TIME_IN_TEXT.sub("# ms", repr(value)) if isinstance(value, str) else repr(value)


def _shown(values: dict[str, Any], key: str) -> str:
    return f"{values[key]!r:.80}" if key in values else "missing"


def in_metrics(a: Path, b: Path) -> Iterator[str]:
    """Differences of two Parquet files, at most one a column: its type, its length, or its first value that differs."""
    one, other = (dict(zip(t.column_names, t.columns, strict=True)) for t in (pq.read_table(a), pq.read_table(b)))
    for name in one | other:
        if left_out(name):
            continue
        if name not in one or name not in other:
            yield f"{name}: {'column' if name in one else 'missing'} != {'column' if name in other else 'missing'}"
            continue
        kinds = [f"{len(column)} of {column.type}" for column in (one[name], other[name])]
        values = [[repr(value) for value in column.to_pylist()] for column in (one[name], other[name])]
        yield from _first(name, kinds, *values)


def in_arrays(a: Path, b: Path) -> Iterator[str]:
    """Differences of two safetensors files, at most one an array: its dtype and shape, or its first element whose bytes differ."""
    one, other = load_file(a), load_file(b)
    for name in one | other:
        kinds = [f"{file[name].dtype} {file[name].shape}" if name in file else "missing" for file in (one, other)]
        if "missing" in kinds:
            yield f"{name}: {kinds[0]} != {kinds[1]}"
        else:
            yield from _first(name, kinds, one[name].ravel(), other[name].ravel())


def _first(name: str, kinds: list[str], a: Any, b: Any) -> Iterator[str]:
    if kinds[0] != kinds[1]:
        yield f"{name}: {kinds[0]} != {kinds[1]}"
        return
    if isinstance(a, np.ndarray) and a.tobytes() == b.tobytes():
        return
    plain = isinstance(a, list)
    differ = [i for i in range(len(a)) if (a[i] != b[i] if plain else a[i].tobytes() != b[i].tobytes())]
    if differ:
        i = differ[0]
        yield f"{name}[{i}]: {a[i]} != {b[i]} ({len(differ)} of {len(a)} differ)"


def differences(a: Path, b: Path, rename: dict[str, str] | None = None) -> list[str]:
    """One line for each difference of two folders of run folders, at most `MOST` a command and a count of the rest."""
    renamed = rename or {}
    commands = [{p.parent.name for p in folder.glob("*/run.json")} for folder in (a, b)]
    names = {renamed.get(name, name): name for name in sorted(commands[0])}  # those of B to those of A
    lines = []
    for new in sorted(commands[1] | set(names)):
        found = list(_of_command(a / names.get(new, new), b / new, renamed))
        lines += [f"{new}: {line}" for line in found[:MOST]]
        lines += [f"{new}: and {len(found) - MOST} more"] * (len(found) > MOST)
    return lines


def _of_command(a: Path, b: Path, renamed: dict[str, str]) -> Iterator[str]:
    def of_json(one: Path, other: Path) -> Iterator[str]:
        first, second = (json.loads(path.read_text()) for path in (one, other))
        if "experiment" in first:
            first["experiment"] = renamed.get(first["experiment"], first["experiment"])
        yield from in_json(first, second)

    for name, compare in (("run.json", of_json), ("metrics.parquet", in_metrics), ("arrays.safetensors", in_arrays)):
        there = [(folder / name).exists() for folder in (a, b)]
        if all(there):
            yield from (f"{name}: {line}" for line in compare(a / name, b / name))
        elif any(there):
            yield f"{name}: file: {'there' if there[0] else 'missing'} != {'there' if there[1] else 'missing'}"


def main() -> int:
    """Exit code 1 for a command that failed or for results that differ, 2 for what cannot be run or compared."""
    config = tyro.cli(Write | Compare, prog="python -m benchmarks.same_results")
    if isinstance(config, Write):
        if unknown := set(config.commands) - set(SMALL):
            print(f"error: unknown {', '.join(sorted(unknown))}; known are {', '.join(SMALL)}", file=sys.stderr)
            return 2
        failed = write(config.folder, config.commands)
        print(f"failed: {', '.join(failed)}" if failed else f"{len(config.commands)} commands in {config.folder}")
        return int(bool(failed))
    if any("=" not in pair for pair in config.rename):
        print("error: rename needs OLD=NEW", file=sys.stderr)
        return 2
    empty = [str(folder) for folder in (config.a, config.b) if not any(folder.glob("*/run.json"))]
    if empty:
        print(f"error: no run folders in {', '.join(empty)}", file=sys.stderr)
        return 2
    lines = differences(config.a, config.b, {pair.split("=")[0]: pair.split("=")[1] for pair in config.rename})
    print("\n".join(lines) or "the same")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())

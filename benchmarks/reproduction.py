"""Figures and tables of the papers beside what one command each shows here: read from the run folders that the commands write."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import table
from benchmarks.harness import environment
from benchmarks.reproduction_rows import ROWS, Check, Row

NAME = "reproduction"
PAGE = "docs/reproduction.md"
HEADER = ("figure or table", "what the paper says", "command", "what it shows here", "agreement")
SIGNS = {"at most": "≤", "at least": "≥", "equal to": "="}
UNREADABLE = "not readable here"
Values = Mapping[str, Any]


# Reading


def at(record: Any, path: str) -> Any:
    """What a path of keys, A:B:C, leads to in run.json: `*` all of a list or of what is named, `#` how many there are, A=B,C=D those of a
    list that have these values."""
    if not path:
        return record
    key, _, rest = path.partition(":")
    if key == "#":
        return len(record)
    if key == "*":
        return [at(one, rest) for one in (record.values() if isinstance(record, dict) else record)]
    if "=" in key:
        wanted = dict(one.split("=") for one in key.split(","))
        return [at(one, rest) for one in record if all(str(one[name]) == value for name, value in wanted.items())]
    return at(record[int(key)] if isinstance(record, list) else record[key], rest)


def read(row: Row, record: Values) -> dict[str, Any]:
    """The numbers of a row, by their paths, from the record of its run."""
    paths = [one.path for one in row.checks] + [one.other for one in row.checks if one.other]
    return {path: at(record, path) for path in paths}


def holds(check: Check, values: Values) -> bool:
    """Whether every number at the path stands to the other as the check says; a number that is missing does not."""
    measured = list(numbers(values[check.path]))
    others = list(numbers(values[check.other])) if check.other else [check.than] * len(measured)
    if not measured or len(measured) != len(others) or None in (*measured, *others):
        return False
    pairs = list(zip(measured, others, strict=True))
    if check.relation == "equal to":
        return all(a == b for a, b in pairs)
    return all(a <= b if check.relation == "at most" else a >= b for a, b in pairs)


def numbers(value: Any) -> Iterator[Any]:
    """All numbers of nested lists."""
    if isinstance(value, list):
        for one in value:
            yield from numbers(one)
    else:
        yield value


# The table


def agreement(row: Row, values: Values | None) -> str:
    """What a row comes to, from its numbers."""
    if row.command is None:
        return f"not run: {row.why}"
    if values is None:
        return "not run yet"
    failing = [one.what for one in row.checks if not holds(one, values)]
    if failing:
        return f"**not shown**: {'; '.join(failing)}"
    return "as reported" if row.read else f"nothing to compare: {UNREADABLE}; what is checked here holds"


def shown(check: Check, values: Values) -> str:
    """A check in words and numbers: of several numbers under one bound the one that decides."""
    found = list(numbers(values[check.path]))
    if check.other:
        return f"{check.what} {said(found)} ({SIGNS[check.relation]} {check.what_than} {said(values[check.other])})"
    if isinstance(check.than, str):
        return f"{check.what}: {said(found)}"
    if check.relation != "equal to" and found and None not in found:
        found = [max(found) if check.relation == "at most" else min(found)]
    return f"{check.what} {said(found)} ({SIGNS[check.relation]} {said(check.than)})"


def said(value: Any) -> str:
    """Numbers, those that are all equal once, and of texts how often each."""
    found = list(numbers(value))
    if None in found or not found:
        return "nothing"
    if isinstance(found[0], str):
        return ", ".join(f"{count} × {text}" if len(found) > 1 else text for text, count in Counter(found).items())
    texts = [f"{one:,}" if isinstance(one, int) else f"{one:.3g}" for one in found]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def line(row: Row, values: Values | None) -> str:
    """The row as Markdown."""
    found = "" if values is None else "; ".join(shown(one, values) for one in row.checks)
    cells = (
        row.item,
        row.says if row.says == row.source else f"{row.says} ({row.source})",
        f"`{row.command}`" if row.command else "–",
        ": ".join(filter(None, (row.ours, found))) or "–",
        agreement(row, values),
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def markdown(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for every paper."""
    values = {one["row"]: one["values"] for record in records for one in record["records"]}
    lines: list[str] = []
    for paper, rows in groupby(ROWS, lambda row: row.paper):
        lines += ["", f"## {paper}", "", f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
        lines += [line(row, values.get(row.name)) for row in rows]
    return lines[1:]


# Running


def run(device: torch.device, repeats: int, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One record for every row with a command, or those named; each command runs once. `repeats` is not used: nothing is timed.

    Raises RuntimeError where a command fails.
    """
    done: dict[str, tuple[Values, float]] = {}
    records = []
    for row in ROWS:
        if row.command is None or (only and row.name not in only):
            continue
        if row.command not in done:
            start = _spent()
            done[row.command] = (_ran(row.command), _spent() - start)
        record, seconds = done[row.command]
        values = read(row, record)
        records.append({"row": row.name, "command": row.command, "cpu_seconds": round(seconds, 1), "values": values})
        print(f"{row.name}: {agreement(row, values)}", file=sys.stderr)
    return records


def _spent() -> float:
    """Seconds of a core that commands have taken: on a shared machine the clock says less."""
    times = os.times()
    return times.children_user + times.children_system


def _ran(command: str) -> Values:
    """The record that a command leaves: run.json, or of pytest how many tests passed and failed."""
    program, *arguments = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        of_tests = program == "pytest"
        module = "pytest" if of_tests else "grassmann_ssl.cli"
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=table.ROOT if of_tests else folder,
            capture_output=True,
            text=True,
        )
        if of_tests:
            found = dict(reversed(pair) for pair in re.findall(r"(\d+) (passed|failed|error)", done.stdout))
            return {name: int(found.get(name, 0)) for name in ("passed", "failed", "error")}
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr.strip()}")
        return dict(json.loads(next(Path(folder).glob("runs/**/run.json")).read_text()))


def merged(records: Sequence[dict[str, Any]], old: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of now, and those of before of rows that were not run now, in the order of the table."""
    known = {one["row"]: one for one in (*old, *records)}
    return [known[row.name] for row in ROWS if row.name in known]


def main(only: tuple[str, ...] = ()) -> int:
    """Run the commands of all rows, or of those named, and rewrite the table. Exit code 1 where a row does not show what is reported."""
    device = torch.device("cpu")
    path = table.RESULTS / f"{NAME}-cpu.json"
    old = json.loads(path.read_text())["records"] if path.exists() else []
    records = merged(run(device, 1, only), old)
    table.save({"case": NAME, **environment(device), "repeats": 1, "records": records}, table.RESULTS)
    table.rewrite(sys.modules[__name__], table.ROOT, table.RESULTS)
    values = {one["row"]: one["values"] for one in records}
    return int(any("**" in agreement(row, values.get(row.name)) for row in ROWS))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))

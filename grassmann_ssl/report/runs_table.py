"""Several stored runs as a table, from their records alone: what differs, what they found; as lines of text and as a file of columns."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from grassmann_ssl.registry import nearest
from grassmann_ssl.report.terminal import table, terminal_width
from grassmann_ssl.runs import ConfigError, StoredRun
from grassmann_ssl.runs.disk import replacing
from grassmann_ssl.runs.load import VERDICT

PLACE = ("out", "overwrite", "resume")  # settings of where a run is, not of what it is
ENDS = ("_low", "_high")
MISSING = "–"


def labels(runs: Sequence[StoredRun]) -> list[str]:
    """Their folders, less what all of them begin with."""
    folders = [os.path.abspath(one.folder) for one in runs]
    start = os.path.commonpath([os.path.dirname(folder) for folder in folders])
    return [os.path.relpath(folder, start) for folder in folders]


def differing(runs: Sequence[StoredRun]) -> list[str]:
    """The experiment and the settings that are not the same in all runs that have them, where a run is left aside."""
    rows = [{"experiment": one.record["experiment"]} | one.settings for one in runs]
    return [
        name
        for name in _together(rows)
        if name not in PLACE and len({repr(row[name]) for row in rows if name in row}) > 1
    ]


def found(runs: Sequence[StoredRun]) -> list[str]:
    """The columns of what runs found: verdicts, interrupts, numbers with an interval, their time; without all that, numbers that differ."""
    rows = [one.row for one in runs]
    names = _together([one.numbers for one in runs])

    def known(*columns: str) -> list[str]:
        return [name for name in columns if any(row.get(name) is not None for row in rows)]

    verdicts = known(VERDICT) + [name for name in names if name.endswith(".kind")]
    numbers = [name for name in names if {name + end for end in ENDS} <= {*names}]
    if not verdicts and not numbers:
        numbers = [name for name in names if len({repr(row.get(name)) for row in rows}) > 1 and _is_number(rows, name)]
    return [*verdicts, *known("interrupted", "resumed"), *numbers, "wall_time_s"]


def _is_number(rows: Iterable[dict[str, Any]], name: str) -> bool:
    return any(type(row.get(name)) in (int, float) for row in rows)


def _together(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The names of all rows, each once, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def cell(row: dict[str, Any], name: str) -> str:
    """An entry of a row in words, with its interval where it has one."""
    value = row.get(name)
    low, high = (row.get(name + end) for end in ENDS)
    return _text(value) + (f" [{_text(low)}, {_text(high)}]" if low is not None and high is not None else "")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def runs_table(runs: Sequence[StoredRun], columns: Sequence[str] = ()) -> str:
    """A line for each run: what differs in its settings, and what it found; or the columns that are named. Raises ConfigError for others.

    On a terminal that is too narrow the columns go on below.
    """
    rows = [one.row for one in runs]
    names = _chosen(rows, columns) or [*differing(runs), *found(runs)]
    cells = [["run", *labels(runs)], *([name, *(cell(row, name) for row in rows)] for name in names)]
    blocks: list[list[list[str]]] = []
    room = terminal_width()
    for column in cells[1:]:
        if not blocks or sum(2 + max(map(len, one)) for one in [*blocks[-1], column]) > room:
            blocks.append([cells[0]])
        blocks[-1].append(column)
    lines = ("\n".join(table([one[0] for one in b], list(zip(*(one[1:] for one in b), strict=True)))) for b in blocks)
    return "\n\n".join(lines)


def _chosen(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    known = _together(rows)
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"columns: no run has {name!r}; --save FILE.csv writes all that there are{nearest(name, known)}"
            )
    return list(columns)


def save_runs(runs: Sequence[StoredRun], path: Path, columns: Sequence[str] = ()) -> None:
    """Write the rows of `load_runs`, or these columns of them with their intervals, as .csv or .parquet.

    In .parquet a column whose entries are of several types, and one of lists, is text. Raises ConfigError for other endings and names.
    """
    rows = [one.row for one in runs]
    known = _together(rows)
    names = [
        one for name in _chosen(rows, columns) for one in (name, *(name + end for end in ENDS)) if one in known
    ] or known
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"save: {path} must end in .csv or .parquet")
    try:
        with replacing(path) as scratch:
            if path.suffix == ".csv":
                with scratch.open("w", newline="", encoding="utf-8") as file:
                    lines = csv.writer(file)
                    lines.writerows([names, *([_plain(row.get(name)) for name in names] for row in rows)])
            else:
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.table({name: _column([row.get(name) for row in rows]) for name in names}), scratch)
    except OSError as error:
        raise ConfigError(f"save: {path} cannot be written: {error.strerror}") from None


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _column(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values} - {type(None)}
    if (len(kinds) > 1 and not kinds <= {int, float}) or kinds == {tuple}:
        return [None if value is None else str(_plain(value)) for value in values]
    return [float(value) if value is not None and kinds == {int, float} else value for value in values]

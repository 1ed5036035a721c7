"""Many stored runs as one table: a row for each run, made from its run.json alone."""

from __future__ import annotations

import glob
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grassmann_ssl.extras import extra
from grassmann_ssl.runs.config import ConfigError
from grassmann_ssl.runs.folder import UNFINISHED, WHOLE, settled

if TYPE_CHECKING:
    import pandas as pd

Where = str | Path | Iterable[str | Path]
VERDICT = "verdict"
FIRST = ("folder", "experiment", VERDICT, "date", "wall_time_s", "interrupted", "resumed")
WORDS = ("findings", "table", "experiment", "config")  # of the record: for people, or columns of their own
CENTRES = ("value", "mean", "accuracy")  # the number of an interval
INTERVAL_WORDS = ("convention", "meaning")  # the same in every run
MARKS = {"run.json", UNFINISHED, WHOLE}  # of a run folder


@dataclass(frozen=True)
class StoredRun:
    """The record of a run and the folder that holds it."""

    folder: Path
    record: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, lists of them as tuples."""
        return {name: _hashable(value) for name, value in self.record["config"].items()}

    @property
    def numbers(self) -> dict[str, Any]:
        """What the run found, by its path in the record: `columns_of`; a name that a setting has begins with `run.`."""
        settings = self.settings
        found = {
            name: value
            for name, value in columns_of(self.record).items()
            if name not in FIRST and value != settings.get(name, math.nan)
        }
        return {f"run.{name}" if name in settings else name: value for name, value in found.items()}

    @property
    def row(self) -> dict[str, Any]:
        """The row of `load_runs`."""
        columns = columns_of(self.record)
        first = {name: columns.get(name) for name in FIRST} | {
            "folder": str(self.folder),
            "experiment": self.record["experiment"],
        }
        return first | {name: value for name, value in self.settings.items() if name not in first} | self.numbers


def load_runs(where: Where = "runs") -> pd.DataFrame:
    """The runs below folders as a frame of pandas: one row a run, in the order given, from run.json alone; needs pandas.

    `where` is a run folder, a folder with runs anywhere below it, a pattern such as "runs/**", or a list of these. Columns: folder,
    experiment, verdict (kind of collapse, where the run has one), date, wall_time_s, interrupted and resumed (where, None where not); then
    every setting by its name; then every number and text of the record by its path, as `arms.barlow_twins.free.kind`. A number with an
    interval is three columns: NAME, NAME_low, NAME_high. Columns that only other experiments have are NaN. Lists stay in run.json, except
    arms and numbers that have a name, which is then part of the path; the rows of a comparison are in its metrics.parquet.
    Folders whose run.json cannot be read, and unfinished runs, are left out, counted and named in a warning. Raises ConfigError where
    there is no run, and ImportError without pandas.
    """
    pandas = extra("pandas", "load_runs")
    runs, left_out = stored_runs(where)
    if left_out:
        warnings.warn(left_out, stacklevel=2)
    frame: pd.DataFrame = pandas.DataFrame([one.row for one in runs])
    return frame


def stored_runs(where: Where) -> tuple[list[StoredRun], str]:
    """The runs of `load_runs`, and in one line which are left out and why, "" for none. Raises ConfigError where there is no run."""
    given = [where] if isinstance(where, str | Path) else list(where)
    folders: dict[Path, Path] = {}
    empty = []
    for one in given:
        before = len(folders)
        for path in [str(one)] if Path(one).exists() else sorted(glob.glob(str(one), recursive=True)):
            for folder in sorted(_runs_below(Path(path))):
                at = folder.resolve()
                folders[at] = min(folders.get(at, folder), folder, key=lambda one: (len(one.parts), one))
                before = -1
        if len(folders) == before:
            empty.append(f"there is no run in {one}" if Path(one).exists() else f"{one} is not there")
    outermost = {at: folder for at, folder in folders.items() if folders.keys().isdisjoint(at.parents)}
    runs, bad = [], []
    for folder in outermost.values():
        try:
            runs.append(StoredRun(folder, read_record(folder)))
        except ConfigError as error:
            bad.append(str(error))
    left_out = "; ".join([f"{len(bad)} of {len(outermost)} runs left out: {', '.join(bad)}"] * bool(bad) + empty)
    if not runs:
        raise ConfigError(
            f"{' '.join(map(str, given))}: there is no run to read; {left_out}"
            if bad
            else left_out or "there is no run"
        )
    return runs, left_out


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.json. Raises ConfigError, in one line, where it is missing, cannot be read, or is that of no run."""
    path = folder / "run.json"
    try:
        settled(folder)
        if not path.is_file():
            unfinished = (folder / UNFINISHED).exists()
            raise ConfigError(
                f"{folder} {'is unfinished' if unfinished else 'holds no run: there is no run.json in it'}"
            )
        record = json.loads(path.read_text(encoding="utf-8"))
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from None
    if not (
        isinstance(record, dict)
        and isinstance(record.get("experiment"), str)
        and isinstance(record.get("config"), dict)
    ):
        raise ConfigError(f"{path} cannot be read: it has no experiment with its config")
    return record


def columns_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and texts of a record by their path, as in `load_runs`; the kind of its verdict is `verdict`."""
    found = _flat("", {name: value for name, value in record.items() if name not in WORDS})
    return {_short(path): value for path, value in found}


def _short(path: str) -> str:
    """The kind of the verdict, and numbers that have a name, without the path to them."""
    if path == f"{VERDICT}.kind":
        return VERDICT
    return path.removeprefix(f"{VERDICT}.numbers.").removeprefix("numbers.")


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = _by_name(path.rpartition(".")[2], value)
    if not isinstance(value, dict | list):
        yield path, value
    elif isinstance(value, dict):
        interval = _interval(value)
        if interval:
            centre, low, high = interval
            yield from ((path, value[centre]), (f"{path}_low", low), (f"{path}_high", high))
            value = {name: one for name, one in value.items() if name not in (centre, "low", "high", *INTERVAL_WORDS)}
        for name, one in value.items():
            yield from _flat(f"{path}.{name}" if path else name, one)


def _by_name(plural: str, items: list[Any]) -> Any:
    """A list of objects that have a name, such as arms, by that name; any other as it is."""
    for field in ("name", plural.removesuffix("s")):
        names = [one.get(field) for one in items if isinstance(one, dict)]
        if items and len(set(map(str, names))) == len(items) and all(isinstance(name, str) for name in names):
            return {
                name: {key: value for key, value in one.items() if key != field}
                for name, one in zip(names, items, strict=True)
            }
    return items


def _interval(value: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The name of the number in an object that has an interval, and the ends of that; None for another object."""
    centre = next((name for name in CENTRES if name in value), None)
    if centre is None:
        return None
    if {"low", "high"} <= value.keys():
        return centre, value["low"], value["high"]
    ends = value.get("interval")
    return (centre, ends[0], ends[1]) if isinstance(ends, list) and len(ends) == 2 else None


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _runs_below(folder: Path) -> Iterator[Path]:
    """Run folders, finished or not: the folder itself, or those below it; what is in one is not searched."""
    if folder.name == "run.json":
        folder = folder.parent
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        run = bool(MARKS & {*files, *folders})
        if run:
            yield Path(at)
        if run or os.path.realpath(at) in seen:  # a link may lead to a folder above it
            folders.clear()
        seen.add(os.path.realpath(at))
        folders[:] = sorted(name for name in folders if not name.startswith("."))

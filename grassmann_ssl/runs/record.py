"""The result of an experiment as a value: findings, numbers and arrays, stored in a run folder and loaded from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch

from grassmann_ssl.extras import extra
from grassmann_ssl.interrupt import Again, Interrupted, patience
from grassmann_ssl.runs import toml
from grassmann_ssl.runs.config import ConfigError, RunConfig, device_of
from grassmann_ssl.runs.folder import provenance, settled, unfinished, write_json
from grassmann_ssl.runs.logs import Logs

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Tick = Callable[..., object]
Progress = Callable[[int], Tick]


def ticking(progress: Progress | None, total: int) -> Tick:
    """What is called at every step, of `total` in all: `progress(total)`, or without `progress` a function that does nothing."""
    return progress(total) if progress else lambda label, steps=1: None


def joined(metrics: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The metrics of the parts of a run, of the same columns, one below the other."""
    return {name: np.concatenate([part[name] for part in metrics]) for name in metrics[0]}


@dataclass(frozen=True)
class Finding:
    """One quantity in words and numbers: what was predicted before the run, what was measured in it, and how far they agree.

    A line of the summary and of the report. None where there is nothing of the kind. Raises ValueError for an empty text or a dash.
    """

    quantity: str
    predicted: str | None = None
    measured: str | None = None
    agreement: str | None = None

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if text is not None and not text.strip(" -–—"):
                raise ValueError(f"{name} of a finding must say something or be None, got {text!r}")


def headings(findings: Sequence[Finding]) -> list[str]:
    """The names of what some finding says: columns that are empty in all of them are not shown."""
    return [one.name for one in fields(Finding) if any(getattr(line, one.name) for line in findings)]


@dataclass(frozen=True)
class Table:
    """What a run lays side by side, in words: printed, and shown on the page, before the findings. `note` says how to read it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, repr=False)
class Outcome:
    """The result of an experiment.

    record    the content of run.json; `findings` in it are the lines of the summary, `table` (optional) stands before them, and
              `interrupted` says where Ctrl-C ended the run, None where it did not, `resumed` where an unfinished run went on, `failed`
              (optional) which condition is not met, and `logs` and `unlogged` (optional) where its logs are and why they are not whole
    metrics   the columns of metrics.parquet, all of one length N: (N,), or (N, k) for lists of k numbers
    arrays    the content of arrays.safetensors
    files     of further files NAME.safetensors, such as weights, their content; written by `save`, and not loaded with the outcome
    """

    record: dict[str, Any]
    metrics: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    files: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __repr__(self) -> str:
        verdict = self.record.get("verdict")
        said = f"{verdict['judgement']}; " if isinstance(verdict, dict) else ""
        stopped = f", interrupted {self.interrupted}" if self.interrupted else ""
        return f"{type(self).__name__}({self.name}: {said}{len(self.findings)} findings{stopped}; {self.folder})"

    def _repr_html_(self) -> str:
        """For notebooks: the findings as a table."""
        header = headings(self.findings)
        rows = [[getattr(line, name) or "" for name in header] for line in self.findings]
        cells = ["".join(f"<td style='text-align: left'>{escape(text)}</td>" for text in row) for row in rows]
        head = "".join(f"<th style='text-align: left'>{name}</th>" for name in header)
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    @property
    def plot(self) -> Figures:
        """The figures of its page, each a function that draws it: `outcome.plot.training()`; `dir(outcome.plot)` names them."""
        return Figures(self)

    @property
    def name(self) -> str:
        """The experiment that was run: the name of its command."""
        return str(self.record["experiment"])

    @property
    def findings(self) -> list[Finding]:
        """The lines of the summary."""
        return [Finding(**line) for line in self.record["findings"]]

    @property
    def table(self) -> Table | None:
        """The table that stands before the findings, None where the experiment has none."""
        stored = self.record.get("table")
        if stored is None:
            return None
        rows = tuple(tuple(row) for row in stored["rows"])
        return Table(stored["title"], tuple(stored["header"]), rows, stored["note"])

    @property
    def interrupted(self) -> str | None:
        """Where Ctrl-C ended the run, None where it came to its end; what was recorded until then is kept."""
        where: str | None = self.record.get("interrupted")
        return where

    @property
    def resumed(self) -> str | None:
        """Where an unfinished run went on, None where the run was begun anew; its results are the same."""
        where: str | None = self.record.get("resumed")
        return where

    @property
    def unlogged(self) -> str | None:
        """Which logs are not whole, and why; None where all are or there are none. The run itself lacks nothing."""
        what: str | None = self.record.get("unlogged")
        return what

    @property
    def failed(self) -> str | None:
        """Which condition of the settings the result does not meet, None where it meets all or there is none."""
        what: str | None = self.record.get("failed")
        return what

    @property
    def folder(self) -> Path:
        """The run folder as configured; it may have been moved since."""
        return Path(self.record["config"]["out"])

    @property
    def history(self) -> pd.DataFrame:
        """What was recorded, as a frame of pandas: the columns of metrics.parquet."""
        columns = {name: list(v) if v.ndim > 1 else v for name, v in self.metrics.items()}
        frame: pd.DataFrame = extra("pandas", "Outcome.history").DataFrame(columns)
        return frame

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write a run folder as the command does, with its page, and return it.

        Raises ConfigError where the folder holds another run and `overwrite` is false, or something that is no run.
        """
        from grassmann_ssl.run import save_outcome

        return save_outcome(self, Path(folder), overwrite)

    def report(self) -> Path:
        """Draw the page of the run folder anew, and return the path of its report.html. Raises ConfigError where it was not saved."""
        from grassmann_ssl.run import drawn

        return drawn(self)

    def write(self, folder: Path) -> None:
        """Write run.json, config.toml, metrics.parquet, arrays.safetensors and `files` into an existing folder.

        config.toml holds the settings; the option --config of the same command reads it. Raises ValueError for NaN in the record.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save

        write_json(folder / "run.json", self.record)
        if "config" in self.record:
            (folder / "config.toml").write_text(toml.dumps(self.name, self.record["config"]), encoding="utf-8")
        table = pa.table({name: _stored(values) for name, values in self.metrics.items()})
        # Bytes of numbers by their place, since signs and exponents repeat and last digits do not: smaller and faster than a dictionary.
        numbers = [column for column, values in self.metrics.items() if values.dtype.kind == "f"]
        split = [column if self.metrics[column].ndim < 2 else f"{column}.list.element" for column in numbers]
        words = [column for column in self.metrics if column not in numbers]
        pq.write_table(
            table, folder / "metrics.parquet", compression="zstd", use_dictionary=words, use_byte_stream_split=split
        )
        for name, content in {"arrays": self.arrays, **self.files}.items():
            arrays = {key: np.asarray(value, order="C") for key, value in content.items()}
            (folder / f"{name}.safetensors").write_bytes(save(arrays))

    @classmethod
    def load(cls, folder: str | Path) -> Outcome:
        """The outcome that a run folder holds, from open formats alone.

        Raises ConfigError where the folder is not there, holds no run, or a file of it cannot be read (named).
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        at = folder = Path(folder)
        try:
            settled(folder)
            at = folder / "run.json"
            if not at.is_file():
                why = (
                    "it is unfinished, and the same command continues it"
                    if unfinished(folder)
                    else "there is no run.json in it"
                )
                raise ConfigError(f"{folder} holds no run: {why}")
            record = json.loads(at.read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError("it is not a record")
            at = folder / "metrics.parquet"
            table = pq.read_table(at)
            at = folder / "arrays.safetensors"
            arrays = load_file(at)
        except ConfigError:
            raise
        except (OSError, ValueError, RecursionError, pa.ArrowException, SafetensorError) as error:
            raise ConfigError(f"{at} cannot be read: {(str(error).splitlines() or [''])[0]}") from None
        return Outcome(record, {name: _column(table[name]) for name in table.column_names}, arrays)


def _stored(values: np.ndarray) -> Any:
    """The inverse of `_column`."""
    import pyarrow as pa

    if values.ndim < 2:
        return values
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(values).reshape(-1))


def _column(column: Any) -> np.ndarray:
    """A column of a table as an array: text as numpy's own strings, lists of one length as a second dimension."""
    import pyarrow as pa

    if pa.types.is_list(column.type):
        rows: np.ndarray = column.combine_chunks().flatten().to_numpy()
        return rows.reshape(len(column), -1)
    values: np.ndarray = column.to_numpy()
    return values.astype(str) if values.dtype == object and column.type == "string" else values


class Figures:
    """The figures of an outcome by name: functions, each draws one and returns it, a figure of matplotlib.

    `outcome.plot.NAME(columns=1)` has at most so many panels beside each other, for a narrow page.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __dir__(self) -> list[str]:
        return list(self._drawn())

    def __getattr__(self, name: str) -> Callable[[], Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self._drawn()
        if name not in found:
            raise AttributeError(
                f"the page of {self._outcome.name} has no figure {name!r}; it has {', '.join(sorted(found))}"
            )
        from grassmann_ssl.run import arranged

        def draw(columns: int | None = None) -> Any:
            return found[name] if columns is None else arranged(found[name], columns)

        return draw

    def _drawn(self) -> dict[str, Any]:
        from grassmann_ssl.run import figures

        return {name.replace("-", "_"): figure for name, figure in figures(self._outcome).items()}


class Run:
    """A run from its first check to its outcome: device, generator, clock, logs, and what Ctrl-C leaves of it.

    Raises ConfigError where the device is not available.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = device_of(config.device)
        self.logs = Logs(config)
        self.interrupted: str | None = None
        self.resumed: str | None = None
        self._complete = self._depth = 0
        self._begin = time.perf_counter()

    def generator(self) -> torch.Generator:
        """A new generator on the CPU, seeded by the config: draws do not depend on the device."""
        return torch.Generator().manual_seed(self.config.seed)

    def keep(self, train: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """train(...), or what it had recorded when Ctrl-C ended it. KeyboardInterrupt propagates where that is nothing."""
        with self._training() as pressed:
            if pressed:
                raise KeyboardInterrupt
            try:
                return train(*args, **kwargs)
            except Interrupted as stop:
                self.interrupted = str(stop)
                recorded: T = stop.recorded
                return recorded

    def parts(
        self, items: Sequence[S], work: Callable[[S], T], name: Callable[[S], str] = str, least: int = 1
    ) -> list[T]:
        """work(item) of every part of a run, in order; after Ctrl-C those of the parts that were complete.

        `interrupted` says in which part that was, "in seed 2, which is left out, part 2 of 3", or after which step where `work` kept what
        it had recorded. KeyboardInterrupt propagates while fewer than `least` parts of the run are complete.
        """
        found: list[T] = []
        with self._training() as pressed:
            if pressed:
                self.interrupted = self.interrupted or f"before {name(items[0])}"
            for k, item in enumerate(items, 1):
                if self.interrupted:
                    break
                try:
                    found.append(work(item))
                except Again:
                    raise
                except KeyboardInterrupt:
                    if self._complete < least:
                        raise
                    number = f", part {k} of {len(items)}" if len(items) > 1 else ""
                    self.interrupted = f"in {name(item)}, which is left out{number}"
                else:
                    self._complete += 1
                    if self.interrupted:
                        self.interrupted = f"{name(item)}, {self.interrupted}"
        return found

    @contextmanager
    def _training(self) -> Iterator[bool]:
        """Ctrl-C ends the block. After the outermost one, when all is recorded, it waits for the next one or for `run`.

        Within it a training may let a signal wait until the end of a step.
        """
        pressed = self._depth == 0 and patience.end()
        self._depth += 1
        try:
            yield pressed
        finally:
            self._depth -= 1
        if self._depth == 0:
            patience.begin()

    def finish(
        self,
        findings: list[Finding],
        record: dict[str, Any],
        metrics: dict[str, np.ndarray],
        arrays: dict[str, np.ndarray],
        files: dict[str, dict[str, np.ndarray]] | None = None,
    ) -> Outcome:
        """The outcome: the record with config, provenance, findings and wall time, and the numbers as they are."""
        whole = {
            "experiment": self.config.NAME,
            "config": self.config.values() | {"out": str(self.config.folder)},
            **provenance(self.device),
            "findings": [asdict(finding) for finding in findings],
            "interrupted": self.interrupted,
            "resumed": self.resumed,
            **self.logs.record(),
            **record,
            "wall_time_s": round(time.perf_counter() - self._begin, 2),
        }
        return Outcome(whole, metrics, arrays, files or {})

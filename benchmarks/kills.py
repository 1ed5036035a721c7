"""Does a run that is stopped at any moment end with the bits of one that is not? Trainings stopped at random, run again, compared.

    python -m benchmarks.kills --rounds 100 --how kill     SIGKILL at a random moment; and again, in one of three runs that go on
    python -m benchmarks.kills --rounds 100 --how term     SIGTERM
    python -m benchmarks.kills --rounds 100 --how full --folder TMPFS   a random part of what a run needs is left on this small disk

Each round is one of `COMBINATIONS`. What is compared: weights, metrics, arrays, figures, verdict and page, all but dates and times; and
after every stop, whether the folder reads as a run, or as one that goes on. Exit code 1 where anything differs.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pyarrow.parquet  # noqa: F401  here, so that no process that is forked has to
import scipy.optimize  # noqa: F401
import torch
import torch._dynamo
import tyro

import grassmann_ssl.report.encoders.train
import grassmann_ssl.report.page  # noqa: F401
from benchmarks import table
from benchmarks.harness import environment, write
from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import fitting, material
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.report import draw
from grassmann_ssl.run import Unwritten, run
from grassmann_ssl.runs import ConfigError, Outcome, unfinished
from grassmann_ssl.training import save_checkpoint

COMBINATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"constraint": "grassmann"},
    {"constraint": "grassmann", "predictor": "directset", "teacher": 0.9},
    {"constraint": "stiefel", "predictor": "mlp", "optimizer": "adam", "lr": 0.01},
    {"constraint": "feature-orthonormal", "objective": "nt_xent"},
    {"constraint": "feature-orthonormal", "predictor": "directpred", "accumulate": 2, "batch": 16},
    {"constraint": "parametrization", "objective": "barlow_twins", "precision": "bfloat16"},
    {"constraint": "stiefel", "where": "conv", "predictor": "linear", "precision": "bfloat16"},
    {"constraint": "penalty", "objective": "vicreg", "lr": 0.005, "optimizer": "adam"},
    {"objective": "nt_xent", "optimizer": "lars", "lr": 0.2, "precision": "float16"},
    {"constraint": "grassmann", "objective": "nt_xent", "optimizer": "lars", "lr": 0.2, "precision": "float16"},
    {"objective": "lejepa", "optimizer": "muon", "lr": 0.01},
    {"constraint": "geoopt-stiefel", "predictor": "directcopy", "optimizer": "adam", "lr": 0.01},
    {"constraint": "grassmann", "objective": "frossl", "optimizer": "adam", "lr": 0.01, "schedule": "constant"},
)
SMALL = {"steps": 20, "batch": 32, "records": 10, "hidden": 16, "dim": 4, "objective": "negative_cosine"}
SIGNALS = {"kill": signal.SIGKILL, "pages": signal.SIGKILL, "term": signal.SIGTERM, "full": None}
LARGEST = 2**26  # bytes of a disk that is filled
TIMES = re.compile(
    r'"(date|wall_time_s|seconds_per_step|resumed|unsaved|save_every)":|time per step|This run was resumed|^save_every'
)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a run, text without the lines that say times and where it was resumed."""
    found = {}
    for path in folder.iterdir():
        if path.suffix in (".json", ".html", ".toml"):
            record = json.loads(path.read_text()) if path.name == "run.json" else None
            if record is not None:
                record["findings"] = [
                    one for one in record["findings"] if not one["quantity"].startswith("time per step")
                ]
            text = path.read_text() if record is None else json.dumps(record, indent=1)
            lines = [line for line in text.splitlines() if not TIMES.search(line)]
            found[path.name] = "\n".join(line.rstrip(",") for line in lines).encode()
        else:
            found[path.name] = path.read_bytes()
    return found


def first_difference(found: bytes | None, expected: bytes | None) -> str:
    """The first two lines of a text that differ."""
    if found is None or expected is None:
        return ": it is not there" if found is None else ": it should not be there"
    pairs = zip_longest(found.splitlines(), expected.splitlines(), fillvalue=b"")
    return "".join([f": {one[:200]!r} for {other[:200]!r}" for one, other in pairs if one != other][:1])


def readable(folder: Path) -> bool:
    """Whether a folder holds a whole run, an unfinished one, or nothing."""
    try:
        Outcome.load(folder)
    except ConfigError as error:
        return "holds no run: " in str(error)
    return True


def child(config: TrainConfig, page: bool) -> None:
    """A run in a process of its own. Exit code 1 or 2 where it says in one line that it cannot be, 99 where it does not."""
    sys.stderr = sys.stdout = open(os.devnull, "w")
    code = 99
    try:
        run(config, page=page)
        code = 0
    except (Unwritten, ConfigError) as error:
        code = (1 if isinstance(error, Unwritten) else 2) if "\n" not in str(error) else 99
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        print(config, file=sys.__stderr__)
        traceback.print_exc(file=sys.__stderr__)
    os._exit(code)


def ended(config: TrainConfig, pages: bool, after: float | None = None, number: int = signal.SIGKILL) -> int:
    """The exit code of a run that gets a signal after so many seconds; negative where that killed it. The first combination has a page."""
    page = pages or (
        config.constraint == "none" and config.predictor == "none" and config.objective == "negative_cosine"
    )
    process = multiprocessing.get_context("fork").Process(target=child, args=(config, page))
    process.start()
    process.join(after)
    if after is not None and process.is_alive():
        os.kill(process.pid or 0, number)
        process.join()
    return int(process.exitcode or 0)


@dataclass
class Campaign:
    """Rounds of stopped runs in a folder, and what was found."""

    folder: Path
    draw: random.Random
    number: int | None  # the signal; None: a full disk
    wholes: dict[int, tuple[dict[str, bytes], float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    pages: bool = False  # of all combinations, not of the first alone

    def config(self, k: int) -> TrainConfig:
        return TrainConfig.of(**{**SMALL, **COMBINATIONS[k], "out": self.folder / "run"})

    def whole(self, k: int) -> tuple[dict[str, bytes], float]:
        """The files of the run that nothing stops, and its seconds."""
        if k not in self.wholes:
            begin = time.perf_counter()
            if code := ended(self.config(k), self.pages):
                raise RuntimeError(f"{COMBINATIONS[k]} ends with exit code {code}")
            self.wholes[k] = content(self.folder / "run"), time.perf_counter() - begin
            shutil.rmtree(self.folder / "run")
        return self.wholes[k]

    def round(self, k: int) -> None:
        """One run, stopped at least once, and run until it ends."""
        at = self.folder / "run"
        expected, seconds = self.whole(k)
        stop: Callable[[TrainConfig, float], int] = self.fill if self.number is None else self.kill
        stopped = 0
        while True:
            config = replace(self.config(k), save_every=self.draw.choice((1, 3, 10)))
            code = ended(config, self.pages) if stopped and self.draw.random() < 2 / 3 else stop(config, seconds)
            if code == 0:
                if stopped:
                    break
                shutil.rmtree(at)  # it was faster
                continue
            stopped += 1
            self.codes[code] += 1
            self.counts["stopped"] += 1
            self.counts["unreadable"] += not readable(at)
            self.counts["with a checkpoint"] += unfinished(at)
            if (at / "run.json").exists() and not unfinished(at):  # stopped when all was written,
                if code == 1:  # but for the page
                    draw(at)  # as the message says
                break
            if code not in (1, 2, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                raise RuntimeError(f"{COMBINATIONS[k]} ends with exit code {code}")
        self.counts["runs"] += 1
        self.counts["resumed"] += Outcome.load(at).resumed is not None
        found = content(at)
        self.counts["identical"] += found == expected
        for name in sorted({*found, *expected}):
            one, other = found.get(name), expected.get(name)
            if one != other:
                print(f"{COMBINATIONS[k]}: {name} differs{first_difference(one, other)}", file=sys.stderr)
        shutil.rmtree(at)

    def kill(self, config: TrainConfig, seconds: float) -> int:
        assert self.number is not None
        return ended(config, self.pages, self.draw.uniform(0, seconds), self.number)

    def fill(self, config: TrainConfig, seconds: float) -> int:
        ballast = self.folder / "ballast"
        need = 2 * sum(map(len, self.wholes[0][0].values()))
        left = shutil.disk_usage(self.folder).free - self.draw.randrange(need)
        if left > LARGEST:
            raise RuntimeError(f"{self.folder} is on a large disk: give a small one, such as a tmpfs of 2 MiB")
        with ballast.open("wb") as file:
            file.write(bytes(max(0, left)))
        try:
            return ended(config, self.pages)
        finally:
            ballast.unlink()


def campaign(folder: Path, rounds: int, how: str, seed: int = 1, jobs: int = 1) -> dict[str, Any]:
    """What was found in so many rounds, over all combinations in turn, shared by so many processes."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()

    def share(job: int) -> None:
        own = folder / str(job)
        own.mkdir()
        found = Campaign(own, random.Random(seed + job), SIGNALS[how], pages=how == "pages")
        try:
            for k in (k % len(COMBINATIONS) for k in range(rounds)):
                if k % jobs == job:
                    found.round(k)
        finally:
            results.put((found.counts, found.codes))

    workers = [context.Process(target=share, args=(job,)) for job in range(jobs)]
    for worker in workers:
        worker.start()
    counts: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    for _ in workers:
        more_counts, more_codes = results.get()
        counts.update(more_counts)
        codes.update(more_codes)
    for worker in workers:
        worker.join()
    names = ("runs", "identical", "resumed", "stopped", "with a checkpoint", "unreadable")
    return {
        "how": how, "combinations": min(rounds, len(COMBINATIONS)), **{name: counts[name] for name in names},
        "exit codes": {str(code): n for code, n in sorted(codes.items())},
    }  # fmt: skip


@cache
def few_images() -> Split:
    """Few images, so that a run takes a second."""
    whole = load_split("digits", torch.Generator().manual_seed(1))
    return Split(whole.train[:96], None, whole.test[:60], None)


def checkpoint_share(steps: int) -> dict[str, Any]:
    """The share of the time of a run of `train`, at its defaults, that its checkpoints take, and how many there were."""
    saved, original = [], save_checkpoint

    def timed(*given: Any) -> None:
        begin = time.perf_counter()
        original(*given)
        saved.append(time.perf_counter() - begin)

    with mock.patch.object(fitting, "save_checkpoint", timed), tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run(TrainConfig(steps=steps, out=Path(folder, "run")))
        seconds = time.perf_counter() - begin
    return {"steps": steps, "seconds": seconds, "checkpoints": len(saved), "share": sum(saved) / seconds}


@dataclass(frozen=True)
class Config:
    """Stop trainings at random moments, run them again, and compare them with those that nothing stopped."""

    rounds: int = 100
    """runs, each stopped at least once"""
    how: tuple[Literal["kill", "pages", "term", "full", "share"], ...] = ("kill", "term", "share")
    """SIGKILL, the same with a page for every combination, SIGTERM, a full disk; share: of the time that checkpoints take"""
    folder: Path | None = None
    """where the runs are: for a full disk a small one, such as a tmpfs of 2 MiB"""
    out: Path = table.RESULTS / "kills-cpu.json"
    """the record; what it says of other ways is kept"""
    seed: int = 1
    """seed of the moments"""
    jobs: int = 1
    """processes that share the rounds"""


def main() -> int:
    """Exit code 1 where a result differs or a folder cannot be read."""
    config = tyro.cli(Config, prog="python -m benchmarks.kills")
    torch.set_num_threads(1)
    records = json.loads(config.out.read_text())["records"] if config.out.exists() else []
    bad = 0
    few_images()
    for how in config.how:
        data = mock.patch.object(
            material, "load_split", load_split if how == "share" else lambda *_, **__: few_images()
        )
        with data, tempfile.TemporaryDirectory(dir=config.folder) as folder:
            found = (
                {"how": how, **checkpoint_share(600)}
                if how == "share"
                else campaign(Path(folder), config.rounds, how, config.seed, config.jobs)
            )
        print(json.dumps(found), flush=True)
        bad += how != "share" and (found["identical"] < config.rounds or found["unreadable"] > 0)
        records = [one for one in records if one["how"] != how] + [found]
    write(config.out, {"case": "kills", **environment(torch.device("cpu")), "records": records})
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())

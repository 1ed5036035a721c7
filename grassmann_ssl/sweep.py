"""Running a sweep: its cells one after the other in this process, or in several, here or on a cluster."""

import os
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from grassmann_ssl.experiments import EXPERIMENTS, TOGETHER
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Progress, RunConfig, ticking, toml
from grassmann_ssl.runs.sweep import Cell, assigned, cells, described, finished
from grassmann_ssl.streams import printed, progress, say
from grassmann_ssl.training.watch import Diverged

NOTES = ".sweep"
"""folder, inside that of the sweep, of the reasons of failed cells and the logs of jobs"""
INSTALL = "pip install 'grassmann_ssl[cluster]'"


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Where cells are run. Raises ConfigError for an option without effect."""

    workers: int = 1
    """processes on this machine, or jobs at a time on a cluster; each process of this machine takes its share of the cells"""
    cluster: Literal["local", "slurm"] = "local"
    """local: on this machine; slurm: an array of jobs, a cell each"""
    partition: str | None = None
    """slurm: partition"""
    minutes: int | None = None
    """slurm: time limit of a job; default 60"""
    cpus: int | None = None
    """slurm: processors of a job; default 1"""
    gpus: int | None = None
    """slurm: GPUs of a job; default none"""
    memory: float | None = None
    """slurm: memory of a job in GB; default: that of the partition"""
    requeue: int | None = None
    """slurm: times that a job is started again, to continue, at its time limit; default 3"""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        for name in ("partition", "minutes", "cpus", "gpus", "memory", "requeue"):
            value = getattr(self, name)
            if value is not None and self.cluster == "local":
                raise ConfigError(f"{name} = {value} has no effect with cluster local")
            if isinstance(value, (int, float)) and value < (0 if name in ("gpus", "requeue") else 1e-3):
                raise ConfigError(f"{name} must not be {value}")


@dataclass
class Result:
    """The names of the cells that were run to their end, of those that were skipped since they had been, and why the others failed."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def __str__(self) -> str:
        left = ", interrupted" if self.interrupted else ""
        return f"{len(self.done)} done, {len(self.skipped)} skipped (done before), {len(self.failed)} failed{left}"


def sweep(
    of: Sequence[Cell],
    out: Path,
    jobs: Jobs = Jobs(),
    progress: Progress | None = None,
) -> Result:
    """Run every cell that is not finished, each into its folder in `out`; no page is drawn.

    A cell that fails ends no other: the result says why it did, in one line, and it is tried again by the next call. After Ctrl-C the
    finished cells are kept. Raises ConfigError before anything is run: for a folder of other settings, and where submitit is not installed.
    """
    result = Result(skipped=[cell.name for cell in of if finished(cell)])
    left = [cell for cell in of if cell.name not in result.skipped]
    tick = ticking(progress, len(left))
    notes = out / NOTES
    try:
        notes.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot create {notes}: {error.strerror}") from None
    for cell in left:
        _note(notes, cell.name).unlink(missing_ok=True)
    try:
        if left and (jobs.workers > 1 or jobs.cluster != "local"):
            _submitted(left, notes, jobs, tick)
        else:
            attempt_all(left, notes, tick)
    except KeyboardInterrupt:
        result.interrupted = True
    for cell in left:
        note = _note(notes, cell.name)
        if note.exists():
            result.failed[cell.name] = note.read_text(encoding="utf-8").splitlines()[0]
        elif finished(cell):
            result.done.append(cell.name)
        elif not result.interrupted:
            result.failed[cell.name] = f"its process ended without a word; logs are in {notes}"
    return result


def attempt_all(of: Sequence[Cell], notes: Path, tick: Callable[..., object] = lambda label: None) -> None:
    """Run cells one after the other; those of a linear model are trained together."""
    by_type: dict[type[RunConfig], list[Cell]] = {}
    for cell in of:
        by_type.setdefault(type(cell.config), []).append(cell)
    for config_type, alike in by_type.items():
        together = TOGETHER.get(config_type, lambda configs: [None] * len(configs))
        for cell, experiment in zip(alike, together([cell.config for cell in alike]), strict=True):
            attempt(cell, notes, experiment)
            tick(cell.name)


def attempt(cell: Cell, notes: Path, experiment: Callable[..., Any] | None = None) -> None:
    """Run a cell; where it fails a file in `notes` says why, in its first line, and where. KeyboardInterrupt propagates."""
    # A run that is there was interrupted: it goes on, or where it cannot is replaced.
    config = replace(cell.config, overwrite=(cell.config.folder / "run.json").exists())
    try:
        outcome = run(config, page=False, experiment=experiment)
    except (ConfigError, Diverged) as error:
        _note(notes, cell.name).write_text(f"{error}\n", encoding="utf-8")
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        _note(notes, cell.name).write_text(
            f"{type(error).__name__}: {reason}\n{traceback.format_exc()}", encoding="utf-8"
        )
    else:
        if outcome is not None and outcome.interrupted:
            raise KeyboardInterrupt


def _note(notes: Path, name: str) -> Path:
    return notes / f"{name}.txt"


class Share:
    """The cells of one job: what submitit stores of it is this class by its name and text, settings in TOML."""

    def __init__(self, of: Sequence[Cell], notes: Path) -> None:
        self.notes = str(notes.resolve())
        self.cells = [
            (cell.name, toml.dumps(cell.config.NAME, cell.config.values() | {"out": cell.config.folder.resolve()}))
            for cell in of
        ]

    def __call__(self) -> None:
        """Run them; those that are finished, before the job was started again, are skipped."""
        of = []
        for name, text in self.cells:
            content = toml.parsed(text)
            config_type = experiment(content[toml.EXPERIMENT])
            of.append(Cell(name, config_type.of(**toml.settings(content, config_type, name))))
        attempt_all([cell for cell in of if not finished(cell)], Path(self.notes))

    def checkpoint(self) -> Any:
        """What is submitted again when the job met its time limit or was displaced: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def experiment(name: str) -> type[RunConfig]:
    """The config of an experiment by its name. Raises ConfigError for an unknown one."""
    from grassmann_ssl.registry import nearest

    known = {config_type.NAME: config_type for config_type in EXPERIMENTS}
    if name not in known:
        raise ConfigError(f"{name!r} is no command to sweep: known are {', '.join(known)}{nearest(name, known)}")
    return known[name]


def _submitted(left: Sequence[Cell], notes: Path, jobs: Jobs, tick: Callable[..., object]) -> None:
    """Run cells by submitit and wait until all its jobs have ended."""
    try:
        import submitit
    except ImportError:
        raise ConfigError(f"several workers and clusters need submitit: {INSTALL}") from None
    folder = notes / "jobs" / "%j"
    if jobs.cluster == "slurm":
        shares = [Share([cell], notes) for cell in left]
        executor = _slurm(submitit, folder, jobs)
    else:
        shares = [Share(left[k :: jobs.workers], notes) for k in range(min(jobs.workers, len(left)))]
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 365)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs.workers)))
    queued = notes / "queued.txt"
    if jobs.cluster == "slurm" and queued.exists() and _in_queue(queued.read_text(encoding="utf-8")):
        ids = queued.read_text(encoding="utf-8")
        raise ConfigError(f"job {ids} of this sweep is still in the queue; wait for it, or `scancel {ids}`")
    with executor.batch():
        submitted = [executor.submit(share) for share in shares]
    main = submitted[0].job_id.split("_")[0]
    if jobs.cluster == "slurm":
        queued.write_text(main, encoding="utf-8")
    open_cells = list(left)
    try:
        while True:
            running = _in_queue(main) if jobs.cluster == "slurm" else not all(job.done() for job in submitted)
            for cell in list(open_cells):
                if _note(notes, cell.name).exists() or (cell.config.folder / "run.json").exists():
                    open_cells.remove(cell)
                    tick(cell.name)
            if not running:
                return
            time.sleep(2.0 if jobs.cluster == "slurm" else 0.2)
    except KeyboardInterrupt:
        if jobs.cluster == "slurm":
            say(f"grassmann-ssl: the jobs go on; `scancel {main}` ends them, the same command shows what they did")
        else:
            _ended(submitted)
        raise


def _ended(submitted: Sequence[Any]) -> None:
    """End the processes of this machine by Ctrl-C, and wait until they have kept what they recorded."""
    for job in submitted:
        if not job.done():
            job.cancel()
    while not all(job.done() for job in submitted):
        time.sleep(0.1)


def _slurm(submitit: Any, folder: Path, jobs: Jobs) -> Any:
    """The executor of an array of jobs. Raises ConfigError where there is no SLURM."""
    retries = 3 if jobs.requeue is None else jobs.requeue
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=retries)
    except RuntimeError:
        raise ConfigError("cluster: slurm is not here: there is no srun") from None
    options: dict[str, Any] = {
        "job_name": "grassmann-ssl",
        "partition": jobs.partition,
        "time": jobs.minutes or 60,
        "cpus_per_task": jobs.cpus or 1,
        "gpus_per_node": jobs.gpus,
        "mem": None if jobs.memory is None else f"{round(1024 * jobs.memory)}MB",
        "array_parallelism": jobs.workers,
        "setup": ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"],
        "additional_parameters": {"requeue": True},
    }
    executor.update_parameters(**{name: value for name, value in options.items() if value is not None})
    return executor


def _in_queue(job: str) -> bool:
    done = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
    return bool(done.stdout.strip())


def run_sweep(
    command: tyro.conf.Positional[str],
    grid: tuple[str, ...] = (),
    seeds: int | None = None,
    set: tuple[str, ...] = (),
    config: Path | None = None,
    out: Path | None = None,
    jobs: Annotated[Jobs, tyro.conf.arg(name="")] = Jobs(),
    quiet: bool = False,
) -> int:
    """Run a command on every combination of a grid of settings: each cell its own run folder, and a finished one is not run again.

    Args:
        command: command to run, such as compare or train, or a TOML file of its settings with a table `grid`
        grid: settings to vary, each NAME=VALUE,VALUE,...
        seeds: as many seeds, 1, 2, ...: short for --grid seed=1,2,...
        set: settings of all cells, each NAME=VALUE
        config: TOML file of settings of all cells
        out: folder of the sweep; runs/sweep-COMMAND where not given
        quiet: print nothing but errors
    """
    file = Path(command) if command.endswith(".toml") else config
    config_type = experiment(toml.read(file).get(toml.EXPERIMENT, "") if file and file != config else command)
    settings, varied = described(file, config_type) if file else ({}, {})
    for name, text in assigned("set", set).items():
        settings[name] = toml.from_text(config_type, name, text)
        varied.pop(name, None)
    for name, text in assigned("grid", grid).items():
        varied[name] = [toml.from_text(config_type, name, one) for one in text.split(",")]
    if seeds is not None:
        if seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {seeds}")
        varied["seed"] = list(range(1, seeds + 1))
    if not varied:
        raise ConfigError(
            f"grid: nothing is varied: give --grid NAME=VALUE,VALUE or --seeds N; one run is grassmann-ssl {config_type.NAME}"
        )
    folder = out or settings.get("out") or Path("runs") / f"sweep-{config_type.NAME}"
    of = cells(config_type, settings, varied, folder)
    result = sweep(of, folder, jobs, None if quiet else lambda total: progress(total, unit="cell"))
    progress.close()
    for name, reason in result.failed.items():
        say(f"grassmann-ssl: cell {name} failed: {reason}")
    shown = quiet or printed(
        f'sweep of {config_type.NAME}, {len(of)} cells: {result}\nside by side: grassmann-ssl table "{folder}/*"'
    )
    if result.interrupted:
        say("grassmann-ssl: interrupted; the finished cells are kept, and the same command runs the others")
        return 130
    return 0 if shown and not result.failed else 1

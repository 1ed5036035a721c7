"""Running an experiment: check the folder, run, write, draw; for the command line, notebooks and tests alike."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grassmann_ssl.audit import Audit
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.encoders.audit import AuditConfig, audit_of, outcome_of
from grassmann_ssl.interrupt import Terminated, patience
from grassmann_ssl.report import draw, page_of
from grassmann_ssl.runs import ConfigError, Outcome, Progress, RunConfig, RunFolder, unfinished

DONE = "while it was compared and written, which is done"
CONTINUES = "the same command continues it"


class Stopped(KeyboardInterrupt):
    """Ctrl-C that left something in the run folder but an outcome: its text says what."""


class Unwritten(OSError):
    """A run that could not be written, or drawn, such as on a full disk: its text says what is lost, in one line."""


def run(
    config: RunConfig,
    progress: Progress | None = None,
    page: bool = True,
    experiment: Callable[..., Outcome | None] | None = None,
) -> Outcome | None:
    """Run the experiment of this config and write its folder, whole or not at all.

    The folder is `config.folder`, with run.json, config.toml, metrics.parquet, arrays.safetensors, and the page drawn from these files,
    unless `page` is False. `experiment` takes the place of the function of this config in EXPERIMENTS.
    `progress(total)` returns a function called with a label and the number of steps (default 1). Returns the outcome; None in the processes
    of torchrun but the first. Raises ConfigError, before training, for a folder that exists or settings that cannot be run; Diverged as
    the experiment does; Unwritten where the folder cannot be written, which is then as it was before. After Ctrl-C the folder holds what
    was recorded until then, and the outcome's `interrupted` says where that was; KeyboardInterrupt propagates if there is nothing. After
    the last training Ctrl-C waits until all is compared, written and drawn, which then raises Stopped, a KeyboardInterrupt; pressed twice
    it ends the run at once, or, where only the page is missing, without it. SIGTERM and SIGHUP raise Terminated, a SystemExit, and write
    nothing, but wait as well while a run is written. A training of encoders saves checkpoints in the folder, and one more when a signal
    ends it, after the step: run again with the same settings, it goes on from there.
    """
    chosen = experiment or EXPERIMENTS[type(config)]
    with RunFolder(config) as folder:
        patience.arm()
        try:
            outcome = chosen(config, progress, *([folder] if config.RESUMES else ()))
            if outcome is not None:
                patience.begin()
                _write(outcome, folder, page)
        except Stopped:
            raise
        except KeyboardInterrupt:
            if unfinished(folder.path):
                raise Stopped(f"before anything was judged; {CONTINUES}") from None
            raise
        except Terminated as stop:
            stop.where = f"{stop.where or 'nothing was written'}{f'; {CONTINUES}' if unfinished(folder.path) else ''}"
            raise
        finally:
            waiting = patience.disarm()
    if waiting == signal.SIGINT:
        raise Stopped(f"{DONE}; report: {folder.path / 'report.html'}")
    if waiting is not None:
        raise Terminated(waiting, DONE)
    return outcome


def save_outcome(outcome: Outcome, folder: Path, overwrite: bool = False) -> Path:
    """Write an outcome that was made in Python into a run folder: `Outcome.save`."""
    config = RunConfig(out=folder, overwrite=overwrite)
    with RunFolder(config) as checked:
        outcome.record["config"]["out"] = str(folder)
        _write(outcome, checked)
    return folder


def drawn(outcome: Outcome) -> Path:
    """The page of a run folder that this outcome was written to, drawn anew: `Outcome.report`."""
    if not (outcome.folder / "run.json").exists():
        raise ConfigError(f"{outcome.folder} holds no run: outcome.save(folder) writes one, with its page")
    return draw(outcome.folder)


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of the page of an outcome, by name: `Outcome.plot`."""
    return {section.name: section.figure for section in page_of(outcome).sections}


def arranged(figure: Any, columns: int) -> Any:
    """A figure with at most `columns` panels beside each other: `Outcome.plot`."""
    from grassmann_ssl.report import style

    return style.arranged(figure, columns)


def save_audit(audit: Audit, folder: Path, overwrite: bool = False) -> None:
    """Write an audit that was made in Python into a run folder: `Audit.save`."""
    with RunFolder(AuditConfig(out=folder, overwrite=overwrite)) as checked:
        _write(outcome_of(audit, folder), checked)


def load_audit(folder: Path) -> Audit:
    """The audit that a run folder holds: `Audit.load`."""
    return audit_of(Outcome.load(folder))


def _write(outcome: Outcome, folder: RunFolder, page: bool = True) -> None:
    undrawn: BaseException | None = None
    try:
        with folder.writing(finished=outcome.interrupted is None) as path:
            outcome.write(path)
            try:
                if page:
                    draw(path)
            except (KeyboardInterrupt, OSError) as error:
                undrawn = error
    except OSError as error:
        left = CONTINUES if unfinished(folder.path) else "what was computed is lost, and what the folder held stays"
        raise Unwritten(f"{folder.path} cannot be written: {error.strerror or error}; {left}") from None
    if undrawn is None:
        return
    redraw = f"`grassmann-ssl report {folder.path}` draws it"
    if isinstance(undrawn, OSError):
        raise Unwritten(f"the page of {folder.path} cannot be written: {undrawn.strerror or undrawn}; {redraw}")
    raise Stopped(f"before the page was drawn; {redraw}")

"""Running an experiment: check the folder, run, write, draw; for the command line, notebooks and tests alike."""

from pathlib import Path

from grassmann_ssl.audit import Audit
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.encoders.audit import audit_of, outcome_of
from grassmann_ssl.interrupt import patience
from grassmann_ssl.report import draw
from grassmann_ssl.runs import Outcome, Progress, RunConfig, RunFolder


class Stopped(KeyboardInterrupt):
    """Ctrl-C while a run was compared with theory, written or drawn: its folder holds all numbers, its text says whether a page too."""


def run(config: RunConfig, progress: Progress | None = None, page: bool = True) -> Outcome | None:
    """Run the experiment of this config and write its folder atomically.

    The folder is `config.folder`, with run.json, config.toml, metrics.parquet, arrays.safetensors, and the page drawn from these files,
    unless `page` is False.
    `progress(total)` returns a function called with a label and the number of steps (default 1). Returns the outcome; None in the processes
    of torchrun but the first. Raises ConfigError, before training, for a folder that exists or settings that cannot be run; Diverged as
    the experiment does. After Ctrl-C the folder holds what was recorded until then, and the outcome's `interrupted` says where that was;
    KeyboardInterrupt propagates if there is nothing. After the last training Ctrl-C waits until all is compared, written and drawn, which
    then raises Stopped, a KeyboardInterrupt; pressed twice it ends the run at once, or, where only the page is missing, without it.
    """
    folder = RunFolder(config.folder, config.overwrite)
    patience.arm()
    try:
        outcome = EXPERIMENTS[type(config)](config, progress)
        if outcome is not None:
            patience.begin()
            _write(outcome, folder, page)
    finally:
        pressed = patience.disarm()
    if pressed:
        raise Stopped(f"while it was compared and written, which is done; report: {folder.path / 'report.html'}")
    return outcome


def save_audit(audit: Audit, folder: Path, overwrite: bool = False) -> None:
    """Write an audit that was made in Python into a run folder: `Audit.save`."""
    checked = RunFolder(folder, overwrite)
    _write(outcome_of(audit, folder), checked)


def load_audit(folder: Path) -> Audit:
    """The audit that a run folder holds: `Audit.load`."""
    return audit_of(Outcome.load(folder))


def _write(outcome: Outcome, folder: RunFolder, page: bool = True) -> None:
    with folder.writing() as path:
        outcome.save(path)
        try:
            if page:
                draw(path)
            drawn = True
        except KeyboardInterrupt:
            drawn = False
    if not drawn:
        raise Stopped(f"before the page was drawn; `grassmann-ssl report {folder.path}` draws it")

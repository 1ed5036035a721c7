"""The one way through an experiment: refuse the folder, run, write, draw. Command line, notebooks and tests go this way."""

from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.linear import compare as comparing
from grassmann_ssl.experiments.linear.compare import CompareConfig, Comparison
from grassmann_ssl.report import draw
from grassmann_ssl.runs import Outcome, Progress, RunConfig, RunFolder


def run(config: RunConfig, progress: Progress | None = None) -> Outcome | None:
    """Run the experiment of this config into its folder, which appears whole or not at all.

    The folder is `config.folder`, with run.json, metrics.parquet, arrays.safetensors, and the page drawn from these files.
    `progress(total)` returns a function that is called with a label, and with the number of steps where it is not 1. Returns the outcome;
    None in a process of torchrun that is not the first, which writes. Raises ConfigError before any work for a folder that must not be
    written and settings that cannot be run.
    """
    folder = RunFolder(config.folder, config.overwrite)
    outcome = EXPERIMENTS[type(config)](config, progress)
    if outcome is None:
        return None
    with folder.writing() as path:
        outcome.save(path)
        draw(path)
    return outcome


def compare(config: CompareConfig, progress: Progress | None = None) -> Comparison:
    """Free, constrained and predicted training side by side, into its run folder; its report is drawn with the run.

    An interrupt (Ctrl-C) keeps what was recorded: the folder is written, and `result["interrupted"]` says where. Raises ConfigError before
    any training, as `run`.
    """
    from grassmann_ssl.report.folder import (
        write_run,  # brings matplotlib, which --help and bad settings should not wait for
    )

    folder = RunFolder(config.folder, config.overwrite)
    comparison = comparing.compare(config, progress)
    with folder.writing() as path:
        write_run(comparison, path)
    return comparison

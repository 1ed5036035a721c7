"""The one way through an experiment: refuse the folder, run, write, draw. Command line, notebooks and tests go this way."""

from grassmann_ssl.experiments import EXPERIMENTS
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

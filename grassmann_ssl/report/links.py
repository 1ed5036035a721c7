"""Where a page points to: the command that repeats the run, and the page of the documentation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

FOLDER = Path(__file__).parents[2] / "docs"
THEORY = "theory.md#one-command-per-question"
# Experiment -> the page of its question, and the heading there.
DOCS: dict[str, str] = {
    "audit": "audit.md#the-rule",
    "compare-encoders": "encoders.md#constraints-on-colour-pictures",
    "directpred-table": "encoders.md#predictors-by-sgd-and-in-closed-form",
    "pretrain": "your_own.md#what-goes-in",
    "stepwise-deep": "encoders.md#stepwise-learning-on-colour-pictures",
    "train": "encoders.md#the-verdict",
}

# `pretrain` is a function of Python.
WITHOUT_COMMAND = ("pretrain",)


class Docs(NamedTuple):
    """A page of the documentation, and its address where it is beside the package."""

    name: str
    address: str | None


def docs_of(experiment: str) -> Docs:
    """The page of the documentation on the question of an experiment."""
    page, _, heading = DOCS.get(experiment, THEORY).partition("#")
    file = FOLDER / page
    return Docs(f"docs/{page}", f"{file.as_uri()}#{heading}" if file.is_file() else None)


def command_of(outcome: Outcome) -> str | None:
    """The command line that repeats a run from the settings in its folder, into a folder beside it; None where it was made in Python."""
    config = outcome.record["config"]
    if outcome.name in WITHOUT_COMMAND or config.get("file", "") is None:
        return None
    settings, again = str(outcome.folder / "config.toml"), f"{outcome.folder}-again"
    return shlex.join(["grassmann-ssl", outcome.name, "--config", settings, "--out", again])

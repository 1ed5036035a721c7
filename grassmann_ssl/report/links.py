"""Where a page points to: the command that repeats the run, and where the documentation explains its question."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

# Experiment -> the heading of the documentation on its question, and the page: in words, since a page of a run is sent to others alone.
THEORY = "One command per question", "docs/theory.md"
DOCS = {
    "audit": ("The rule", "docs/audit.md"),
    "compare-encoders": ("Constraints on colour pictures", "docs/encoders.md"),
    "directpred-table": ("Predictors by SGD and in closed form", "docs/encoders.md"),
    "pretrain": ("What goes in", "docs/your_own.md"),
    "stepwise-deep": ("Stepwise learning on colour pictures", "docs/encoders.md"),
    "train": ("The verdict", "docs/encoders.md"),
}

# `pretrain` is a function of Python.
WITHOUT_COMMAND = ("pretrain",)


def docs_of(experiment: str) -> tuple[str, str]:
    """Where the documentation explains the question of an experiment: heading and page."""
    return DOCS.get(experiment, THEORY)


def command_of(outcome: Outcome) -> str | None:
    """The command line that repeats a run from the settings in its folder, into a folder beside it; None where it was made in Python."""
    config = outcome.record["config"]
    if outcome.name in WITHOUT_COMMAND or config.get("file", "") is None:
        return None
    settings, again = str(outcome.folder / "config.toml"), f"{outcome.folder}-again"
    return shlex.join(["grassmann-ssl", outcome.name, "--config", settings, "--out", again])

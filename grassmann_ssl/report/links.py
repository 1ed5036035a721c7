"""Where a page points to: the command that repeats the run, and where the documentation explains its question."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

ROOT = Path(__file__).parents[2]
# Experiment -> the heading of the documentation on its question, and the page.
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


class Docs(NamedTuple):
    """Where the documentation explains a question: in words, since a page of a run is sent to others alone, and as a link."""

    heading: str
    page: str
    address: str | None


def docs_of(experiment: str, folder: Path) -> Docs:
    """The heading and the page on the question of an experiment, and the way there from a run folder inside the repository."""
    heading, page = DOCS.get(experiment, THEORY)
    folder, file = folder.resolve(), ROOT / page
    near = folder.is_relative_to(ROOT) and file.is_file()
    return Docs(heading, page, Path(os.path.relpath(file, folder)).as_posix() if near else None)


def command_of(outcome: Outcome) -> str | None:
    """The command line that repeats a run from the settings in its folder, into a folder beside it; None where it was made in Python."""
    config = outcome.record["config"]
    if outcome.name in WITHOUT_COMMAND or config.get("file", "") is None:
        return None
    settings, again = str(outcome.folder / "config.toml"), f"{outcome.folder}-again"
    return shlex.join(["grassmann-ssl", outcome.name, "--config", settings, "--out", again])

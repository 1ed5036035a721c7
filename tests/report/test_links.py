"""Where a page points to: the documentation of every question, and the command that repeats the run."""

import json
import shlex
from pathlib import Path

import pytest

from grassmann_ssl.report import PAGES
from grassmann_ssl.report.links import WITHOUT_COMMAND, command_of, docs_of
from grassmann_ssl.runs import Outcome
from tests.commands import command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("experiment", PAGES)
def test_every_question_has_a_page_and_a_heading(experiment):
    docs = docs_of(experiment, ROOT / "runs" / experiment)
    assert f"\n## {docs.heading}\n" in (ROOT / docs.page).read_text()
    assert docs.address == f"../../{docs.page}"


def test_a_page_outside_the_repository_has_no_link_that_leads_nowhere(tmp_path):
    assert docs_of("audit", tmp_path) == ("The rule", "docs/audit.md", None)


def test_the_command_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "phase-commutator --tau 0.5 --eta 0.1 --seeds 2 --until 2 --step 0.1 --out".split()
    assert command(*line, "my runs/first").returncode == 0
    again = shlex.split(command_of(Outcome.load(tmp_path / "my runs" / "first")))
    assert again[0] == "grassmann-ssl" and command(*again[1:]).returncode == 0
    first, second = (
        json.loads((tmp_path / "my runs" / name / "run.json").read_text()) for name in ("first", "first-again")
    )
    assert first["findings"] == second["findings"]
    for record in (first, second):
        del record["config"]["out"]
    assert first["config"] == second["config"]


@pytest.mark.parametrize("record", [{"experiment": name, "config": {"out": "x"}} for name in WITHOUT_COMMAND])
def test_what_was_made_in_python_has_no_command(record):
    assert command_of(Outcome(record, {}, {})) is None
    assert command_of(Outcome({"experiment": "audit", "config": {"out": "x", "file": None}}, {}, {})) is None

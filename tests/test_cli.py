"""The command line as a whole: the commands by room, an example in every help, what there is by name, and completion."""

import shlex
import sys

import pytest

from grassmann_ssl import cli, listing
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.objectives.registry import REGISTRY
from tests.commands import command

TOOLS = ("sweep", "report", "table", "list")


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("-h",), 0)])
def test_the_overview_names_every_command_once_and_fits_the_terminal(arguments, code, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = command(*arguments)
    assert done.returncode == code
    lines = done.stdout.splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(named) == sorted([*(config.NAME for config in EXPERIMENTS), *TOOLS])
    assert max(map(len, lines)) <= 80 and all(f"{title}:" in lines for title in cli.ROOMS.values())


@pytest.mark.long
@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda config: config.NAME)
def test_every_help_has_an_example_that_is_accepted(config, monkeypatch):
    started = []
    monkeypatch.setattr("grassmann_ssl.run.run", lambda settings, *_: started.append(settings))
    done = command(*shlex.split(config.EXAMPLE))
    assert done.returncode == 0, done.stderr
    (settings,) = started
    assert type(settings) is config and settings != config.unchecked(), "the example shows no option"
    assert f"Example: grassmann-ssl {config.EXAMPLE}" in " ".join(command(config.NAME, "--help").stdout.split())


def test_what_there_is_by_name_is_listed():
    for kind in listing.KINDS:
        done = command("list", kind)
        header, *rows = done.stdout.splitlines()
        assert done.returncode == 0 and header.startswith("name") and len(rows) > 1
    names = [line.split()[0] for line in command("list", "objectives").stdout.splitlines()[1:]]
    assert names == list(REGISTRY)
    yes = [
        name for name, line in zip(names, listing.listed("objectives").splitlines()[1:], strict=True) if " yes " in line
    ]
    assert yes == [one.name for one in REGISTRY.values() if one.rotation_invariant]
    for one, line in zip(REGISTRY.values(), listing.listed("objectives").splitlines()[1:], strict=True):
        assert all(f"{option}=" in line for option in one.options)
    for name, line in zip(CONSTRAINTS, listing.listed("constraints").splitlines()[1:], strict=True):
        assert line.startswith(f"{name} ") and line.endswith(CONSTRAINTS[name].holds)
    done = command("list", "objective")
    assert done.returncode == 2 and "did you mean objectives?" in done.stderr


def test_the_shell_completes_commands_options_and_choices(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grassmann-ssl", "--tyro-print-completion", "bash"])
    with pytest.raises(SystemExit):
        cli.main()
    script = capsys.readouterr().out
    for word in (
        *(config.NAME for config in EXPERIMENTS),
        *TOOLS,
        "--constraint",
        "feature-orthonormal",
    ):
        assert word in script, word

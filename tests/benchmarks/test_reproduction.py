"""The reproduction table: it is that of the committed numbers, its commands exist, and it notices a number that changes."""

import copy
import json
import shlex
from unittest import mock

import pytest
import tyro

from benchmarks import reproduction, table
from benchmarks.reproduction import agreement, at, holds, read
from benchmarks.reproduction_rows import ROWS, Check
from grassmann_ssl.experiments import EXPERIMENTS

ROOT = table.ROOT
STORED = {one["row"]: one for one in json.loads((table.RESULTS / "reproduction-cpu.json").read_text())["records"]}
BY_NAME = {row.name: row for row in ROWS}
CHECKED = [(row.name, k) for row in ROWS if row.name in STORED for k in range(len(row.checks))]


def test_the_page_shows_the_committed_numbers():
    page = (ROOT / reproduction.PAGE).read_text()
    shown = page.partition("<!-- benchmark:reproduction -->\n")[2].partition("\n<!-- /benchmark:reproduction -->")[0]
    assert shown == table.markdown(reproduction, table.RESULTS)
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == len(ROWS) + len({row.paper for row in ROWS})
    assert {line.replace(r"\|", "").count("|") for line in rows} == {6}


@pytest.mark.parametrize("command", sorted({row.command for row in ROWS if row.command}))
def test_commands_are_those_that_ran_and_exist(command):
    ran = [STORED[row.name] for row in ROWS if row.command == command and row.name in STORED]
    assert {one["command"] for one in ran} <= {command} and all(one["cpu_seconds"] < 900 for one in ran)
    program, name, *rest = shlex.split(command)
    if program == "pytest":
        assert all((ROOT / file).is_file() for file in rest if file.startswith("tests/"))
    else:
        (config,) = (one for one in EXPERIMENTS if one.NAME == name)
        tyro.cli(config, args=rest)
        assert program == "grassmann-ssl"


@pytest.mark.parametrize(("name", "k"), CHECKED)
def test_a_number_beyond_its_bound_turns_the_row_red(name, k):
    row, values = BY_NAME[name], copy.deepcopy(STORED[name]["values"])
    check = row.checks[k]
    than = values[check.than] if check.than in values else check.than

    def planted(value):
        if isinstance(value, list):
            return [planted(one) for one in value]
        if isinstance(value, str):
            return "the opposite"
        return {"at most": 1e9, "at least": -1e9, "equal to": -7}[check.relation]

    values[check.path] = planted(than if isinstance(than, list) else values[check.path])
    assert not holds(check, values)
    assert agreement(row, values).startswith("**not shown**") and check.what in agreement(row, values)
    values[check.path] = None
    assert not holds(check, values)


def test_the_verdict_is_of_the_numbers():
    check = Check("error", "arms:*:error", "at most", 0.1)
    record = {"arms": {"one": {"error": [0.05, 0.1]}, "two": {"error": [0.01]}}}
    (row,) = (one for one in ROWS if one.name == "linear-steps")
    changed = mock.Mock(command=row.command, checks=(check,), read=True, why="")
    assert agreement(changed, read(changed, record)) == "as reported"
    record["arms"]["two"]["error"] = [0.1001]
    assert agreement(changed, read(changed, record)) == "**not shown**: error"
    changed.read = False
    record["arms"]["two"]["error"] = [0.1]
    assert agreement(changed, read(changed, record)).startswith("nothing to compare: not readable here")
    assert agreement(changed, None) == "not run yet"
    assert at({"a": [{"b": 1, "c": "x"}, {"b": 2, "c": "y"}]}, "a:c=y:b") == [2] and at({"a": [1, 2, 3]}, "a:#") == 3
    same = Check("count", "a", "equal to", "b:c")
    assert holds(same, {"a": [1, 2], "b:c": [1, 2]}) and not holds(same, {"a": [1, 2], "b:c": [1, 3]})
    assert not holds(same, {"a": [1, 2], "b:c": [1]}) and not holds(same, {"a": [], "b:c": []})

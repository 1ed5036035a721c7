"""The comparison of run folders: what differs is found, where it is, and time is no difference."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from benchmarks import same_results
from benchmarks.same_results import differences
from grassmann_ssl.experiments import EXPERIMENTS


def record(**changes):
    return {
        "experiment": "square",
        "date": "2026-01-01",
        "config": {"seed": 1, "out": "a"},
        "cells": [{"x": 1.5, "kind": "none"}, {"x": 2.0, "kind": None}],
        "findings": [{"quantity": "cost", "measured": "81.2 ms a step, rank 3"}],
        "runs": {"seconds_per_step": 0.1},
        "wall_time_s": 1.0,
    } | changes


def metrics(**changes):
    return {"step": [0, 1], "loss": [1.0, float("nan")], "seconds_per_step": [0.1, 0.2]} | changes


def arrays(**changes):
    return {"w": np.arange(6.0).reshape(2, 3), "k": np.ones(2, dtype=np.float32)} | changes


@pytest.fixture
def folders(tmp_path):
    """Writes B beside an A that is always the same, and gives the differences."""

    def write(folder, command, run, columns, values):
        (folder / command).mkdir(parents=True)
        (folder / command / "run.json").write_text(json.dumps(run))
        pq.write_table(pa.table(columns), folder / command / "metrics.parquet")
        save_file(values, folder / command / "arrays.safetensors")

    def compare(run=None, columns=None, values=None, command="square", rename=None):
        write(tmp_path / "a", "square", record(), metrics(), arrays())
        write(tmp_path / "b", command, run or record(), columns or metrics(), values or arrays())
        return differences(tmp_path / "a", tmp_path / "b", rename)

    return compare


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


def test_equal_folders_have_no_difference(folders):
    assert folders() == []


@pytest.mark.parametrize("time", ["1,079.9", "52.1 and 1,045.3", "60.2 [40.1 to 80.3]"])
def test_time_and_provenance_are_no_difference(time, folders):
    other = record(
        date="2026-02-02",
        git_commit="abc",
        config={"seed": 1, "out": "b"},
        wall_time_s=9.0,
        runs={"seconds_per_step": 7.0},
        findings=[{"quantity": "cost", "measured": f"{time} ms a step, rank 3"}],
    )
    assert folders(other, metrics(seconds_per_step=[3.0, 4.0])) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"run": record(config={"seed": 2, "out": "a"})}, "run.json: config.seed: 1 != 2"),
        ({"run": record(config={"seed": 1.0, "out": "a"})}, "run.json: config.seed: 1 != 1.0"),
        (
            {"run": record(cells=[{"x": 1.5, "kind": "none"}, {"x": 2.0000000000000004, "kind": None}])},
            "run.json: cells[1].x: 2.0 != 2.0000000000000004",
        ),
        ({"run": record(more=3)}, "run.json: more: missing != 3"),
        (
            {"run": record(findings=[{"quantity": "cost", "measured": "81.2 ms a step, rank 4"}])},
            "run.json: findings[0].measured: '# ms a step, rank 3' != '# ms a step, rank 4'",
        ),
        ({"columns": without(metrics(), "loss")}, "metrics.parquet: loss: column != missing"),
        (
            {"columns": metrics(loss=[1.0, 2.0])},
            "metrics.parquet: loss[1]: nan != 2.0 (1 of 2 differ)",
        ),
        (
            {"columns": metrics(step=[0.0, 1.0])},
            "metrics.parquet: step: 2 of int64 != 2 of double",
        ),
        (
            {"values": arrays(w=np.array([[0.0, 1, 2], [3, -4, -5]]))},
            "arrays.safetensors: w[4]: 4.0 != -4.0 (2 of 6 differ)",
        ),
        ({"values": arrays(k=np.ones(2))}, "arrays.safetensors: k: float32 (2,) != float64 (2,)"),
        ({"values": without(arrays(), "k")}, "arrays.safetensors: k: float32 (2,) != missing"),
    ],
)
def test_a_difference_is_one_line(folders, changes, line):
    assert folders(**changes) == [f"square: {line}"]


def test_a_missing_command_and_one_that_was_renamed(folders, tmp_path):
    renamed = record(experiment="cube")
    assert folders(renamed, command="cube", rename={"square": "cube"}) == []
    assert differences(tmp_path / "a", tmp_path / "b") == [
        f"{command}: {name}: file: {there}"
        for command, there in (("cube", "missing != there"), ("square", "there != missing"))
        for name in ("run.json", "metrics.parquet", "arrays.safetensors")
    ]


def test_many_differences_are_counted(folders):
    lines = folders(record(**{f"key_{i}": i for i in range(50)}))
    assert len(lines) == same_results.MOST + 1 and lines[-1] == "square: and 30 more"


def test_the_exit_code_tells(folders, tmp_path, monkeypatch, capsys):
    folders(record(cells=[]))
    for other, code, text in (("a", 0, "the same"), ("b", 1, "square: run.json: cells: "), ("c", 2, "")):
        monkeypatch.setattr("sys.argv", ["same_results", "compare", str(tmp_path / "a"), str(tmp_path / other)])
        assert same_results.main() == code
        assert capsys.readouterr().out.startswith(text)


def test_every_command_has_small_settings():
    assert list(same_results.SMALL) == [config.NAME for config in EXPERIMENTS]


@pytest.mark.slow
def test_a_command_that_fails_is_told_and_the_others_are_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(same_results, "SMALL", {"width": "--seeds 0", "phase-fixed-points": "--etas 4"})
    assert same_results.write(tmp_path, tuple(same_results.SMALL)) == ["width"]
    assert "seeds must be finite and >= 1" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["phase-fixed-points"]

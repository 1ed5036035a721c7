"""Sweeps as they are run: each cell a run folder, finished ones skipped, failed ones said and tried again."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from grassmann_ssl import sweep as module
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.report import draw
from grassmann_ssl.run import run
from grassmann_ssl.runs import Outcome
from grassmann_ssl.sweep import Jobs, Share
from tests.commands import command
from tests.slurm import answer, cluster, heard

BASE = 'experiment = "compare"\nobjectives = ["barlow_twins"]\ndata = "gaussian"\ndim = 2\nseeds = 2\nsteps = 4\ninit_scales = []\n'


@pytest.fixture
def base(tmp_path):
    at = tmp_path / "base.toml"
    at.write_text(BASE)
    return at


def same(one, other):
    """Two outcomes of the same settings, but for folder, date and time."""
    for then, now in ((one.metrics, other.metrics), (one.arrays, other.arrays)):
        assert then.keys() == now.keys()
        for name in then:
            if then[name].dtype.kind == "f":  # cells are trained together, in which sums have another order
                np.testing.assert_allclose(then[name], now[name], rtol=1e-9, atol=1e-9, err_msg=name)
            else:
                assert np.array_equal(then[name], now[name]), name
    assert one.findings == other.findings


def test_cells_are_run_skipped_and_tried_again(base, tmp_path):
    out = tmp_path / "sweep"
    words = ("sweep", "compare", "--config", base, "--grid", "lr=0.1,0.2,9", "--seeds", 2, "--out", out)
    done = command(*words)
    assert done.returncode == 1
    assert done.stdout.startswith("sweep of compare, 6 cells: 4 done, 0 skipped (done before), 2 failed\n")
    failures = [line for line in done.stderr.splitlines() if "failed" in line]
    assert len(failures) == 2 and "cell lr=9.0,seed=1 failed: lr = 9 is above the stability limit" in failures[0]
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert names == [f"lr={lr},seed={seed}" for lr in (0.1, 0.2) for seed in (1, 2)]
    before = (out / names[0] / "run.json").stat().st_mtime_ns
    again = command(*words, "--set", "allow_unstable=false")
    assert again.returncode == 1 and "0 done, 4 skipped (done before), 2 failed" in again.stdout
    assert (out / names[0] / "run.json").stat().st_mtime_ns == before
    shutil.rmtree(out / names[0])
    third = command("sweep", "compare", "--config", base, "--grid", "lr=0.1,0.2", "--seeds", 2, "--out", out)
    assert third.returncode == 0 and "1 done, 3 skipped (done before), 0 failed" in third.stdout
    other = command(*words, "--set", "steps=5")
    assert other.returncode == 2 and "holds another run: steps = 4, not 5" in other.stderr


def test_a_cell_is_the_run_of_its_settings(base, tmp_path):
    out = tmp_path / "sweep"
    assert command("sweep", "compare", "--config", base, "--seeds", 3, "--out", out, "--quiet") == (0, "", "")
    alone = run(
        CompareConfig(
            objectives=("barlow_twins",), data="gaussian", dim=2, seeds=2, steps=4, init_scales=(), seed=2,
            out=tmp_path / "alone",
        )
    )  # fmt: skip
    same(Outcome.load(out / "seed=2"), alone)
    assert not (out / "seed=2" / "report.html").exists() and draw(out / "seed=2").exists()


def test_a_file_is_a_sweep(tmp_path):
    at, out = tmp_path / "sweep.toml", tmp_path / "sweep"
    at.write_text(f'out = "{out}"\n{BASE}[grid]\nlr = [0.1, "auto"]\n')
    done = command("sweep", at)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["lr=0.1", "lr=auto"]


def test_every_cell_is_checked_before_any_is_run(base, tmp_path):
    out = tmp_path / "sweep"
    done = command("sweep", "compare", "--config", base, "--grid", "dim=2,0", "--out", out)
    assert (
        done.returncode == 2 and done.stderr == "grassmann-ssl: error: cell dim=0: dim must be finite and >= 1, got 0\n"
    )
    assert not out.exists()


def test_an_error_of_any_kind_ends_its_cell_alone(base, tmp_path, monkeypatch):
    def fails(config, **options):
        if config.seed == 2:
            raise RuntimeError("out of memory\nin line 3")
        return run(config, **options)

    monkeypatch.setattr(module, "run", fails)
    out = tmp_path / "sweep"
    done = command("sweep", "compare", "--config", base, "--seeds", 3, "--out", out)
    assert done.returncode == 1 and "2 done, 0 skipped (done before), 1 failed" in done.stdout
    assert "cell seed=2 failed: RuntimeError: out of memory\n" in done.stderr
    assert "Traceback" in (out / ".sweep" / "seed=2.txt").read_text()
    monkeypatch.undo()
    again = command("sweep", "compare", "--config", base, "--seeds", 3, "--out", out)
    assert again.returncode == 0 and "1 done, 2 skipped" in again.stdout


@pytest.mark.parametrize("recorded", [True, False])
def test_an_interrupt_keeps_the_finished_cells(recorded, base, tmp_path, monkeypatch):
    def interrupts(config, **options):
        if config.seed == 1:
            return run(config, **options)
        if not recorded:
            raise KeyboardInterrupt
        outcome = run(config, **options)
        at = config.folder / "run.json"
        outcome.record["interrupted"] = "after step 2"
        at.write_text(json.dumps(outcome.record))
        return outcome

    monkeypatch.setattr(module, "run", interrupts)
    out = tmp_path / "sweep"
    done = command("sweep", "compare", "--config", base, "--seeds", 3, "--out", out)
    assert done.returncode == 130 and "1 done, 0 skipped (done before), 0 failed, interrupted" in done.stdout
    assert done.stderr.endswith("interrupted; the finished cells are kept, and the same command runs the others\n")
    monkeypatch.undo()
    again = command("sweep", "compare", "--config", base, "--seeds", 3, "--out", out)
    assert again.returncode == 0 and "2 done, 1 skipped" in again.stdout
    assert Outcome.load(out / "seed=2").interrupted is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compar",), "'compar' is no command to sweep: known are compare, train"),
        (("compare", "--grid", "lrr=1"), "compare has no setting 'lrr'; did you mean lr?"),
        (("compare", "--grid", "steps=1,x"), "steps must be a whole number, got 'x'"),
        (("compare", "--set", "steps"), "set: 'steps' is not NAME=VALUE"),
        (("compare", "--seeds", "0"), "seeds must be at least 1, got 0"),
        (("compare", "--workers", "0"), "workers must be at least 1, got 0"),
        (("compare", "--partition", "gpu"), "partition = gpu has no effect with cluster local"),
        (
            ("compare", "--set", "lr=0.1"),
            "grid: nothing is varied: give --grid NAME=VALUE,VALUE or --seeds N; one run is grassmann-ssl compare",
        ),
        (("nowhere.toml",), "config: nowhere.toml is not a file"),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(words, message):
    done = command("sweep", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"grassmann-ssl: error: {message}") and done.stderr.count("\n") == 1


def test_the_payload_of_a_job_is_text(base, tmp_path):
    from grassmann_ssl.runs.sweep import cells, described

    settings, _ = described(base, CompareConfig)
    share = Share(cells(CompareConfig, settings, {"seed": [1, 2]}, tmp_path / "sweep"), tmp_path)
    assert json.loads(json.dumps(vars(share))) == {
        "notes": str(tmp_path),
        "cells": [list(cell) for cell in share.cells],
    }
    share()
    assert Outcome.load(tmp_path / "sweep" / "seed=2").record["config"]["seed"] == 2


def test_several_workers_need_submitit(base, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    words = ("sweep", "compare", "--config", base, "--seeds", 2, "--workers", 2, "--out", tmp_path / "sweep")
    line = "several workers and clusters need submitit: pip install 'grassmann_ssl[cluster]'"
    assert command(*words).stderr == f"grassmann-ssl: error: {line}\n"


@pytest.mark.slow
def test_several_workers_share_the_cells(base, tmp_path):
    pytest.importorskip("submitit")
    out = tmp_path / "sweep"
    words = ("sweep", "compare", "--config", base, "--grid", "lr=0.1,9", "--seeds", 2, "--workers", 2, "--out", out)
    done = command(*words)
    assert done.returncode == 1 and "2 done, 0 skipped (done before), 2 failed" in done.stdout
    assert "cell lr=9.0,seed=1 failed: lr = 9 is above the stability limit" in done.stderr
    assert (
        command("sweep", "compare", "--config", base, "--seeds", 2, "--set", "lr=0.1", "--out", tmp_path / "one")[0]
        == 0
    )
    for seed in (1, 2):
        same(Outcome.load(out / f"lr=0.1,seed={seed}"), Outcome.load(tmp_path / "one" / f"seed={seed}"))


def test_where_cells_run_is_one_choice():
    assert Jobs(cluster="slurm", partition="gpu", minutes=5, requeue=0).workers == 1


@pytest.mark.slow
def test_slurm_runs_the_cells_and_says_which_failed(base, tmp_path, monkeypatch):
    """On a real SLURM of one node, which the test starts itself."""
    pytest.importorskip("submitit")
    out = tmp_path / "sweep"
    words = ("sweep", "compare", "--config", base, "--grid", "lr=0.1,9", "--seeds", 2, "--out", out)
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm", monkeypatch):
        done = command(*words, "--cluster", "slurm", "--partition", "main", "--minutes", 5, "--workers", 2)
        assert "2 done, 0 skipped (done before), 2 failed" in done.stdout, done.stderr
        assert done.returncode == 1
        assert "cell lr=9.0,seed=2 failed: lr = 9 is above the stability limit" in done.stderr
        again = command(*words[:4], "--grid", "lr=0.1", *words[6:], "--cluster", "slurm", "--partition", "main")
        assert again.returncode == 0 and "0 done, 2 skipped" in again.stdout
    assert (
        command("sweep", "compare", "--config", base, "--seeds", 2, "--set", "lr=0.1", "--out", tmp_path / "one")[0]
        == 0
    )
    for seed in (1, 2):
        same(Outcome.load(out / f"lr=0.1,seed={seed}"), Outcome.load(tmp_path / "one" / f"seed={seed}"))


@pytest.mark.slow
def test_a_job_that_slurm_takes_back_is_queued_again(base, tmp_path, monkeypatch):
    """The signal is that of a job that another one displaces, or that nears its time limit."""
    pytest.importorskip("submitit")
    out = tmp_path / "sweep"
    words = (
        "sweep",
        "compare",
        "--config",
        base,
        "--seeds",
        1,
        "--set",
        "steps=40000",
        "--out",
        out,
        "--cluster",
        "slurm",
    )
    (tmp_path / "slurm").mkdir()
    with cluster(tmp_path / "slurm", monkeypatch):
        program = [sys.executable, "-m", "grassmann_ssl.cli", *map(str, words)]
        sweeping = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (jobs := list(heard(signal.SIGUSR2))):
            assert sweeping.poll() is None, sweeping.stderr.read()
        answer("scancel", "--signal=USR2", jobs[0])
        shown, said = sweeping.communicate()
        assert sweeping.returncode == 0 and "1 done" in shown, said
        assert "Restarts=1" in answer("scontrol", "show", "job", jobs[0])
    assert Outcome.load(out / "seed=1").interrupted is None

"""The benchmark of the map of collapse on a small map: what it checks, what it records, and its table."""

import numpy as np
import pytest
import torch

from benchmarks import basin_map
from grassmann_ssl.experiments.phase.basin import BasinConfig, schedule

CPU = torch.device("cpu")


@pytest.fixture
def plain(monkeypatch):
    """Steps that are not compiled: a compiler takes longer than everything else here."""
    monkeypatch.setattr(torch, "compile", lambda step: step)


@pytest.mark.slow
def test_a_record_holds_times_errors_and_memory(plain):
    records = basin_map.run(CPU, 1, cells=16, sample=20, target=1e-3)
    assert torch.get_num_threads() == 1
    times = [row for row in records if row["kind"] == "time"]
    assert times and all(row["cells"] == 256 and row["sample"] == 20 for row in times)
    for row in times:
        for method in basin_map.METHODS:
            held = row["solve_ivp"][method]
            assert 0 < held["error"] <= row["error"] < basin_map.WORST and 1e-13 < held["rtol"] <= 0.1
            ratio, seconds = row["ratio_to_ours"][f"solve_ivp {method}"], row["seconds"][f"solve_ivp {method}"]
            # One turn: the ratio is that of the two times, of the whole map each.
            assert ratio["median"] == pytest.approx(seconds["median"] / row["seconds"]["ours"]["median"])
    lines = basin_map.markdown([{"device": "some CPU", "records": records}])
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(times) * (2 + len(basin_map.METHODS)) + len(basin_map.LIMITS)


def test_times_of_the_sample_grow_to_the_map():
    one = {"median": 2.0, "low": 1.0, "high": 3.0}
    grown = basin_map.scaled(
        {"seconds": {"ours": one, "plain": one, "peer": one}, "ratio_to_ours": {"plain": one, "peer": one}}, 10.0
    )
    ten = {"median": 20.0, "low": 10.0, "high": 30.0}
    assert grown["seconds"] == {"ours": one, "plain": one, "peer": ten}
    assert grown["ratio_to_ours"] == {"plain": one, "peer": ten}


@pytest.mark.slow
def test_memory_is_linear_in_the_chunk_and_within_what_was_given():
    rows = [basin_map.memory(BasinConfig(memory=limit), CPU) for limit in basin_map.LIMITS]
    for row in rows:
        assert row["peak_bytes"] <= row["limit_mib"] * 2**20
    per_start = [row["peak_bytes"] / row["chunk"] for row in rows]
    assert max(per_start) < 1.02 * min(per_start) and rows[2]["chunk"] > 3.9 * rows[0]["chunk"]


def test_the_loop_solves_the_same_equations():
    """Its ends are fixed points of eqs. (11)-(12): 0, or p = 0.6 and s = 0.36 at the default settings."""
    config = BasinConfig()
    starts = np.array([[0.8, 0.5], [-0.5, 0.05], [1.3, 0.9], [-0.5, 0.1]])
    until = float(schedule(config)[0])
    ends = basin_map.loop(config, starts, until, "DOP853", 1e-10)
    assert np.abs(ends - [[0.6, 0.36], [0, 0], [0.6, 0.36], [0, 0]]).max() < 1e-4


def test_nothing_is_timed_where_ends_are_off(plain, monkeypatch):
    right = basin_map.simulate_cells

    def shifted(*arguments):
        ends = right(*arguments)
        return type(ends)(ends.p + 0.02, ends.s, ends.collapsed, ends.finite)

    monkeypatch.setattr(basin_map, "simulate_cells", shifted)
    with pytest.raises(RuntimeError, match=r"off by 0\.02; nothing was timed"):
        basin_map.run(CPU, 1, cells=8, sample=3, target=1e-3)


def test_an_accuracy_out_of_reach_is_named():
    config = BasinConfig(cells=8)
    starts, until = np.array([[0.5, 0.5]]), 5.0
    with pytest.raises(RuntimeError, match="RK45 does not reach an error of 1e-30"):
        basin_map.as_accurate(
            config, starts, until, "RK45", 1e-30, basin_map.loop(config, starts, until, "DOP853", 1e-12)
        )

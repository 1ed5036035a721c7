"""Many stored runs as one table."""

import json
import os
import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl import CollapseMonitor, audit_embeddings, load_runs
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome, stored_runs
from grassmann_ssl.runs.folder import MANIFEST, WHOLE
from grassmann_ssl.runs.load import columns_of

NUMBER = {"value": 4.5, "low": 4.0, "high": None, "sample": 3.9, "meaning": "in words"}


def record(**more):
    config = {"seed": 1, "lr": 0.1, "dims": [2, [3]], "device": "cpu", "out": "elsewhere", "confidence": 0.95}
    common = {"experiment": "square", "config": config, "date": "2026-01-02", "device": "cpu, 1 threads"}
    return {**common, "findings": [{"quantity": "x"}], "interrupted": None, "wall_time_s": 1.5, **more}


def stored(folder, **more):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record(**more)))
    return folder


def test_a_run_is_a_row_of_settings_verdict_and_numbers(tmp_path):
    verdict = {"kind": "complete", "numbers": {"rank": NUMBER}, "kinds": ["complete"], "hard": True}
    arms = [
        {"arm": "a=1", "knn": {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5], "p": 0.03}},
        {"arm": "b", "knn": None},
    ]
    stored(
        tmp_path / "a",
        verdict=verdict,
        probes={"knn": {"accuracy": 0.9, "interval": [0.8, 0.95]}},
        arms=arms,
        runs=[{"arm": "b", "seed": 1}, {"arm": "b", "seed": 2}],
        counts={"cells": 3},
        confidence=0.95,
        resumed="at step 3",
    )
    frame = load_runs(tmp_path / "a")
    assert frame.to_dict("records")[0] == {
        "folder": str(tmp_path / "a"), "experiment": "square", "verdict": "complete", "date": "2026-01-02", "wall_time_s": 1.5,
        "interrupted": None, "resumed": "at step 3",
        "seed": 1, "lr": 0.1, "dims": (2, (3,)), "device": "cpu", "out": "elsewhere", "confidence": 0.95,
        "run.device": "cpu, 1 threads",
        "rank": 4.5, "rank_low": 4.0, "rank_high": None, "rank.sample": 3.9, "verdict.hard": True,
        "probes.knn": 0.9, "probes.knn_low": 0.8, "probes.knn_high": 0.95,
        "arms.a=1.knn": 0.5, "arms.a=1.knn_low": 0.4, "arms.a=1.knn_high": 0.6, "arms.a=1.knn.p": 0.03, "arms.b.knn": None,
        "counts.cells": 3,
    }  # fmt: skip
    assert list(frame)[:7] == ["folder", "experiment", "verdict", "date", "wall_time_s", "interrupted", "resumed"]


def test_numbers_that_have_a_name_are_found_by_it():
    named = [{"name": "rank", **NUMBER}, {"name": "alpha", "value": 1.0, "low": None, "high": None}]
    assert columns_of({"numbers": named}) == {
        "rank": 4.5, "rank_low": 4.0, "rank_high": None, "rank.sample": 3.9, "alpha": 1.0, "alpha_low": None, "alpha_high": None,
    }  # fmt: skip


words = st.text("abcde", min_size=1, max_size=3)
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | words
trees = st.recursive(leaves, lambda inner: st.dictionaries(words, inner, max_size=4), max_leaves=20)


@given(st.dictionaries(words, trees, max_size=5))
def test_every_number_and_text_of_a_record_is_a_column(tree):
    """By its path, whatever the record holds; the oracle looks each path up."""
    columns = columns_of(tree)
    for path, value in columns.items():
        found = tree
        for name in path.split("."):
            found = found[name]
        assert found is value

    def leaves_of(value):
        return sum(map(leaves_of, value.values())) if isinstance(value, dict) else 1

    assert len(columns) == leaves_of(tree)


@pytest.mark.long
def test_runs_of_several_experiments_are_one_frame(tmp_path):
    for name, seed in (("b", 2), ("a", 1)):
        stored(tmp_path / name, config={"seed": seed}, counts={"cells": seed})
    run(BasinConfig(out=tmp_path / "c", cells=4))
    frame = load_runs(tmp_path)
    assert frame["experiment"].tolist() == ["square", "square", "phase-basin"]
    assert frame["seed"].tolist() == [1, 2, 1] and frame["counts.cells"].tolist() == [1, 2, 16]
    assert np.isnan(frame["cells"][0]) and frame["cells"][2] == 4 and frame["p_range"][2] == (-0.6, 1.4)
    assert isinstance(frame, pd.DataFrame) and frame["wall_time_s"].notna().all()


@pytest.mark.long
def test_runs_are_found_by_folder_pattern_and_list_once_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b, deep = (stored(tmp_path / "runs" / name) for name in ("a", "b", "sweep/lr=0.1/1"))
    stored(a / "parts" / "inner")  # of the run itself
    stored(tmp_path / "runs" / ".b-1234")  # hidden: being written
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "link").symlink_to(b)
    (tmp_path / "runs" / "notes" / "up").symlink_to(tmp_path / "runs")
    every = ["runs/a", "runs/b", "runs/sweep/lr=0.1/1"]
    for where in (
        "runs",
        "runs/**",
        "runs/*",
        tmp_path / "runs",
    ):
        found = load_runs(where)["folder"]
        assert [os.path.relpath(one, tmp_path) for one in found] == every, where
    given = ["runs/sweep", "runs/b", "runs/a", "runs/b/run.json"]
    assert load_runs(given)["folder"].tolist() == every[::-1]  # in the order given
    assert load_runs("runs/b")["folder"].tolist() == ["runs/b"]
    assert load_runs("runs/sweep/lr=0.1")["folder"].tolist() == [str(deep.relative_to(tmp_path))]
    assert load_runs()["folder"].tolist() == every
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(b)
    assert load_runs("linked")["folder"].tolist() == ["linked/one"]
    stored(tmp_path / "runs" / "x[1]")
    assert load_runs("runs/x[1]")["folder"].tolist() == ["runs/x[1]"]  # there, whatever it means as a pattern


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "run.json cannot be read: Expecting value"),
        (b'{"experiment": "square"', "run.json cannot be read: Expecting"),
        (b"\xff\xfe", "run.json cannot be read: 'utf-8' codec"),
        (b"[]", "run.json cannot be read: it has no experiment with its config"),
        (b"{}", "run.json cannot be read: it has no experiment with its config"),
        (b'{"experiment": "square", "config": []}', "it has no experiment with its config"),
        (b"[" * 100_000, "run.json cannot be read: maximum recursion"),
        (None, "is unfinished"),
    ],
)
def test_what_cannot_be_read_is_named_and_counted(tmp_path, content, reason):
    stored(tmp_path / "good")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / ("unfinished.json" if content is None else "run.json")).write_bytes(b"{}" if content is None else content)
    with pytest.warns(UserWarning, match="^1 of 2 runs left out: ") as warned:
        assert load_runs(tmp_path)["folder"].tolist() == [str(tmp_path / "good")]
    (text,) = (str(one.message) for one in warned)
    assert str(bad) in text and reason in text and "\n" not in text
    with pytest.raises(ConfigError, match=re.escape(f"{bad}: there is no run to read; 1 of 1 runs left out: {bad}")):
        load_runs(bad)


def test_an_interrupted_run_is_a_run(tmp_path):
    folder = stored(tmp_path / "a", interrupted="after step 2 of 4")
    (folder / "unfinished.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_runs(tmp_path)["interrupted"].tolist() == ["after step 2 of 4"]


def test_what_a_killed_run_had_written_as_a_whole_is_a_run(tmp_path):
    written = stored(tmp_path / "run" / WHOLE)
    (written / MANIFEST).write_text('{"files": ["run.json"], "finished": true}')
    assert load_runs(tmp_path)["folder"].tolist() == [str(tmp_path / "run")]
    assert (tmp_path / "run" / "run.json").exists() and not written.exists()


def test_where_there_is_no_run_it_is_said(tmp_path):
    for where in (tmp_path, tmp_path / "nowhere", f"{tmp_path}/*", [tmp_path, tmp_path / "b"], []):
        with pytest.raises(ConfigError, match=r"there is no run$|there is no run in |is not there$"):
            stored_runs(where)


def test_what_was_given_and_holds_no_run_is_named(tmp_path):
    stored(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    runs, left_out = stored_runs([tmp_path / "run", tmp_path / "empty", tmp_path / "nope"])
    assert len(runs) == 1
    assert left_out == f"there is no run in {tmp_path / 'empty'}; {tmp_path / 'nope'} is not there"
    assert stored_runs([tmp_path / "run", tmp_path])[1] == ""  # the same run twice


def test_without_pandas_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    stored(tmp_path / "a")
    audit = audit_embeddings(torch.eye(4))
    monkeypatch.setitem(sys.modules, "pandas", None)
    for user, ask in {
        "load_runs": lambda: load_runs(tmp_path),
        "Outcome.history": lambda: Outcome({}, {}, {}).history,
        "CollapseMonitor.history": lambda: CollapseMonitor().history,
        "Audit.frame": audit.frame,
        "Audit.class_frame": audit.class_frame,
    }.items():
        with pytest.raises(
            ImportError, match=re.escape(f"{user} needs pandas; to get it: pip install 'grassmann_ssl[pandas]'")
        ):
            ask()
    assert len(stored_runs(tmp_path)[0]) == 1


@pytest.mark.parametrize(("content", "why"), [("[]", "it is not a record"), ("[" * 100_000, "maximum recursion")])
def test_an_outcome_of_what_is_no_record_is_refused(content, why, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=f"run.json cannot be read: {why}"):
        Outcome.load(tmp_path)


def test_the_message_of_a_setting_is_one_line_whatever_it_names():
    assert str(ConfigError("data: a\nb\x1b[2J\u2028é/0.png is broken")) == r"data: a\nb\x1b[2J\u2028é/0.png is broken"

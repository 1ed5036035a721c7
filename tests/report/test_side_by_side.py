"""Stored runs as a table and side by side on a page."""

import csv
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from grassmann_ssl.report import PAGES
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.runs import Outcome, load_runs
from tests.commands import command


def page(outcome):
    def section(name):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot(outcome.metrics["x"])
        return Section(name, f"The {name}", figure, f"{name} <{outcome.record['config']['lr']}>")

    return Page("Title", "lede", tuple(section(name) for name in outcome.record["config"]["figures"]))


def stored(folder, lr=0.1, figures=("curve",), **more):
    config = {"seed": 1, "lr": lr, "figures": list(figures), "out": str(folder), "dims": [2, 3]}
    common = {"experiment": "square", "config": config, "findings": [], "wall_time_s": 1.5, "git_commit": "abc"}
    folder.mkdir(parents=True)
    record = {
        **common,
        "verdict": {"kind": "none"},
        "probes": {"knn": {"accuracy": 0.91234, "interval": [0.9, 0.93]}},
        **more,
    }
    Outcome(record, {"x": np.arange(3.0)}, {}).write(folder)
    return folder


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(PAGES, "square", __name__)


@pytest.fixture
def two(tmp_path):
    stored(tmp_path / "runs" / "a", figures=("curve", "more"))
    stored(
        tmp_path / "runs" / "b",
        lr=0.02,
        probes={"knn": {"accuracy": 0.5, "interval": [None, None]}},
        interrupted="after step <2>",
    )
    return tmp_path / "runs"


def test_the_table_shows_what_differs_and_what_was_found(two):
    done = command("table", two)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.splitlines() == [
        "run  lr    figures     verdict  interrupted     probes.knn          wall_time_s",
        "---  ----  ----------  -------  --------------  ------------------  -----------",
        "a    0.1   curve more  none     –               0.9123 [0.9, 0.93]  1.5",
        "b    0.02  curve       none     after step <2>  0.5                 1.5",
    ]
    assert command("table", f"{two}/*", "--columns", "seed", "probes.knn_low").stdout.splitlines()[2:] == [
        "a    1     0.9",
        "b    1     –",
    ]


def test_a_setting_that_others_do_not_have_is_no_difference(two):
    stored(two / "c", figures=(), experiment="circle", config={"lr": 0.1, "radius": 2})
    assert command("table", two).stdout.split("\n")[0].split()[:5] == ["run", "experiment", "lr", "figures", "verdict"]


def test_numbers_that_differ_are_shown_where_there_is_no_verdict_and_no_interval(tmp_path):
    for k in (1, 2):
        more = {"interrupted": "early", "counts": {"rank": k, "dim": 4, "note": f"text {k}"}}
        stored(tmp_path / "plain" / f"{k}", probes=None, verdict=None, **more)
        stored(tmp_path / "judged" / f"{k}", probes=None, verdict=None, arms={"free": {"kind": "none"}}, **more)
    lines = command("table", tmp_path / "plain").stdout.splitlines()
    assert lines[0].split() == ["run", "interrupted", "counts.rank", "wall_time_s"]
    assert lines[2].split() == ["1", "early", "1", "1.5"]
    lines = command("table", tmp_path / "judged").stdout.splitlines()
    assert lines[0].split() == ["run", "arms.free.kind", "interrupted", "wall_time_s"]


def test_a_narrow_terminal_gets_the_columns_in_blocks(two, monkeypatch):
    whole = command("table", two).stdout
    monkeypatch.setattr(sys, "maxsize", 40)  # the width where there is no terminal
    blocks = command("table", two).stdout.split("\n\n")
    assert len(blocks) == 3 and all(block.startswith("run  ") for block in blocks)
    assert all(len(line) <= 40 for block in blocks for line in block.splitlines())
    assert sorted(" ".join(blocks).split()) == sorted((whole + 2 * "\nrun --- a b").split())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_rows_are_saved(two, tmp_path, ending):
    stored(two / "c", lr="auto", figures=())
    path = tmp_path / f"rows.{ending}"
    assert command("table", two, "--save", path).returncode == 0
    frame = load_runs(two)
    if ending == "csv":
        first, *rows = csv.reader(path.read_text().splitlines())
        assert first == list(frame) and [row[first.index("lr")] for row in rows] == ["0.1", "0.02", "auto"]
        assert [row[first.index("figures")] for row in rows] == ["curve more", "curve", ""]
    else:
        saved = pd.read_parquet(path)
        assert list(saved) == list(frame) and saved["lr"].tolist() == ["0.1", "0.02", "auto"]
        assert saved["probes.knn"].tolist() == [0.91234, 0.5, 0.91234] and saved["dims"].tolist() == ["2 3"] * 3
        assert saved["seed"].dtype == "int64" and saved["wall_time_s"].dtype == "float64"
    assert command("table", two, "--save", path, "--columns", "seed", "probes.knn").returncode == 0
    saved = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
    assert list(saved) == ["seed", "probes.knn", "probes.knn_low", "probes.knn_high"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["table", "{two}", "--columns", "verdikt"],
            "columns: no run has 'verdikt'; --save FILE.csv writes all that there are; did you mean verdict?",
        ),
        (["table", "{two}", "--save", "rows.txt"], "save: rows.txt must end in .csv or .parquet"),
        (["table", "{two}", "--save", "{two}/none/rows.csv"], "rows.csv cannot be written: No such file or directory"),
        (["table", "{two}/none"], "none is not there"),
        (["report"], "folders: give a run folder"),
        (["report", "{two}/a", "--out", "x.html"], "out: is for the page of several folders"),
        (["report", "{two}/a", "{two}/b", "--out", "x.txt"], "out: x.txt must end in .html"),
        (["report", "{two}/a", "{two}/b", "--out", "{two}/a/run.json/x.html"], "x.html cannot be written: "),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(two, arguments, message):
    done = command(*(one.format(two=two) for one in arguments))
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_what_is_left_out_is_said(two):
    (two / "broken").mkdir()
    (two / "broken" / "run.json").write_text("[")
    for done in (command("table", two), command("report", two / "a", two / "broken", "--out", two / "x.html")):
        assert done.returncode == 0 and re.match(r"grassmann-ssl: 1 of \d runs left out: .*broken.*\n$", done.stderr)


def test_the_page_lays_settings_numbers_and_figures_side_by_side(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        assert command("report", two / name).returncode == 0
    done = command("report", two / "a", two / "b")
    assert (done.returncode, done.stdout) == (0, "report: runs/side-by-side.html\n")
    path = tmp_path / "runs" / "side-by-side.html"
    text = path.read_text()
    lines = [line for line in text.splitlines() if line.startswith('<tr><th scope="row">')]
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line) for line in lines]
    assert rows == [
        ["lr", "0.1", "0.02"],
        ["figures", "curve more", "curve"],
        ["verdict", "none", "none"],
        ["interrupted", "–", "after step &lt;2&gt;"],
        ["probes.knn", "0.9123 [0.9, 0.93]", "0.5"],
        ["wall_time_s", "1.5", "1.5"],
    ]
    words = re.findall(r'role="img" aria-label="(.*?)"', text)
    assert words == ["The curve, a", "The curve, b", "The more, a"]
    assert text.index(">The curve</h2>") < text.index(">The more</h2>") < text.index("<b>b</b>: no such figure")
    assert "curve &lt;0.02&gt;" in text and "http" not in text
    drawn = re.findall(r"<svg.*?>(.*?)</svg>", (two / "a" / "report.html").read_text(), re.DOTALL)
    assert len(drawn) == 2 and all(one in text for one in drawn)  # the figures of the runs' own pages
    before = path.read_bytes()
    command("report", two / "a", two / "b")
    assert path.read_bytes() == before


def test_equal_settings_are_said_and_an_older_run_is_named(two, tmp_path):
    stored(two / "c", figures=("curve", "more"))
    out = tmp_path / "x.html"
    assert command("report", two / "a", two / "c", "--out", out).returncode == 0
    assert "None: the runs have the same settings." in out.read_text()
    record = json.loads((two / "c" / "run.json").read_text())
    del record["config"]["figures"]
    (two / "c" / "run.json").write_text(json.dumps(record))
    done = command("report", two / "a", two / "c", "--out", out)
    assert done.returncode == 2 and f"{two / 'c'}: 'figures' is not in this run" in done.stderr

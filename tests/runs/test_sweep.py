"""The cells of a sweep as values: names, settings, and what their folders hold."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.runs import ConfigError
from grassmann_ssl.runs.sweep import LONGEST, Cell, assigned, cells, described, finished

OUT = Path("runs/x")


def test_cells_are_all_combinations_by_readable_names():
    found = cells(CompareConfig, {"steps": 9}, {"lr": ["auto", 0.1], "seed": [1, 2]}, OUT)
    assert [cell.name for cell in found] == ["lr=auto,seed=1", "lr=auto,seed=2", "lr=0.1,seed=1", "lr=0.1,seed=2"]
    assert found[3].config == CompareConfig(lr=0.1, seed=2, steps=9, out=OUT / "lr=0.1,seed=2")


def test_no_grid_is_one_cell():
    assert [cell.name for cell in cells(CompareConfig, {}, {}, OUT)] == ["run"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# Values that a name without a hash could not tell apart, among any others.
VALUES = st.one_of(TEXT, st.sampled_from(["a,b=c", "a-b-c", "a+b", ".", "..", "", "/", "a/b"]))


@example(["x,positive=y", "x"], ["z", "y,positive=z"])
@given(st.lists(VALUES, unique=True, min_size=1, max_size=4), st.lists(VALUES, unique=True, min_size=1, max_size=3))
def test_every_cell_has_a_folder_of_its_own_inside_that_of_the_sweep(devices, more):
    grid = {"device": devices, "positive": more}  # settings of audit that take any text
    from grassmann_ssl.experiments.encoders.audit import AuditConfig

    found = cells(AuditConfig, {}, grid, OUT)
    assert len({cell.name for cell in found}) == len(devices) * len(more)
    for cell in found:
        assert cell.config.folder.parent == OUT and cell.name.isascii() and len(cell.name) <= LONGEST
        assert cell.name not in (".", "..") and not set(cell.name) & set("/\\%* \n")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lr": [0.1, -1.0]}, "cell lr=-1.0: lr must be finite and > 0, got -1.0"),
        ({"lr": []}, "grid: lr has no values"),
        ({"seed": [1, 2, 1]}, "grid: seed has the value 1 twice"),
        ({"out": ["a", "b"]}, "grid: out is the same for all cells"),
        ({"overwrite": [True, False]}, "grid: overwrite is the same for all cells"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_by_the_name_of_the_cell(grid, message):
    with pytest.raises(ConfigError) as caught:
        cells(CompareConfig, {}, grid, OUT)
    assert str(caught.value) == message


def test_a_file_describes_a_sweep(tmp_path):
    at = tmp_path / "sweep.toml"
    at.write_text('experiment = "compare"\nsteps = 9\n[grid]\nlr = ["auto", 1]\nobjectives = [["barlow_twins"], []]\n')
    assert described(at, CompareConfig) == (
        {"steps": 9},
        {"lr": ["auto", 1.0], "objectives": [("barlow_twins",), ()]},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid = 3", "grid must be a table of lists, got 3"),
        ("[grid]\nlr = 0.1", "grid.lr must be a list of the values to try, got 0.1"),
        ("[grid]\nlrr = [0.1]", "grid: compare has no setting 'lrr'; did you mean lr?"),
        ("[grid]\nsteps = [3, 0.1]", "grid: steps must be a whole number, got 0.1"),
        ("stepz = 3\n[grid]", "compare has no setting 'stepz'; did you mean steps?"),
    ],
)
def test_a_file_that_describes_none_is_refused_by_file_and_key(tmp_path, text, message):
    at = tmp_path / "sweep.toml"
    at.write_text(text)
    with pytest.raises(ConfigError) as caught:
        described(at, CompareConfig)
    assert str(caught.value) == f"config: {at}: {message}"


def test_words_of_the_command_line_are_assignments():
    assert assigned("grid", ["lr=1,2", "init-scales=", "data=a=b"]) == {
        "lr": "1,2",
        "init_scales": "",
        "data": "a=b",
    }
    for words, message in ((["lr"], "grid: 'lr' is not NAME=VALUE"), (["lr=1", "lr=2"], "grid: lr is given twice")):
        with pytest.raises(ConfigError, match=message):
            assigned("grid", words)


def test_a_folder_is_finished_by_what_it_holds(tmp_path):
    config = CompareConfig(seed=3, out=tmp_path, init_scales=())
    cell, at = Cell("seed=3", config), tmp_path / "run.json"
    assert not finished(cell)

    def hold(interrupted=None, experiment="compare", **settings):
        values = config.values() | {"out": "elsewhere", "overwrite": True} | settings
        at.write_text(json.dumps({"experiment": experiment, "config": values, "interrupted": interrupted}))

    hold()
    assert finished(cell)
    hold(interrupted="after step 3")
    assert not finished(cell)
    for other, message in (
        ({"seed": 4}, "seed = 4, not 3"),
        ({"init_scales": [1.0]}, r"init_scales = \[1\.0\], not \[\]"),
        ({"experiment": "train"}, "experiment = 'train', not 'compare'"),
    ):
        hold(**other)
        with pytest.raises(ConfigError, match=f"cell seed=3: .* holds another run: {message}; give another out"):
            finished(cell)
    at.write_text("{}")
    with pytest.raises(ConfigError, match="holds another run"):
        finished(cell)
    at.write_text("{")
    with pytest.raises(ConfigError, match=r"cell seed=3: .* cannot be read"):
        finished(cell)

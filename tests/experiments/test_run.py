"""What every experiment shares, tried on a small one: checks, findings, the run folder, the page."""

import json
import re
import sys
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from pyarrow.parquet import ParquetFile
from safetensors.numpy import load_file, save_file

from grassmann_ssl import cli
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.report import PAGES, draw
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import panels, points
from grassmann_ssl.report.terminal import findings_table, summary
from grassmann_ssl.run import Stopped, run
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Run, RunConfig, Table

pytestmark = pytest.mark.drawn


@dataclass(frozen=True, kw_only=True)
class SquareConfig(RunConfig):
    """Square some numbers."""

    NAME: ClassVar[str] = "square"
    numbers: tuple[float, ...] = (1.0, 2.0)
    rate: float = 0.5
    more: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        self.need("numbers")
        self.need("rate", above=0, most=1)


def page(outcome):
    figure, axes = panels(1, 1)
    points(axes[0, 0], outcome.metrics["x"], outcome.metrics["y"], label="measured <&>")
    axes[0, 0].set(xlabel="x", ylabel="x²")
    return Page("Squares & more", "What <is> x²?", (Section("squares", "Squares", figure, "Points on a parabola."),))


def square(config, progress=None):
    own = Run(config)
    x = np.array(config.numbers)
    drawn = own.generator().initial_seed()
    findings = [Finding("x²", "4", "4", "exact"), Finding("a longer quantity", "<1>", "1", "within 0 %")]
    metrics = {"x": x, "y": x**2, "label": np.array(["few", "many"])[(x > 1).astype(int)]}
    return own.finish(findings, {"drawn": drawn, **config.more}, metrics, {"x": x, "m": np.eye(3)[:, ::-1]})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, SquareConfig, square)
    monkeypatch.setitem(PAGES, "square", __name__)


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_a_run_leaves_open_formats_and_a_page_that_needs_nothing_else(tmp_path):
    outcome = run(SquareConfig(out=tmp_path / "run", seed=3))
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".files.json", "arrays.safetensors", "config.toml", "metrics.parquet", "report.html", "run.json", "squares.svg",
    ]  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert record == json.loads(json.dumps(outcome.record))
    assert record["experiment"] == "square" and record["config"]["seed"] == 3 and record["drawn"] == 3
    assert record["config"]["out"] == str(folder) and record["versions"]["torch"] and record["wall_time_s"] >= 0
    assert pd.read_parquet(folder / "metrics.parquet")["y"].tolist() == [1, 4]
    assert np.array_equal(load_file(folder / "arrays.safetensors")["m"], np.eye(3)[:, ::-1])
    text = (folder / "report.html").read_text()
    assert "Squares &amp; more" in text and "What &lt;is&gt; x²?" in text and "&lt;1&gt;" in text and "exact" in text
    parser = Sources()
    parser.feed(text)
    assert len(parser.found) == 6 and all(one.startswith("#") for one in parser.found)
    assert "<svg" in text and "http" not in text


def test_findings_are_columns_of_text():
    lines = findings_table([Finding("a", "1", "2", "b"), Finding("long name", "1", "2", "c")]).splitlines()
    assert lines == [
        "quantity   predicted  measured  agreement",
        "---------  ---------  --------  ---------",
        "a          1          2         b",
        "long name  1          2         c",
    ]
    lines = findings_table([Finding("a", None, "2", None), Finding("b", None, "3", "c")]).splitlines()
    assert lines[0].split() == ["quantity", "measured", "agreement"] and lines[2].split() == ["a", "2", "–"]


def test_findings_are_no_wider_than_the_terminal(monkeypatch):
    findings = [Finding("a_name_of_some_length", "2 of 2 and " * 4, "many words of what was measured", "as predicted")]
    whole = findings_table(findings)
    monkeypatch.setattr(sys, "maxsize", 60)  # the width where there is no terminal
    lines = findings_table(findings).splitlines()
    assert max(map(len, whole.splitlines())) > 60 >= max(map(len, lines))
    assert lines[2].startswith("a_name_of_some_length  ") and sorted(" ".join(lines[2:]).split()) == sorted(
        " ".join(whole.splitlines()[2:]).split()
    )


def test_the_folder_has_the_name_of_the_experiment_and_is_not_overwritten_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(SquareConfig())
    assert (tmp_path / "runs" / "square" / "run.json").exists()
    with pytest.raises(ConfigError, match="holds another run"):
        run(SquareConfig())
    run(SquareConfig(numbers=(3.0,), overwrite=True))
    assert json.loads((tmp_path / "runs" / "square" / "run.json").read_text())["config"]["numbers"] == [3.0]


def test_one_name_where_several_are_meant_is_no_list_of_letters():
    config = CompareConfig()
    # No checker of types is there to refuse it, outside of tests.
    object.__setattr__(config, "objectives", "barlow_twins")
    with pytest.raises(ConfigError, match=r"objectives must be several, as \('barlow_twins',\), got the text"):
        config.__post_init__()


def test_a_folder_may_be_given_as_text(tmp_path):
    outcome = run(SquareConfig(out=str(tmp_path / "run")))
    assert outcome.folder == tmp_path / "run" == draw(str(tmp_path / "run")).parent
    assert Outcome.load(str(tmp_path / "run")).findings == outcome.findings


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        run(SquareConfig(out=tmp_path / "run", more={"bad": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_a_stored_run_is_the_outcome_and_is_drawn_again_byte_for_byte(tmp_path):
    outcome = run(SquareConfig(out=tmp_path / "run", numbers=(3.0, 0.5)))
    folder = tmp_path / "run"
    loaded = Outcome.load(folder)
    assert loaded.record == json.loads(json.dumps(outcome.record)) and loaded.findings == outcome.findings
    for then, now in ((outcome.metrics, loaded.metrics), (outcome.arrays, loaded.arrays)):
        assert then.keys() == now.keys()
        for name in then:
            assert then[name].dtype == now[name].dtype and np.array_equal(then[name], now[name]), name
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "squares.svg").write_bytes(b"")
    (folder / "notes.txt").write_text("the user's own")
    assert draw(folder) == folder / "report.html"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"} == before
    assert (folder / "notes.txt").exists()


def test_an_interrupt_while_the_page_is_drawn_loses_no_numbers(tmp_path, monkeypatch, capsys):
    def interrupted(outcome):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[__name__], "page", interrupted)
    with pytest.raises(
        Stopped, match=f"^before the page was drawn; `grassmann-ssl report {tmp_path / 'run'}` draws it"
    ):
        run(SquareConfig(out=tmp_path / "run"))
    assert Outcome.load(tmp_path / "run").metrics["y"].tolist() == [1, 4]
    monkeypatch.setattr("sys.argv", ["grassmann-ssl", "square", "--out", str(tmp_path / "again")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130 and "grassmann-ssl: interrupted before the page was drawn" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(PAGES, "square", __name__)
    assert draw(tmp_path / "run").exists()


@pytest.mark.slow
def test_the_page_of_a_comparison_is_drawn_again_byte_for_byte(tmp_path):
    folder = tmp_path / "run"
    objectives = ("barlow_twins", "spectral_contrastive", "linear_contrastive")
    scales = (1e-3, 1e-4)
    run(CompareConfig(data="gaussian", objectives=objectives, seeds=2, steps=60, dim=3, init_scales=scales, out=folder))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"staircase.svg", "initialisation_law.svg", "barlow_twins.svg"} < set(before)
    for name in before:
        if name.endswith((".svg", ".html")):
            (folder / name).unlink()
    draw(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_lists_of_numbers_are_columns_too(tmp_path):
    outcome = Outcome({}, {"x": np.arange(3), "spectrum": np.arange(6.0).reshape(3, 2)[:, ::-1]}, {})
    outcome.write(tmp_path)
    assert [list(values) for values in pd.read_parquet(tmp_path / "metrics.parquet")["spectrum"]] == [
        [1, 0],
        [3, 2],
        [5, 4],
    ]
    assert np.array_equal(Outcome.load(tmp_path).metrics["spectrum"], outcome.metrics["spectrum"])


def test_numbers_are_stored_by_the_places_of_their_bytes_and_come_back_bit_for_bit(tmp_path):
    odd = np.array([0.1, -0.0, np.nan, -np.inf, 5e-324, 1 / 3])
    metrics = {
        "x": odd,
        "narrow": odd.astype("float32"),
        "rows": np.stack([odd, odd[::-1]], 1),
        "name": np.array(list("aabbcc")),
    }
    for chosen in (metrics, {"x": odd}, {"name": metrics["name"], "step": np.arange(6)}):
        Outcome({}, chosen, {}).write(tmp_path)
        loaded = Outcome.load(tmp_path).metrics
        assert all(loaded[name].tobytes() == values.tobytes() for name, values in chosen.items())
        stored = ParquetFile(tmp_path / "metrics.parquet").metadata.row_group(0)
        for k in range(stored.num_columns):
            column = stored.column(k)
            number = chosen[column.path_in_schema.split(".")[0]].dtype.kind == "f"
            assert ("BYTE_STREAM_SPLIT" in column.encodings) == number, column.path_in_schema
            assert ("RLE_DICTIONARY" in column.encodings) == (not number), column.path_in_schema


def test_a_table_and_an_interrupt_are_printed_and_on_the_page(tmp_path):
    table = asdict(Table("Sizes <&>", ("number", "size"), (("1", "few"), ("2", "many")), "a note"))
    outcome = run(SquareConfig(out=tmp_path / "run", more={"table": table, "interrupted": "after 2 of 9"}))
    assert Outcome.load(tmp_path / "run").table == outcome.table and outcome.table.rows == (("1", "few"), ("2", "many"))
    lines = summary(outcome).splitlines()
    assert lines[:4] == ["number  size", "------  ----", "1       few", "2       many"]
    assert lines[5].startswith("quantity ") and lines[-1].startswith("interrupted: after 2 of 9")
    text = (tmp_path / "run" / "report.html").read_text()
    assert text.index("This run was interrupted: after 2 of 9") < text.index("<h2>Sizes &lt;&amp;&gt;</h2>")
    assert text.index("<td>many</td>") < text.index("a note") < text.index(">Findings</h2>")
    plain = run(SquareConfig(out=tmp_path / "plain"))
    assert plain.table is None and plain.interrupted is None and plain.record["interrupted"] is None
    assert "interrupted" not in summary(plain) and "<h2>Sizes" not in (tmp_path / "plain" / "report.html").read_text()


def test_the_page_is_drawn_from_the_files_and_nothing_else(tmp_path):
    run(SquareConfig(out=tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["findings"][0]["measured"] = "another number"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert "another number" in draw(tmp_path / "run").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", ["run.json", "metrics.parquet", "arrays.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\x01 not this format"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, name, content):
    run(SquareConfig(out=tmp_path / "run"))
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(name)):
        draw(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), [("arrays.safetensors", "boundary"), ("run.json", "fixed_points")])
def test_a_run_of_an_older_version_is_refused_by_what_it_lacks(tmp_path, name, key):
    run(BasinConfig(out=tmp_path / "run", cells=4))
    at = tmp_path / "run" / name
    if name == "run.json":
        record = json.loads(at.read_text())
        del record[key]
        at.write_text(json.dumps(record))
    else:
        save_file({n: a for n, a in load_file(at).items() if n != key}, at)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert Outcome.load(tmp_path / "run").name == "phase-basin"
    with pytest.raises(ConfigError, match=f"'{key}' is not in this run, .*: .+ wrote it; run it again") as caught:
        draw(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("text", ["", " ", "–", "—", "-"])
@pytest.mark.parametrize("name", ["quantity", "predicted", "measured", "agreement"])
def test_a_finding_says_something_or_nothing(name, text):
    with pytest.raises(ValueError, match=f"{name} of a finding must say something or be None, got {text!r}"):
        Finding(**{"quantity": "x", name: text})


def test_a_run_without_a_page_is_refused(tmp_path):
    run(SquareConfig(out=tmp_path / "run"))
    del PAGES["square"]
    with pytest.raises(ConfigError, match="no page is known for runs of 'square'"):
        draw(tmp_path / "run")


def test_every_experiment_has_a_page_and_every_page_an_experiment():
    assert {config.NAME for config in EXPERIMENTS} | {"pretrain"} == set(PAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"numbers": ()}, "numbers must not be empty"),
        ({"numbers": (1.0, float("inf"))}, "numbers must be finite, got inf"),
        ({"rate": 0.0}, "rate must be finite and > 0 and <= 1, got 0.0"),
        ({"rate": 1.5}, "rate must be finite and > 0 and <= 1, got 1.5"),
        ({"rate": float("nan")}, "rate must be finite and > 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        SquareConfig(**settings)


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="device: 'tpu9' is not a torch device"):
        run(SquareConfig(device="tpu9", out=tmp_path / "run"))


def test_the_command_the_module_and_the_config_have_one_name():
    for config, function in EXPERIMENTS.items():
        if config is SquareConfig:
            continue
        wing, module = function.__module__.removeprefix("grassmann_ssl.experiments.").split(".")
        assert config.NAME == ("phase-" if wing == "phase" else "") + module.replace("_", "-")
        assert config.__name__.lower() == module.replace("_", "") + "config"
        assert function.__name__ == module and config.__module__.startswith(f"grassmann_ssl.experiments.{wing}.")
        assert PAGES[config.NAME] == f"grassmann_ssl.report.{wing}.{module}"

"""`grassmann-ssl audit`: exit codes, what it prints and leaves, the files that it takes, refusals in one line."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from grassmann_ssl.audit import Audit, Rule, audit_embeddings
from grassmann_ssl.experiments.encoders.audit import AuditConfig, RuleOptions
from grassmann_ssl.report import draw
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome
from tests.commands import command

RANDOM = np.random.default_rng(0)
HEALTHY = RANDOM.standard_normal((400, 8))
FLAT = HEALTHY[:, :2] @ RANDOM.standard_normal((2, 8))
FEW = HEALTHY[:6]
LABELS = np.arange(400) % 4
CLASS = HEALTHY + 9 * np.eye(8)[LABELS]
CLASS[LABELS == 2] = 9 * np.eye(8)[2] + 1e-3 * HEALTHY[LABELS == 2]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows in (("healthy", HEALTHY), ("flat", FLAT), ("few", FEW), ("class", CLASS), ("labels", LABELS)):
        np.save(f"{name}.npy", rows)
    return tmp_path


def one_line(done, *words):
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("grassmann-ssl: error: "), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_the_verdict_is_printed_first_and_the_folder_is_left(files):
    done = command("audit", "flat.npy")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["quantity", "measured"]
    assert lines[2].startswith("verdict") and "dimensional collapse" in lines[2]
    assert any("dimensions used" in line and "[" in line for line in lines)
    assert lines[-1] == "report: runs/audit/report.html"
    names = {path.name for path in (files / "runs" / "audit").iterdir() if not path.name.startswith(".")}
    assert names == {"run.json", "config.toml", "metrics.parquet", "arrays.safetensors", "report.html", "audit.svg"}
    outcome = Outcome.load(files / "runs" / "audit")
    assert all(one.predicted is None and one.agreement is None and one.measured for one in outcome.findings)
    assert outcome.record["config"]["file"] == "flat.npy" and outcome.failed is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "gates", "code"),
    [
        ("flat", ["dimensional"], 3),
        ("flat", ["class", "any"], 3),
        ("flat", ["complete", "directional", "class", "undecided"], 0),
        ("healthy", ["any", "undecided"], 0),
        ("few", ["undecided"], 3),
        ("few", ["any"], 0),
    ],
)
def test_the_exit_code_is_3_where_a_gate_holds_and_the_folder_is_there(files, file, gates, code):
    done = command("audit", f"{file}.npy", "--out", "run", "--fail-on", *gates)
    assert done.returncode == code, done.stderr
    assert (files / "run" / "report.html").exists() and "report: run/report.html" in done.stdout
    failed = Outcome.load(files / "run").failed
    assert (failed is not None) == (code == 3)
    last = done.stderr.splitlines()[-1] if done.stderr else ""
    assert (last == f"grassmann-ssl: failed: {failed}") if failed else "failed" not in done.stderr


def test_options_reach_the_audit(files):
    positive = HEALTHY + 0.1 * RANDOM.standard_normal(HEALTHY.shape)
    np.save("positive.npy", positive)
    pd.DataFrame({"k": LABELS, "y": [f"c{k}" for k in LABELS]}).to_csv("labels.csv", index=False)
    np.save("groups.npy", np.arange(400) // 2)
    done = command(
        "audit", "class.npy", "--positive", "positive.npy", "--labels", "labels.csv:y", "--groups", "groups.npy", "--directions",
        "--confidence", "0.9", "--rule.within", "0.05", "--rule.used", "0.2", "--input-variance", "2", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = np.array([f"c{k}" for k in LABELS])
    expected = audit_embeddings(
        CLASS, z_positive=positive, labels=names, groups=np.arange(400) // 2, directions=True, confidence=0.9,
        rule=Rule(within=0.05, used=0.2), input_variance=2.0,
    )  # fmt: skip
    found = Audit.load(files / "run")
    assert found.numbers == expected.numbers and found.classes == expected.classes and found.rule == expected.rule
    assert found.verdict.classes == expected.verdict.classes == ("c2",)
    np.testing.assert_array_equal(found.spectrum, expected.spectrum)
    assert done.stdout.splitlines()[0].split()[0] == "class" and "collapsed" in done.stdout.splitlines()[2]


@pytest.mark.slow
def test_collapse_may_be_relative_to_the_inputs(files):
    for share, code in ((), 0), (("--rule.complete", "1e-9"), 0), (("--rule.complete", "0.5"), 3):
        done = command("audit", "healthy.npy", "--input-variance", "50", *share, "--fail-on", "complete", "--overwrite")
        assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_tokens_are_pooled_or_rows_and_rows_may_be_dropped(files):
    tokens = RANDOM.standard_normal((60, 5, 4))
    np.save("tokens.npy", tokens)
    one_line(command("audit", "tokens.npy"), "tokens.npy", "has shape (60, 5, 4)")
    for how in ("mean", "rows"):
        assert command("audit", "tokens.npy", "--tokens", how, "--out", how).returncode == 0
        found = Audit.load(files / how)
        assert found.numbers == audit_embeddings(tokens, tokens=how).numbers
        assert (found.rows, found.units) == ((60, 60) if how == "mean" else (300, 60))
    broken = HEALTHY.copy()
    broken[3, 1] = np.nan
    np.save("broken.npy", broken)
    one_line(command("audit", "broken.npy"), "broken.npy", "1 of 400 rows that are not finite")
    assert command("audit", "broken.npy", "--nonfinite", "drop", "--out", "drop").returncode == 0
    assert Audit.load(files / "drop").left_out == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_an_array_is_chosen_by_its_name_in_the_positives_too(files, kind):
    arrays = {"z": HEALTHY, "other": FLAT}
    np.savez("two.npz", **arrays)
    save_file({name: torch.from_numpy(rows) for name, rows in arrays.items()}, "two.safetensors")
    one_line(command("audit", f"two{kind}"), f"file: two{kind} holds 2 arrays", "z", "other")
    one_line(command("audit", f"two{kind}", "--array", "othr"), "did you mean other?")
    done = command("audit", f"two{kind}", "--array", "other", "--positive", f"two{kind}", "--out", "run")
    assert done.returncode == 0, done.stderr
    found = Audit.load(files / "run")
    assert found.kind == "dimensional" and found["alignment"].value == pytest.approx(0, abs=1e-12)
    done = command("audit", f"two{kind}", "--array", "z", "--positive", "flat.npy", "--out", "run", "--overwrite")
    assert done.returncode == 0 and Audit.load(files / "run").kind == "none"


def test_what_cannot_be_run_is_one_line_and_leaves_nothing(files):
    (files / "cut.npy").write_bytes((files / "healthy.npy").read_bytes()[:500])
    (files / "text.csv").write_text("a,b\n1,x\n2,y\n")
    np.save("short.npy", LABELS[:9])
    np.save("integers.npy", np.eye(4, dtype=int))
    before = sorted(path.name for path in files.iterdir())
    for arguments, words in (
        ((), ["file: give the file of the embeddings"]),
        (("nowhere.npy",), ["file: nowhere.npy is missing"]),
        (("cut.npy",), ["file: cut.npy cannot be read: it is cut short"]),
        (("text.csv",), ["text.csv: column 'b' holds string"]),
        (("integers.npy",), ["file: z must be floating, got dtype int64"]),
        (("healthy.npy", "--labels", "cut.npy"), ["labels: cut.npy cannot be read"]),
        (("healthy.npy", "--labels", "flat.npy"), ["labels: flat.npy must hold one entry for each row"]),
        (("healthy.npy", "--groups", "short.npy"), ["groups must have one entry for each of the 400 rows, got shape (9,)"]),
        (("healthy.npy", "--positive", "few.npy"), ["z_positive must have the shape (400, 8)"]),
        (("healthy.npy", "--array", "z"), ["file: healthy.npy holds one array without a name"]),
        (("healthy.npy", "--fail-on", "dimensionl"), ["fail_on must be one of complete", "did you mean dimensional?"]),
        (("healthy.npy", "--tokens", "men"), ["tokens must be one of none, mean, rows", "did you mean mean?"]),
        (("healthy.npy", "--nonfinite", "skip"), ["nonfinite must be one of refuse, drop"]),
        (("healthy.npy", "--confidence", "95"), ["error: confidence must be between 0 and 1, got 95.0"]),
        (("healthy.npy", "--input-variance", "0"), ["input_variance must be finite and > 0, got 0.0"]),
        (("healthy.npy", "--rule.used", "2"), ["used of the rule must be between 0 and 1, got 2.0"]),
    ):  # fmt: skip
        one_line(command("audit", *arguments, "--out", "run"), *words)
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.mark.long
def test_the_page_says_what_was_asked_found_and_by_which_rule(files):
    run(AuditConfig(file="class.npy", labels="labels.npy", out=files / "run"))
    text = (files / "run" / "report.html").read_text()
    assert "<h1>Collapse audit of class.npy</h1>" in text
    assert "Did these embeddings collapse? Class collapse: 2. Judged: 400 rows of 8 dimensions. " in text
    assert "With 20 independent rows per dimension or more, the estimates decide." in text
    assert "Rule: complete: no variance" in text and "<h2>Classes</h2>" in text and "<td>collapsed</td>" in text
    assert (
        text.index("Verdict:") < text.index("<h2>Classes") < text.index(">Findings</h2>") < text.index("classes</h2>")
    )
    run(AuditConfig(file="few.npy", out=files / "few"))
    text = (files / "few" / "report.html").read_text()
    assert "They span at most 5 dimensions" in text and "is open otherwise" in text and "Undecided; open:" in text


def test_a_page_shows_few_of_many_classes(files):
    np.save("many.npy", np.arange(400) // 8)
    run(AuditConfig(file="healthy.npy", labels="many.npy", out=files / "run"))
    table = Outcome.load(files / "run").table
    assert len(table.rows) == 21 and table.rows[-1][0] == "and 30 more"


@pytest.mark.slow
@pytest.mark.drawn
def test_the_page_is_drawn_again_byte_for_byte_also_that_of_an_audit_made_in_python(files):
    run(AuditConfig(file="class.npy", labels="labels.npy", out=files / "run"))
    audit_embeddings(HEALTHY, labels=LABELS).save(files / "python")
    for folder in (files / "run", files / "python"):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        (folder / "audit.svg").unlink()
        (folder / "report.html").unlink()
        draw(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    done = command("report", "run")
    assert done.returncode == 0 and done.stdout == "report: run/report.html\n"


@pytest.mark.parametrize("key", ["numbers", "verdict", "rule", "spectrum"])
def test_a_folder_that_lacks_what_an_audit_needs_is_refused_by_name(files, key):
    run(AuditConfig(file="healthy.npy", out=files / "run"))
    outcome = Outcome.load(files / "run")
    if key == "spectrum":
        del outcome.arrays[key]
    else:
        del outcome.record[key]
    outcome.write(files / "run")
    with pytest.raises(ConfigError, match=f"'{key}' is not in this run"):
        draw(files / "run")


def test_python_and_the_command_make_the_same_record(files):
    command("audit", "healthy.npy", "--out", "run")
    audit_embeddings(HEALTHY).save(files / "python")
    one, other = (json.loads((files / name / "run.json").read_text()) for name in ("run", "python"))
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} <= {"config", "date", "wall_time_s"}
    assert {name for name in one["config"] if one["config"][name] != other["config"][name]} == {"file", "out"}


def test_the_thresholds_of_the_command_are_those_of_the_rule():
    assert asdict(RuleOptions()) == asdict(Rule())
    known = {one.name for one in AuditConfig.known()}
    assert {f"rule_{name}" for name in asdict(Rule())} <= known

"""What a command shows: a stream that fails, is closed or lacks letters never loses a run."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch

from grassmann_ssl import cli, streams
from grassmann_ssl.runs import Outcome
from tests.commands import command
from tests.readme import ROOT

SMALL = "phase-symmetry --seeds 1 --dim 2 --inputs 3 --until 1.0 --eta 0.01".split()


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def set_to(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return set_to


def test_progress_is_a_bar_on_a_terminal(stderr):
    shown = stderr(Terminal())
    streams.ProgressBar()(100)("training", 10)
    assert shown.getvalue().startswith("\r") and "/100" in shown.getvalue()


def test_progress_is_a_line_now_and_then_elsewhere(stderr, monkeypatch):
    shown = stderr(io.StringIO())
    tick = streams.ProgressBar()(100)
    for _ in range(100):
        tick("training")
    assert shown.getvalue() == ""
    monkeypatch.setattr(streams, "EVERY", 0.0)
    tick = streams.ProgressBar()(100)
    for _ in range(100):
        tick("training")
    lines = shown.getvalue().splitlines()
    assert "\r" not in shown.getvalue() and all(line.startswith("training: ") for line in lines)


def test_reading_pictures_and_then_training_are_two_bars():
    """Of one `ProgressBar`, the first of which ends before the second begins, in whatever order they are asked for."""
    bar = streams.ProgressBar()
    training, reading = bar(100), bar(2)
    for _ in range(2):
        reading("pictures")
    assert bar.bar is None
    training("train", 10)
    assert bar.bar.total == 100 and bar.bar.n == 10
    bar.close()


@pytest.mark.parametrize("base", [io.StringIO, Terminal])
def test_progress_that_cannot_be_shown_ends_nothing(base, stderr, monkeypatch):
    monkeypatch.setattr(streams, "EVERY", 0.0)
    stderr(type("Fails", (Full, base), {})())
    bar = streams.ProgressBar()
    tick = bar(3)
    for _ in range(3):
        tick("training")
    bar.close()
    streams.say("an error")


def test_what_is_printed_obeys_no_terminal(capsys):
    assert streams.printed("a\x1b[31m\x9bb\tc\nd – é\u202e")
    assert capsys.readouterr().out == "a\\x1b[31m\\x9bb\tc\nd – é\\u202e\n"
    streams.say("a\rb")
    assert capsys.readouterr().err == "a\\rb\n"


def test_a_name_with_an_escape_reaches_the_terminal_as_text(tmp_path):
    (tmp_path / "a\x1b[31m").write_text("no folder")
    done = command(*SMALL, "--out", tmp_path / "a\x1b[31m")
    assert done.returncode == 2 and "\x1b" not in done.stderr and "a\\x1b[31m is a file" in done.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("Unable to allocate 3 GiB\nfor an array"), "out of memory: Unable to allocate 3 GiB for an array"),
        (RuntimeError("alloc_cpu.cpp: can't allocate memory: you tried 9 bytes"), "can't allocate memory: you tried 9"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA out of memory."),
    ],
)
def test_too_little_memory_is_one_line(error, reason, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("grassmann_ssl.run.run", fails)
    done = command(*SMALL, "--out", tmp_path / "run")
    assert done.returncode == 1 and reason in done.stderr and done.stderr.count("\n") == 1
    monkeypatch.setattr("grassmann_ssl.run.run", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):  # a fault of ours keeps its traceback
        command(*SMALL, "--out", tmp_path / "run")


@pytest.mark.slow
def test_python_without_docstrings_is_told_so():
    done = subprocess.run([sys.executable, "-OO", "-m", "grassmann_ssl.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "use python -O" in done.stderr


def test_a_full_stdout_is_said_with_what_is_kept(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    assert not streams.printed("text", "; the run is in runs/x")
    assert (
        capsys.readouterr().err
        == "grassmann-ssl: stdout cannot be written: No space left on device; the run is in runs/x\n"
    )


def test_a_help_that_nobody_reads_ends_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "argv", ["grassmann-ssl", "audit", "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert capsys.readouterr().err == "grassmann-ssl: stdout cannot be written: No space left on device\n"


# What stdout and stderr are ("shown": read), the exit code, and what is said on stderr.
FAILING = [
    ("closed", "shown", 0, ""),
    ("shown", "closed", 0, ""),
    ("full", "shown", 1, "stdout cannot be written: No space left on device; the run is in "),
    ("shown", "full", 0, ""),
    ("full", "full", 1, ""),
    ("broken", "shown", 1, "stdout cannot be written: Broken pipe"),
    ("shown", "shown", 0, ""),
]
C_LOCALE = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


def assert_kept(out, said):
    assert "Traceback" not in said and "Exception" not in said
    assert (out / "report.html").exists() and Outcome.load(out).interrupted is None


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The exit code of each command line of `FAILING`, and the folder that holds its stderr and its run."""
    folders = [tmp_path_factory.mktemp("streams") for _ in FAILING]
    lines = [
        [str(folder / name) if kind == "shown" else kind for name, kind in (("stdout", out), ("stderr", err))]
        + [[*SMALL, "--out", str(folder / "run")]]
        for folder, (out, err, *_) in zip(folders, FAILING, strict=True)
    ]
    given = [sys.executable, "-m", "tests.broken_streams", json.dumps(lines)]
    done = subprocess.run(given, capture_output=True, text=True, env=os.environ | C_LOCALE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return list(zip(json.loads(done.stdout), folders, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FAILING)), ids=lambda k: "-".join(FAILING[k][:2]))
def test_a_stream_that_fails_loses_no_run(number, failed):
    _, kind, code, said = FAILING[number]
    ended, folder = failed[number]
    shown = (folder / "stderr").read_text() if kind == "shown" else ""
    assert ended == code and said in shown, shown
    assert_kept(folder / "run", shown)


@pytest.mark.slow
def test_a_process_that_is_started_without_streams_loses_no_run(tmp_path):
    """By a shell, where the tests above are forks that open their streams themselves."""
    line = f'"$0" -m grassmann_ssl.cli {" ".join(SMALL)} --out {tmp_path / "run"} >&- 2>&-'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable], capture_output=True, text=True, env=os.environ | C_LOCALE
    )
    assert done.returncode == 0, done.stderr
    assert_kept(tmp_path / "run", done.stderr)

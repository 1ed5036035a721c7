"""The campaign of hostile files, in short, and whether it notices what breaks its rules."""

import os
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import hostile
from benchmarks.hostile import Case, Loader, campaign, run_case
from tests.commands import command


@pytest.mark.slow
def test_hostile_files_load_or_are_refused_in_one_line():
    found = campaign(3 * len(hostile.LOADERS))
    assert not found.broken, found.broken
    assert {name: sum(kinds.values()) for name, kinds in found.loaders.items()} == dict.fromkeys(hostile.LOADERS, 3)
    assert found.kinds["refused"] > found.kinds["loaded"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.LOADERS)
def test_files_that_are_not_altered_load(name, tmp_path):
    hostile.LOADERS[name].write(tmp_path)
    hostile.LOADERS[name].load(tmp_path)


def write(folder):
    (folder / "x.bin").write_bytes(bytes(1000))


def of(load, monkeypatch, tmp_path):
    monkeypatch.setattr(hostile, "LOADERS", {"one": Loader(write, load)})
    return run_case(0, tmp_path)


def raising(error):
    def load(folder):
        raise error

    return load


def test_a_case_is_loaded_or_refused(monkeypatch, tmp_path):
    assert of(lambda folder: None, monkeypatch, tmp_path).kind == "loaded"
    case = of(raising(ValueError("x.bin is broken")), monkeypatch, tmp_path)
    assert (case.kind, case.detail) == ("refused", "x.bin is broken")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("message", ["two\nlines", ""])
def test_a_message_that_is_not_one_line_is_noticed(message, monkeypatch, tmp_path):
    assert of(raising(ValueError(message)), monkeypatch, tmp_path).kind == "not one line"


def test_another_error_is_noticed(monkeypatch, tmp_path):
    case = of(raising(KeyError("a")), monkeypatch, tmp_path)
    assert case.kind == "another error" and case.detail.startswith("KeyError: 'a' (test_hostile.py:")


def test_files_that_are_written_changed_or_removed_are_noticed(monkeypatch, tmp_path):
    for load in (
        lambda folder: (folder / "new").write_text("x"),
        lambda folder: (folder.parent / "outside").write_text("x"),
        lambda folder: (folder / "x.bin").write_bytes(b"other"),
        lambda folder: (folder / "x.bin").unlink(),
    ):
        assert of(load, monkeypatch, tmp_path).kind == "files were changed"
        (tmp_path / "outside").unlink(missing_ok=True)


@pytest.mark.long
@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not tell a process its peak"
)
def test_memory_beyond_twice_what_is_loaded_is_noticed(monkeypatch, tmp_path):
    size = 2 * hostile.SLACK

    def hold(folder, count):
        values = [np.ones(size, np.uint8) for _ in range(count)]
        return values[0]

    assert of(lambda folder: hold(folder, 2), monkeypatch, tmp_path).kind == "loaded"
    assert of(lambda folder: hold(folder, 3), monkeypatch, tmp_path).kind == "too much memory"


def test_a_loader_that_hangs_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(
        hostile.signal, "alarm", lambda seconds: seconds and hostile.signal.setitimer(hostile.signal.ITIMER_REAL, 0.05)
    )

    def hang(folder):
        while True:
            time.process_time()

    assert of(hang, monkeypatch, tmp_path).kind == "took too long"


def test_a_process_that_dies_is_counted_and_the_rest_is_run(monkeypatch):
    names = list(hostile.LOADERS)

    def dies_at_two(start, stop, sandbox):
        for number in range(start, stop):
            if number == 2:
                return
            yield Case(number, names[number], "", "loaded")

    monkeypatch.setattr(hostile, "in_process", dies_at_two)
    found = campaign(4)
    assert found.kinds == {"loaded": 3, "the process died": 1} and [case.number for case in found.broken] == [2]


def test_the_same_number_is_the_same_case(tmp_path):
    first, second = (run_case(18, tmp_path) for _ in range(2))
    assert (first.change, first.kind, first.detail) == (second.change, second.kind, second.detail)


@pytest.mark.long
def test_bombs_are_what_they_say(tmp_path):
    random = hostile.Random(3)
    names = set()
    for _ in range(20):
        (tmp_path / "x.npz").write_bytes(hostile.npz_bomb(random))
        names |= set(zipfile.ZipFile(tmp_path / "x.npz").namelist())
    assert {"../../evil.npy", "/tmp/evil.npy"} <= names
    assert {hostile.npy_bomb(random)[:6] for _ in range(5)} == {b"\x93NUMPY"}


@pytest.mark.slow
def test_html_and_control_characters_in_names_are_text_on_page_and_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"{hostile.SCRIPT.replace('/', '')}\x1b[31m"
    for k in range(12):
        path = tmp_path / name / f"{name}{k % 2}" / f"{k}{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        (path.parent / f"x.{name}").write_text("")
    line = f"train --data folder:{name} --steps 2 --batch 4 --records 2 --dim 2 --hidden 4 --encoder linear --out {name}.run"
    done = command(*line.split())
    assert not done.returncode, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "passed over" in done.stdout
    page = (tmp_path / f"{name}.run" / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page

"""The run folder: whole or as it was, after a kill at any moment; only the run's own files change hands; one run at a time."""

import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from typing import ClassVar

import pytest

from grassmann_ssl.runs import ConfigError, RunConfig, RunFolder, unfinished
from grassmann_ssl.runs import folder as module
from grassmann_ssl.runs.folder import CHECKPOINT, PARTS, own, settled, write_json


@dataclass(frozen=True, kw_only=True)
class AnyConfig(RunConfig):
    NAME: ClassVar[str] = "any"
    RESUMES: ClassVar[bool] = True
    rate: float = 0.5


def write(config, number, *more, finished=True):
    """A run whose files all hold this number."""
    with RunFolder(config) as folder:
        if not finished:
            (folder.keep(CHECKPOINT)).write_text("half")
        with folder.writing(finished) as path:
            write_json(path / "run.json", {"experiment": "any", "config": {}, "number": number})
            for name in ("metrics.parquet", *more):
                (path / name).write_text(str(number))


def content(path):
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def number(path):
    return json.loads((path / "run.json").read_text())["number"]


@pytest.fixture
def config(tmp_path):
    return AnyConfig(out=tmp_path / "a" / "run", overwrite=True)


def test_a_folder_appears_whole_or_not_at_all(config):
    with pytest.raises(RuntimeError, match="broken"), RunFolder(config) as folder, folder.writing() as path:
        (path / "run.json").write_text("{}")
        raise RuntimeError("broken")
    assert not config.out.exists()
    write(config, 1)
    assert sorted(one.name for one in config.out.iterdir()) == [".files.json", "metrics.parquet", "run.json"]


def test_only_the_runs_own_files_are_replaced_and_removed(config):
    write(config, 1, "old.png", "both.png")
    (config.out / "thesis.tex").write_text("precious")
    (config.out / "new.png").write_text("precious")
    (config.out / "notes").mkdir()
    (config.out / "notes" / "a.txt").write_text("precious")
    write(config, 2, "both.png", "new.png")
    assert {name: text.decode() for name, text in content(config.out).items() if not name.endswith(".json")} == {
        "metrics.parquet": "2", "both.png": "2", "new.png": "2", "new.png~": "precious", "thesis.tex": "precious",
        "notes/a.txt": "precious",
    }  # fmt: skip


def test_figures_that_are_drawn_later_are_the_runs_own(config):
    write(config, 1)
    (config.out / "later.png").write_text("1")
    own(config.out, ["later.png"])
    write(config, 2)
    assert not (config.out / "later.png").exists()


def test_a_list_of_files_names_files_of_the_folder_alone(config, tmp_path):
    write(config, 1)
    outside = tmp_path / "outside.txt"
    outside.write_text("precious")
    (config.out / "notes").mkdir()
    for bad in (
        ["../../outside.txt", str(outside), 3, None, ".", "..", "", "a\0", "notes", ".lock"],
        "run.json",
        {"a": 1},
        None,
    ):
        write_json(config.out / ".files.json", {"files": bad})
        write(config, 2)
        assert outside.read_text() == "precious" and number(config.out) == 2


@pytest.mark.parametrize("name", ["run", "."])
def test_a_link_to_a_folder_is_followed(name, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "run").symlink_to("there")
    monkeypatch.chdir(tmp_path / ("there" if name == "." else "."))
    for k in (1, 2):
        write(AnyConfig(out=name, overwrite=True), k)
        assert (tmp_path / "run").is_symlink() and number(tmp_path / "there") == k


def test_what_is_no_run_is_refused_and_stays(config, tmp_path, monkeypatch):
    run = config.out
    run.mkdir(parents=True)
    for text in ("{}", "[]", "old", '{"experiment": "any"}'):
        (run / "run.json").write_text(text)
        with pytest.raises(ConfigError, match="is not empty and holds no run; give another folder"), RunFolder(config):
            pass
        assert content(run) == {"run.json": text.encode()}
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("precious")
    for out, message in (
        (tmp_path / "dangling", "is a link to nowhere, which is not there"),
        (tmp_path / "file", "is a file; give a folder"),
        (tmp_path / "file" / "sub" / "run", "cannot create .*: Not a directory"),
        (tmp_path / ("x" * 300), "cannot create .*: File name too long"),
        (tmp_path / "nul\0", "cannot create .*: embedded null byte"),
    ):
        with pytest.raises(ConfigError, match=f"^out: .*{message}") as caught, RunFolder(AnyConfig(out=out)):
            pass
        assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "dangling", "file"]


def test_a_folder_that_cannot_be_written_is_refused(config, monkeypatch):
    opened = os.open

    def refused(path, *given):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *given)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match=r"^out: .* is not writable: Permission denied"), RunFolder(config):
        pass


def test_a_run_is_replaced_only_when_asked(config):
    write(config, 1)
    before = content(config.out)
    with pytest.raises(ConfigError, match="holds another run; replace it with overwrite = True"):
        write(AnyConfig(out=config.out), 2)
    assert content(config.out) == before


def test_two_runs_never_write_one_folder(config):
    with RunFolder(config) as folder:
        kept = folder.keep(CHECKPOINT)
        kept.write_text("1")
        with pytest.raises(ConfigError, match="is being written by another run; wait for it"):
            write(config, 2)
        assert kept.read_text() == "1"
    write(config, 3)


def killed(config, at, seen):
    """A run of the number 2 that is killed at the call of this number that touches the disk."""
    left = at

    def counting(function):
        def call(*given, **more):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return function(*given, **more)

        return call

    for name in ("replace", "fsync"):
        setattr(os, name, counting(getattr(os, name)))
    module.Path.unlink = counting(module.Path.unlink)
    shutil.rmtree = counting(shutil.rmtree)
    write(config, 2, "new.png", "both.png")
    seen.value = at - left


@pytest.mark.long
def test_a_kill_at_any_moment_leaves_the_old_run_or_the_new_one(config):
    """Killed at every call that changes the disk, and again in the middle of what puts it in order."""
    context = multiprocessing.get_context("fork")
    seen, at, ends = context.Value("i", 0), 0, []
    while not seen.value:
        shutil.rmtree(config.out, ignore_errors=True)
        write(config, 1, "old.png", "both.png")
        (config.out / "thesis.tex").write_text("precious")
        one = context.Process(target=killed, args=(config, at, seen))
        one.start()
        one.join()
        if not seen.value:
            # A reader finishes what is written as a whole, and no less.
            settled(config.out)
            now = number(config.out)
            names = {"both.png", "metrics.parquet", "run.json", "old.png" if now == 1 else "new.png"}
            found = content(config.out)
            assert names | {"thesis.tex"} == {name for name in found if not name.startswith(".")}, at
            assert all(found[name] == str(now).encode() for name in names - {"run.json"}), at
            ends.append(now)
        with RunFolder(config):  # the next run clears up
            assert {one.name for one in config.out.iterdir() if one.name.startswith(".")} == {".files.json", ".lock"}
        at += 1
    assert ends == sorted(ends) and {1, 2} == set(ends) and len(ends) > 12


def keep(config, text):
    """A run that is killed in its training."""
    with RunFolder(config) as folder:
        folder.keep(CHECKPOINT).write_text(text)


def test_an_unfinished_run_goes_on_and_is_never_thrown_away_unasked(config):
    keep(config, "half")
    assert unfinished(config.out)
    free = {"overwrite": False, "save_every": 7, "device": "cpu"}
    for overwrite in (True, False):
        with RunFolder(AnyConfig(out=config.out, overwrite=overwrite)) as folder:
            assert folder.continued and folder.keep(CHECKPOINT).read_text() == "half", free
    other = {"out": config.out, "rate": 0.1}
    with pytest.raises(ConfigError, match=r"holds an unfinished run of other settings \(rate: 0.5 then, 0.1 now\)"):
        write(AnyConfig(**other), 2)
    for anew in (AnyConfig(**other, overwrite=True), AnyConfig(out=config.out, resume=False)):
        with RunFolder(anew) as folder:
            assert not folder.continued and unfinished(config.out)  # until it keeps something of its own
            assert not folder.keep(CHECKPOINT).exists() and folder.continued
            folder.keep(CHECKPOINT).write_text("other")
        shutil.rmtree(config.out)
        keep(config, "half")


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_an_unfinished_run_that_cannot_be_read_is_not_lost_unasked(config, text):
    keep(config, "half")
    (config.out / "unfinished.json").write_text(text)
    with pytest.raises(ConfigError, match=r"unfinished run of other settings \(unfinished.json cannot be read\)"):
        write(AnyConfig(out=config.out), 2)
    assert (config.out / CHECKPOINT).read_text() == "half"


def test_what_an_unfinished_run_kept_goes_when_it_is_finished(config):
    write(config, 1, finished=False)
    assert unfinished(config.out) and number(config.out) == 1
    (config.out / PARTS).mkdir()
    (config.out / PARTS / "a.safetensors").write_text("part")
    for folder in (config.out, config.out / PARTS):
        (folder / ".a.safetensors.7.part").mkdir()
        (folder / ".a.safetensors.7.part" / ".tmpXYZ").write_text("torn")  # of safetensors itself
    write(AnyConfig(out=config.out), 2)  # the same settings: no --overwrite is needed
    assert sorted(one.name for one in config.out.iterdir()) == [".files.json", "metrics.parquet", "run.json"]


def test_a_run_that_kept_nothing_leaves_nothing(config):
    with RunFolder(config) as folder:
        folder.keep(CHECKPOINT)
        assert (config.out / "unfinished.json").exists() and not unfinished(config.out)
    assert not config.out.exists()


def test_what_looks_like_a_checkpoint_and_is_not_is_in_the_way(config):
    write(config, 1)
    (config.out / CHECKPOINT).write_text("precious")
    with pytest.raises(ConfigError, match="is of no run that is known here, and in the way; move it"):
        write(config, 2)
    assert (config.out / CHECKPOINT).read_text() == "precious" and number(config.out) == 1


def test_processes_but_the_first_read_alone(config, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with RunFolder(config) as folder:
        assert folder.keep(CHECKPOINT) is None and not config.out.exists()
    monkeypatch.setenv("RANK", "0")
    keep(config, "half")
    with RunFolder(config):
        monkeypatch.setenv("RANK", "1")
        with RunFolder(config) as folder:
            assert folder.continued and folder.keep(CHECKPOINT).read_text() == "half"
        monkeypatch.setenv("RANK", "0")

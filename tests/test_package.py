"""The package from the outside: the README's commands and code, the wheel."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import grassmann_ssl
import theory
from benchmarks.__main__ import main as benchmark
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective
from tests.commands import command
from tests.readme import ROOT, run

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
THEORY, ENCODERS, OBJECTIVES = (PAGES[f"{name}.md"] for name in ("theory", "encoders", "objectives"))


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:lightning")  # about workers, SLURM and the folder of checkpoints
@pytest.mark.parametrize("code", [code for page in PAGES.values() for code in blocks("python", page)])
def test_the_code_of_the_pages_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = capsys.readouterr().out
    for promise in re.findall(r"print\(.*?\)  # ([\d.]+)", code):
        assert promise in printed


@pytest.mark.slow
def test_the_demo_says_where_its_report_is(demo):
    assert "make demo" in blocks("bash")[0]
    printed, folder = demo
    report = re.search(r"report: (.*)", printed)
    assert report and (folder / report[1]).exists() and f"`{report[1]}`" in README


COMMANDS = {line: None for page in PAGES.values() for block in blocks("bash", page) for line in block.splitlines()}


FEWER = {
    "compare": ["--seeds", "2", "--steps", "400"],
    "compare-encoders": ["--steps", "4", "--records", "3"],
    "train": ["--steps", "4", "--records", "3"],
    "phase-fixed-points": ["--etas", "6"],
}  # so that a reader's minute is not one of the tests


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line not in ("make demo", "make test", "make check")])
def test_the_commands_of_the_pages_run(line, tmp_path, monkeypatch):
    """In this process, which has imported torch; the demo and the picture are started as a reader starts them."""
    monkeypatch.chdir(tmp_path)
    np.save("embeddings.npy", np.random.default_rng(0).normal(size=(256, 512)).astype("float32"))
    for part in line.split(" && "):
        program, *arguments = shlex.split(part)
        done = command(*arguments, *FEWER.get(arguments[0], []))
        assert program == "grassmann-ssl" and done.returncode == 0, done.stderr
        if arguments[0] in ("table", "sweep"):
            assert done.stdout.startswith(("run ", "sweep of compare, 8 cells: 8 done, "))
            continue
        report = re.search(r"report: (.*)", done.stdout)
        assert report and (tmp_path / report[1]).exists()


@pytest.mark.slow
def test_the_picture_of_the_readme_is_drawn(tmp_path, monkeypatch):
    """What `make picture` starts and copies, with fewer seeds and steps; the demo is run by make itself."""
    assert "`make picture`" in README
    train, copy = (shlex.split(line) for line in run("make -n picture", tmp_path).splitlines())
    monkeypatch.chdir(tmp_path)
    done = command(*train[1:], "--seeds", "2", "--steps", "400")
    assert train[0].endswith("/grassmann-ssl") and done.returncode == 0, done.stderr
    assert copy[0] == "cp" and copy[2] == "docs/staircase.svg" and (tmp_path / copy[1]).stat().st_size > 10_000


@pytest.mark.long
def test_every_experiment_is_on_the_page_and_has_help():
    listed = re.findall(r"^\| `grassmann-ssl ([\w-]+)` \|", THEORY + ENCODERS, re.MULTILINE)
    assert sorted(listed) == sorted(config.NAME for config in EXPERIMENTS)
    for config in EXPERIMENTS:
        done = command(config.NAME, "--help")
        assert done.returncode == 0
        assert config.__doc__.split()[0] in done.stdout and "(required)" not in done.stdout
        for one in config.known():  # every setting is explained
            prefix = one.name.removesuffix(one.field).replace("_", ".")  # options of the predictor: --predictor.alpha
            flag = re.escape(f"--{prefix}{one.field.replace('_', '-')}")
            shown = rf"{flag}[ ,]|^\W+{one.field.upper()} "  # FILE: given by its place, without a flag
            assert re.search(shown, done.stdout, re.MULTILINE), (config.NAME, one.name)


def test_the_objectives_of_the_page_are_as_declared():
    """A new objective is one file and one test; its row may follow them."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (yes|no) \| (yes|no) \|", OBJECTIVES, re.MULTILINE)
    names = [name for name, *_ in rows]
    assert len(set(names)) == len(names) >= 15 and set(names) <= set(EMBEDDING_LOSSES)
    for name, invariant, directional in rows:
        declared = objective(name)
        assert (invariant == "yes", directional == "yes") == (declared.rotation_invariant, declared.directional), name


def test_every_module_of_the_theory_is_on_the_page():
    listed = re.findall(r"^\| `theory\.(\w+)` \|", THEORY, re.MULTILINE)
    assert sorted(listed) == sorted(theory.__all__)


@pytest.mark.slow
def test_the_benchmarks_of_the_readme_run(tmp_path, monkeypatch):
    assert "`python -m benchmarks`" in README
    command = ["benchmarks", "--cases", "momentum_step", "--repeats", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert benchmark() == 0
    assert len(json.loads((tmp_path / "momentum_step-cpu.json").read_text())["records"]) == 3


def test_every_folder_of_the_map_exists():
    folders = re.findall(r"^\| `([\w/]+/)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert len(folders) > 12
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_works_elsewhere(tmp_path):
    # A copy, so that no build folder of the checkout leaks in.
    for name in ("grassmann_ssl", "theory"):
        shutil.copytree(ROOT / name, tmp_path / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(tmp_path / "src")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert all((tmp_path / "site" / name / "py.typed").exists() for name in ("grassmann_ssl", "theory"))
    assert f"-{grassmann_ssl.__version__}-" in wheel.name
    code = "import grassmann_ssl.cli, theory; print(grassmann_ssl.__file__, theory.__file__); grassmann_ssl.cli.main()"
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(40, 4)))
    command = [sys.executable, "-c", code, "audit", "z.npy", "--out", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "run" / "report.html").exists()
    assert done.stdout.decode().splitlines()[0].count(str(tmp_path / "site")) == 2

"""The rules of the house that a test can hold: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "precision": 0, "distributed": 0, "manifolds": 1, "objectives": 2, "data": 2, "metrics": 2,
    "optim": 3, "nn": 3, "runs": 4, "training": 4, "experiments": 5, "report": 6, "run": 7, "cli": 8,
}  # fmt: skip
SOURCES = sorted((ROOT / "grassmann_ssl").rglob("*.py"))
COMPARE = {
    "report/figures.py",
    "report/folder.py",
    "report/html.py",
}  # the pages of `compare`, until it joins the others


def imports(path):
    """Every module name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def room(path):
    return path.relative_to(ROOT / "grassmann_ssl").with_suffix("").parts[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lower_never_imports_higher(path):
    here = room(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "theory" and str(path.relative_to(ROOT / "grassmann_ssl")) not in COMPARE:
            assert here == "experiments", f"{path} imports theory"
        if parts[0] == "grassmann_ssl" and len(parts) > 1 and here != "__init__":
            assert LEVELS[parts[1]] <= LEVELS[here], f"{path} imports {module}, which is above it"


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path) == "report"], ids=lambda path: path.name)
def test_a_page_is_drawn_from_the_record_alone(path):
    """Not even for types: what a page needs of an experiment is in its record."""
    if str(path.relative_to(ROOT / "grassmann_ssl")) not in COMPARE:
        assert not [m for m in imports(path) if m.startswith(("theory", "grassmann_ssl.experiments"))]


def test_every_room_is_known():
    assert {room(path) for path in SOURCES} <= set(LEVELS) | {"__init__"}


@pytest.mark.parametrize("path", sorted((ROOT / "theory").rglob("*.py")), ids=lambda path: path.name)
def test_theory_needs_only_numpy_and_scipy(path):
    allowed = set(sys.stdlib_module_names) | {"numpy", "scipy", "theory"}
    assert {module.split(".")[0] for module in imports(path)} <= allowed


@pytest.mark.parametrize("module", ["grassmann_ssl.cli", "grassmann_ssl.experiments", "grassmann_ssl.manifolds"])
def test_plotting_and_tables_are_imported_only_when_used(module):
    heavy = "{'matplotlib', 'pandas', 'pyarrow', 'sklearn', 'jinja2'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_step_code_waits_for_the_device():
    for name in (
        "training/loop.py",
        "training/recorder.py",
        "training/pretrain.py",
        "optim/lars.py",
        "nn/joint_embedding.py",
    ):
        path = ROOT / "grassmann_ssl" / name
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"item", "any", "all", "tolist", "numpy"}, path


def test_nothing_is_unpickled():
    for path in SOURCES:
        text = path.read_text()
        assert "pickle" not in text and "torch.load" not in text, path

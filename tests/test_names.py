"""What users find by name: at the top of the package, in every room, and on the command line."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import grassmann_ssl
from grassmann_ssl import cli

ROOT = Path(__file__).parents[1]
ROOMS = [path for package in ("grassmann_ssl", "theory") for path in sorted((ROOT / package).rglob("__init__.py"))]


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import grassmann_ssl; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"grassmann_ssl"}


@pytest.mark.parametrize("name", grassmann_ssl.__all__)
def test_every_name_at_the_top_is_there(name):
    found = getattr(grassmann_ssl, name)
    assert found.__name__.rpartition(".")[2] == name if name != "__version__" else found == "0.1.0"
    assert name in dir(grassmann_ssl)


def test_type_checkers_see_the_names_that_are_there():
    (block,) = (node for node in ast.parse(Path(grassmann_ssl.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {
        alias.asname: getattr(importlib.import_module(node.module), alias.name, None)
        for node in block.body
        for alias in node.names
    }
    assert {"__version__", *seen} == set(grassmann_ssl.__all__)
    assert all(found is getattr(grassmann_ssl, name) for name, found in seen.items())


@pytest.mark.parametrize(("name", "nearest"), [("Grasmann", "Grassmann"), ("RiemanianAdam", "RiemannianAdam")])
def test_a_misspelt_name_is_told_the_nearest(name, nearest):
    with pytest.raises(
        AttributeError, match=f"^module 'grassmann_ssl' has no attribute '{name}'; did you mean '{nearest}'\\?$"
    ):
        getattr(grassmann_ssl, name)
    with pytest.raises(AttributeError, match=r"^module 'grassmann_ssl' has no attribute 'xyzzy'$"):
        _ = grassmann_ssl.xyzzy


def test_the_map_of_the_docstring_is_right():
    rows = re.findall(r"^    ([a-z.]+) {2,}(.*)$", grassmann_ssl.__doc__, re.MULTILINE)
    for name, line in rows:
        module = importlib.import_module(f"grassmann_ssl.{name}")
        assert all(hasattr(module, one) for one in re.findall(r"`(\w+)`", line)), name
    rooms = {path.parent.name for path in ROOMS if path.parent.parent.name == "grassmann_ssl"}
    assert {name for name, _ in rows} == rooms | {
        "citation",
        "manifolds.checks",
        "manifolds.pymanopt",
        "objectives.penalties",
        "pretraining",
        "run",
    }


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_public_name_of_a_room_is_in_its_all(path):
    """What its __init__ defines or imports from within the room; what is listed is there."""
    name = ".".join(path.parent.relative_to(ROOT).parts)
    public = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{name}."):
            public |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            public.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            public |= {target.id for target in targets}
    listed = getattr(importlib.import_module(name), "__all__", [])
    assert {one for one in public if not one.startswith("_")} <= set(listed)
    assert len(set(listed)) == len(listed) and all(hasattr(sys.modules[name], one) for one in listed)


def test_geoopt_is_silenced_before_it_is_imported():
    """Every room with a module that imports geoopt begins with manifolds, which begins with geoopt under a filter."""
    rooms = {path.relative_to(ROOT).parts[1] for path in (ROOT / "grassmann_ssl").rglob("*.py")
             if re.search(r"^(import|from) geoopt", path.read_text(), re.MULTILINE)}  # fmt: skip
    assert rooms >= {"manifolds", "nn", "optim"}
    for room in rooms:
        path = ROOT / "grassmann_ssl" / room
        text = (path / "__init__.py" if path.is_dir() else path).read_text()
        first = re.search(r"^ *(?:import|from) ((?:grassmann_ssl|geoopt)\S*)", text, re.MULTILINE)[1]
        assert first == ("geoopt" if room == "manifolds" else "grassmann_ssl.manifolds"), room


def test_the_command_line_tells_the_versions(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grassmann-ssl", "--version"])
    cli.main()
    expected = f"grassmann-ssl {grassmann_ssl.__version__}, torch {version('torch')}, geoopt {version('geoopt')}\n"
    assert capsys.readouterr().out == expected


def test_the_command_line_waits_for_no_library_before_it_tells_the_versions():
    code = "import sys, grassmann_ssl.cli; print(*sorted({'torch', 'geoopt', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_citation_is_that_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if re.match(r"[a-z-]+: \S", line))
    assert fields["cff-version"] == "1.2.0" and fields["version"] == grassmann_ssl.__version__
    assert {"message", "title", "license", "type"} <= set(fields) and {"authors:", "references:"} <= set(lines)
    assert not any("\t" in line or line != line.rstrip() for line in lines)
    cited = re.findall(r"^      - type: other\n        value: arXiv:(\S+)$", "\n".join(lines), re.MULTILINE)
    assert cited == ["2303.15438", "2102.06810", "2309.02011"]
    assert all(f"arXiv:{number}" in (ROOT / "README.md").read_text() for number in cited)


def test_what_the_readme_names_is_there():
    (section,) = re.findall(r"^## What is where\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    section = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    named = re.findall(r"`(?:grassmann_ssl\.)?(\w+(?:\.\w+)*)(?:\(\w+\))?`", section)
    assert len(named) > 20
    for path in named:
        module, _, last = path.rpartition(".")
        if module:
            found = grassmann_ssl
            for part in module.split("."):
                found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
            assert hasattr(found, last), path
        else:
            assert hasattr(grassmann_ssl, last) or hasattr(grassmann_ssl.checks, last), path

"""The rules of the house that a test can hold: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As in the design: a room imports rooms of its own layer and of lower ones.
LAYERS = (
    "interrupt, registry, extras, shown, streams, precision, distributed, sharding, manifolds < objectives, data, metrics < optim, nn, "
    "audit < training, runs < experiments < citation, report < run < listing, pretraining, sweep < cli"
)
# An import of a higher room, late and inside functions. `Audit.save`, `Audit.load` and `Outcome.save` write and read the run folder of a
# command, whose record and page stand above the room of the audit and of runs; these themselves never need them.
UPWARD = {("grassmann_ssl.audit.result", "grassmann_ssl.run"), ("grassmann_ssl.runs.record", "grassmann_ssl.run")}
LEVELS = {name: level for level, layer in enumerate(LAYERS.split(" < ")) for name in layer.split(", ")}
SOURCES = sorted((ROOT / "grassmann_ssl").rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("benchmarks", "grassmann_ssl", "tests", "theory")
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def nodes_of(name):
    """Every node of a module's syntax tree."""
    return tuple(ast.walk(ast.parse(MODULES[name].read_text())))


@cache
def imports(name):
    """Every module that a file imports, wherever in it: in functions and for type checkers too. Of a package, the module that is named."""
    return tuple(imported(nodes_of(name)))


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"from {'.' * node.level}{node.module or ''}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def room(name):
    """Of grassmann_ssl.nn.heads: nn; of other packages, themselves."""
    parts = name.split(".")
    return parts[1] if parts[0] == "grassmann_ssl" and len(parts) > 1 else parts[0]


def edges():
    return (
        {(name, other) for name in MODULES for other in imports(name) if other in MODULES}
        - {(name, name) for name in MODULES}
        - UPWARD
    )


def circle(pairs):
    """One circle among these (importer, imported) pairs, or nothing."""
    graph = {}
    for importer, imported in pairs:
        graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("grassmann_ssl.")])
def test_lower_never_imports_higher(name):
    for other in imports(name):
        package, _, rest = other.partition(".")
        if package == "theory":
            assert room(name) == "experiments", f"{name} imports theory"
        if package == "grassmann_ssl" and rest:
            allowed = LEVELS[room(other)] <= LEVELS[room(name)] or (name, other) in UPWARD
            assert allowed, f"{name} imports {other}, which is above it"


@pytest.mark.parametrize(("name", "other"), sorted(UPWARD))
def test_an_import_of_a_higher_room_is_late(name, other):
    """It is there, and inside functions alone."""
    inside = {node for top in nodes_of(name) if isinstance(top, ast.FunctionDef) for node in ast.walk(top)}
    found = [node for node in nodes_of(name) if isinstance(node, ast.ImportFrom) and node.module == other]
    assert found and set(found) <= inside


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("grassmann_ssl.report")])
def test_a_page_is_drawn_from_the_record_alone(name):
    """Not even for types: what a page needs of an experiment is in its record."""
    assert not [other for other in imports(name) if other.startswith(("theory", "grassmann_ssl.experiments"))]


def test_every_room_is_known():
    assert {room(name) for name in MODULES if name.startswith("grassmann_ssl.")} <= set(LEVELS)


def test_there_are_no_circles():
    pairs = edges()
    assert not circle(pairs)
    assert not circle({(room(a), room(b)) for a, b in pairs if room(a) != room(b)})


def test_circles_are_found():
    assert circle({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) and not circle({("a", "b"), ("a", "c"), ("b", "c")})


def private(name):
    """Names with an underscore at both ends are protocols, of Python or of IPython."""
    return name.startswith("_") and not name.endswith("_")


def private_definitions(nodes):
    """Private functions, classes, variables and attributes that a file defines."""
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.attr]
        else:
            names = []
        yield from filter(private, names)


def test_nothing_private_is_used_elsewhere():
    """A private name stays in its file, a private module in its room. Names of others, such as torch's, are not ours to judge."""
    own = {name: set(private_definitions(nodes_of(name))) for name in MODULES}
    ours = set().union(*own.values())
    found = []
    for name in MODULES:
        for node in nodes_of(name):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("grassmann_ssl", "theory"):
                elsewhere = room(node.module) != room(name)
                names = [
                    alias.name for alias in node.names if elsewhere or f"{node.module}.{alias.name}" not in MODULES
                ]
                used = [*filter(private, names), *(filter(private, node.module.split(".")) if elsewhere else ())]
            elif isinstance(node, ast.Attribute) and node.attr in ours - own[name]:
                mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                used = [] if mine or ast.unparse(node.value) == "super()" else [node.attr]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
                used = [n.value for n in node.args if isinstance(n, ast.Constant) and n.value in ours - own[name]]
            else:
                used = []
            found += [f"{name}, line {node.lineno}: {one}" for one in used]
    assert not found


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "theory"])
def test_theory_needs_only_numpy_and_scipy(name):
    allowed = set(sys.stdlib_module_names) | {"numpy", "scipy", "theory"}
    assert {module.split(".")[0] for module in imports(name)} <= allowed


@pytest.mark.slow
def test_plotting_and_tables_are_imported_only_when_used():
    heavy = "{'matplotlib', 'pandas', 'pyarrow', 'sklearn', 'jinja2'}"
    code = f"import sys, grassmann_ssl.run, grassmann_ssl.manifolds; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_step_code_waits_for_the_device():
    for name in (
        "training/full_batch.py",
        "training/recorder.py",
        "training/encoders.py",
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

"""The site: it is built without a warning, every link leads somewhere, every public name is in it, examples are right."""

import doctest
import html
import importlib
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import grassmann_ssl
import theory
from tests.browser import PROGRAM, Browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("docs/index", "docs/commands", "docs/choosing", "docs/gallery", "docs/api/theory", "notebooks/compare")
PACKAGES = [path.parent for package in ("grassmann_ssl", "theory") for path in (ROOT / package).rglob("__init__.py")]
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "grassmann_ssl").rglob("*.py"))
    if ">>> " in path.read_text() and path.stem != "pymanopt"  # its own test runs those
]


def public():
    """Every public name, with its value: what packages list, and what modules of the theory define."""
    modules = [importlib.import_module(".".join(folder.relative_to(ROOT).parts)) for folder in PACKAGES]
    listed = [(module, name, getattr(module, name)) for module in modules for name in getattr(module, "__all__", ())]
    rooms = {name for module, name, _ in listed if module is not grassmann_ssl}
    for module, name, value in listed:
        if inspect.ismodule(value):
            yield value.__name__, value
        elif module is not grassmann_ssl or not hasattr(value, "__module__"):
            yield f"{module.__name__}.{name}", value
        elif name not in rooms:  # else it is in its room
            yield f"{value.__module__}.{name}", value
    for path in (ROOT / "theory").rglob("[!_]*.py"):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        yield from (
            (f"{module.__name__}.{name}", value)
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and inspect.isroutine(value) and name[0] != "_"
        )


NAMES = dict(public())
SIGNATURE = re.compile(r'<dt class="sig [^>]*>(.*?)</dt>', re.DOTALL)
UNREADABLE = """[...document.querySelectorAll('article img[src$=".png"]')]
    .filter(one => one.width < Math.min(one.naturalWidth, 1200)).map(one => one.src)"""


def api(site):
    """The pages of the API, as HTML."""
    return "".join(path.read_text() for path in (site / "docs" / "api").glob("*.html"))


def documented(value):
    """Whether it has a docstring of its own, as constants have not."""
    return inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)


@pytest.mark.slow
def test_the_site_is_built_and_has_every_public_name(tmp_path):
    """One build, as `make docs` does it: a warning is an error. Then its links, its index, and how it looks on a telephone."""
    lines = subprocess.run(
        ["make", "-n", "--old-file", ".venv/.installed", "docs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    build, check = (shlex.split(line)[1:] for line in lines if "build/site" in line)
    assert {"-W", "--keep-going"} <= set(build)
    for arguments in (build, check):
        arguments = [one.replace("build/", f"{tmp_path}/") for one in arguments]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
    from sphinx.util.inventory import InventoryFile

    site = tmp_path / "site"
    indexed = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    found = {name for kind, names in indexed.items() if kind.startswith("py:") for name in names}
    assert len(NAMES) > 300 and not NAMES.keys() - found - {"grassmann_ssl.__version__"}
    assert 'id="theory.stepwise.step_times"' in (site / "docs" / "api" / "theory.html").read_text()
    assert "<math" in (site / "notebooks" / "compare.html").read_text()
    shown = "".join(html.unescape(re.sub("<[^>]+>", "", text)) for text in SIGNATURE.findall(api(site)))
    assert "LightningConstraint(where: str, manifold: Manifold)" in shown and "(*args: Any, **kwargs: Any)" not in shown
    assert "Callable[[Tensor], Tensor]" in shown and "~" not in shown
    if PROGRAM is None:
        return
    with Browser() as browser:
        for page in PAGES:
            browser.open(site / f"{page}.html", 400)
            assert browser.evaluate("document.documentElement.scrollWidth") <= 400, page
            assert browser.evaluate(UNREADABLE) == [], page
            addresses = [
                one["params"]["request"]["url"]
                for one in browser.events
                if one.get("method") == "Network.requestWillBeSent"
            ]
            assert all(address.startswith(("file:", "data:")) for address in addresses), page
            assert not [
                one for one in browser.events if one.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
            ]


def test_every_public_name_says_what_it_is():
    """By a docstring; a constant on its page."""
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    constants = {name for name, value in NAMES.items() if not documented(value)}
    silent = [name for name in NAMES.keys() - constants if not (NAMES[name].__doc__ or "").split("\n")[0].strip()]
    shown = {
        f"{module}.{name}"
        for name, module in re.findall(r"^\.\. py:data:: (\w+)\n   :module: (\S+)$", pages, re.MULTILINE)
    }
    assert not silent and constants == shown | {"grassmann_ssl.__version__"}


def test_what_pages_and_notebooks_import_is_on_a_page_of_the_api():
    api = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    known = {name.rpartition(".")[2] for name in [*NAMES, *re.findall(r"^\.\. auto\w+:: (\S+)", api, re.MULTILINE)]}
    for module in re.findall(r"^\.\. automodule:: (\S+)\n(?!   :no-members:)", api, re.MULTILINE):
        loaded = sys.modules.get(module) or importlib.import_module(module)
        known |= {name for name, value in vars(loaded).items() if getattr(value, "__module__", None) == module}
    pages = [ROOT / "README.md", *DOCS.glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
    imports = r"^from (?:grassmann_ssl|theory)[\w.]* import (?:\(([^)]*)\)|(.*))$"
    used = {
        (path.name, name)
        for path in pages
        for groups in re.findall(imports, path.read_text(), re.MULTILINE)
        for name in re.findall(r"\w+", "".join(groups).split("  #")[0])
    }
    assert len(used) > 50 and not {(page, name) for page, name in used if name not in known}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


def test_the_overviews_are_those_of_the_pages():
    overview = runpy.run_path(str(DOCS / "overview.py"))
    assert f"\n{overview['gallery'](ROOT)}\n<!-- /written -->" in (DOCS / "gallery.md").read_text()
    assert f"\n{overview['cases'](ROOT)}\n<!-- /written -->" in (DOCS / "benchmarks.md").read_text()
    shown = (DOCS / "gallery.md").read_text()
    assert all(f"]({path.name})" in shown for path in DOCS.glob("*.*g") if path.suffix != ".md")


def test_a_picture_without_its_command_is_named(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# A\n`make one`\n![x](one.svg)\n## B c\n![y](two.svg)\n")
    gallery = runpy.run_path(str(DOCS / "overview.py"))["gallery"]
    with pytest.raises(ValueError, match=r"docs/page\.md#b-c says of two\.svg not by which command"):
        gallery(tmp_path)
    (tmp_path / "docs" / "page.md").write_text("# A\n```\ngrassmann-ssl train \\\n  --lr 1\n```\n![x](one.svg)\n")
    assert "```\ngrassmann-ssl train --lr 1\n```" in gallery(tmp_path)


def test_the_moving_plane_is_drawn_by_its_script():
    """All numbers of the picture, which has a digit after the point, whatever the processor rounds."""
    stored, drawn = (DOCS / "geodesic.svg").read_text(), runpy.run_path(str(DOCS / "geodesic.py"))["drawn"]()
    number = r"-?\d+(?:\.\d+)?"
    assert re.sub(number, "0", stored) == re.sub(number, "0", drawn)
    values = [np.array(re.findall(number, text), float) for text in (stored, drawn)]
    np.testing.assert_allclose(*values, atol=1.01)  # angles are whole degrees
    angles = [int(one) for one in re.findall(r"target: (\d+)°", stored)]
    steps = -np.diff(angles)
    assert angles[-1] == 0 and len(angles) == 48 and steps.max() - steps.min() <= 1  # constant speed, up to rounding
    assert len(stored) < 500_000


def test_a_dead_link_a_dead_anchor_and_what_is_loaded_are_found(tmp_path):
    problems = runpy.run_path(str(DOCS / "links.py"))["problems"]
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x">x</a><h1 id="top"><a href="#top">up</a><a href="https://arxiv.org">out</a>'
    )
    (tmp_path / "b.html").write_text('<p id="x"><img src="data:image/png;base64,x">')
    assert problems(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<p id="y"><a href="c.html">c</a><script src="https://cdn.example/x.js"></script><img src="one.png">'
    )
    (tmp_path / "s.css").write_text("@font-face { src: url(//fonts.example/x) }")
    assert sorted(problems(tmp_path)) == [
        "a.html: b.html#x has no such anchor",
        "b.html: c.html is not there",
        "b.html: one.png is not there",
        "b.html: script loads https://cdn.example/x.js",
        "s.css: loads //fonts.example/x",
    ]


def test_docstrings_are_typeset_as_they_are_meant():
    pytest.importorskip("sphinx")
    typeset = runpy.run_path(str(DOCS / "docstrings.py"))["typeset"]
    lines = [
        "X_i* of `Grassmann`, |z| `here`.", "", "rows      their meaning", "          goes on", "other, b  two names",
        "    y = a_b *c", "", "S = 1,  T = 2", "", "    >>> 1 + 1", "    2", "", "- a point", "  goes on",
    ]  # fmt: skip
    typeset(None, "function", "grassmann_ssl.x", None, {}, lines)
    assert lines[0] == r"X\_i\* of \ :py:obj:`Grassmann <grassmann_ssl.manifolds.Grassmann>`\ , \|z\| \ ``here``\ ."
    text = "\n".join(lines)
    assert "``rows``\n    their meaning goes on\n``other``, ``b``\n    two names" in text
    assert ".. code-block:: text\n\n    y = a_b *c" in text and ".. code-block:: text\n\n    S = 1,  T = 2" in text
    lines = ["Of `Grassmann` and `distance`."]
    typeset(None, "function", "grassmann_ssl.x", lambda distance: None, {}, lines)
    assert "`Grassmann <" in lines[0] and "\\ ``distance``\\ ." in lines[0]  # an argument is no link
    assert ".. code-block:: pycon\n\n    >>> 1 + 1\n    2" in text and "\n- a point goes on" in text


def test_every_module_of_the_theory_is_on_its_page():
    page = (DOCS / "api" / "theory.md").read_text()
    assert all(f".. automodule:: theory.{name}\n" in page for name in theory.__all__)

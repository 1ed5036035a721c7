"""The notebooks: their sources run to the end, where they assert what they claim, and are what was executed."""

import re

import jupytext
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from tests.readme import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
sources = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.mark.slow
@sources
def test_a_notebook_runs_to_its_claim(source, tmp_path, monkeypatch):
    """Few seeds and steps, in this process, which has imported what a kernel would import anew for each."""
    monkeypatch.setenv("GRASSMANN_SSL_FAST", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    cells = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    space = {"__name__": "__main__", "display": repr}
    try:
        with matplotlib.rc_context():
            for number, cell in enumerate(cells):
                cell = re.sub("^%.*", "", cell, flags=re.MULTILINE)  # magic commands
                exec(compile(cell, f"{source.name}, cell {number}", "exec"), space)
    finally:
        plt.close("all")
        torch.set_default_dtype(torch.float32)
    assert any(line.startswith("assert ") for cell in cells for line in cell.splitlines()), "it asserts no claim"


@sources
def test_a_notebook_is_the_executed_form_of_its_source(source):
    notebook = jupytext.read(source.with_suffix(".ipynb"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(source).cells]
    assert all(cell.execution_count for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)

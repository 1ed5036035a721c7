"""The benchmarks on small shapes: what they record, what they refuse, and the table made of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness, momentum_step, table

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def record():
    records = momentum_step.run(CPU, repeats=3, shapes=((24, 3), (2, 16, 2)), target=1e-3)
    return {"case": momentum_step.NAME, **harness.environment(CPU), "repeats": 3, "records": records}


def test_a_record_names_what_produced_it(record, tmp_path):
    path = table.save(record, tmp_path / "results")
    loaded = json.loads(path.read_text())
    assert loaded == record and path.name == "momentum_step-cpu.json"
    assert loaded["versions"]["torch"] == torch.__version__ and loaded["torch_threads"] == 1
    for row in loaded["records"]:
        assert set(row["ratio_to_ours"]) == {*momentum_step.PEERS, momentum_step.PRODUCTS}
        for values in row["ratio_to_ours"].values():
            assert 0 < values["low"] <= values["median"] <= values["high"]


@pytest.mark.parametrize("shape", (momentum_step.SHAPES[0], (3, 40, 4)))
def test_results_agree_with_float64(shape):
    assert momentum_step.disagreement(shape, CPU) < momentum_step.TOLERANCE


def test_nothing_is_timed_where_results_disagree(monkeypatch):
    monkeypatch.setattr(momentum_step.Grassmann, "proju", lambda self, x, u: 1.5 * u)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        momentum_step.run(CPU, repeats=1, shapes=((24, 3),), target=1e-3)


def test_the_table_is_rewritten_in_place_and_only_there(record, tmp_path):
    table.save(record, tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- benchmark:momentum_step -->\nold\n<!-- /benchmark:momentum_step -->\nbelow\n")
    for _ in range(2):  # the second time changes nothing
        table.rewrite(readme, tmp_path, momentum_step.NAME)
        text = readme.read_text()
        assert text.startswith("above\n<!--") and text.endswith("-->\nbelow\n") and "old" not in text
        assert text.count("| 24 × 3 |") == 1 and text.count("2 matrices of 16 × 2") == 1
    readme.write_text("nothing")
    with pytest.raises(ValueError, match=r"README\.md has no line <!-- benchmark:momentum_step -->"):
        table.rewrite(readme, tmp_path, momentum_step.NAME)


def test_the_readme_shows_the_committed_results(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    table.rewrite(copy, table.RESULTS, momentum_step.NAME)
    assert copy.read_text() == (ROOT / "README.md").read_text()
    assert table.newest(table.RESULTS, momentum_step.NAME)


def test_bad_settings_are_one_line():
    for arguments in (["--cases", "nothing"], ["--device", "cuda:99"]):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and done.stderr.startswith("error:") and done.stderr.count("\n") == 1

"""The benchmarks on small shapes: what they record, what they refuse, and the table made of it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    audit,
    audit_defaults,
    basin_map,
    choices,
    closed_forms,
    encoder_step,
    harness,
    long_runs,
    losses,
    main_job,
    momentum_step,
    monitor,
    optimizer_steps,
    overhead,
    precision,
    process_counts,
    solvers,
    steps,
    sweep,
    table,
)
from benchmarks.__main__ import CASES, main
from grassmann_ssl.audit import audit_embeddings
from grassmann_ssl.experiments.linear.collapse import CollapseConfig
from grassmann_ssl.experiments.linear.compare import CompareConfig

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FEW_MODELS = CollapseConfig(
    objectives=("squared_vicreg",), constraints=("free", "stiefel"), noise=(0.1, 2.0), seeds=2, steps=100
)
SMALL_JOB = CompareConfig(
    objectives=("barlow_twins", "linear_contrastive"), seeds=2, steps=100, dim=3, init_scales=(1e-3, 1e-5)
)


@pytest.fixture(scope="module")
def record():
    records = momentum_step.run(CPU, repeats=3, shapes=((24, 3), (2, 16, 2)), target=1e-3)
    return {"case": momentum_step.NAME, **harness.environment(CPU), "repeats": 3, "records": records}


@pytest.mark.slow
def test_a_record_names_what_produced_it(record, tmp_path):
    path = table.save(record, tmp_path / "results")
    loaded = json.loads(path.read_text())
    assert loaded == record and path.name == "momentum_step-cpu.json"
    assert loaded["versions"]["torch"] == torch.__version__ and loaded["torch_threads"] == 1
    for row in loaded["records"]:
        assert set(row["ratio_to_ours"]) == {*momentum_step.PEERS, momentum_step.PRODUCTS}
        for values in row["ratio_to_ours"].values():
            assert 0 < values["low"] <= values["median"] <= values["high"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", (momentum_step.SHAPES[0], (3, 40, 4)))
def test_results_agree_with_float64(shape):
    assert momentum_step.disagreement(shape, CPU) < momentum_step.TOLERANCE


def test_the_bound_grows_with_the_larger_of_traffic_and_arithmetic():
    # Rates differ between calls; a factor of 1000 in the work does not drown in that.
    small, large = (momentum_step.bound(shape, CPU, 2**18, 256) for shape in ((64, 4), (16, 512, 32)))
    assert 0 < 20 * small < large


@pytest.mark.slow
def test_nothing_is_timed_where_results_disagree(monkeypatch):
    monkeypatch.setattr(momentum_step.Grassmann, "proju_", lambda self, x, u: u.mul_(1.5))
    with pytest.raises(RuntimeError, match="nothing was timed"):
        momentum_step.run(CPU, repeats=1, shapes=((24, 3),), target=1e-3)


def test_the_table_is_rewritten_in_place_and_only_there(record, tmp_path):
    table.save(record, tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- benchmark:momentum_step -->\nold\n<!-- /benchmark:momentum_step -->\nbelow\n")
    for _ in range(2):  # the second time changes nothing
        table.rewrite(momentum_step, tmp_path, tmp_path)
        text = readme.read_text()
        assert text.startswith("above\n<!--") and text.endswith("-->\nbelow\n") and "old" not in text
        assert text.count("| 24 × 3 |") == 1 and text.count("2 matrices of 16 × 2") == 1
    readme.write_text("nothing")
    with pytest.raises(ValueError, match=r"README\.md has no line <!-- benchmark:momentum_step -->"):
        table.rewrite(momentum_step, tmp_path, tmp_path)


def small(case):
    """A case on a small problem, as the real one is recorded."""
    runs = {
        momentum_step: lambda: momentum_step.run(CPU, 1, shapes=((24, 3),), target=1e-3),
        optimizer_steps: lambda: optimizer_steps.run(CPU, 1, ((12, 3),), (((12, 3), 2),), target=1e-3),
        closed_forms: lambda: closed_forms.run(CPU, 1, shapes=((24, 3), (2, 24, 3)), target=1e-3),
        solvers: lambda: solvers.run(CPU, 1, shapes=((40, 3), (3, 20, 2))),
        main_job: lambda: main_job.run(CPU, 1, SMALL_JOB, target=1e-3),
        precision: lambda: precision.run(CPU, 1, steps=20),
        choices: lambda: choices.run(CPU, 1, shape=(40, 3), target=1e-3),
        basin_map: lambda: basin_map.run(CPU, 1, cells=16, sample=10, target=1e-3),
        losses: lambda: losses.run(CPU, 1, {"VICReg": ((12, 5),)}, target=1e-3),
        encoder_step: lambda: encoder_step.run(CPU, 1, encoder="conv", batch=8, size=8, hidden=16, dim=4, target=1e-3),
        audit: lambda: audit.run(CPU, 1, (16,), 1, ((40, 8),), target=1e-3),
        audit_defaults: lambda: audit_defaults.run(
            CPU, 1, (3, 4), 2, ("digits", "folder of photos"), ("negative cosine alone", "VICReg"), FEW_MODELS
        ),
        monitor: lambda: monitor.run(CPU, 1, batch=4, size=8, target=1e-3),
        steps: lambda: steps.run(CPU, 1, seeds=1),
        sweep: lambda: sweep.run(CPU, 1, count=2, steps=5, data="gaussian"),
        overhead: lambda: overhead.run(CPU, 1, steps={"linear": 8}),
        long_runs: lambda: long_runs.run(CPU, 1, steps=400),
        process_counts: lambda: process_counts.run(
            CPU, 1, settings=process_counts.SETTINGS[:1], steps=4, processes=1, tries=1
        ),
    }
    return {"case": case.NAME, **harness.environment(CPU), "repeats": 1, "records": runs[case]()}


# The others have tests of their own, and take longer.
SMALL = {name: case for name, case in CASES.items() if name not in ("basin_map", "process_counts", "reproduction")}


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_every_case_runs_and_has_a_table(case, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step: step)  # a compiler takes longer than everything else here
    record = small(case)
    table.save(record, tmp_path)
    lines = case.markdown([record])
    assert len(lines) > 2 and len({line.count("|") for line in lines}) == 1
    page = tmp_path / case.PAGE
    page.parent.mkdir(exist_ok=True)
    page.write_text((ROOT / case.PAGE).read_text())
    table.rewrite(case, tmp_path, tmp_path)
    assert lines[-1] in page.read_text()


@pytest.mark.slow
def test_precision_holds_what_it_promises():
    rows = precision.run(CPU, 1, steps=300)
    assert all(row["error"] <= (4e-6 if row["kind"] == "drift" else 1e-6) for row in rows)


def test_a_solver_that_misses_is_not_reported(monkeypatch):
    monkeypatch.setattr(solvers, "ours", lambda kind, cost, start: (start, 1))
    with pytest.raises(RuntimeError, match="off the eigenspace"):
        solvers.run(CPU, 1, shapes=((40, 3),))


@pytest.mark.slow
def test_the_same_training_is_not_apart_and_a_changed_one_is():
    (row,) = process_counts.run(CPU, 1, settings=process_counts.SETTINGS[1:2], steps=4, processes=1, tries=3)
    assert row["apart"]["weights"] == 0 and set(row["apart"]["eigenvalues"]) == {0.0}
    # The middle one of three: one of them may put a relu on its other side, which then shows in three digits.
    weights, eigenvalues = (sorted(np.max(one[of]) for one in row["changed"])[1] for of in ("weights", "eigenvalues"))
    assert 1e-8 < weights < 1e-4 and 0 < eigenvalues < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("leak", "growth is"),
        ("drift", r"(first|last) is .*, at most 64"),
        ("record", "the record of compare is not whole"),
    ],
)
def test_a_long_run_that_grows_or_lacks_a_step_is_not_reported(fault, said, monkeypatch):
    kept = []
    if fault == "leak":
        # In large blocks, which the allocator cannot take from what other tests have given back.
        leaks = itertools.count()
        leak = lambda self, **known: kept.append(torch.ones(2**23 if next(leaks) % 40 == 0 else 1))  # noqa: E731
        monkeypatch.setattr(long_runs.RiemannianSGD, "step", leak)
    if fault == "drift":
        monkeypatch.setattr(
            long_runs.RiemannianSGD, "step", lambda self, **known: self.param_groups[0]["params"][0].data.add_(1e-6)
        )
    if fault == "record":
        monkeypatch.setattr(long_runs, "evenly_spaced", lambda steps, every: range(steps))
    with pytest.raises(RuntimeError, match=said):
        long_runs.run(CPU, 1, steps=400)


@pytest.mark.slow
def test_a_monitor_that_differs_from_the_audit_is_not_timed(monkeypatch):
    monkeypatch.setattr(monitor, "audit_embeddings", lambda z: audit_embeddings(z[1:]))
    with pytest.raises(RuntimeError, match="nothing was timed"):
        monitor.run(CPU, 1, batch=4, size=8, target=1e-3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pages_show_the_committed_results(case, tmp_path):
    copy = tmp_path / case.PAGE
    copy.parent.mkdir(exist_ok=True)
    copy.write_text((ROOT / case.PAGE).read_text())
    table.rewrite(case, tmp_path, table.RESULTS)
    assert copy.read_text() == (ROOT / case.PAGE).read_text()
    assert table.newest(table.RESULTS, case.NAME)


@pytest.mark.parametrize("arguments", [["--cases", "nothing"], ["--device", "cuda:99"]])
def test_bad_settings_are_one_line(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    assert main() == 2
    done = capsys.readouterr()
    assert not done.out and done.err.startswith("error:") and done.err.count("\n") == 1

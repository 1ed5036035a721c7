"""The callbacks in the real trainers: attached while they train, numbers in their logs, an end on collapse, and nothing left behind."""

import importlib
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from grassmann_ssl.audit import CollapseError, CollapseWarning, audit_embeddings

# Lightning warns wherever SLURM is installed and does not run the tests.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The `srun` command is available")]


@pytest.fixture(scope="module")
def trainers():
    """The trainers' side: imported where it is used, since the two libraries take as long to import as all other tests."""
    return importlib.import_module("tests.audit.trainers")


def assert_same_numbers(monitor, network, batches=1):
    """Every judgement is that of the outputs that came until then, `batches` in a step; and nothing is left on the network."""
    steps = [one.step for one in monitor.judgements]
    assert steps[:5] == [1, 2, 3, 4, 5]
    for one in monitor.judgements:
        audit = audit_embeddings(torch.cat(network.seen[: one.step * batches])[-1024:])
        assert one.kind == audit.kind and one.total_variance == audit["total_variance"].value
    assert not network.projector._forward_hooks


# Lightning


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("batches", [1, 2])
def test_lightning_logs_what_the_monitor_finds(trainers, package, batches, tmp_path):
    callback = trainers.LightningCollapse("network.projector")
    trainer = trainers.fit(package, callback, tmp_path, accumulate_grad_batches=batches)
    first = callback.monitor.judgements[0]
    if batches == 2 and first.step == 0:  # the first half of the first step
        callback.monitor.judgements.pop(0)
    assert_same_numbers(callback.monitor, trainer.network, batches)
    last = callback.monitor.judgements[-1]
    assert float(trainer.callback_metrics["collapse/total_variance"]) == pytest.approx(last.total_variance)
    trainer.logger.save()
    logged = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    columns, rows = logged[0].split(","), [line.split(",") for line in logged[1:]]
    used = {int(row[columns.index("step")]): float(row[columns.index("collapse/dimensions_used")]) for row in rows}
    assert all(used[one.step] == pytest.approx(one.dimensions_used) for one in callback.monitor.judgements)


def test_lightning_ends_on_collapse(trainers, tmp_path):
    stopping = trainers.LightningCollapse("network.projector", on_collapse="stop")
    with pytest.warns(CollapseWarning, match=r"^step 3: complete: .*; training stops$"):
        trainer = trainers.fit("lightning.pytorch", stopping, tmp_path, dead=True)
    assert trainer.global_step == 3 and not trainer.network.projector._forward_hooks

    raising = trainers.LightningCollapse("network.projector", on_collapse="raise")
    with pytest.raises(CollapseError, match=r"^step 3: complete"):
        trainers.fit("lightning.pytorch", raising, tmp_path, dead=True)
    raising.monitor.attach(nn.Linear(2, 2), "")  # refused where it is still attached


def test_another_fit_begins_anew(trainers, tmp_path):
    callback = trainers.LightningCollapse("network.projector")
    for _ in range(2):
        trainer = trainers.fit("lightning.pytorch", callback, tmp_path)
        assert_same_numbers(callback.monitor, trainer.network)
    with pytest.raises(ValueError, match=r"^the model has no submodule 'projector'; did you mean network.projector\?$"):
        trainers.fit("lightning.pytorch", trainers.LightningCollapse("projector"), tmp_path)


# transformers


@pytest.mark.parametrize("batches", [1, 2])
def test_transformers_logs_what_the_monitor_finds(trainers, batches, tmp_path):
    trainer = trainers.trainer_for(tmp_path, gradient_accumulation_steps=batches)
    callback = trainers.TrainerCollapse(trainer, "network.projector")
    trainer.add_callback(callback)
    trainer.train()
    assert_same_numbers(callback.monitor, trainer.model.network, batches)
    log = trainer.state.log_history
    used = {entry["step"]: entry["collapse/dimensions_used"] for entry in log if "collapse/dimensions_used" in entry}
    assert used == {one.step: one.dimensions_used for one in callback.monitor.judgements}
    # The Trainer's own numbers come as they would without the callback.
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(5, trainers.STEPS + 1, 5))
    trainer.train()
    assert callback.monitor.judgements[0].step == 1 and not trainer.model.network.projector._forward_hooks


def test_transformers_ends_on_collapse(trainers, tmp_path):
    trainer = trainers.trainer_for(tmp_path, dead=True)
    trainer.add_callback(trainers.TrainerCollapse(trainer, "network.projector", on_collapse="stop"))
    with pytest.warns(CollapseWarning, match=r"^step 3: complete: .*; training stops$"):
        trainer.train()
    assert trainer.state.global_step == 3

    trainer = trainers.trainer_for(tmp_path, dead=True)
    trainer.add_callback(trainers.TrainerCollapse(trainer, "network.projector", on_collapse="raise"))
    with pytest.raises(CollapseError, match=r"^step 3: complete"):
        trainer.train()
    assert not trainer.model.network.projector._forward_hooks
    assert trainer.state.log_history[-1]["step"] == 3  # the judgement that ended it is logged


# both


@pytest.mark.parametrize(("name", "first"), [("LightningCollapse", ()), ("TrainerCollapse", (None,))])
def test_bad_options_are_refused_at_once(trainers, name, first):
    with pytest.raises(ValueError, match=r"^patience must be at least 1, got 0$"):
        getattr(trainers, name)(*first, "projector", patience=0)


@pytest.mark.parametrize(("name", "missing"), [("lightning", "pytorch_lightning"), ("transformers", "accelerate")])
def test_a_missing_library_is_named_with_what_brings_it(name, missing):
    code = f"import sys; sys.modules.update({{{name!r}: None, {missing!r}: None}}); import grassmann_ssl.audit.{name}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    needed = f"grassmann_ssl.audit.{name} needs {name}; to get it: pip install 'grassmann_ssl[{name}]'"
    assert done.returncode == 1 and re.search(rf"^ImportError: {re.escape(needed)}$", done.stderr, re.MULTILINE)


def test_the_audit_imports_neither():
    code = "import sys, grassmann_ssl.audit; print({'lightning', 'pytorch_lightning', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
